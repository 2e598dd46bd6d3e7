"""Dask clusters, and running many independent items on them with a bounded number in flight.

Workers are processes of one thread each. Numerical libraries inside them use one thread too: sums are then taken in
the same order wherever a session is computed, so results are bit-identical whatever the number of workers.
Workers know nothing of Prefect.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import dask
from dask.system import CPU_COUNT
from distributed import CancelledError, Client, Future, KilledWorker, LocalCluster, WorkerPlugin
from distributed.system import MEMORY_LIMIT

from flows.progress import Progress, quiet
from flows.settings import Settings

Item = TypeVar("Item")
Result = TypeVar("Result")

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
ONE_THREAD = dict.fromkeys(THREAD_VARIABLES, "1")

MEMORY_PER_WORKER = 2_500_000_000
"""Bytes that a worker with PyTorch, the brain-mask network and one session needs; decides how many workers start."""

MEMORY_SHARE = 0.9
"""Share of the machine's memory that workers may use; the rest is for this process and the file cache."""

CONFIGURATION: Mapping[str, Any] = {
    "distributed.worker.multiprocessing-method": "spawn",  # fork copies locks of running threads
    # Sessions are not Dask data: there is nothing to spill, and a paused worker would wait for ever for memory that
    # the allocator keeps. Too much memory ends the process; the item is tried again, alone in the end.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.scheduler.allowed-failures": 1,  # run_bounded tries suspects again, alone
    "distributed.scheduler.no-workers-timeout": "120s",  # fail instead of waiting for workers that cannot start
    "distributed.admin.large-graph-warning-threshold": "100MB",
}

HEARTBEAT = 15.0
"""Seconds without a result after which the scheduler is asked whether it still knows the tasks."""

PATIENCE = 8
"""Heartbeats without a worker after which a run gives up."""

MAX_SUBMISSIONS = 3


class ClusterError(RuntimeError):
    """The cluster cannot be reached or has no workers left."""


