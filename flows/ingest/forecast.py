"""What ingest and inference of a source would take: processor hours, memory of a worker, disk."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flows.ingest.session_plan import SessionPlan
from storage.store.room import SESSION, bytes_of, size_text

INGEST_SECONDS = (6.5, 0.32e-6)
"""Processor seconds of one session, and further ones per voxel of its grid: 8.9 at 1 mm (7.6 million voxels) by
``tests/benchmarks/test_ingest.py``, of which interpolation and N4, 2.4, are taken to follow the grid; other grids were
not measured."""
INFERENCE_SECONDS = (0.35, 0.52e-6)
"""The same of its maps, without a GPU: 4.5 for 8 million voxels, 0.6 for half a million, by
``tests/benchmarks/test_batches.py``."""
MEMORY = (1.2e9, 80.0)
"""Bytes of a worker, and further ones per voxel of the largest grid: on one of 1 mm 1.6e9 with series of 1 mm, 1.9e9 of
0.7 mm, by ``tests/benchmarks/test_ingest.py -k peak``; the figures lie between. Other grids were not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Sums over the sessions that would be ingested: how many, the voxels of their grids, and those of the largest."""

    n_sessions: int = 0
    voxels: int = 0
    most: int = 0

    @property
    def disk(self) -> float:
        """Bytes that the store would grow by, with the maps."""
        return bytes_of(SESSION, self.n_sessions, self.voxels)

    def __add__(self, other: Need) -> Need:
        return Need(
            n_sessions=self.n_sessions + other.n_sessions,
            voxels=self.voxels + other.voxels,
            most=max(self.most, other.most),
        )


def need_of(plan: SessionPlan) -> Need:
    """Need of one session; nothing if it would be skipped."""
    if plan.placement is None:
        return Need()
    voxels = math.prod(plan.placement.grid.shape)
    return Need(n_sessions=1, voxels=voxels, most=voxels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a source would take.

    ``hours`` are those of ``workers`` worker processes on cores of their own, with maps; ``memory`` [bytes] is that of
    one worker at its peak, ``disk`` [bytes] what the store would grow by. ``n_measured`` sessions of the store tell how
    fast this machine ingests; 0 if the figures are those of another one.
    """

    n_sessions: int
    workers: int
    hours: float
    memory: float
    disk: float
    n_measured: int = 0

    def text(self) -> str:
        """Describe the forecast for people."""
        if not self.n_sessions:
            return "nothing to ingest"
        source = (
            f"as the {self.n_measured} sessions in the store took"
            if self.n_measured
            else "on cores as those of the documentation; a store with sessions (--store) tells how fast yours are"
        )
        return (
            f"{self.n_sessions} sessions to ingest: about {_hours(self.hours)} with {self.workers} workers and no GPU "
            f"({source}), {self.memory / 1e9:.1f} GB of memory per worker, {size_text(self.disk)} of disk"
        )


def forecast(need: Need, *, workers: int, durations: Iterable[tuple[float, int]] = ()) -> Forecast:
    """Forecast of what `Need` sums up.

    Parameters
    ----------
    workers
        Worker processes.
    durations
        Of sessions that this machine has ingested: seconds, and voxels of the grid. With five or more of them the
        forecast is scaled by the median of how much longer they took than the documentation's.
    """
    measured = sorted(seconds / _linear(INGEST_SECONDS, 1, voxels) for seconds, voxels in durations if seconds > 0)
    is_measured = len(measured) >= 5
    factor = measured[len(measured) // 2] if is_measured else 1.0
    seconds = factor * sum(_linear(rate, need.n_sessions, need.voxels) for rate in (INGEST_SECONDS, INFERENCE_SECONDS))
    return Forecast(
        n_sessions=need.n_sessions,
        workers=workers,
        hours=seconds / 3600 / min(workers, max(1, need.n_sessions)),
        memory=_linear(MEMORY, 1, need.most),
        disk=need.disk,
        n_measured=len(measured) if is_measured else 0,
    )


def shortages(told: Forecast, *, memory: float, disk: float | None) -> list[str]:
    """What this machine does not have enough of, a sentence each; ``memory`` and ``disk`` are the bytes that it has."""
    lines = []
    if told.memory * told.workers > memory:
        lines.append(
            f"{told.workers} workers may need {told.memory * told.workers / 1e9:.1f} GB of memory, and there are "
            f"{memory / 1e9:.1f}; start fewer (--workers)"
        )
    if disk is not None and told.disk > disk:
        lines.append(f"the store may grow by {size_text(told.disk)}, and its disk has {size_text(disk)} left")
    return lines


def _linear(rate: tuple[float, float], n_sessions: int, voxels: int) -> float:
    return rate[0] * n_sessions + rate[1] * voxels


def _hours(hours: float) -> str:
    return f"{hours:.0f} h" if hours >= 9.5 else f"{hours:.1f} h" if hours >= 1 else f"{max(1, hours * 60):.0f} min"


def durations_of(rows: Iterable[Mapping[str, object]], voxels: Mapping[str, int]) -> list[tuple[float, int]]:
    """Seconds and voxels of the sessions of a catalogue that lie in groups of known size."""
    return [(float(str(row["duration"])), voxels[str(row["group"])]) for row in rows if str(row["group"]) in voxels]
