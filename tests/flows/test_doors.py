"""Doors into the store: each run opens it once, and reads everything from what it opened."""

from __future__ import annotations

import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import icechunk
import pytest
from distributed import Client
from typer.testing import CliRunner

from flows.cli.main import app
from flows.cluster.clusters import dask_client
from flows.evaluation.without_truth import evaluate_real
from flows.maps.infer import infer
from flows.maps.weights import chosen_weights
from flows.report.build import write_report
from flows.settings import Settings
from flows.statistics.aggregate import aggregate
from storage.store.checkpoints import register
from storage.store.cohort import Cohort, commit, history
from storage.store.lifecycle.upkeep import compact
from tests.benchmarks.test_orchestration import make_store

N_SESSIONS = 3


class Doors:
    """Counts the openings of repositories by this thread; those of workers are in others."""

    def __init__(self, open_repository: Callable[..., icechunk.Repository]) -> None:
        self._open, self._thread, self.count = open_repository, threading.get_ident(), 0

    def __call__(self, *arguments: Any, **options: Any) -> icechunk.Repository:
        self.count += threading.get_ident() == self._thread
        return self._open(*arguments, **options)

    def of(self, run: Callable[[], object]) -> int:
        before = self.count
        run()
        return self.count - before


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> Doors:
    result = Doors(icechunk.Repository.open)
    monkeypatch.setattr(icechunk.Repository, "open", result)
    return result


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with dask_client(Settings.model_construct(workers=1), processes=False) as client:
        yield client


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(tmp_path_factory.mktemp("doors") / "store", N_SESSIONS)


def test_every_run_opens_the_store_once(
    doors: Doors, store: str, client: Client, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it reads and writes: before there was one door, infer opened it 16 times for 20 sessions."""
    monkeypatch.setattr("flows.maps.infer.SESSIONS_PER_WORKER", 1)  # a wave per session
    assert doors.of(lambda: infer(store, client=client, checkpoint=checkpoint)) == 1
    messages = [snapshot.message for snapshot in history(Cohort.open(store).repository)]
    assert messages.count("Infer maps of 1 sessions") == N_SESSIONS
    assert doors.of(lambda: aggregate(store, client=client)) == 1
    assert doors.of(lambda: evaluate_real(store, client=client)) == 1
    tables = aggregate(store, client=client)
    assert doors.of(lambda: write_report(store, tmp_path, aggregate=tables)) == 1
    for command in (["status"], ["calibration"], ["verify"], ["export-bids", "--out", str(tmp_path / "bids")]):
        outcome: list[Any] = []
        assert doors.of(lambda: outcome.append(CliRunner().invoke(app, [*command, "--store", store]))) == 1, command  # noqa: B023
        assert outcome[0].exit_code == 0, command


def test_an_opened_cohort_is_what_it_was_until_it_is_refreshed(doors: Doors, store: str) -> None:
    """Tables that are read later are of the same snapshot; another commit is reached by the same door."""
    cohort = Cohort.open(store)
    name = sorted(cohort.slots)[0]
    with cohort.writing() as repository:
        row = {"session": name, "explanation": "changed"}
        snapshot = commit(repository, None, [], values={}, rows=[row], message="Change")
    assert "changed" not in set(cohort.catalogue["explanation"])
    now = cohort.refreshed()
    assert (now.snapshot, cohort.at_snapshot(snapshot)) == (snapshot, now)
    assert "changed" in set(now.catalogue["explanation"])
    assert now.refreshed() is now  # what was read of it is kept
    assert now.repository is cohort.repository
    assert doors.count == 1


def test_what_was_read_is_kept_and_a_process_that_it_is_sent_to_opens_the_store_once(
    doors: Doors, store: str, tmp_path: Path
) -> None:
    cohort = Cohort.open(shutil.copytree(store, tmp_path / "copy"))
    assert cohort.catalogue is cohort.catalogue
    sent = pickle.dumps(cohort)
    assert len(sent) < 500  # location and snapshot: it goes with every task
    before = doors.count
    received = [pickle.loads(sent) for _ in range(2)]  # noqa: S301 - made above
    assert doors.count == before  # a worker that cannot reach the store says so as the session's own stage
    assert received[0] is received[1]
    assert received[0] == cohort
    for other in received:
        slot = other.slots[min(other.slots)]
        assert other.read(slot, ["T1w"])["T1w"].tobytes() == cohort.read(slot, ["T1w"])["T1w"].tobytes()
    assert doors.count == before + 1


def test_weights_of_a_long_run_are_read_from_the_state_of_its_wave(
    store: str, checkpoint: Path, tmp_path: Path
) -> None:
    """The state that the run began with may have ended by then: here `qmri compact --keep-days 0` came in between."""
    copy = shutil.copytree(store, tmp_path / "copy")
    register(copy, checkpoint.read_bytes(), record={}, promote=True)
    began = chosen_weights(Cohort.open(copy))
    register(copy, checkpoint.read_bytes(), record={"more": 1}, promote=True)
    compact(copy, keep_days=0)
    now = began.seen_from(Cohort.open(copy))
    assert now.cohort is not None
    assert now.cohort.checkpoint(now.name) == checkpoint.read_bytes()
    assert (now, hash(now)) == (began, hash(began))  # a process that has loaded them does not do it again
    assert now.cohort != began.cohort