class OneThread(WorkerPlugin):
    """Keep numerical libraries of a worker to one thread; for workers that someone else has started."""

    name = "qmri-one-thread"

    def setup(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - signature of distributed
        """Set the environment for libraries not yet loaded, and tell those that are."""
        os.environ.update(ONE_THREAD)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        if "SimpleITK" in sys.modules:
            sys.modules["SimpleITK"].ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def default_workers() -> int:
    """Worker processes for this machine: one per core, as far as its memory goes, at least one."""
    return max(1, min(int(CPU_COUNT), int(MEMORY_LIMIT * MEMORY_SHARE) // MEMORY_PER_WORKER))


@contextmanager
def dask_client(settings: Settings, *, processes: bool = True, timeout: float = 30.0) -> Iterator[Client]:
    """Client of the cluster that ``settings`` ask for; a cluster started here ends with the context.

    Parameters
    ----------
    settings
        ``scheduler``: address to connect to; unset, ``workers`` processes start on this machine.
    processes
        False runs local workers as threads of this process (tests).
    timeout
        Seconds to wait for the scheduler.

    Raises
    ------
    ClusterError
        If no scheduler answers at the address.
    """
    with ExitStack() as stack:
        if settings.scheduler is not None:
            yield stack.enter_context(_remote_client(settings.scheduler, timeout))
        else:
            cluster = stack.enter_context(_local_cluster(settings.workers or default_workers(), processes))
            yield stack.enter_context(Client(cluster, set_as_default=False))


@contextmanager
def _remote_client(address: str, timeout: float) -> Iterator[Client]:
    try:
        client = Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"QMRI_SCHEDULER={address}: no Dask scheduler answers there ({type(error).__name__})"
        ) from None
    with client:
        client.register_plugin(OneThread())
        yield client


@contextmanager
def _local_cluster(workers: int, processes: bool) -> Iterator[LocalCluster]:
    with (
        dask.config.set(CONFIGURATION),
        _environment(ONE_THREAD if processes else {}),  # what the driver has set would win over Dask's own defaults
        tempfile.TemporaryDirectory(prefix="qmri-dask-", ignore_cleanup_errors=True) as folder,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=processes,
            memory_limit=int(MEMORY_LIMIT * MEMORY_SHARE) // workers,
            dashboard_address="127.0.0.1:0",  # its HTTP server starts in any case: on any free port, without dashboard
            scheduler_kwargs={"dashboard": False},
            worker_dashboard_address=None,
            local_directory=folder,
            silence_logs=logging.CRITICAL,  # workers that die are reported as data, by run_bounded
        ) as cluster,
    ):
        yield cluster


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def waves(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """``items`` in order, in tuples of ``size``; the last may be shorter.

    Raises
    ------
    ValueError
        If ``size`` is less than 1.
    """
    if size < 1:
        raise ValueError(f"a wave of {size} sessions would never end; at least 1 is needed")
    rest = iter(items)
    while wave := tuple(islice(rest, size)):
        yield wave


def run_bounded(
    client: Client,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    in_flight: int | None = None,
    progress: Progress = quiet,
    text: str = "",
    key: Callable[[Item], str] | None = None,
    heartbeat: float = HEARTBEAT,
) -> Iterator[tuple[Item, Result | BaseException]]:
    """Run ``function`` on every item on the cluster and yield each item with its result as it comes.

    What ``function`` raises is yielded in place of a result. An item in whose company a worker died is tried again
    alone after all others, so that only those that kill workers themselves end as `distributed.KilledWorker`.
    Each item is yielded exactly once; nothing waits for ever on a task that the scheduler has lost.

    Parameters
    ----------
    client
        Client of the cluster.
    function
        Importable on the workers, safe to run twice on the same item.
    items
        Consumed as workers become free: a generator is never read far ahead.
    in_flight
        Most items submitted at one time; default twice the number of worker threads, so that workers have work
        while the caller deals with a result.
    progress, text
        Called after each item with the count, the total where ``items`` has a length, and ``text``.
    key
        Name of an item's task in Dask's logs and dashboard: pseudonyms only.
    heartbeat
        Seconds without a result after which the scheduler is asked about the tasks.

    Raises
    ------
    ClusterError
        If the scheduler is gone or no worker is left.
    """
    total = len(items) if isinstance(items, Sized) else 0
    done = 0
    suspects: list[Item] = []
    runner = _Runner(client=client, function=function, key=key, heartbeat=heartbeat)
    progress(0, total, text)
    for item, outcome in runner.run(items, in_flight):
        if isinstance(outcome, KilledWorker):
            suspects.append(item)
            continue
        done += 1
        progress(done, total, text)
        yield item, outcome
    for item, outcome in runner.run(suspects, 1):
        done += 1
        progress(done, total, text)
        yield item, outcome


@dataclass(slots=True)
class _Flight(Generic[Item]):
    item: Item
    submissions: int
    missed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runner(Generic[Item, Result]):
    client: Client
    function: Callable[[Item], Result]
    key: Callable[[Item], str] | None
    heartbeat: float

    def run(self, items: Iterable[Item], in_flight: int | None) -> Iterator[tuple[Item, Result | BaseException]]:
        waiting = iter(items)
        finished: SimpleQueue[Future[Any]] = SimpleQueue()
        flights: dict[Future[Any], _Flight[Item]] = {}
        lonely = 0
        try:
            while True:
                for item in islice(waiting, max(0, self._room(in_flight) - len(flights))):
                    self._submit(_Flight(item, 0), flights, finished)
                if not flights:
                    return
                try:
                    future = finished.get(timeout=self.heartbeat)
                except Empty:
                    lonely = self._check_cluster(lonely)
                    yield from self._revive(flights, finished)
                    continue
                lonely = 0
                flight = flights.pop(future, None)
                if flight is None:  # a task that was given up
                    continue
                if future.cancelled() and flight.submissions < MAX_SUBMISSIONS:
                    self._submit(flight, flights, finished)
                    continue
                yield flight.item, _outcome(future)
        finally:
            if flights:
                self.client.cancel(list(flights), force=True)

    def _room(self, in_flight: int | None) -> int:
        return in_flight or max(1, 2 * sum(self.client.nthreads().values()))

    def _submit(
        self, flight: _Flight[Item], flights: dict[Future[Any], _Flight[Item]], finished: SimpleQueue[Future[Any]]
    ) -> None:
        name = self.key(flight.item) if self.key else getattr(self.function, "__name__", "item")
        future = self.client.submit(self.function, flight.item, key=f"{name}-{uuid.uuid4().hex}", pure=False)
        flights[future] = _Flight(flight.item, flight.submissions + 1)
        future.add_done_callback(finished.put)

    def _check_cluster(self, lonely: int) -> int:
        if self.client.status not in {"running", "connecting"}:
            raise ClusterError(
                "the connection to the Dask scheduler is lost; what is stored stays, run again to resume"
            )
        if self.client.status == "running" and self.client.nthreads():
            return 0
        if lonely + 1 >= PATIENCE:
            raise ClusterError(
                f"no Dask worker for {PATIENCE * self.heartbeat:.0f} s; what is stored stays, run again to resume"
            )
        return lonely + 1

    def _revive(
        self, flights: dict[Future[Any], _Flight[Item]], finished: SimpleQueue[Future[Any]]
    ) -> Iterator[tuple[Item, BaseException]]:
        """Submit again what the scheduler no longer works on at two heartbeats in a row."""
        if self.client.status != "running":
            return
        alive = set(self.client.run_on_scheduler(_alive, keys=[future.key for future in flights]))
        for future, flight in list(flights.items()):
            flight.missed = 0 if future.key in alive or future.done() else flight.missed + 1
            if flight.missed < 2:
                continue
            del flights[future]
            self.client.cancel([future], force=True)
            if flight.submissions < MAX_SUBMISSIONS:
                self._submit(flight, flights, finished)
            else:
                yield flight.item, ClusterError(f"the Dask scheduler lost this task {flight.submissions} times")


def _alive(keys: list[str], dask_scheduler: Any = None) -> list[str]:  # noqa: ANN401 - distributed has no types
    """Those of ``keys`` that wait for a worker or run on a living one; called on the scheduler."""
    alive = []
    for key in keys:
        task = dask_scheduler.tasks.get(key)
        if task is None:
            continue
        is_running = task.processing_on is not None and task.processing_on.address in dask_scheduler.workers
        if task.state in {"queued", "waiting", "no-worker"} or (task.state == "processing" and is_running):
            alive.append(key)
    return alive


def _outcome(future: Future[Any]) -> Any:  # noqa: ANN401 - the result of a user's function
    try:
        if future.cancelled():
            return ClusterError("the Dask scheduler cancelled this task")
        error = future.exception()
        return future.result() if error is None else error
    except CancelledError:
        return ClusterError("the Dask scheduler cancelled this task")
    finally:
        future.release()
