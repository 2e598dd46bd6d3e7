"""NIfTI volumes of BIDS trees and of plain folders with an assume file."""

from __future__ import annotations

import gzip
import json
import logging
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from flows.ingest.session_plan import plan_sessions
from qmri_core.series.acquisition import Contrast, PulseSequence
from qmri_core.series.classification import SkipReason
from qmri_core.series.remarks import RemarkKind
from storage.source.discovery import ReadError, SourceError, decide, discover, load_assumptions, read_volume
from tests.storage.niftis import FLAIR as T2_FLAIR
from tests.storage.niftis import T1W, T2W, write_nifti, write_visit

KEY = bytes(32)
AFFINE = np.array([[-1.1, 0.02, 0.0, 30.0], [0.01, 1.2, 0.1, -40.0], [0.0, -0.1, 2.5, 7.0], [0.0, 0.0, 0.0, 1.0]])
FLAIR = {
    "Manufacturer": "Philips", "ManufacturersModelName": "Ingenia", "MagneticFieldStrength": 3, "RepetitionTime": 11,
    "MRAcquisitionType": "2D", "ScanningSequence": "SE_IR", "EchoTime": 0.125, "InversionTime": 2.8, "FlipAngle": 90,
    "EchoTrainLength": 24, "PatientName": "Zyxwvut", "InstitutionName": "Saint Hypothesis Hospital",
}  # fmt: skip


def write(
    path: Path, sidecar: dict[str, Any] | None = None, *, shape: tuple[int, ...] = (4, 5, 6), code: int = 1
) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(5).integers(0, 2000, shape).astype(np.int16)
    image = nibabel.Nifti1Image(data, AFFINE)
    image.header.set_slope_inter(0.5, 3.0)
    image.set_sform(AFFINE, code)
    image.set_qform(AFFINE, 0, strip_shears=True)
    nibabel.save(image, path)
    if sidecar is not None:
        Path(str(path).removesuffix(".gz").removesuffix(".nii") + ".json").write_text(json.dumps(sidecar))
    return nibabel.load(path)


def test_a_bids_session_takes_contrast_from_the_suffix_and_numbers_from_the_sidecar(tmp_path: Path) -> None:
    image = write(tmp_path / "sub-01" / "ses-a" / "anat" / "sub-01_ses-a_run-1_FLAIR.nii.gz", FLAIR)
    (series,) = discover(tmp_path, key=KEY).series
    values = series.header
    assert values.repetition_time == 11
    assert values.flip_angle == pytest.approx(math.pi / 2)
    assert values.scanning_sequence == ("SE", "IR")
    decision = decide(series)
    assert (decision.contrast, decision.sequence) == (Contrast.FLAIR, PulseSequence.INVERSION_RECOVERY_TSE)
    assert decision.reason is None
    volume = read_volume(series)
    np.testing.assert_allclose(volume.array, image.get_fdata().T, rtol=1e-6)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)  # float32 in the file
    assert series.shape == (4, 5, 6)
    assert series.day is None


def test_bids_labels_make_sessions_and_persons(tmp_path: Path) -> None:
    for person, visit in (("sub-01", "ses-a"), ("sub-01", "ses-b"), ("sub-02", "ses-a")):
        for suffix in ("T1w", "T2w"):
            write(tmp_path / person / visit / "anat" / f"{person}_{visit}_{suffix}.nii", {"EchoTime": 0.1})
    found = discover(tmp_path, key=KEY)
    assert len({one.session for one in found.series}) == 3
    assert len({one.person for one in found.series}) == 2
    assert sorted((row.patient_id, row.study_instance_uid) for row in found.linkage) == [
        ("sub-01", "ses-a"), ("sub-01", "ses-b"), ("sub-02", "ses-a"),
    ]  # fmt: skip


