"""The deployments on a real Prefect server with a real process worker, and the flows in this process against it."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client

from flows.cluster.clusters import dask_client
from flows.deployed.run import workers_without_prefect
from flows.deployed.trigger import TriggerError, trigger
from flows.prefect_plugin import DEPLOYMENTS
from flows.settings import Settings
from storage.store.cohort import Cohort, history, open_cohort, open_repository
from tests.flows.end_to_end import Processed, last_snapshot, names_below
from tests.flows.prefect_processes import Prefect, prefect, readme_lines, wait_until

pytestmark = [pytest.mark.walk, pytest.mark.timeout(2400)]


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
def running(
    processed: Processed, source: Path, workers: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prefect]:
    folder = tmp_path_factory.mktemp("prefect")
    settings = {"QMRI_SOURCE": source, "QMRI_STORE": folder / "store", "QMRI_KEY_FILE": processed.key_file}
    settings |= {"QMRI_QUIET_FOR": 0}  # files are new here
    address = workers.scheduler.address  # Dask workers that know nothing of Prefect, and serve all that asks them
    with prefect(folder, lines=readme_lines("Deployments"), QMRI_SCHEDULER=address, **settings) as installation:
        yield installation


def test_the_literal_command_ingests_and_commits(running: Prefect, source: Path) -> None:
    store = running.environment["QMRI_STORE"]
    literal = readme_lines("Deployments")[-1]
    assert literal == "prefect deployment run ingest-cohort"
    state = running.finished(running.trigger(literal))
    assert (state["name"], state["message"]) == ("Completed", "done"), running.log("worker")
    cohort = open_cohort(store)
    (group,) = [path for path in cohort.groups if path.count("/") == 2]
    assert cohort[group].sizes["session"] == 1
    assert float(cohort[group]["T1w"].max()) > 0
    messages = [snapshot.message for snapshot in history(open_repository(store))]
    assert messages == ["Account of an ingest", "Calibrate 1 groups", "Ingest 1 sessions", "Create the cohort"]
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
    assert len(runs) == 1
    assert len(running.api("/task_runs/filter", {})) == 1


def test_workers_know_nothing_of_prefect(running: Prefect, workers: Client) -> None:
    del running  # has used them
    assert not any(workers.run(lambda: "prefect" in sys.modules).values())


def test_every_deployment_is_there_and_the_nightly_one_has_a_schedule(running: Prefect) -> None:
    found = {deployment["name"]: deployment for deployment in running.api("/deployments/filter", {})}
    assert set(found) == set(DEPLOYMENTS)
    assert {deployment["work_pool_name"] for deployment in found.values()} == {"qmri"}
    (schedule,) = found["reprocess-nightly"]["schedules"]
    assert schedule["active"]
    assert schedule["schedule"]["timezone"] == "Europe/Amsterdam"
    assert all(deployment["global_concurrency_limit"]["limit"] == 1 for deployment in found.values())
    assert all(not deployment["parameter_openapi_schema"].get("required") for deployment in found.values())
    assert all(not deployment["schedules"] for name, deployment in found.items() if name != "reprocess-nightly")


@pytest.fixture
def in_process(running: Prefect, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prefect]:
    """Flows called here report to the running server."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    for name in ("QMRI_SOURCE", "QMRI_STORE", "QMRI_REPORT", "QMRI_REPORT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QMRI_SCHEDULER", running.environment["QMRI_SCHEDULER"])
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
    assert list(Cohort.open(tmp_path / "store").catalogue["reason"]) == ["read_error"]
    (row,) = json.loads(in_process.artifacts()["ingest-cohort-failures"]["data"])
    assert row["reason"] == "read_error"


@pytest.mark.parametrize("deployment", ["ingest-cohort", "reprocess-nightly"])
def test_the_log_of_a_run_that_lost_a_session_has_no_traceback(
    running: Prefect, source: Path, tmp_path: Path, deployment: str
) -> None:
    """On the server and its worker, whose engine calls a returned state of failure an unexpected exception."""
    broken, store = tmp_path / "archive", tmp_path / "store"
    shutil.copytree(source, broken)
    for file in sorted(path for path in broken.rglob("*") if path.is_file()):
        file.write_bytes(file.read_bytes()[:-200])
    line = f"prefect deployment run {deployment} --param source={broken} --param store={store}"
    before = len(running.log("worker"))
    state = running.finished(running.trigger(line))
    assert (state["type"], state["name"]) == ("FAILED", "SessionsFailed")

    def is_over() -> bool:  # the state is there before the process of the run has ended
        return not psutil.Process(running.running["worker"].pid).children(recursive=True)

    wait_until(is_over, "the end of the run's process")
    log = running.log("worker")[before:]
    assert "Traceback" not in log
    assert "unexpected exception" not in log
    assert "Finished in state SessionsFailed('" in log
    assert "1 sessions failed in this run" in log


@pytest.mark.parametrize("address", [None, "https://host/reports/"])
def test_aggregate_publishes_tables_and_the_report(
    in_process: Prefect, processed: Processed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    from flows.deployed.aggregate_cohort import aggregate_cohort

    if address is not None:
        monkeypatch.setenv("QMRI_REPORT_URL", address)
    store = tmp_path / "store"
    shutil.copytree(processed.store, store)
    state: Any = aggregate_cohort(store=str(store), return_state=True)
    assert state.is_completed()
    page = tmp_path / "store-report" / "report.html"
    assert page.is_file()
    artifacts = in_process.artifacts()
    shown = artifacts["aggregate-cohort-report"]
    link = "[Report of the cohort](https://host/reports/report.html)"
    assert shown["data"] == (link if address else f"`{page}`")
    assert "file://" not in shown["data"]
    assert len(json.loads(artifacts["aggregate-cohort-groups"]["data"])) == 2
    assert len(json.loads(artifacts["aggregate-cohort-variation"]["data"])) == 9


def test_the_worker_processes_of_a_run_do_not_import_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is started by another one imports what that one was started as: in a run, Prefect's engine."""
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", find_spec("prefect.engine"))
    with workers_without_prefect(), dask_client(Settings.model_construct(workers=1)) as client:
        assert not any(client.run(lambda: "prefect" in sys.modules).values())


def test_an_error_of_a_library_names_nobody(
    in_process: Prefect, processed: Processed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from flows.deployed.aggregate_cohort import aggregate_cohort

    def fails(*_: object, **__: object) -> None:
        raise KeyError("Halvorsen_Chiara")

    monkeypatch.setattr("flows.statistics.aggregate.aggregate", fails)
    state: Any = aggregate_cohort(store=processed.store, return_state=True)
    assert state.is_failed()
    assert "internal error (KeyError)" in state.message
    shown = state.message + caplog.text + json.dumps(in_process.api("/logs/filter", {"limit": 200}))
    assert "Halvorsen" not in shown


@pytest.mark.usefixtures("in_process")
def test_a_deployment_that_is_not_there_is_told() -> None:
    with pytest.raises(TriggerError, match="no deployment nonsense; known to this project: ingest-cohort"):
        trigger("nonsense")
