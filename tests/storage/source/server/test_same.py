"""What Orthanc gives by DICOMweb, C-GET and C-MOVE is what the folder that it was stored from gives, with pixels."""

from __future__ import annotations

import shutil
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from storage.source.discovery import Discovery, Series, decide_session, discover, read_volume
from storage.source.origin import Limits, Server, source_of
from tests.orthanc import Orthanc, needs_orthanc
from tests.storage.slices import STUDY, add_private_scale, header, voxels, write, write_enhanced, write_series
from tests.storage.source.test_real_dicom import DATA, SETS

KEY = b"a key for tests, of thirty-two b"
FLAIR = {"ScanningSequence": ["SE", "IR"], "InversionTime": "2500", "RepetitionTime": "9000", "EchoTime": "120"}

pytestmark = needs_orthanc


KINDS = ("web", "get", "move")
_NO_PIXELS = "an object without pixels looks like an image where headers alone are asked for"
LOST = {
    ("agfa-pacs-rewritten", "get"): "times of repeated positions are those of one object",
    ("oddities-small", "web"): _NO_PIXELS,
    ("oddities-small", "get"): _NO_PIXELS,
    (
        "dicom2nifti-matrix",
        "web",
    ): "positions of one series are not in the server's JSON, and it is left out as incomplete",
    ("dicom2nifti-matrix", "get"): "series of several orientations and echoes are told by one object",
}
"""What is not told as by files, and known; not mended."""


def server_of(orthanc: Orthanc, spool: Path, kind: str) -> Server:
    limits = Limits(spool=spool, move_port=orthanc.mover if kind == "move" else None)
    found = source_of(orthanc.web if kind == "web" else orthanc.dimse, limits)
    assert isinstance(found, Server)
    return found


def told(series: Series) -> Series:
    """What the server must tell as files do: all but digests, where and how the bytes lie, and, nearly, the affine."""
    n = series.n_instances if series.problem is None else 1  # of what is no image, a server is asked for one object
    return replace(
        series,
        digest="",
        content="",
        paths=(),
        frames=(),
        known=None,
        server=None,
        changed=0.0,
        n_instances=n,
        affine=(),
    )


def assert_told_alike(ours: list[Series], theirs: list[Series]) -> None:
    """Affines to 1e-6 mm: a server writes decimal numbers in its own way. What is read is that of the file's header."""
    assert [told(one) for one in theirs] == [told(one) for one in ours]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(other.affine, one.affine, atol=1e-6)


def in_order(found: Discovery) -> list[Series]:
    def key(one: Series) -> tuple[str, int, int, str, str]:
        places = str(np.round(one.affine, 3) + 0.0)
        return one.session, one.number, one.n_instances, repr(told(one)), places

    return sorted(found.series, key=key)