def test_without_numbers_the_suffix_gives_a_contrast_and_no_parameters(tmp_path: Path) -> None:
    write(tmp_path / "sub-01" / "anat" / "sub-01_T2w.nii.gz")
    (series,) = discover(tmp_path, key=KEY).series
    decision = decide(series)
    assert (decision.contrast, decision.reason) == (Contrast.T2W, SkipReason.NO_PARAMETERS)
    assert decision.assumed


def test_a_name_outside_bids_is_no_evidence(tmp_path: Path) -> None:
    write(tmp_path / "patient" / "visit" / "T2w.nii.gz")
    (series,) = discover(tmp_path, key=KEY).series
    decision = decide(series)
    assert (decision.contrast, decision.reason) == (None, SkipReason.NO_PARAMETERS)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sub-01_task-rest_bold.nii.gz", SkipReason.EPI),
        ("sub-01_dir-AP_dwi.nii.gz", SkipReason.DIFFUSION),
        ("sub-01_part-phase_T1w.nii.gz", SkipReason.PHASE),
        ("sub-01_dseg.nii.gz", SkipReason.DERIVED),
        ("sub-01_desc-preproc_T1w.nii.gz", SkipReason.DERIVED),
        ("sub-01_ce-gadolinium_T1w.nii.gz", SkipReason.CONTRAST_UNKNOWN),
        ("sub-01_acq-mprageGad_T1w.nii.gz", SkipReason.CONTRAST_UNKNOWN),
        ("sub-01_part-imag_T1w.nii.gz", SkipReason.PHASE),
        ("sub-01_inv-2_MP2RAGE.nii.gz", SkipReason.CONTRAST_UNKNOWN),
        ("sub-01_inv-1_part-mag_T1w.nii.gz", SkipReason.CONTRAST_UNKNOWN),
        ("sub-01_UNIT1.nii.gz", SkipReason.DERIVED),
        ("sub-01_defacemask.nii.gz", SkipReason.DERIVED),
        ("sub-01_mod-T1w_defacemask.nii.gz", SkipReason.DERIVED),
        ("sub-01_T2star.nii.gz", SkipReason.CONTRAST_UNKNOWN),
        ("sub-01_T2starw.nii.gz", SkipReason.CONTRAST_UNKNOWN),
        ("sub-01_echo-2_MESE.nii.gz", SkipReason.CONTRAST_UNKNOWN),
        ("sub-01_PDT2.nii.gz", SkipReason.CONTRAST_UNKNOWN),
        ("sub-01_PDw.nii.gz", SkipReason.CONTRAST_UNKNOWN),
    ],
)
def test_other_bids_kinds_have_their_reason(tmp_path: Path, name: str, reason: SkipReason) -> None:
    write(tmp_path / "sub-01" / name, FLAIR)
    (series,) = discover(tmp_path, key=KEY).series
    assert decide(series).reason is reason


def test_an_assume_file_states_what_plain_folders_lack(tmp_path: Path) -> None:
    for visit in ("study1", "study2"):
        for name in ("T1W", "T2W", "FLAIR"):
            write(tmp_path / "data" / "patient01" / visit / f"{name}.nii.gz")
    file = tmp_path / "assume.yaml"
    file.write_text(
        """
- match: "*/T1W.nii.gz"
  contrast: T1w
  parameters: {RepetitionTime: 0.5, EchoTime: 0.01, FlipAngle: 90, MagneticFieldStrength: 3, MRAcquisitionType: 2D,
    ScanningSequence: SE, EchoTrainLength: 1}
- match: "patient01/*/T2W.nii.gz"
  contrast: T2w
  parameters: {RepetitionTime: 4.5, EchoTime: 0.1, EchoTrainLength: 16, MRAcquisitionType: 2D}
- match: "*FLAIR*"
  contrast: FLAIR
  parameters: {RepetitionTime: 11, EchoTime: 0.14, InversionTime: 2.8, MRAcquisitionType: 3D}
"""
    )
    found = discover(tmp_path / "data", key=KEY, assume=load_assumptions(file))
    assert found.unmatched == ()
    assert len({one.session for one in found.series}) == 2
    assert len({one.person for one in found.series}) == 1
    decisions = {(decide(one).contrast, decide(one).sequence, decide(one).reason) for one in found.series}
    assert decisions == {
        (Contrast.T1W, PulseSequence.SPIN_ECHO, None),
        (Contrast.T2W, PulseSequence.TURBO_SPIN_ECHO, None),
        (Contrast.FLAIR, PulseSequence.VARIABLE_FLIP_TSE, None),
    }
    assert all(decide(one).assumed and "repetition_time" in one.header.assumed for one in found.series)


