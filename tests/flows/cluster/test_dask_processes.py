"""Dask processes started by hand on an address, with TLS: they do the work, and they die in the middle of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from flows.cluster.clusters import ClusterError, dask_client, run_bounded
from flows.maps.infer import infer
from flows.maps.weights import resident_device
from flows.settings import Settings
from storage.store.checkpoints import register
from storage.store.cohort import Cohort
from tests.flows.certificates import write_certificates
from tests.flows.end_to_end import ROOT, Processed, arrays, assert_same_arrays, other_weights

pytestmark = [pytest.mark.walk, pytest.mark.timeout(1800)]

PATIENCE = 600.0
"""Seconds to wait for a process on a busy machine."""


@dataclass(slots=True)
class ByHand:
    """A scheduler, and workers as somebody starts them on other machines."""

    folder: Path
    tls: dict[str, Path]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    port: int = 0

    def start_scheduler(self) -> None:
        file = self.folder / "scheduler.json"
        file.unlink(missing_ok=True)
        self._start("scheduler", "--port", self.port, "--scheduler-file", file)
        self._wait(file.is_file)
        time.sleep(0.2)
        self.port = int(json.loads(file.read_text())["address"].rsplit(":")[-1])

    def start_worker(self, name: str) -> None:
        """Without a nanny, so that a worker that is killed stays dead."""
        options = ("--nthreads", 1, "--no-nanny", "--name", name, "--local-directory", self.folder / name)
        self._start("worker", self.settings.scheduler, *options, name=name)

    @property
    def settings(self) -> Settings:
        return Settings.model_construct(
            scheduler=f"tls://127.0.0.1:{self.port}",
            tls_ca=self.tls["ca"],
            tls_cert=self.tls["cert"],
            tls_key=self.tls["key"],
        )

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def _start(self, what: str, *arguments: object, name: str | None = None) -> None:
        tls = ("--tls-ca-file", self.tls["ca"], "--tls-cert", self.tls["cert"], "--tls-key", self.tls["key"])
        common = ("--host", "tls://127.0.0.1", "--no-dashboard") if what == "scheduler" else ("--no-dashboard",)
        with (self.folder / "log").open("ab") as log:
            self.processes[name or what] = subprocess.Popen(
                [sys.executable, "-m", "dask", what, *map(str, (*arguments, *tls, *common))],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.05)


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByHand]:
    folder = tmp_path_factory.mktemp("dask")
    result = ByHand(folder, write_certificates(folder))
    try:
        result.start_scheduler()
        for name in ("near", "far"):
            result.start_worker(name)
        yield result
    finally:
        for process in result.processes.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def weights() -> bytes:
    return other_weights()


def stale_copy(processed: Processed, folder: Path, weights: bytes) -> str:
    """A copy of the cohort whose maps are of other weights than the promoted ones."""
    shutil.copytree(processed.store, folder / "store")
    register(folder / "store", weights, record={}, promote=True)
    return str(folder / "store")


@pytest.fixture(scope="module")
def expected(processed: Processed, weights: bytes, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one worker process makes of it."""
    store = stale_copy(processed, tmp_path_factory.mktemp("one"), weights)
    with dask_client(Settings.model_construct(workers=1)) as client:
        assert infer(store, client=client).complete == 3
    return arrays(store)


def assert_as_expected(store: str, expected: Any) -> None:
    found = arrays(store)
    assert set(found) == set(expected)
    for session, stored in expected.items():
        assert_same_arrays(found[session], stored)


def loads(dask_worker: Any) -> tuple[str, int, bool]:
    information = resident_device.cache_info()
    return dask_worker.name, information.misses, "prefect" in sys.modules


def test_two_workers_share_the_work_load_the_model_once_each_and_make_the_same_maps(
    by_hand: ByHand, processed: Processed, expected: Any, weights: bytes, tmp_path: Path
) -> None:
    store = stale_copy(processed, tmp_path, weights)
    with dask_client(by_hand.settings) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        assert infer(store, client=client).complete == 3
        workers = client.run(loads).values()
    assert {name: misses for name, misses, _ in workers} == {"near": 1, "far": 1}  # three sessions
    assert not any(with_prefect for _, _, with_prefect in workers)
    assert_as_expected(store, expected)


def test_a_client_without_certificates_is_not_let_in(by_hand: ByHand) -> None:
    address = str(by_hand.settings.scheduler)
    plain = address.replace("tls://", "tcp://")
    for scheduler, told in ((address, "set QMRI_TLS_CA"), (plain, "no Dask scheduler answers")):
        settings = Settings.model_construct(scheduler=scheduler)
        with pytest.raises(ClusterError, match=told), dask_client(settings, timeout=3):
            pass


class KillWhenOneIsDone:
    """Progress that kills a process when the first session is done."""

    def __init__(self, by_hand: ByHand, name: str) -> None:
        self.by_hand, self.name = by_hand, name

    def __call__(self, done: int, total: int, text: str = "") -> None:
        del total
        if text == "infer" and done == 1 and self.name in self.by_hand.processes:
            self.by_hand.kill(self.name)


def test_a_worker_that_is_killed_costs_nothing(
    by_hand: ByHand, processed: Processed, expected: Any, weights: bytes, tmp_path: Path
) -> None:
    store = stale_copy(processed, tmp_path, weights)
    with dask_client(by_hand.settings) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        summary = infer(store, client=client, progress=KillWhenOneIsDone(by_hand, "far"))
        assert "far" not in by_hand.processes
    assert (summary.complete, summary.failed) == (3, 0)
    assert_as_expected(store, expected)


@pytest.mark.soak
def test_a_scheduler_that_is_killed_ends_the_run_and_the_next_one_does_it(
    by_hand: ByHand, processed: Processed, expected: Any, weights: bytes, workers: Client, tmp_path: Path
) -> None:
    store = stale_copy(processed, tmp_path, weights)
    before = Cohort.open(store).catalogue
    with dask_client(by_hand.settings, timeout=10) as client:
        client.wait_for_workers(1, timeout=PATIENCE)
        with pytest.raises(ClusterError, match="run again to resume"):
            infer(store, client=client, progress=KillWhenOneIsDone(by_hand, "scheduler"))
    assert Cohort.open(store).catalogue.equals(before)  # no session is blamed for it
    assert infer(store, client=workers).complete == 3
    assert_as_expected(store, expected)


def slow_square(item: int) -> int:
    time.sleep(0.3)
    return item * item


@pytest.mark.soak
def test_a_scheduler_that_comes_back_goes_on_with_the_run(tmp_path: Path) -> None:
    """About half a minute. Every item comes once; those that the old scheduler held are submitted again."""
    restarted = ByHand(tmp_path, write_certificates(tmp_path))
    try:
        restarted.start_scheduler()
        restarted.start_worker("first")
        with dask_client(restarted.settings, timeout=60) as client:
            client.wait_for_workers(1, timeout=PATIENCE)
            results: list[tuple[int, Any]] = []
            for item, result in run_bounded(client, slow_square, range(40)):
                results.append((item, result))
                if len(results) == 10:
                    restarted.kill("scheduler")
                    restarted.start_scheduler()
                    restarted.start_worker("second")
        assert Counter(item for item, _ in results) == Counter(range(40))
        assert all(result == item**2 for item, result in results)
    finally:
        for process in restarted.processes.values():
            process.kill()
            process.wait()
