"""Maps stored on Orthanc, by DICOMweb and by DIMSE: once, on the study of the images, each version naming the last."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from storage.exports.dicom.export import ExportedObjects, export_dicom
from storage.exports.dicom.form import Form
from storage.exports.dicom.receiver import server_receiver
from storage.exports.selection import Selection
from storage.source.discovery import discover
from storage.source.origin import Limits, Server, source_of
from storage.source.server.failures import ServerAwayError, ServerError, ServerRefusedError
from storage.store.cohort import Cohort
from tests.orthanc import Orthanc, needs_orthanc
from tests.storage.exports.dicom.test_folder import SESSION, infer, make_store, stored

WAYS = ("web", "dimse")
pytestmark = [
    needs_orthanc,
    pytest.mark.walk,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture(autouse=True)
def _emptied(orthanc: Orthanc) -> None:
    for study in orthanc.get("/studies"):
        orthanc.delete(f"/studies/{study}")


def server_of(orthanc: Orthanc, way: str, **limits: Any) -> Server:
    found = source_of(getattr(orthanc, way), Limits(**({"timeout": 10.0} | limits)))
    assert isinstance(found, Server)
    return found


def export(store: Path, server: Server, form: Form = Form.PARAMETRIC_MAP, **options: Any) -> ExportedObjects:
    with server_receiver(server) as receiver:
        return export_dicom(Cohort.open(store), receiver, Selection(sessions=[SESSION]), form=form, **options)


def n_taken(orthanc: Orthanc) -> int:
    """Objects that the server has ever been sent."""
    changes = orthanc.get("/changes?limit=100000")["Changes"]
    return sum(change["ChangeType"] == "NewInstance" for change in changes)


def held(orthanc: Orthanc) -> list[pydicom.Dataset]:
    contents = [
        orthanc.session.get(f"{orthanc.rest}/instances/{one}/file").content for one in orthanc.get("/instances")
    ]
    return [pydicom.dcmread(io.BytesIO(content)) for content in contents]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", Form)
def test_maps_are_stored_once_and_a_new_version_names_the_one_it_replaces(
    orthanc: Orthanc, tmp_path: Path, way: str, form: Form
) -> None:
    store, server = make_store(tmp_path), server_of(orthanc, way)
    first = export(store, server, form)
    assert (first.sessions, first.stored, first.there) == (1, 6, 0)
    taken = n_taken(orthanc)
    objects = held(orthanc)
    assert len({one.SeriesInstanceUID for one in objects}) == 6
    assert not [one for one in objects if "RelatedSeriesSequence" in one]
    again = export(store, server, form)
    assert (again.sessions, again.stored, again.there) == (1, 0, 6)
    assert n_taken(orthanc) == taken
    lost = orthanc.get("/instances")[0]
    orthanc.delete(f"/instances/{lost}")  # as an export that was cut short leaves it
    assert (mended := export(store, server, form)).stored == 1
    assert mended.there == 5
    assert len(held(orthanc)) == len(objects)
    infer(store, [SESSION], checkpoint="f00d")
    assert export(store, server, form).stored == 6
    new = [one for one in held(orthanc) if "RelatedSeriesSequence" in one]
    assert len(new) == len(objects)
    old = {one.SeriesDescription: one.SeriesInstanceUID for one in objects}
    for one in new:
        (replaced,) = one.RelatedSeriesSequence
        assert replaced.SeriesInstanceUID == old[one.SeriesDescription] != one.SeriesInstanceUID
        assert replaced.StudyInstanceUID == one.StudyInstanceUID
        assert replaced.PurposeOfReferenceCodeSequence[0].CodeValue == "replaced"
    infer(store, [SESSION], checkpoint="beef")
    assert export(store, server, form).stored == 6
    newer = {one.SeriesDescription: one.SeriesInstanceUID for one in new}
    third = [one for one in held(orthanc) if one.ContributingEquipmentSequence[0].SoftwareVersions[0] == "beef"]
    assert all(one.RelatedSeriesSequence[0].SeriesInstanceUID == newer[one.SeriesDescription] for one in third)


@pytest.mark.parametrize("way", WAYS)
def test_what_the_server_gives_back_is_what_the_store_has(orthanc: Orthanc, tmp_path: Path, way: str) -> None:
    store, server = make_store(tmp_path), server_of(orthanc, way)
    export(store, server)
    found = {one.ContentLabel: one for one in held(orthanc)}
    for name in ("T1map", "T2map", "PDmap", "T1map_sd"):
        ours, theirs = stored(store, name), found[name.upper()].pixel_array
        inside = np.sort(ours[np.isfinite(ours)])
        np.testing.assert_allclose(np.sort(theirs[np.isfinite(theirs)]), inside, rtol=2**-23)
    source = source_of(getattr(orthanc, way), Limits(spool=tmp_path / "spool", timeout=10.0))
    with pytest.raises(ValueError, match=r"own_map|no study"):  # there is nothing else
        discover(source, key=b"a key for tests, of thirty-two b")


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_is_away_or_refuses_is_told_of(orthanc: Orthanc, tmp_path: Path, way: str) -> None:
    store = make_store(tmp_path)
    address = orthanc.dimse.replace("ORTHANC@", "OTHER@") if way == "dimse" else f"{orthanc.web}/nowhere"
    wrong = source_of(address, Limits(timeout=10.0))
    assert isinstance(wrong, Server)
    with pytest.raises(ServerRefusedError if way == "dimse" else ServerError):
        export(store, wrong)
    gone = source_of("dimse://ORTHANC@127.0.0.1:9" if way == "dimse" else "dicomweb+http://127.0.0.1:9/dicom-web")
    assert isinstance(gone, Server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.source.server.web.TRIES", 0)  # half a minute else
        with pytest.raises(ServerAwayError):
            export(store, gone)
    assert held(orthanc) == []