def test_folders_right_below_the_source_are_persons_too(tmp_path: Path) -> None:
    for person in ("patient07", "patient08"):
        write(tmp_path / person / "T1.nii")
    found = discover(tmp_path, key=KEY)
    assert len({one.person for one in found.series}) == len({one.session for one in found.series}) == 2


@pytest.mark.parametrize(
    ("options", "text"), [({"shape": (4, 5, 6, 7)}, "not one volume"), ({"code": 0}, "no orientation in the header")]
)
def test_what_is_no_volume_in_space_is_refused(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    write(tmp_path / "sub-01_T1w.nii.gz", FLAIR, **options)
    (series,) = discover(tmp_path, key=KEY).series
    decision = decide(series)
    assert decision.reason is SkipReason.INCOMPLETE
    assert text in decision.explanation


def test_the_digest_covers_sidecar_and_assumption(tmp_path: Path) -> None:
    path = tmp_path / "sub-01_T1w.nii"
    write(path, FLAIR)
    digests = [discover(tmp_path, key=KEY).series[0].digest]
    write(path, FLAIR | {"EchoTime": 0.126})
    digests.append(discover(tmp_path, key=KEY).series[0].digest)
    (tmp_path / "a.yaml").write_text("- {match: '*', parameters: {SequenceVariant: SK}}")
    assume = load_assumptions(tmp_path / "a.yaml")
    digests.append(discover(tmp_path, key=KEY, assume=assume).series[0].digest)
    assert len(set(digests)) == 3


def test_a_truncated_file_says_so_without_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "Zyxwvut" / "sub-01_T1w.nii"
    write(path, FLAIR, shape=(20, 20, 20))
    (series,) = discover(tmp_path, key=KEY).series
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ReadError, match="cannot be read") as caught:
        read_volume(series)
    everything = f"{caught.value} {series!r} {caplog.text}".lower()
    for secret in ("zyxwvut", "hypothesis", str(tmp_path).lower()):
        assert secret not in everything


def test_a_folder_of_broken_nifti_holds_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"\x1f\x8b not really")
    with pytest.raises(SourceError, match="none of them DICOM or NIfTI"):
        discover(tmp_path, key=KEY)


@pytest.mark.parametrize(("stated", "strength"), [(15000, 1.5), (3, 3.0), (7000, None)])
def test_a_sidecar_in_gauss_has_its_field_strength_or_none(
    tmp_path: Path, stated: float, strength: float | None
) -> None:
    write(tmp_path / "sub-01" / "anat" / "sub-01_T2w.nii", {"MagneticFieldStrength": stated})
    (series,) = discover(tmp_path, key=KEY).series
    assert series.header.magnetic_field_strength == strength


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("sub-01_run-2_T2w.nii", Contrast.T2W),
        ("sub-01_acq-fast_rec-norm_T2w.nii.gz", Contrast.T2W),
        ("sub-01_part-mag_T2w.NII", Contrast.T2W),
        ("sub-01_inplaneT2.nii.gz", Contrast.T2W),
        ("sub-01_acq-gadget_T2w.NII.GZ", Contrast.T2W),
    ],
)
def test_entities_and_endings_do_not_hide_an_image(tmp_path: Path, name: str, contrast: Contrast) -> None:
    write_nifti(tmp_path / "sub-01" / "anat" / name, T2W)
    (series,) = discover(tmp_path, key=KEY).series
    decision = decide(series)
    assert (decision.contrast, decision.reason, series.number) == (contrast, None, 2)
    assert read_volume(series).array.shape == (6, 5, 4)


