"""The session boundary: where a session that fails becomes data.

`at_boundary` is the one place in the project that catches every exception.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import psutil
from distributed import KilledWorker

from flows.cluster.dispatch import ClusterError
from flows.errors import OWN_PACKAGES, is_ours
from qmri_core.series.acquisition import Contrast
from qmri_core.series.remarks import Remark
from storage.store.locations import StorageFaultError
from storage.store.schema import Reason, Status

if TYPE_CHECKING:
    import numpy as np
    from icechunk import ForkSession
    from numpy.typing import NDArray


Result = TypeVar("Result")

PASSING = (ClusterError, StorageFaultError)
"""Errors of what a run stands on, not of a session: they end the run, and another try does what it left."""


class Taken(NamedTuple):
    """What a stage of a session took: seconds, and bytes of memory that its worker process held when it ended."""

    stage: str
    seconds: float
    memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one session on a worker. ``fork`` holds what it wrote; ``None`` if it failed."""

    session: str
    status: Status
    reason: str = ""
    stage: str = ""
    error: str = ""
    explanation: str = ""
    fork: ForkSession | None = field(default=None, repr=False)
    values: Mapping[str, object] = field(default_factory=dict, repr=False)
    rows: tuple[Mapping[str, object], ...] = field(default=(), repr=False)
    pictures: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict, repr=False)
    """Thumbnails by session."""
    remarks: tuple[Remark, ...] = ()
    taken: Mapping[Contrast, tuple[int, str]] = field(default_factory=dict)
    """Of contrasts whose preferred series was not taken: the place of the repeat that was, from 1, and why."""
    duration: float = 0.0
    stages: tuple[Taken, ...] = ()
    """What each stage took, in the order in which they ended; a name may stand several times."""
    together: tuple[str, ...] = ()
    """All sessions of a task that does several at a time; they share what it took in equal parts."""

    def by_stage(self) -> list[Taken]:
        """What each stage took of one session: seconds in sum, memory at most."""
        share = 1 / max(1, len(self.together))
        result: dict[str, Taken] = {}
        for name, seconds, memory in self.stages:
            before = result.get(name, Taken(name, 0.0, 0))
            result[name] = Taken(name, before.seconds + share * seconds, max(before.memory, memory))
        return list(result.values())


def seconds_of(outcome: Outcome) -> dict[str, float]:
    """Seconds of each stage of a session."""
    return {name: seconds for name, seconds, _ in outcome.by_stage()}


@dataclass(slots=True)
class Stage:
    """Name of the stage that a session is in, for the record should it fail, and what those before took."""

    name: str = "start"
    taken: list[Taken] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Do what the block does, as the stage ``name``."""
        self.name = name
        began = time.perf_counter()
        try:
            yield
        finally:
            memory = int(psutil.Process().memory_info().rss)
            self.taken.append(Taken(name, time.perf_counter() - began, memory))


REASONS: Mapping[str, Reason] = {
    "AlignmentError": Reason.ALIGNMENT,
    "BrainMaskError": Reason.BRAIN_MASK,
    "TissueError": Reason.BRAIN_MASK,
    "FieldOfViewError": Reason.FIELD_OF_VIEW,
    "ImageMismatchError": Reason.IMAGE_MISMATCH,
    "FieldStrengthError": Reason.FIELD_STRENGTH,
    "CalibrationError": Reason.NO_CALIBRATION,
    "ReadError": Reason.READ_ERROR,
    "ServerAwayError": Reason.SERVER_AWAY,
    "ServerRefusedError": Reason.SERVER_REFUSED,
    "ServerChangedError": Reason.SERVER_CHANGED,
    "ServerError": Reason.SERVER_ERROR,
}
"""Reason of a failure by the type of its exception; anything else is an internal error."""


def at_boundary(session: str, work: Callable[[Stage], Result], stage: Stage | None = None) -> Result | Outcome:
    """Run the work of one session, or a step of it; whatever it raises becomes a failed outcome.

    A store or a cluster that cannot be used now is no fault of the session: that error goes on, and ends the run.

    Only texts of exceptions that this project raises are kept, since they are known to name no path and no header
    text; of any other exception the type and the line of our code stay. What its stages took is kept in ``stage``, and
    in an outcome.
    """
    stage = stage or Stage()
    began = time.perf_counter()
    try:
        result = work(stage)
        return replace(result, stages=tuple(stage.taken)) if isinstance(result, Outcome) else result
    except PASSING:
        raise
    except Exception as error:  # noqa: BLE001 - the session boundary: a session that fails is data
        kind = type(error).__name__
        is_known = kind in REASONS and type(error).__module__.split(".")[0] in OWN_PACKAGES
        return Outcome(
            session=session,
            status=Status.FAILED,
            reason=REASONS[kind] if is_known else Reason.INTERNAL_ERROR,
            stage=stage.name,
            error=kind,
            explanation=str(error) if is_known else _where(error),
            duration=time.perf_counter() - began,
            stages=tuple(stage.taken),
        )


def outcome_of(session: str, stage: str, result: Outcome | BaseException) -> Outcome:
    """Outcome of a session whose worker may have died in the middle: that is a failed session too.

    So is one whose task could not be sent or come back. Faults of the cluster and the storage have been passed on.
    """
    if not isinstance(result, BaseException):
        return result
    is_lost = isinstance(result, KilledWorker)
    return Outcome(
        session=session,
        status=Status.FAILED,
        reason=Reason.WORKER_LOST if is_lost else Reason.INTERNAL_ERROR,
        stage=stage,
        error=type(result).__name__,
        explanation=WORKER_LOST if is_lost else _where(result),
    )


WORKER_LOST = "the worker process ended while it worked on this session, twice; out of memory?"


def _where(error: BaseException) -> str:
    """Type of an error, and the last line of our code that it came through; of another's where it came through none."""
    lines = [(frame, number) for frame, number in walk_tb(error.__traceback__)]
    ours = [(frame, number) for frame, number in lines if is_ours(frame)]
    if not lines:
        return type(error).__name__
    frame, number = (ours or lines)[-1]
    return f"{type(error).__name__} in {Path(frame.f_code.co_filename).name}:{number}"
