"""Every protocol group's files - enhanced, compressed, extra series - read back by independent software and our own."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose

from qmri_core.simulation.acquired import Role
from qmri_core.simulation.protocols import protocol_table
from qmri_core.simulation.sessions import SimulatedSession
from storage.simulated.encoding import SYNTAXES, DicomFile, transcode
from storage.simulated.writer import session_files, write_session
from storage.source.discovery import decide_session, discover, read_volume
from tests.simulated import plan_of, quick_session
from tests.storage.simulated.test_writer import assert_same_image

GROUPS = [protocol.name for protocol in protocol_table()]
ENHANCED = [protocol.name for protocol in protocol_table() if protocol.objects == "enhanced"]
DISTINCT = list({(p.vendor, p.objects, p.transfer_syntax): p.name for p in protocol_table()}.values())
REASONS = {
    Role.LOCALIZER: {"localizer", "incomplete"},
    Role.PHASE: {"phase"},
    Role.REFORMAT: {"derived"},
    Role.RIVAL: {"duplicate"},
}


@cache
def session(group: str) -> SimulatedSession:
    return quick_session(plan_of(group))


@cache
def files(group: str) -> tuple[DicomFile, ...]:
    return tuple(session_files(session(group)))


def test_groups_use_every_kind_of_object_and_transfer_syntax() -> None:
    assert {protocol.transfer_syntax for protocol in protocol_table()} == set(SYNTAXES)
    assert {protocol.vendor for protocol in protocol_table() if protocol.objects == "enhanced"} == {
        "Siemens",
        "Philips",
    }


@pytest.mark.parametrize(
    "group", [pytest.param(name, marks=() if name in DISTINCT else pytest.mark.soak) for name in GROUPS]
)
def test_dcm2niix_converts_every_series(group: str, tmp_path: Path) -> None:
    dcm2niix = pytest.importorskip("dcm2niix")
    one = session(group)
    write_session(one, tmp_path / "in")
    for series in one.series:
        (folder,) = (tmp_path / "in").glob(f"*/*/S{series.number:04d}")
        out = tmp_path / str(series.number)
        out.mkdir()
        command = [dcm2niix.bin, "-z", "n", "-b", "n", "-m", "n", "-f", "image", "-o", str(out), str(folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        assert "Error" not in done.stdout
        paths = list(out.glob("*.nii"))
        assert len(paths) == len(series.volumes), done.stdout
        if series.role is not Role.LOCALIZER:
            image = nib.load(paths[0])
            if series.role is Role.PHASE:  # dcm2niix turns stored phase into what it takes for its unit
                assert image.shape == series.volumes[0].array.T.shape
                continue
            values = np.asarray(image.dataobj)
            assert_same_image(values, image.affine, series.volumes[0], one.plan.protocol.vendor)


@pytest.mark.parametrize("group", DISTINCT)
def test_own_reader_gets_the_same_values_and_leaves_out_the_rest(group: str, tmp_path: Path) -> None:
    one = session(group)
    write_session(one, tmp_path)
    found = discover(tmp_path, key=bytes(32)).series
    decisions = dict(zip(found, decide_session(found), strict=True))
    taken = {series.number: series for series, decision in decisions.items() if decision.reason is None}
    assert set(taken) == {series.number for series in one.images}
    for series in one.images:
        truth, volume = series.volumes[0], read_volume(taken[series.number])
        assert decisions[taken[series.number]].contrast is series.series.contrast
        assert_allclose(taken[series.number].header.repetition_time, series.series.header.repetition_time, rtol=1e-5)
        step = truth.array.max() / 4095 if one.plan.protocol.vendor == "Philips" else 1.0
        limit = 4095 if one.plan.protocol.vendor == "Siemens" else np.inf
        got, expected = (np.sort(values.reshape(-1)) for values in (volume.array, np.minimum(truth.array, limit)))
        assert_allclose(got, expected, atol=0.51 * step)
        corners = [
            {tuple(np.round((v.affine @ [i, j, k, 1])[:3], 1)) for i in (0, v.array.shape[2] - 1)
             for j in (0, v.array.shape[1] - 1) for k in (0, v.array.shape[0] - 1)}
            for v in (volume, truth)
        ]  # fmt: skip
        assert corners[0] == corners[1]
    reasons = {series.number: str(decision.reason) for series, decision in decisions.items() if decision.reason}
    for series in one.series:
        if series.role is not Role.IMAGE:
            assert reasons[series.number] in REASONS[series.role]


def test_some_sessions_have_every_kind_of_series_beside_the_three() -> None:
    roles = {series.role for group in GROUPS for series in session(group).series}
    assert roles == set(Role)
    assert 0.05 < np.mean([len(session(group).series) > 4 for group in GROUPS]) < 0.95


@pytest.mark.parametrize("group", ENHANCED)
def test_enhanced_objects_keep_timing_in_functional_groups_only(group: str) -> None:
    for file in files(group):
        ds = file.dataset
        assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.4.1"
        assert not {"EchoTime", "RepetitionTime", "FlipAngle", "ImagePositionPatient", "RescaleSlope"} & set(ds.dir())
        groups = ds.PerFrameFunctionalGroupsSequence
        assert len(groups) == ds.NumberOfFrames
        assert len(ds.PixelData) == 2 * ds.Rows * ds.Columns * ds.NumberOfFrames
        assert ds.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence[0].RepetitionTime > 0
        indices = [tuple(one.FrameContentSequence[0].DimensionIndexValues) for one in groups]
        assert len(set(indices)) == len(indices)
        if session(group).plan.protocol.vendor == "Philips":
            nested = groups[0][0x2005, 0x100F].value[0]
            assert nested[0x2005, 0x100E].value > 0


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of dicom3tools")
@pytest.mark.parametrize("group", DISTINCT)
def test_an_independent_validator_finds_no_error(group: str, tmp_path: Path) -> None:
    one = session(group).plan.protocol
    for file in {(file.role, file.contrast): file for file in files(group)}.values():
        path = tmp_path / "file"
        path.write_bytes(file.encoded())
        done = subprocess.run(["dciodvfy", "-new", str(path)], check=False, capture_output=True, text=True)
        errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
        if one.vendor == "GE":  # it writes the inversion time of gradient echoes, as its scanners do
            errors = [line for line in errors if "InversionTime(0018,0082)" not in line]
        assert not errors, (file.role, file.contrast, errors)


@pytest.mark.parametrize("syntax", sorted(SYNTAXES))
def test_compression_loses_nothing(syntax: str) -> None:
    (ds,) = [file.dataset for file in session_files(session("G13")) if file.role is Role.IMAGE][:1]
    before = ds.pixel_array.copy()
    transcode(ds, syntax)
    again = pydicom.dcmread(pydicom.filebase.DicomBytesIO(DicomFile(folder="", name="", content=ds).encoded()))
    assert again.file_meta.TransferSyntaxUID == SYNTAXES[syntax]
    assert_allclose(again.pixel_array, before, atol=0)
    with pytest.raises(ValueError, match="none of explicit"):
        transcode(ds, "zip")


@pytest.mark.parametrize("group", ["G06", "G14"])
def test_same_seed_same_bytes_and_another_seed_shares_no_identity(group: str) -> None:
    first = [file.encoded() for file in files(group)]
    assert first == [file.encoded() for file in session_files(quick_session(plan_of(group)))]
    other = list(session_files(quick_session(plan_of(group, seed=4))))
    identities = [_identities(many) for many in (files(group), other)]
    assert len(identities[0]) > 8
    assert not identities[0] & identities[1]


def _identities(many: list[DicomFile] | tuple[DicomFile, ...]) -> set[str]:
    """Identifiers and identities of files, as text."""
    found = set()
    for file in many:
        for element in file.dataset.iterall():
            if element.VR == "UI" and "ClassUID" not in element.keyword and element.value != "1.2.840.10008.1.2.1":
                found.add(str(element.value))
            elif element.keyword in {"PatientID", "PatientName", "AccessionNumber", "PatientAddress"}:
                found.add(f"{element.keyword} {element.value}")
    return found


def test_identities_hide_in_the_files_of_every_vendor() -> None:
    for group in ("G13", "G09", "G14", "G11"):
        name = session(group).plan.person.family_name
        for file in files(group)[:2]:
            ds = file.dataset
            holders = {
                e.keyword for e in ds.iterall() if e.VR in ("PN", "LO", "LT", "SH", "ST") and name in str(e.value)
            }
            assert {"PatientName", "OtherPatientNames", "PatientAddress", "StudyDescription"} <= holders
            assert ds.PatientBirthDate
            assert ds.InstitutionName
