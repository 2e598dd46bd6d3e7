"""The deployments on a real Prefect server with a real process worker, and the flows in this process against it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from end_to_end import Processed, last_snapshot, names_below
from prefect_processes import Prefect, prefect, readme_lines

from storage.cohort import catalogue, history, open_cohort, open_repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def one_session(processed: Processed, folder: Path) -> Path:
    """Source tree with the first session of the cohort alone."""
    with processed.linkage.open(newline="") as file:
        person = Path(next(csv.DictReader(file))["path"]).parts[0]
    shutil.copytree(processed.source / person, folder / "archive" / person)
    return folder / "archive"


@pytest.fixture(scope="module")
def source(processed: Processed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one_session(processed, tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def running(processed: Processed, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    folder = tmp_path_factory.mktemp("prefect")
    settings = {"QMRI_SOURCE": source, "QMRI_STORE": folder / "store", "QMRI_KEY_FILE": processed.key_file}
    with prefect(folder, lines=readme_lines("Deployments"), QMRI_WORKERS=1, **settings) as installation:
        yield installation


def messages(store: str | Path) -> list[str]:
    return [snapshot.message for snapshot in history(open_repository(store))]


def test_the_literal_command_ingests_and_the_second_of_two_runs_finds_nothing_to_do(
    running: Prefect, source: Path
) -> None:
    store = running.environment["QMRI_STORE"]
    assert readme_lines("Deployments")[-1] == "prefect deployment run ingest-cohort"
    runs = [
        running.trigger(f"prefect deployment run {name}") for name in ("ingest-cohort", "ingest-cohort/ingest-cohort")
    ]
    states = [running.finished(run) for run in runs]
    assert [state["name"] for state in states] == ["Completed", "Completed"], (states, running.log("worker"))
    assert sorted(state["message"] for state in states) == ["done", "nothing to do: nothing was written"]
    cohort = open_cohort(store)
    (group,) = [path for path in cohort.groups if path.count("/") == 2]
    assert cohort[group].sizes["session"] == 1
    assert float(cohort[group]["T1w"].max()) > 0
    assert [message.split()[0] for message in messages(store)] == ["Calibrate", "Ingest", "Create"]  # nothing twice
    _check_artifacts(running, source)


def _check_artifacts(running: Prefect, source: Path) -> None:
    artifacts = running.artifacts()
    assert artifacts["ingest-cohort-progress"]["type"] == "progress"
    (row,) = json.loads(artifacts["ingest-cohort-result"]["data"])
    assert (row["found"], row["complete"], row["failed"]) == (1, 1, 0)
    logs = json.dumps(running.api("/logs/filter", {"limit": 200}))
    shown = json.dumps(artifacts) + logs + running.log("worker") + running.log("server")
    assert "ingest: 1 of 1" in logs
    assert not [name for name in names_below(source) if len(name) > 6 and name in shown]


def test_a_run_takes_few_prefect_tasks(running: Prefect) -> None:
    runs = running.api("/flow_runs/filter", {"flows": {"name": {"any_": ["ingest-cohort"]}}})
    assert len(runs) == 2
    assert len(running.api("/task_runs/filter", {})) <= 2 * len(runs)


@pytest.fixture
def in_process(running: Prefect, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prefect]:
    """Flows called here report to the running server."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    for name in ("QMRI_SOURCE", "QMRI_STORE", "QMRI_REPORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QMRI_WORKERS", "1")
    monkeypatch.setenv("QMRI_KEY_FILE", running.environment["QMRI_KEY_FILE"])
    values = {PREFECT_API_URL: running.environment["PREFECT_API_URL"], PREFECT_HOME: running.folder / "home"}
    with temporary_settings(values):
        yield running


@pytest.mark.usefixtures("in_process")
def test_a_missing_setting_fails_the_run_and_is_named() -> None:
    from flows.deployed.infer_maps import infer_maps

    state: Any = infer_maps(return_state=True)
    assert state.is_failed()
    assert "QMRI_STORE is not set" in state.message
    relative: Any = infer_maps(store="cohort", return_state=True)
    assert "QMRI_STORE=cohort: a deployment needs an absolute path" in relative.message


@pytest.mark.usefixtures("in_process")
def test_the_night_run_writes_nothing_where_nothing_is_new(processed: Processed, tmp_path: Path) -> None:
    from flows.deployed.reprocess_nightly import reprocess_nightly

    store = tmp_path / "store"
    shutil.copytree(processed.store, store)
    before = last_snapshot(store), sorted(path for path in store.rglob("*") if path.is_file())
    state: Any = reprocess_nightly(
        source=processed.source, store=str(store), checkpoint=processed.checkpoint, return_state=True
    )
    assert (state.name, state.message) == (
        "Completed",
        "nothing new: 3 sessions are as they were, nothing was written",
    )
    assert (last_snapshot(store), sorted(path for path in store.rglob("*") if path.is_file())) == before
    assert not open_repository(store).list_tags()


def test_a_run_that_lost_a_session_says_so_once(in_process: Prefect, source: Path, tmp_path: Path) -> None:
    """Failed when the session is lost, so that somebody is called; Completed, by another name, in the nights after."""
    from flows.deployed.ingest_cohort import ingest_cohort

    broken = tmp_path / "archive"
    shutil.copytree(source, broken)
    for file in sorted(path for path in broken.rglob("*") if path.is_file()):
        file.write_bytes(file.read_bytes()[:-200])  # pixels are missing, headers are whole
    states: list[Any] = [
        ingest_cohort(source=broken, store=str(tmp_path / "store"), return_state=True) for _ in range(2)
    ]
    assert [(state.type.value, state.name) for state in states] == [
        ("FAILED", "SessionsFailed"),
        ("COMPLETED", "CompletedWithFailures"),
    ]
    assert states[0].message.startswith("1 sessions failed in this run")
    assert list(catalogue(tmp_path / "store")["reason"]) == ["read_error"]
    (row,) = json.loads(in_process.artifacts()["ingest-cohort-failures"]["data"])
    assert row["reason"] == "read_error"


def test_aggregate_publishes_tables_and_the_report(in_process: Prefect, processed: Processed, tmp_path: Path) -> None:
    from flows.deployed.aggregate_cohort import aggregate_cohort

    store = tmp_path / "store"
    shutil.copytree(processed.store, store)
    state: Any = aggregate_cohort(store=str(store), return_state=True)
    assert state.is_completed()
    page = tmp_path / "store-report" / "report.html"
    assert page.is_file()
    artifacts = in_process.artifacts()
    assert page.as_uri() in artifacts["aggregate-cohort-report"]["data"]
    assert len(json.loads(artifacts["aggregate-cohort-groups"]["data"])) == 2
    assert len(json.loads(artifacts["aggregate-cohort-variation"]["data"])) == 9
