"""Verification of a source against a store, with what was stated when the source was ingested."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from flows.cluster.boundary import Outcome
from flows.ingest.rows import row_of, values_of
from flows.ingest.source_plans import SourcePlans, source_problems
from flows.progress import quiet
from flows.tables.summary import RunSummary
from qmri_core.series import grouping
from qmri_core.series.stored_keys import is_short
from storage.source.assume_file import load_overrides
from storage.source.discovery import Scanned, scan_source
from storage.store.cohort import Cohort
from storage.store.lifecycle.forget import forget_person
from storage.store.repository import writing
from storage.store.waves import begin_append, commit, write_arrays
from tests.storage.slices import STUDY, voxels, write_series

KEY = bytes(32)
T2W = {
    "ScanningSequence": "SE", "SequenceVariant": "SK", "MRAcquisitionType": "2D", "RepetitionTime": "5000",
    "EchoTime": "100", "InversionTime": None, "FlipAngle": "150", "EchoTrainLength": "15",
}  # fmt: skip


def source(folder: Path, *, software: str = "syngo MR E11", study: str = STUDY, **whose: str) -> Path:
    """A session of two contrasts, headers as of a head, pixels of a few bytes."""
    raster = {"SoftwareVersions": software, "PixelSpacing": [40, 40], "SliceThickness": "40"}
    for series, changes in ((1, {}), (2, T2W)):
        for z in range(5):
            place = {"ImagePositionPatient": [-80, -80, -80 + 40 * z], "SOPInstanceUID": f"{study}.{series}.{z + 1}"}
            write_series(
                folder / f"{series}.{z}", voxels(1), series=series, SeriesNumber=str(series), InstanceNumber=str(z + 1),
                **(raster | changes | place | whose),
            )  # fmt: skip
    return folder


def record(folder: Path, store: str, assume: Path, *, by_software: bool) -> str:
    """Store a session, with images of nothing; its group."""
    with writing(store, create=True) as repository, scan_source(folder, key=KEY) as scanned:
        plans = SourcePlans(scanned, Cohort.open(store), KEY, load_overrides(assume), by_software)
        (plan,) = (plans.plan(session) for session in scanned.sessions)
        assert plan.placement is not None, plan.explanation
        begun = begin_append(repository, [plan.placement])
        outcome = Outcome(session=plan.session, status=plan.status)
        values = {plan.session: values_of(plan, outcome)}
        image = np.ones(plan.placement.grid.shape, dtype=np.float32)
        arrays = {str(contrast): image for contrast in plan.chosen} | {"affine": np.eye(4)}
        forks = [write_arrays(begun.fork, begun.slots[plan.session], arrays)]
        commit(repository, begun, forks, values=values, rows=[row_of(plan)], message="Record", metadata={})
        return plan.placement.group


@pytest.mark.parametrize("by_software", [True, False])
def test_what_is_stated_of_a_group_counts_as_in_the_ingest(tmp_path: Path, by_software: bool) -> None:
    folder, store, assume = source(tmp_path / "in"), str(tmp_path / "store"), tmp_path / "assume.yaml"
    scanner = "*-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]"  # a device; then its software, if it counts
    group = f"{scanner}{scanner[1:] if by_software else ''}/*"
    assume.write_text(f"- {{group: '{group}', contrast: T1w, model: {{flip_angle: 0.2}}}}\n")
    stored = record(folder, store, assume, by_software=by_software)

    def problems(*, by_software: bool) -> list[str]:
        found = source_problems(
            folder, Cohort.open(store), key=KEY, assume=assume, by_software=by_software, progress=quiet
        )
        return [message for _, _, message in found]

    assert problems(by_software=by_software) == [], stored
    if by_software:  # without the word, the entry matches no group, and the digest is another one
        assert problems(by_software=False) == ["its source is not what was ingested"]


def test_a_store_with_short_keys_has_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, store, assume = source(tmp_path / "in"), str(tmp_path / "store"), tmp_path / "assume.yaml"
    assume.write_text("[]")
    with monkeypatch.context() as patch:
        patch.setattr(grouping, "DIGEST_LENGTH", 4)  # as in 0.1
        stored = record(folder, store, assume, by_software=False)
    assert is_short(stored)
    with scan_source(folder, key=KEY) as scanned:
        plans = SourcePlans(scanned, Cohort.open(store), KEY, [], by_software=False)
        assert [plan.placement and plan.placement.group for plan in map(plans.plan, scanned.sessions)] == [stored]
        assert plans.sort_out()[0] == []
    assert not is_short(record(folder, str(tmp_path / "new"), assume, by_software=False))


def states(scanned: Scanned, store: str, quiet_for: float) -> tuple[list[str], RunSummary]:
    """Sessions to ingest, and the account of a run in which all of them are."""
    plans = SourcePlans(scanned, Cohort.open(store), KEY, [], by_software=False, quiet_for=quiet_for)
    to_do, snapshot = plans.sort_out()
    return to_do, plans.summary(snapshot)


def test_a_new_session_whose_files_have_just_changed_is_left_for_the_next_run(tmp_path: Path) -> None:
    folder, store = source(tmp_path / "in"), str(tmp_path / "store")
    with writing(store, create=True):
        pass
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))  # as a copy that keeps the times of its origin
    with scan_source(folder, key=KEY) as scanned:
        to_do, summary = states(scanned, store, 3600.0)
        assert to_do == []
        assert (summary.found, summary.skipped, summary.arriving) == (1, 1, 1)
        assert summary.reasons == {"still_arriving": 1}
        assert "1 sessions are still arriving" in summary.text()
        assert Cohort.open(store).catalogue.empty  # nothing that would keep a later run from it
        time.sleep(0.1)
        assert SourcePlans(scanned, Cohort.open(store), KEY, [], False, 0.05).sort_out()[0] == scanned.sessions
        assert SourcePlans(scanned, Cohort.open(store), KEY, [], False).sort_out()[0] == scanned.sessions
        (folder / "1.3" / "IM0").rename(tmp_path / "gone")  # it was there when headers were read
        assert SourcePlans(scanned, Cohort.open(store), KEY, [], False, 0.05).sort_out()[0] == []


def test_a_stored_session_that_gets_more_files_stays_as_it_is_until_they_are_quiet(tmp_path: Path) -> None:
    folder, store, assume = source(tmp_path / "in"), str(tmp_path / "store"), tmp_path / "assume.yaml"
    assume.write_text("[]")
    record(folder, store, assume, by_software=False)
    with scan_source(folder, key=KEY) as scanned:
        to_do, summary = states(scanned, store, 3600.0)
        assert (to_do, summary.unchanged, summary.arriving) == ([], 1, 0)  # nothing that counts has changed
    write_series(folder / "1.0", voxels(1, seed=5), SeriesNumber="1", ImagePositionPatient=[-80, -80, -80])
    with scan_source(folder, key=KEY) as scanned:
        to_do, summary = states(scanned, store, 3600.0)
        assert (to_do, summary.unchanged, summary.arriving) == ([], 0, 1)
        assert (summary.found, summary.skipped) == (1, 0)  # what is stored of it counts
        assert SourcePlans(scanned, Cohort.open(store), KEY, [], False).sort_out()[0] == scanned.sessions


def test_a_session_that_a_forgotten_person_gets_later_stays_out_and_one_of_another_person_does_not(
    tmp_path: Path,
) -> None:
    folder, store, assume = source(tmp_path / "in", PatientID="P-1"), str(tmp_path / "store"), tmp_path / "assume.yaml"
    assume.write_text("[]")
    record(folder, store, assume, by_software=False)
    (person,) = Cohort.open(store).catalogue["person"]
    forget_person(store, person, key=KEY)
    for number, patient in ((2, "P-1"), (3, "P-2")):
        study = f"{STUDY}.{number}"
        source(
            folder / str(number), study=study, StudyInstanceUID=study, PatientID=patient, StudyDate=f"2024010{number}"
        )
    with scan_source(folder, key=KEY) as scanned:
        people = {session: scanned.session(session)[0][0].person for session in scanned.sessions}
        plans = SourcePlans(scanned, Cohort.open(store), KEY, [], by_software=False)
        assert sorted(one == person for one in people.values()) == [False, True, True]
        assert plans.sort_out()[0] == [session for session, one in people.items() if one != person]
