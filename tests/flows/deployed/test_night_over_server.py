"""Nights whose source and whose destination are real servers, by DICOMweb and by DIMSE."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from prefect.testing.utilities import prefect_test_harness

from storage.store.cohort import Cohort
from storage.store.lifecycle.copies import copies_of
from tests.flows.end_to_end import Processed, last_snapshot
from tests.orthanc import Orthanc, needs_orthanc
from tests.storage.exports.dicom.test_folder import errors

# a soak, though of minutes: Prefect's test harness waits at its end until its events are drained, once for ever
pytestmark = [pytest.mark.soak, needs_orthanc, pytest.mark.timeout(1800)]

N_SERIES = 6
"""Of a session's maps: three, and their uncertainties."""


@pytest.fixture
def settings(
    processed: Processed, workers: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """Parameters of a night; what else it needs is set."""
    values = {
        "QMRI_KEY_FILE": processed.key_file,
        "QMRI_SCHEDULER": workers.scheduler.address,
        "QMRI_LINKAGE": tmp_path / "linkage.csv",
        "QMRI_PACS_SPOOL": tmp_path / "spool",
        "QMRI_REPORT": tmp_path / "report",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    with prefect_test_harness():
        yield {"store": str(tmp_path / "store"), "checkpoint": processed.checkpoint}


def address(server: Orthanc, kind: str) -> str:
    return server.web if kind == "web" else server.dimse


def push(server: Orthanc, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            server.session.post(f"{server.rest}/instances", data=path.read_bytes())  # it takes what is DICOM


def people(server: Orthanc) -> set[str]:
    return {server.get(f"/patients/{one}")["MainDicomTags"]["PatientID"] for one in server.get("/patients")}


@pytest.mark.parametrize("kind", ["web", "dimse"])
def test_nights_bring_what_is_new_from_a_server_and_its_maps_to_another(
    processed: Processed, settings: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    from flows.deployed.reprocess_nightly import reprocess_nightly

    with processed.linkage.open(newline="") as file:
        folders = sorted({Path(row["path"]).parts[0] for row in csv.DictReader(file)})
    with Orthanc(tmp_path / "archive") as archive, Orthanc(tmp_path / "viewer") as viewer:

        def night(to: str | None = None) -> Any:
            source, export_to = address(archive, kind), to or address(viewer, kind)
            return reprocess_nightly(source=source, export_to=export_to, return_state=True, **settings)

        def exported() -> tuple[int, set[str]]:
            return viewer.get("/statistics")["CountSeries"], people(viewer)

        for folder in folders[:-1]:
            push(archive, processed.source / folder)
        first = night()
        n_first = len(Cohort.open(settings["store"]).slots)
        assert first.name == "Completed", first.message
        assert f"maps of {n_first} sessions in the server: {N_SERIES * n_first} series written" in first.message
        assert exported() == (N_SERIES * n_first, people(archive))  # on the people and studies of the images
        before = last_snapshot(settings["store"])
        assert night().message.startswith("nothing new")
        assert last_snapshot(settings["store"]) == before

        push(archive, processed.source / folders[-1])
        refused = night(f"{viewer.web}/nothing" if kind == "web" else viewer.dimse.replace("ORTHANC", "NOBODY"))
        assert refused.is_failed(), refused
        assert len(Cohort.open(settings["store"]).slots) == 3  # what was ingested and inferred is kept
        assert exported()[0] == N_SERIES * n_first
        healed = night()
        assert healed.message.startswith("nothing new")
        assert f"maps of 3 sessions in the server: {N_SERIES * (3 - n_first)} series written" in healed.message
        assert exported() == (N_SERIES * 3, people(archive))

        if kind == "web" and shutil.which("dciodvfy") is not None:
            for instance in viewer.get("/instances"):
                file = tmp_path / "instance.dcm"
                file.write_bytes(viewer.session.get(f"{viewer.rest}/instances/{instance}/file").content)
                assert errors(file) == []

        study = archive.get("/studies")[0]
        archive.session.delete(f"{archive.rest}/studies/{study}").raise_for_status()
        gone = night()
        assert gone.is_completed(), gone.message
        assert "0 series written" in gone.message  # without images nobody; its maps stay
        assert len(Cohort.open(settings["store"]).slots) == 3  # a store forgets nobody by itself
        assert exported()[0] == N_SERIES * 3
    records = copies_of(Cohort.open(settings["store"]).repository)
    assert [len(record.sessions) for record in records if record.kind == "export-dicom"] == [n_first, 3, 3]