STIR = T2W | {"ScanningSequence": "SE_IR", "InversionTime": 0.15}
PD = T2W | {"EchoTime": 0.015}
UNI = T1W | {"ImageType": ["DERIVED", "PRIMARY", "M", "ND", "UNI"], "RepetitionTime": 5}


@pytest.mark.parametrize(
    ("suffix", "sidecar", "taken"),
    [
        ("acq-FLAIR_T2w", T2_FLAIR, Contrast.FLAIR),
        ("T1w", T2_FLAIR, Contrast.FLAIR),
        ("T1w", T2W, Contrast.T2W),
        ("FLAIR", T1W, Contrast.T1W),
        ("T2w", T1W, Contrast.T1W),
        ("T2w", STIR, None),
        ("FLAIR", STIR, None),
        ("T2w", PD, None),
        ("T1w", PD, None),
        ("T1w", UNI, None),
        ("T1w", UNI | {"ImageType": []}, None),
        ("T1w", T1W | {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, None),
        ("T1w", T1W | {"ContrastBolusIngredient": "GADOLINIUM"}, None),
        ("T2w", T2W | {"ScanningSequence": "GR", "EchoTime": 0.02, "FlipAngle": 20}, None),
        ("T2w", T2W | {"ScanningSequence": "EP"}, None),
    ],
)
def test_numbers_that_contradict_a_name_count(
    tmp_path: Path, suffix: str, sidecar: dict[str, Any], taken: Contrast | None
) -> None:
    write_nifti(tmp_path / f"sub-01_{suffix}.nii.gz", sidecar)
    (plan,) = plan_sessions(discover(tmp_path, key=KEY).series)
    (decision,) = plan.decisions
    assert decision.contrast is taken
    assert (decision.reason is None) is (taken is not None)
    assert f"though named {suffix.rpartition('_')[2]}" in decision.explanation
    assert [remark.kind for remark in plan.remarks] == [RemarkKind.MISNAMED]


@pytest.mark.parametrize(
    ("suffix", "sidecar"),
    [
        ("T1w", T1W),
        ("T2w", T2W),
        ("FLAIR", T2_FLAIR),
        ("T2w", {"RepetitionTime": 4, "EchoTime": 0.03}),  # no family: nothing contradicts
        ("T1w", {"RepetitionTime": 0.0069, "EchoTime": 0.003}),
        ("T1w", T1W | {"ImageType": ["DERIVED", "PRIMARY", "M", "ND", "NORM"]}),
        ("T1w", T1W | {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}),
    ],
)
def test_numbers_that_do_not_contradict_a_name_leave_it(tmp_path: Path, suffix: str, sidecar: dict[str, Any]) -> None:
    write_nifti(tmp_path / f"sub-01_{suffix}.nii.gz", sidecar)
    (plan,) = plan_sessions(discover(tmp_path, key=KEY).series)
    assert [(str(one.contrast), one.reason) for one in plan.decisions] == [(suffix, None)]
    assert plan.remarks == ()


@pytest.mark.parametrize("words", [{"SeriesDescription": "t2_tirm_tra_dark-fluid"}, {"ProtocolName": "AX T2 FLAIR"}])
def test_a_t2w_that_its_sidecar_names_flair_is_not_modelled_as_one(tmp_path: Path, words: dict[str, Any]) -> None:
    for suffix, sidecar in (("T1w", T1W), ("T2w", T2W | words | {"RepetitionTime": 9})):
        write_nifti(tmp_path / f"sub-01_{suffix}.nii.gz", sidecar)
    (plan,) = plan_sessions(discover(tmp_path, key=KEY).series)
    assert set(plan.chosen) == {Contrast.T1W}
    assert "named FLAIR" in plan.explanation


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run-2", {"SeriesDescription": "t1_mprage +C"}),
        ("run-2", {"ProtocolName": "MPRAGE nach KM"}),
        ("run-2", {"ContrastBolusAgent": "yes"}),
        ("acq-post", {}),
        ("acq-T1CE", {}),
        ("acq-mprageKM", {}),
    ],
)
def test_a_t1w_after_an_agent_by_its_sidecar_or_label_is_not_taken(
    tmp_path: Path, name: str, words: dict[str, Any]
) -> None:
    write_nifti(tmp_path / "sub-01_T1w.nii.gz", T1W | {"SeriesNumber": 4})
    write_nifti(tmp_path / f"sub-01_{name}_T1w.nii.gz", T1W | words | {"SeriesNumber": 24})
    write_nifti(tmp_path / "sub-01_T2w.nii.gz", T2W)
    (plan,) = plan_sessions(discover(tmp_path, key=KEY).series)
    assert plan.chosen[Contrast.T1W].number == 4


