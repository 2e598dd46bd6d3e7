"""Model parameters that a user states for a group: from the file to the plan, and who is ingested again."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.ingest.inspection import Inspection, inspect_source
from flows.ingest.session_plan import SessionPlan, plan_session, plan_sessions, unmatched_entries
from flows.tables.summary import RunSummary
from qmri_core.physics.header import OVERRIDES
from qmri_core.series.acquisition import Contrast, SeriesHeader
from storage.source.assume_file import Assumption, Override, load_overrides
from storage.source.discovery import discover
from storage.source.series import Series
from storage.store.schema import Reason, Status

KEY = b"a key for tests, of thirty-two b"
T1W, T2W, FLAIR = Contrast.T1W, Contrast.T2W, Contrast.FLAIR
MPRAGE = SeriesHeader(
    manufacturer="Siemens",
    model="prisma",
    magnetic_field_strength=3.0,
    mr_acquisition_type="3D",
    scanning_sequence=("GR", "IR"),
    sequence_variant=("SK", "SP", "MP"),
    repetition_time=2.3,
    echo_time=0.003,
    inversion_time=0.9,
    flip_angle=math.radians(9),
)
TSE = replace(
    MPRAGE,
    mr_acquisition_type="2D",
    scanning_sequence=("SE",),
    sequence_variant=("SK",),
    repetition_time=5.0,
    echo_time=0.1,
    inversion_time=None,
    flip_angle=math.radians(150),
    echo_train_length=15,
)
LONG_TSE = replace(TSE, repetition_time=7.0)


def members(session: str, second: SeriesHeader = TSE) -> tuple[Series, ...]:
    return tuple(
        Series(
            session=session,
            person=f"sub-of-{session}",
            device="1a2b3c",
            number=number,
            header=header,
            shape=(180, 220, 60),
            spacing=(1.0, 1.0, 3.0),
            affine=((1.0, 0.0, 0.0, -90.0), (0.0, 1.0, 0.0, -110.0), (0.0, 0.0, 3.0, -90.0), (0.0, 0.0, 0.0, 1.0)),
            n_instances=60,
            digest=f"{session}{number}",
            kind="dicom",
            paths=("/archive/Zyxwvut_Quentin/IM1",),
            frames=tuple((0, frame) for frame in range(60)),
        )
        for number, header in enumerate((MPRAGE, second), start=1)
    )


def stated(group: str = "*", contrast: Contrast = T1W, **model: float) -> Override:
    return Override(group=group, contrast=contrast, model=model)


def group_of(plan: SessionPlan) -> str:
    assert plan.placement is not None
    return plan.placement.group


PLAIN = plan_session(members("ses-1"))


def test_an_override_of_the_groups_own_key_reaches_its_acquisition_alone() -> None:
    plan = plan_session(members("ses-1"), [stated(group_of(PLAIN), inversion_efficiency=0.9, inversion_time=0.95)])
    t1w = plan.acquisitions[T1W]
    assert (t1w.inversion_efficiency, t1w.inversion_time) == (0.9, 0.95)
    assert t1w.mark("inversion_efficiency") == t1w.mark("inversion_time") == "assumed"
    assert t1w.mark("repetition_time") == "measured"
    assert plan.acquisitions[T2W] == PLAIN.acquisitions[T2W]
    assert (plan.status, plan.placement) == (PLAIN.status, PLAIN.placement)  # the key is the headers' still
    assert plan.input_digest != PLAIN.input_digest


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        [stated("philips-*", inversion_efficiency=0.9)],
        [stated("*", FLAIR, inversion_efficiency=0.9)],  # a contrast that the session lacks
        [stated("siemens-prisma-3t-1a2b3c", inversion_efficiency=0.9)],  # a scanner is no whole key
    ],
)
def test_what_does_not_match_changes_nothing(overrides: list[Override]) -> None:
    assert plan_session(members("ses-1"), overrides) == PLAIN


def test_the_digest_follows_what_is_stated_and_not_how() -> None:
    def digest(*overrides: Override) -> str:
        return plan_session(members("ses-1"), overrides).input_digest

    one = digest(stated(inversion_efficiency=0.9, centre_index=80))
    assert one == digest(stated("siemens-*", centre_index=80, inversion_efficiency=0.9))
    assert one == digest(stated(inversion_efficiency=0.9, centre_index=80), stated(inversion_efficiency=0.7))
    others = {
        PLAIN.input_digest,
        digest(stated(inversion_efficiency=0.91, centre_index=80)),
        digest(stated(inversion_efficiency=0.9)),
        digest(stated("*", T2W, inversion_efficiency=0.9, centre_index=8)),
        digest(stated(inversion_efficiency=0.9, centre_index=80), stated("*", T2W, refocusing_factor=0.9)),
    }
    assert len({one, *others}) == 6


def test_only_sessions_of_the_group_get_another_digest() -> None:
    everything = [*members("ses-1"), *members("ses-2", LONG_TSE), *members("ses-3")]
    before = plan_sessions(everything)
    assert len({group_of(plan) for plan in before}) == 2
    after = plan_sessions(everything, [stated(group_of(before[1]), T2W, refocusing_factor=0.8)])
    assert [a.input_digest != b.input_digest for a, b in zip(after, before, strict=True)] == [False, True, False]
    assert after[1].acquisitions[T2W].refocusing_factor == 0.8
    assert [after[0], after[2]] == [before[0], before[2]]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (stated(inversion_time=950), "T1w mprage: inversion_time 950 s not in (0, 2.3); were milliseconds passed?"),
        (stated("*", T2W, refocusing_angle=150), "refocusing_angle 150 rad not in (0, 3.14159]; were degrees passed?"),
        (stated("*", T2W, centre_index=0), "T2w turbo_spin_echo"),
    ],
)
def test_an_impossible_override_skips_the_session_aloud(entry: Override, text: str) -> None:
    plan = plan_session(members("ses-1"), [entry])
    assert (plan.status, plan.reason, plan.placement) == (Status.SKIPPED, Reason.NO_PARAMETERS, None)
    assert text in plan.explanation
    assert f"the assume file states {next(iter(entry.model))} for this group" in plan.explanation
    assert plan.input_digest != PLAIN.input_digest  # or a corrected file would not be looked at
    assert unmatched_entries([entry], (), plan.overrides) == ()


@settings(deadline=None, max_examples=150)
@given(
    contrast=st.sampled_from([T1W, T2W]),
    model=st.dictionaries(
        st.sampled_from(sorted(OVERRIDES)), st.sampled_from([-1.0, 0.0, 1e-4, 0.01, 0.5, 1.0, 3.0, 90.0]), min_size=1
    ),
)
def test_whatever_is_stated_a_plan_comes_out(contrast: Contrast, model: dict[str, float]) -> None:
    plan = plan_session(members("ses-1"), [stated("*", contrast, **model)])
    if plan.status is Status.SKIPPED:
        assert plan.reason is Reason.NO_PARAMETERS
        assert plan.explanation
    else:
        assert plan.placement == PLAIN.placement
        acquisition = plan.acquisitions[contrast]
        for name, value in model.items():
            if not name.startswith("flip_train_"):  # these shape variable flip trains only
                expected = {"ramp": bool, "echo_train_length": round, "centre_index": round}.get(name, float)(value)
                assert (getattr(acquisition, name), acquisition.mark(name)) == (expected, "assumed")


def test_positions_of_unmatched_entries_are_those_in_the_file() -> None:
    entries = [
        stated("ge-*", ramp=1),
        Assumption(match="a"),
        stated("siemens-*", inversion_efficiency=0.9),
        Assumption(match="b"),
        stated("*", inversion_efficiency=0.8),  # the one before it counts
    ]
    overrides = [entry for entry in entries if isinstance(entry, Override)]
    used = [entry for plan in plan_sessions(members("ses-1"), overrides) for entry in plan.overrides]
    assert unmatched_entries(entries, (1,), used) == (0, 3, 4)
    assert unmatched_entries(entries, (), used) == (0, 4)


def test_a_run_tells_of_entries_that_matched_nothing() -> None:
    lines = RunSummary(found=0, unmatched=(0, 3)).text().splitlines()
    assert [line.split(" of ")[0] for line in lines if "matched no series" in line] == ["entry 1", "entry 4"]
    assert "assume" not in RunSummary(found=0).text()


def source(folder: Path) -> Path:
    common = {"Manufacturer": "Siemens", "ManufacturersModelName": "Prisma", "MagneticFieldStrength": 3.0}
    mprage = {"MRAcquisitionType": "3D", "RepetitionTime": 2.3, "EchoTime": 0.003, "InversionTime": 0.9, "FlipAngle": 9}
    flair = {"MRAcquisitionType": "2D", "RepetitionTime": 9.0, "EchoTime": 0.09, "InversionTime": 2.5, "FlipAngle": 150}
    anat = folder / "sub-1" / "anat"
    anat.mkdir(parents=True)
    for name, sidecar in (("T1w", mprage), ("FLAIR", flair)):
        nib.save(
            nib.Nifti1Image(np.zeros((20, 24, 16), np.float32), np.diag([8.0, 8.0, 10.0, 1.0])),
            anat / f"sub-1_{name}.nii.gz",
        )
        (anat / f"sub-1_{name}.json").write_text(json.dumps(common | sidecar))
    return folder


def test_inspect_takes_the_file_and_the_key_that_it_prints(tmp_path: Path) -> None:
    def inspect(assume: Path | None = None) -> Inspection:
        with inspect_source(tmp_path / "in", key=KEY, assume=assume) as inspection:
            return inspection

    def plan(assume: Path | None = None) -> SessionPlan:
        overrides = load_overrides(assume) if assume is not None else ()
        (only,) = plan_sessions(discover(tmp_path / "in", key=KEY).series, overrides)
        return only

    source(tmp_path / "in")
    before = inspect()
    ((group, size),) = before.group_sizes.items()
    assert size == 1
    file = tmp_path / "assume.yaml"
    file.write_text(
        f"- {{group: 'ge-*', contrast: T1w, model: {{ramp: 1}}}}\n"
        f"- {{group: '{group}', contrast: FLAIR, model: {{inversion_efficiency: 0.9}}}}\n"
        "- {match: '*.img', contrast: T1w}\n"
    )
    after = inspect(file)
    assert after.unmatched == (0, 2)
    assert after.group_sizes == before.group_sizes
    assert plan(file).acquisitions[FLAIR].inversion_efficiency == 0.9
    assert plan(file).input_digest != plan().input_digest
