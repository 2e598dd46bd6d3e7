"""Deployments whose server, worker or database is another one, or dies in the middle of a run. Minutes each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.store.cohort import Cohort, history, open_cohort, open_repository
from storage.store.lifecycle.verify import verify
from tests.flows.deployed.test_deployments import one_session
from tests.flows.end_to_end import Processed, arrays, assert_same_arrays
from tests.flows.prefect_processes import Prefect, prefect, readme_lines, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]

LITERAL = "prefect deployment run ingest-cohort"
ONCE = ["Create the cohort", "Ingest 1 sessions", "Calibrate 1 groups", "Account of an ingest"]
"""Commits of a source with one session that is ingested once."""

LONG = 1500.0
"""Seconds to wait for a run whose predecessor died without a word: its place is kept for some minutes."""


@contextmanager
def deployed(processed: Processed, source: Path, folder: Path, **settings: object) -> Iterator[Prefect]:
    own = {
        "QMRI_QUIET_FOR": 0,
        "QMRI_SOURCE": source,
        "QMRI_STORE": folder / "store",
        "QMRI_KEY_FILE": processed.key_file,
    }
    with prefect(folder, lines=readme_lines("Deployments"), QMRI_WORKERS=1, **own, **settings) as installation:
        yield installation


def commits(running: Prefect) -> list[str]:
    snapshots = history(open_repository(running.environment["QMRI_STORE"]))
    return [snapshot.message for snapshot in reversed(snapshots)]


def is_at_work(running: Prefect) -> bool:
    """Whether a wave is being ingested."""
    return "ingest: 0 of" in running.log("worker")


def images_are_those_of(processed: Processed, running: Prefect) -> None:
    found, expected = arrays(running.environment["QMRI_STORE"]), arrays(processed.store)
    for session, stored in found.items():
        names = ("T1w", "T2w", "FLAIR", "brain_mask", "tissue", "affine")
        assert_same_arrays({n: stored[n] for n in names}, {n: expected[session][n] for n in names})
    assert verify(Cohort.open(running.environment["QMRI_STORE"])) == []


def test_the_same_deployment_triggered_twice_does_its_work_once(processed: Processed, tmp_path: Path) -> None:
    """About two minutes; the names with and without a slash."""
    with deployed(processed, one_session(processed, tmp_path), tmp_path) as running:
        runs = [
            running.trigger(f"prefect deployment run {n}") for n in ("ingest-cohort", "ingest-cohort/ingest-cohort")
        ]
        states = [running.finished(run) for run in runs]
        assert [state["name"] for state in states] == ["Completed", "Completed"]
        assert sorted(state["message"] for state in states) == ["done", "nothing to do: nothing was written"]
        assert commits(running) == [
            "Create the cohort",
            "Ingest 1 sessions",
            "Calibrate 1 groups",
            "Account of an ingest",
        ]


def test_a_server_that_restarts_does_not_end_the_run(processed: Processed, tmp_path: Path) -> None:
    """About two minutes."""
    with deployed(processed, one_session(processed, tmp_path), tmp_path) as running:
        run = running.trigger(LITERAL)
        wait_until(lambda: is_at_work(running), "the first wave")
        running.kill("server")
        running.start("prefect server start")
        wait_until(running.is_healthy, "the server to come back")
        state = running.finished(run)
        assert state["name"] == "Completed", running.log("worker")
        assert commits(running) == [
            "Create the cohort",
            "Ingest 1 sessions",
            "Calibrate 1 groups",
            "Account of an ingest",
        ]
        images_are_those_of(processed, running)


def test_a_prefect_worker_that_dies_is_followed_by_one_that_does_the_rest(processed: Processed, tmp_path: Path) -> None:
    """Up to ten minutes: the run that died keeps its place until its lease ends."""
    with deployed(processed, one_session(processed, tmp_path), tmp_path) as running:
        running.trigger(LITERAL)
        wait_until(lambda: is_at_work(running), "the first wave")
        running.kill("worker")
        running.start("prefect worker start --pool qmri")
        state = running.finished(running.trigger(LITERAL), patience=LONG)
        assert state["name"] == "Completed", running.log("worker")
        assert commits(running) == [
            "Create the cohort",
            "Ingest 1 sessions",
            "Calibrate 1 groups",
            "Account of an ingest",
        ]
        images_are_those_of(processed, running)


def test_the_whole_night_by_name(processed: Processed, tmp_path: Path) -> None:
    """About four minutes: everything from nothing, then a night without anything new, then maps of new weights."""
    with deployed(processed, one_session(processed, tmp_path), tmp_path) as running:
        store = running.environment["QMRI_STORE"]
        first = running.finished(running.trigger("prefect deployment run reprocess-nightly"))
        assert first["name"] == "Completed", running.log("worker")
        assert first["message"].startswith("1 sessions ingested, maps of 1 inferred")
        assert (Path(f"{store}-report") / "report.html").is_file()
        (group,) = [path for path in open_cohort(store).groups if path.count("/") == 2]
        assert float(open_cohort(store)[group]["T1map"].max()) > 0
        before = commits(running)
        again = running.finished(running.trigger("prefect deployment run reprocess-nightly"))
        assert again["message"] == "nothing new: 1 sessions are as they were, nothing was written"
        assert commits(running) == before
        trained = running.finished(
            running.trigger("prefect deployment run train-model --param steps=2 --param promote=always")
        )
        assert trained["name"] == "Completed", running.log("worker")
        running.command("qmri run infer-maps --wait")
        assert [message.split()[0] for message in commits(running)[len(before) :]] == ["Promote", "Infer"]


def test_the_literal_command_with_postgresql(processed: Processed, database: str, tmp_path: Path) -> None:
    """About two minutes."""
    settings = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
    with deployed(processed, one_session(processed, tmp_path), tmp_path, **settings) as running:
        state = running.finished(running.trigger(LITERAL))
        assert (state["name"], state["message"]) == ("Completed", "done"), running.log("worker")
        images_are_those_of(processed, running)
        assert not list((tmp_path / "prefect").glob("*.db"))