@pytest.mark.parametrize("suffix", ["acq-space_T1w", "acq-posterior_T1w", "acq-highres_T1w"])
def test_other_labels_speak_of_no_agent(tmp_path: Path, suffix: str) -> None:
    write_nifti(tmp_path / f"sub-01_{suffix}.nii.gz", T1W)
    (series,) = discover(tmp_path, key=KEY).series
    assert decide(series).reason is None


@pytest.mark.parametrize("made", ["brain", "defaced", "bet"])
def test_what_was_made_from_an_image_is_told_by_what_follows_its_suffix(tmp_path: Path, made: str) -> None:
    write_nifti(tmp_path / "sub-01_T1w.nii.gz", T1W)
    write_nifti(tmp_path / f"sub-01_T1w_{made}.nii.gz", T1W)
    found = {one.paths[0].rpartition("_")[2]: decide(one) for one in discover(tmp_path, key=KEY).series}
    assert found["T1w.nii.gz"].reason is None
    assert found[f"{made}.nii.gz"].reason is SkipReason.DERIVED


@pytest.mark.parametrize("codes", ["SE", "SE_IR"])
def test_a_flair_without_inversion_time_is_not_guessed(tmp_path: Path, codes: str) -> None:
    write_nifti(tmp_path / "sub-01_FLAIR.nii.gz", T2W | {"ScanningSequence": codes})
    (series,) = discover(tmp_path, key=KEY).series
    decision = decide(series)
    assert (decision.contrast, decision.reason) == (Contrast.FLAIR, SkipReason.NO_PARAMETERS)
    assert "without inversion time" in decision.explanation


def test_a_flair_named_t2w_takes_the_place_of_neither(tmp_path: Path) -> None:
    write_visit(tmp_path, "sub-01", contrasts={"T1w": T1W, "T2w": T2W, "acq-FLAIR_T2w": T2_FLAIR})
    write_visit(tmp_path, "sub-02", contrasts={"T1w": T1W, "T2w": T2_FLAIR})
    chosen = [
        {str(c): one.number for c, one in plan.chosen.items()}
        for plan in plan_sessions(discover(tmp_path, key=KEY).series)
    ]
    assert sorted(chosen, key=len) == [{"T1w": 4, "FLAIR": 3}, {"T1w": 4, "T2w": 2, "FLAIR": 3}]


