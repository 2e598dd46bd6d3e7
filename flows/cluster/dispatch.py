"""Running many independent items on a Dask cluster with a bounded number in flight.

A few items per worker are submitted at a time: the scheduler stays small whatever the length of the run, and a worker
that dies casts suspicion on few. Every item ends as a result or as an exception; nothing waits for ever.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import dask
from dask.utils import parse_timedelta
from distributed import CancelledError, Client, Future, KilledWorker
from distributed.scheduler import NoValidWorkerError

from flows.progress import Progress, quiet

Item = TypeVar("Item")
Result = TypeVar("Result")

HEARTBEAT = 15.0
"""Seconds without a result after which the scheduler is asked whether it still knows the tasks."""

PATIENCE = 20
"""Heartbeats without a worker after which a run gives up."""

MAX_SUBMISSIONS = 3

_log = logging.getLogger(__name__)

_LOST = "the connection to the Dask scheduler is lost; what is stored stays, run again to resume"


class ClusterError(RuntimeError):
    """The cluster cannot be reached or has no workers left."""


def waves_for(
    client: Client, items: Sequence[Item], per_worker: Callable[[Client], int] | int
) -> Iterator[tuple[Item, ...]]:
    """``items`` in order, in tuples of ``per_worker`` for each worker thread that is there by then."""
    done = 0
    while done < len(items):
        size = (per_worker if isinstance(per_worker, int) else per_worker(client)) * max(1, threads(client))
        yield tuple(items[done : done + size])
        done += size


def threads(client: Client, resource: str | None = None) -> int:
    """Worker threads of the cluster; with ``resource``, workers that have it.

    Raises
    ------
    ClusterError
        If the scheduler is gone and does not come back in the time that the client gives it.
    """
    for _ in range(MAX_SUBMISSIONS):
        while client.status == "connecting":  # ends: the client closes when its own time is over
            time.sleep(0.1)
        if client.status != "running":
            break
        with suppress(OSError):  # lost at this moment; the status tells
            if resource is None:
                return sum(client.nthreads().values())
            workers = client.scheduler_info(n_workers=-1)["workers"].values()
            return sum(1 for worker in workers if worker["resources"].get(resource))
    raise ClusterError(_LOST)


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
    resource: str | None = None,
    again: bool = True,
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
    resource
        Workers must have one of it for each item; default: any worker will do.
    again
        False yields `distributed.KilledWorker` at once, for callers that try again otherwise.

    Raises
    ------
    ClusterError
        If the scheduler is gone or no worker is left (for the time ``qmri.no-worker-timeout`` of Dask's configuration,
        or at once where it is known that none will come).
    """
    total = len(items) if isinstance(items, Sized) else 0
    runner = _Runner(client=client, function=function, key=key, heartbeat=heartbeat, resource=resource)
    progress(0, total, text)
    if isinstance(items, Sized) and not items:  # no reason to ask for workers
        return
    run = runner.run_twice if again else runner.run
    for done, (item, outcome) in enumerate(run(items, in_flight), start=1):
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
    resource: str | None

    def run_twice(self, items: Iterable[Item], in_flight: int | None) -> Iterator[tuple[Item, Result | BaseException]]:
        """Run all, then those again, alone, in whose company a worker died."""
        suspects: list[Item] = []
        for item, outcome in self.run(items, in_flight):
            if isinstance(outcome, KilledWorker):
                suspects.append(item)
            else:
                yield item, outcome
        yield from self.run(suspects, 1)

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
        finally:  # maybe of garbage collection, on the client's own event loop, where nothing may wait
            if self.client.status == "running":
                for future in flights:
                    future.release()

    def _room(self, in_flight: int | None) -> int:
        available = threads(self.client, self.resource)  # waits for a scheduler that comes back
        return in_flight or max(1, 2 * available)

    def _submit(
        self, flight: _Flight[Item], flights: dict[Future[Any], _Flight[Item]], finished: SimpleQueue[Future[Any]]
    ) -> None:
        name = self.key(flight.item) if self.key else getattr(self.function, "__name__", "item")
        resources: Mapping[str, float] | None = {self.resource: 1} if self.resource else None
        future = self.client.submit(
            self.function, flight.item, key=f"{name}-{uuid.uuid4().hex}", pure=False, resources=resources
        )
        flights[future] = _Flight(flight.item, flight.submissions + 1)
        future.add_done_callback(finished.put)

    def _check_cluster(self, lonely: int) -> int:
        if threads(self.client, self.resource):
            return 0
        refusal = str(getattr(self.client.cluster, "refusal", ""))  # of a cluster whose workers are jobs
        if refusal:
            raise ClusterError(f"no Dask worker, and {refusal}; what is stored stays, run again to resume")
        patience = max(PATIENCE * self.heartbeat, parse_timedelta(dask.config.get("qmri.no-worker-timeout", 0)))
        is_over = (lonely + 1) * self.heartbeat >= patience
        waiting = self._waiting() if is_over or not lonely else ""
        if is_over:
            reason = f" ({waiting})" if waiting else ""
            raise ClusterError(
                f"no Dask worker for {patience:.0f} s{reason}; what is stored stays, run again to resume"
            )
        if waiting:
            _log.warning("no Dask worker: %s; the run goes on when one is there", waiting)
        return lonely + 1

    def _waiting(self) -> str:
        """For what the workers wait, where they are jobs."""
        waiting = getattr(self.client.cluster, "waiting", None)
        return str(waiting()) if waiting else ""

    def _revive(
        self, flights: dict[Future[Any], _Flight[Item]], finished: SimpleQueue[Future[Any]]
    ) -> Iterator[tuple[Item, BaseException]]:
        """Submit again what the scheduler no longer works on at two heartbeats in a row."""
        try:
            alive = set(self.client.run_on_scheduler(_alive, keys=[future.key for future in flights]))
        except OSError:  # the next look at the cluster tells
            return
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
        if isinstance(error, NoValidWorkerError):
            return ClusterError("no Dask worker could take this task")
        return future.result() if error is None else error
    except CancelledError:
        return ClusterError("the Dask scheduler cancelled this task")
    finally:
        future.release()
