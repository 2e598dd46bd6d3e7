"""The commands about a store, on a processed cohort."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import xarray as xr
import zarr
from distributed import Client
from typer.testing import CliRunner, Result

from flows.cli.main import app
from flows.ingest.run import ingest
from flows.maps.staleness import stale_sessions
from storage.store.cohort import Cohort, commit, open_repository, tag, writing
from storage.store.repository import tags
from tests.flows.end_to_end import Processed
from tests.storage.cohorts import row
from tests.storage.residues import holds


@pytest.fixture
def store(processed: Processed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QMRI_KEY_FILE", str(processed.key_file))
    return Path(shutil.copytree(processed.store, tmp_path / "store"))


def qmri(*arguments: object, typed: str = "") -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_status_tells_counts_stale_sessions_runs_and_size(store: Path, processed: Processed) -> None:
    text = qmri("status", "--store", store).output
    # its maps were made with untrained weights, and nothing is promoted
    assert "stale: 3 sessions: its maps were made with another checkpoint" in text
    assert "3 sessions, 3 stale" in text
    assert "last runs:" in text
    assert "Infer maps of 3 sessions" in text
    name = sorted(Cohort.open(store).slots)[0]
    with writing(store) as repository:
        session = repository.writable_session("main")
        root = zarr.open_group(session.store, mode="a")
        rows = root["catalogue/session"][...].tolist()  # type: ignore[index,union-attr]
        root["catalogue/preprocessing_version"][rows.index(name)] = "0"  # type: ignore[index]
        session.commit("edit")
    assert stale_sessions(Cohort.open(str(store)))[name] == "its images were made with another preprocessing"
    assert processed.inferred.complete == 3


def test_history_rollback_and_compact(store: Path) -> None:
    with writing(store) as repository:
        tag(repository, "nightly-1")
    before = qmri("history", "--store", store).output
    assert "[nightly-1]" in before
    assert "run=infer" in before
    assert len(qmri("history", "--store", store, "--limit", 2).output.splitlines()) == 2
    created = before.splitlines()[-1].split()[3]
    assert f"rolled back to {created}" in qmri("rollback", created, "--store", store).output
    assert Cohort.open(store).slots == {}
    assert "rolled back to nightly-1" in qmri("rollback", "nightly-1", "--store", store).output
    assert len(Cohort.open(store).slots) == 3
    assert "would end" in qmri("compact", "--store", store, "--keep-days", 0, "--dry-run").output
    assert "MB deleted" in qmri("compact", "--store", store, "--keep-days", 0).output
    assert len(tags(open_repository(store))) == 3


@pytest.mark.walk
def test_forget_asks_says_what_ends_and_the_next_ingest_leaves_the_session_out(
    store: Path, processed: Processed, workers: Client
) -> None:
    with writing(store) as repository:
        tag(repository, "nightly-1")
    name = sorted(Cohort.open(store).slots)[0]
    refused = qmri("forget", name, "--store", store, typed="n\n")
    assert refused.exit_code == 1
    assert "these tags end too, because they hold it: nightly-1" in refused.output
    assert name in Cohort.open(store).slots
    assert f"{name} is forgotten" in qmri("forget", name, "--store", store, "--yes").output
    again = ingest(processed.source, str(store), key=processed.key, client=workers)
    assert (again.found, again.skipped, again.complete) == (3, 1, 2)
    assert again.reasons["forgotten"] == 1
    assert name not in Cohort.open(store).slots


def test_forget_of_a_person_lists_the_sessions_asks_and_takes_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QMRI_KEY_FILE", str(tmp_path / "key"))
    store = tmp_path / "store"
    with writing(store, create=True) as repository:
        people = {"ses-1": "sub-a", "ses-2": "sub-b", "ses-3": "sub-a"}
        rows = [row(session, "failed", person=person) for session, person in people.items()]
        commit(repository, None, [], values={}, rows=rows, message="m", metadata={})
    for wrong in ([], ["ses-1", "--person", "sub-a"]):
        assert qmri("forget", *wrong, "--store", store, "--yes").exit_code == 2
    refused = qmri("forget", "--person", "sub-a", "--store", store, typed="n\n")
    assert refused.exit_code == 1
    assert "2 sessions of sub-a: ses-1, ses-3" in refused.output
    assert "no known copy holds it" in refused.output
    assert len(Cohort.open(store).catalogue) == 3
    assert qmri("export-zarr", "--store", store, "--out", tmp_path / "Jane Doe").exit_code == 0
    done = qmri("forget", "--person", "sub-a", "--store", store, "--yes").output
    assert "exports and reports that may hold it, to be deleted by you:" in done
    assert "UTC  export-zarr  snapshot " in done
    assert "sub-a is forgotten" in done
    assert holds(store, b"Jane") == 0
    assert list(Cohort.open(store).catalogue["session"]) == ["ses-2"]


@pytest.mark.walk
def test_verify_reads_the_source_again(store: Path, processed: Processed, tmp_path: Path) -> None:
    sound = qmri("verify", "--store", store, "--source", processed.source)
    assert "everything is as it was written" in sound.output
    changed = Path(shutil.copytree(processed.source, tmp_path / "changed"))
    file = max((path for path in changed.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[-100] ^= 1  # a bit of a pixel
    file.write_bytes(content)
    found = qmri("verify", "--store", store, "--source", changed)
    assert found.exit_code == 1
    assert found.output.count("its source is not what was ingested") == 1
    assert file.name not in found.output


def test_exports_and_migrate(store: Path, tmp_path: Path) -> None:
    assert "maps of 3 sessions" in qmri("export-bids", "--store", store, "--out", tmp_path / "bids").output
    assert len(list((tmp_path / "bids").rglob("*_T1map.nii.gz"))) == 6
    assert "objects in" in qmri("export-zarr", "--store", store, "--out", tmp_path / "plain").output
    tree = xr.open_datatree(tmp_path / "plain", engine="zarr", consolidated=False)  # type: ignore[arg-type]
    assert {slot.group for slot in Cohort.open(store).slots.values()} <= {path.strip("/") for path in tree.groups}
    assert "is up to date" in qmri("migrate", "--store", store).output