@pytest.mark.parametrize("cycle", [0.006, 3.0, 5.0])
def test_what_was_made_of_an_mp2rage_beside_it_is_no_t1w(tmp_path: Path, cycle: float) -> None:
    parts = {
        f"inv-{n}_MP2RAGE": T1W | {"RepetitionTime": cycle, "InversionTime": 0.8 * n, "SeriesNumber": n} for n in (1, 2)
    }
    made = {name: value for name, value in T1W.items() if name != "InversionTime"} | {"RepetitionTime": cycle}
    write_visit(tmp_path, "sub-01", contrasts=parts | {"T1w": made, "acq-mprage_T1w": T1W | {"SeriesNumber": 9}})
    (plan,) = plan_sessions(discover(tmp_path, key=KEY).series)
    decisions = {one.number: decision for one, decision in zip(plan.series, plan.decisions, strict=True)}
    assert (decisions[9].contrast, decisions[9].reason) == (Contrast.T1W, None)
    assert decisions[4].reason is SkipReason.CONTRAST_UNKNOWN
    assert "though named T1w" in decisions[4].explanation


def test_a_user_counts_for_more_than_numbers(tmp_path: Path) -> None:
    write_nifti(tmp_path / "sub-01_T2w.nii.gz", PD | {"EchoTime": 0.05})
    (tmp_path / "a.yaml").write_text("- {match: '*T2w*', contrast: T2w}")
    (plan,) = plan_sessions(discover(tmp_path, key=KEY, assume=load_assumptions(tmp_path / "a.yaml")).series)
    assert (plan.decisions[0].contrast, plan.decisions[0].reason) == (Contrast.T2W, None)
    assert plan.remarks == ()


def head() -> Any:
    """A bright ball in air whose middle is dark, as fluid is, with a soft edge."""
    z, y, x = np.mgrid[:20, :20, :20] - 9.5
    radius = np.sqrt(x**2 + y**2 + z**2)
    return ((radius < 9) * np.clip(200 * (radius - 2), 20, 1000) + 1).astype(np.float32)


@pytest.mark.parametrize("threshold", [1.5, 30.0, 60.0])
def test_nan_around_the_head_and_in_dark_holes_is_air(tmp_path: Path, threshold: float) -> None:
    data = head()
    write_nifti(tmp_path / "sub-01_T1w.nii.gz", T1W, data=np.where(data > threshold, data, np.nan))
    (series,) = discover(tmp_path, key=KEY).series
    assert bool(data[10, 10, 10] > threshold) is (threshold < 20)
    np.testing.assert_array_equal(read_volume(series).array, np.where(data > threshold, data, 0).T)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda data: data.__setitem__((slice(5, 7), 5, 10), np.nan), "2 voxels within the head are NaN"),
        (lambda data: data.__setitem__((14, slice(8, 12), 8), np.nan), "4 voxels within the head are NaN"),
        (lambda data: data.__setitem__((3, 3, 3), np.inf), "1 voxels are infinite"),
        (lambda data: data.__setitem__((3, 3, slice(3, 5)), -np.inf), "2 voxels are infinite"),
        (lambda data: data.fill(np.nan), "all voxels are NaN"),
    ],
)
def test_what_is_lost_within_the_head_is_a_reason(tmp_path: Path, change: Callable[[Any], None], text: str) -> None:
    data = head()
    change(data)
    write_nifti(tmp_path / "sub-01_T1w.nii.gz", T1W, data=data)
    (series,) = discover(tmp_path, key=KEY).series
    with pytest.raises(ReadError, match=text):
        read_volume(series)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("slope", "expected"), [(0.0, 1.0), (math.nan, 1.0), (0.5, 0.5), (math.inf, None)])
def test_a_scale_of_zero_or_nan_is_none(tmp_path: Path, ending: str, slope: float, expected: float | None) -> None:
    data = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    path = write_nifti(tmp_path / "sub-01_T1w.nii", T1W, data=data)
    raw = bytearray(path.read_bytes())
    raw[112:120] = struct.pack("<ff", slope, 0.0)
    path.unlink()
    (tmp_path / f"sub-01_T1w{ending}").write_bytes(gzip.compress(bytes(raw)) if ending == ".nii.gz" else bytes(raw))
    (series,) = discover(tmp_path, key=KEY).series
    if expected is None:
        with pytest.raises(ReadError, match="the scale in the header is infinite"):
            read_volume(series)
    else:
        np.testing.assert_array_equal(read_volume(series).array, expected * data.T.astype(np.float32))