def write_mixed(folder: Path) -> int:
    """An archive of two people: classic and enhanced files, private numbers, other objects; the number of files."""
    write_series(folder / "a", voxels())
    write_series(folder / "b", voxels(seed=2), series=2, SeriesNumber="5", **FLAIR)
    write_series(
        folder / "c", voxels(seed=3), series=3, SeriesNumber="6", PatientName="M\u00fcller^J\u00f6rg", PatientID=None,
        SpecificCharacterSet="ISO_IR 100", StudyInstanceUID=f"{STUDY}.7", Manufacturer="Philips Medical Systems",
        ManufacturerModelName="Achieva", RescaleSlope="2.5", RescaleIntercept="-3", InversionTime=None,
    )  # fmt: skip
    for path in (folder / "c").iterdir():
        dataset = pydicom.dcmread(path)
        add_private_scale(dataset, 0.004)
        dataset.add_new((0x2001, 0x10), "LO", "Philips Imaging DD 001")
        dataset.add_new((0x2001, 0x101B), "FL", 850.0)
        dataset.save_as(path)
    write_enhanced(folder / "d", voxels(seed=4), [2, 0, 1, 4, 3])
    enhanced = pydicom.dcmread(folder / "d")
    enhanced.SeriesInstanceUID, enhanced.SOPInstanceUID, enhanced.SeriesNumber = f"{STUDY}.4", f"{STUDY}.4.1", "7"
    enhanced.file_meta.MediaStorageSOPInstanceUID = enhanced.SOPInstanceUID
    enhanced.save_as(folder / "d")
    report = header(
        Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", SeriesInstanceUID=f"{STUDY}.9", SeriesNumber="9",
        SOPInstanceUID=f"{STUDY}.9.1",
    )  # fmt: skip
    write(folder / "e", report, None)
    return sum(1 for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture(autouse=True)
def _emptied(request: pytest.FixtureRequest) -> None:
    if "orthanc" in request.fixturenames:
        server: Orthanc = request.getfixturevalue("orthanc")
        for study in server.get("/studies"):
            server.delete(f"/studies/{study}")


def assert_same(folder: Discovery, server: Discovery) -> None:
    assert (server.n_files, server.unreadable) == (folder.n_files, folder.unreadable)
    pairs = list(zip(in_order(folder), in_order(server), strict=True))
    assert [told(one) for _, one in pairs] == [told(one) for one, _ in pairs]
    for ours, theirs in pairs:
        assert ours.n_instances == theirs.n_instances


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_archive(orthanc: Orthanc, tmp_path: Path, kind: str) -> None:
    n_files = write_mixed(tmp_path / "in")
    orthanc.store(path for path in (tmp_path / "in").rglob("*") if path.is_file())
    server = server_of(orthanc, tmp_path / "spool", kind)
    ours, theirs = discover(tmp_path / "in", key=KEY), discover(server, key=KEY)
    assert ours.n_files == n_files
    assert_same(ours, theirs)
    for one, other in zip(in_order(ours), in_order(theirs), strict=True):
        if one.problem is None:
            expected, found = read_volume(one), read_volume(other)
            np.testing.assert_array_equal(found.array, expected.array)
            np.testing.assert_array_equal(found.affine, expected.affine)
    assert [path.name for path in (tmp_path / "spool").iterdir() if path.is_dir()] == []


def stored(orthanc: Orthanc, source: Path) -> Path:
    """Give files to Orthanc, and keep those in the folder that it has taken: it refuses some, and keeps no copies."""
    owners: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for path in sorted(source.rglob("*")):
        if path.is_file():
            answer = orthanc.session.post(f"{orthanc.rest}/instances", data=path.read_bytes())
            if answer.status_code != 200 or answer.json().get("Status") != "Success":
                path.unlink()
                continue
            found = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            owners[str(found.SeriesInstanceUID)].add((str(found.get("PatientID")), str(found.StudyInstanceUID)))
    if not owners:
        pytest.skip("Orthanc takes none of these files")
    if max(map(len, owners.values())) > 1:
        pytest.skip("series of two people or studies have one UID, and Orthanc gives objects of either")
    return source


@pytest.mark.skipif(not SETS, reason="no real data: set QMRI_DATA_DIR to the folder with expected.json")
@pytest.mark.walk
@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("name", SETS)
def test_real_files(orthanc: Orthanc, tmp_path: Path, name: str, kind: str, request: pytest.FixtureRequest) -> None:
    if (name, kind) in LOST:
        request.applymarker(pytest.mark.xfail(strict=True, reason=LOST[name, kind]))
    archives = sorted((DATA / "dicom" / name).glob("*.tar.gz"))
    for archive in archives:
        with tarfile.open(archive) as opened:
            opened.extractall(tmp_path / "in", filter="data")
    if not archives:
        shutil.copytree(DATA / "dicom" / name, tmp_path / "in")
    source = stored(orthanc, tmp_path / "in")
    ours, theirs = discover(source, key=KEY), discover(server_of(orthanc, tmp_path / "spool", kind), key=KEY)
    decided = [
        [(one.number, decision.contrast, decision.reason) for one, decision in zip(s, decide_session(s), strict=True)]
        for s in (in_order(ours), in_order(theirs))
    ]
    assert decided[1] == decided[0]
    assert_told_alike(in_order(ours), in_order(theirs))
