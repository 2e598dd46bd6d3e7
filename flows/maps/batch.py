"""What a worker does to infer the maps of several sessions: while some compute, the next are read and others written.

Parts of sessions share device calls; each session fails by itself, and its maps are the same in every company.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from dask.system import CPU_COUNT

from flows.cluster.boundary import Outcome, Stage, Taken, at_boundary
from flows.maps.session import Images, InferTask, prepare, read_images, write_maps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flows.maps.weights import Weights
    from qmri_core.mapping.device import Found
    from qmri_core.mapping.inference import Prepared
    from qmri_core.mapping.parts import Part

T = TypeVar("T")

MOST_THREADS = 8
"""For reading and writing beside a GPU, which is faster than one thread encodes what it makes."""
LARGE_VOLUME = 12_000_000
"""Voxels beyond which sessions are not read ahead on a CPU, whose worker has memory for one such session: 0.8 mm."""


def infer_session(task: InferTask) -> Outcome:
    """Read one session's images, infer its maps, write them."""
    (outcome,) = infer_sessions((task,))
    return outcome


def infer_sessions(tasks: Sequence[InferTask]) -> tuple[Outcome, ...]:
    """The same of several sessions, all made with the same weights; outcomes in the order of the tasks.

    Raises
    ------
    ClusterError, StorageFaultError
        If the cluster or the storage fails, which is no session's fault.
    """
    from qmri_core.devices import fastest

    is_gpu = fastest()[0].type == "cuda"
    threads = max(2, min(MOST_THREADS, int(CPU_COUNT))) if is_gpu else 2  # one that reads and one that writes
    with ThreadPoolExecutor(threads) as pool:
        batch = _Batch(weights=tasks[0].weights, is_gpu=is_gpu, pool=pool, at_once=threads // 2)
        batch.run(tasks)
        return tuple(batch.outcome(task.slot.session) for task in tasks)


@dataclass(slots=True, kw_only=True)
class _Session:
    """A session whose parts are on their way."""

    task: InferTask
    prepared: Prepared
    packed: NDArray[np.float32]
    missing: int
    """Voxels of which nothing is found yet."""


@dataclass(slots=True, kw_only=True)
class _Batch:
    weights: Weights
    is_gpu: bool
    pool: ThreadPoolExecutor
    at_once: int
    """Sessions that are read ahead, and sessions that are being written, at most."""
    began: dict[str, float] = field(default_factory=dict)
    stages: defaultdict[str, Stage] = field(default_factory=lambda: defaultdict(Stage))
    """Of each session, which is in one thread after the other."""
    running: dict[str, _Session] = field(default_factory=dict)
    writing: deque[Future[Outcome]] = field(default_factory=deque)
    outcomes: dict[str, Outcome | Future[Outcome]] = field(default_factory=dict)

    def run(self, tasks: Sequence[InferTask]) -> None:
        from flows.maps.weights import resident_device
        from qmri_core.mapping.parts import in_calls

        def nothing() -> Found:
            return []

        before = nothing
        # the device is there once there is a part: making parts asks for it
        calls = in_calls(
            self._parts(tasks), lambda: resident_device(self.weights).voxels, same_to_the_bit=not self.is_gpu
        )
        for call in calls:
            started = self._start(call)
            self._take(before())  # on a GPU, what was started runs meanwhile
            before = started
        self._take(before())

    def outcome(self, name: str) -> Outcome:
        outcome = self.outcomes[name]
        known = outcome.result() if isinstance(outcome, Future) else outcome
        return replace(known, stages=tuple(self.stages[name].taken))

    def _parts(self, tasks: Sequence[InferTask]) -> Iterator[Part]:
        """Parts of all sessions, in their order; a session that cannot be read or prepared has none."""
        for task, reading in self._read_ahead(tasks):
            name = task.slot.session
            read = reading.result()
            if not isinstance(read, Outcome) and read.mask.size > LARGE_VOLUME and not self.is_gpu:
                self.at_once = 0
            session = read if isinstance(read, Outcome) else self._at(name, partial(prepare, task, read))
            del read, reading  # parts hold what is needed of the images
            if isinstance(session, Outcome):
                self.outcomes[name] = session
                continue
            packed = session.empty()
            self.running[name] = _Session(task=task, prepared=session, packed=packed, missing=packed.shape[1])
            if not session.parts:
                self._write(name)
            yield from session.parts

    def _read_ahead(self, tasks: Sequence[InferTask]) -> Iterator[tuple[InferTask, Future[Images | Outcome]]]:
        """Each task when it is its turn, with the next ones in reading; nothing is kept of what was handed out."""
        waiting: deque[tuple[InferTask, Future[Images | Outcome]]] = deque()
        for task in tasks:
            while len(waiting) > self.at_once:
                yield waiting.popleft()
            waiting.append((task, self.pool.submit(self._read, task)))
        while waiting:
            yield waiting.popleft()

    def _read(self, task: InferTask) -> Images | Outcome:
        self.began[task.slot.session] = time.perf_counter()
        return self._at(task.slot.session, partial(read_images, task))

    def _at(self, name: str, work: Callable[[Stage], T]) -> T | Outcome:
        return at_boundary(name, work, self.stages[name])

    def _start(self, call: Sequence[Part]) -> Callable[[], Found]:
        """Start a call, without the parts of sessions that have failed meanwhile; what it returns never fails."""
        from flows.maps.weights import resident_device

        parts = [part for part in call if part.owner in self.running]
        if not parts:
            return list
        call_took = Stage()
        started = _infer(parts, lambda: resident_device(self.weights).start(parts), call_took)

        def finish() -> Found:
            found = started if isinstance(started, Outcome) else _infer(parts, started, call_took)
            self._share(parts, call_took.taken)
            return self._each_alone(parts, found) if isinstance(found, Outcome) else found

        return finish

    def _share(self, parts: Sequence[Part], taken: Sequence[Taken]) -> None:
        """What a call took, to the sessions whose parts were in it, by their voxels."""
        whole = sum(part.relative.shape[1] for part in parts)
        for part in parts:
            share = part.relative.shape[1] / max(1, whole)
            self.stages[part.owner].taken += (Taken(name, share * each, memory) for name, each, memory in taken)

    def _each_alone(self, parts: Sequence[Part], failure: Outcome) -> Found:
        """Of a call that failed: its sessions one by one, so that only those fail that fail alone."""
        owners = list(dict.fromkeys(part.owner for part in parts))
        if len(owners) == 1:
            del self.running[owners[0]]
            self.outcomes[owners[0]] = failure
            return []
        return [found for owner in owners for found in self._start([part for part in parts if part.owner == owner])()]

    def _take(self, found: Found) -> None:
        for part, tensor in found:
            session = self.running.get(part.owner)
            if session is None:  # another part of it has failed
                continue
            session.prepared.put(session.packed, part, tensor.numpy())
            session.missing -= tensor.shape[1]
            if session.missing == 0:
                self._write(part.owner)

    def _write(self, name: str) -> None:
        session = self.running.pop(name)
        while self.writing and len(self.writing) >= self.at_once:
            self.writing.popleft().result()
        self.outcomes[name] = future = self.pool.submit(self._written, session)
        self.writing.append(future)

    def _written(self, session: _Session) -> Outcome:
        name = session.task.slot.session
        outcome = self._at(name, partial(write_maps, session.task, session.prepared, session.packed))
        return replace(outcome, duration=time.perf_counter() - self.began[name])


def _infer(parts: Sequence[Part], work: Callable[[], T], took: Stage) -> T | Outcome:
    def at_stage(stage: Stage) -> T:
        with stage("infer"):
            return work()

    return at_boundary(parts[0].owner, at_stage, took)