@pytest.mark.parametrize("count", [2, 40])
def test_several_volumes_in_one_file_say_how_many(tmp_path: Path, count: int) -> None:
    write_nifti(tmp_path / "sub-01_T2w.nii.gz", T2W, data=np.ones((4, 5, 6, count), dtype=np.int16))
    (series,) = discover(tmp_path, key=KEY).series
    assert decide(series).reason is SkipReason.INCOMPLETE
    assert f"{count} volumes in one file" in decide(series).explanation


@pytest.mark.parametrize(("times", "late"), [([0.012, 0.093], 1), ([0.1, 0.02], 0)])
def test_of_a_dual_echo_the_later_one_is_the_t2w(tmp_path: Path, times: list[float], late: int) -> None:
    data = np.random.default_rng(1).integers(0, 900, (4, 5, 6, 2)).astype(np.int16)
    write_nifti(tmp_path / "sub-01_PDT2.nii.gz", T2W | {"EchoTime": times}, data=data)
    (series,) = discover(tmp_path, key=KEY).series
    decision = decide(series)
    assert (decision.reason, decision.contrast) == (None, Contrast.T2W)
    assert series.header.echo_time == max(times)
    np.testing.assert_array_equal(read_volume(series).array, data[..., late].T)


@pytest.mark.parametrize(
    ("times", "count"), [(0.093, 2), ([0.093], 2), ([0.01, 0.05, 0.09], 2), ([0.09, 0.09], 2), (["a", 0.09], 2)]
)
def test_a_dual_echo_whose_times_are_not_those_of_its_volumes_is_left_out(
    tmp_path: Path, times: object, count: int
) -> None:
    write_nifti(tmp_path / "sub-01_PDT2.nii.gz", T2W | {"EchoTime": times}, data=np.ones((4, 5, 6, count), np.int16))
    (series,) = discover(tmp_path, key=KEY).series
    assert decide(series).reason is SkipReason.CONTRAST_UNKNOWN


def test_echo_times_of_a_file_of_another_name_choose_no_volume(tmp_path: Path) -> None:
    data = np.ones((4, 5, 6, 2), np.int16)
    write_nifti(tmp_path / "sub-01_T2w.nii.gz", T2W | {"EchoTime": [0.012, 0.093]}, data=data)
    (series,) = discover(tmp_path, key=KEY).series
    assert decide(series).reason is SkipReason.INCOMPLETE


@pytest.mark.parametrize("kind", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_voxels_that_are_no_signal_are_told_by_the_header(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "sub-01_T1w.nii.gz"
    write_nifti(path, T1W)
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, dtype=np.dtype(kind)), image.affine), path)
    (series,) = discover(tmp_path, key=KEY).series
    assert decide(series).reason is SkipReason.NOT_IMAGE
    assert "colours" in decide(series).explanation


@pytest.mark.parametrize("change", ["negated", "offset", "normalised", "background"])
def test_an_image_below_zero_is_not_read(tmp_path: Path, change: str) -> None:
    path = tmp_path / "sub-01_T1w.nii.gz"
    write_nifti(path, T1W)
    image = nibabel.load(path)
    data = np.asarray(image.dataobj, dtype=np.float32) + 1
    changed = {
        "negated": -data,
        "offset": data - 1024,
        "normalised": (data - data.mean()) / data.std(),
        "background": np.where(data > np.median(data), data, -1000),
    }[change]
    nibabel.save(nibabel.Nifti1Image(changed.astype(np.float32), image.affine), path)
    (series,) = discover(tmp_path, key=KEY).series
    with pytest.raises(ReadError, match="negative"):
        read_volume(series)
