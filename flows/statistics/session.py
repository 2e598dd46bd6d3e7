"""What a worker does to take the tissue statistics of some sessions of a group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, groupby
from typing import TYPE_CHECKING

from flows.cluster.boundary import Outcome, Stage, at_boundary
from qmri_core.tissues import MAPS, TISSUES
from storage.store.schema import Status

if TYPE_CHECKING:
    from storage.store.cohort import Cohort
    from storage.store.slots import Slot

VOXELS_PER_TASK = 4_000_000
"""Voxels of the sessions of one task: a session at 1 mm, of small ones as many as make up for what a task costs."""
MOST_SESSIONS = 64
"""Sessions of one task at most: what is lost where a worker dies, and the grain of the progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SummariseTask:
    """Sessions of one group to take tissue statistics of."""

    cohort: Cohort
    slots: tuple[Slot, ...]


def summarise_tasks(cohort: Cohort, sessions: Sequence[str]) -> Iterator[SummariseTask]:
    """Sessions in tasks of one group each, as many in one as their volumes allow."""
    slots = sorted((cohort.slots[name] for name in sessions), key=lambda slot: (slot.group, slot.index))
    for group, members in groupby(slots, key=lambda slot: slot.group):
        _, z, y, x = cohort.nodes.array(group, "tissue").shape
        size = max(1, min(MOST_SESSIONS, VOXELS_PER_TASK // (z * y * x)))
        of_group = list(members)
        for start in range(0, len(of_group), size):
            yield SummariseTask(cohort=cohort, slots=tuple(of_group[start : start + size]))


def summarise_sessions(task: SummariseTask) -> Outcome:
    """Tissue statistics of the maps of each session, as rows; the outcome is that of the first session that fails."""
    outcome = at_boundary(task.slots[0].session, partial(_summarise, task.cohort, task.slots))
    outcome = replace(outcome, together=tuple(slot.session for slot in task.slots))
    if outcome.status is not Status.FAILED or len(task.slots) == 1:
        return outcome
    alone = [at_boundary(slot.session, partial(_summarise, task.cohort, (slot,))) for slot in task.slots]
    failed = [of_session for of_session in alone if of_session.status is Status.FAILED]
    if failed:
        return failed[0]
    rows, stages = (tuple(chain.from_iterable(getattr(one, name) for one in alone)) for name in ("rows", "stages"))
    return replace(alone[0], rows=rows, stages=stages, together=outcome.together)


def _summarise(cohort: Cohort, slots: Sequence[Slot], stage: Stage) -> Outcome:
    from qmri_core.statistics import tissue_statistics

    with stage("read"):
        stored = cohort.read_together(slots, [*MAPS, "tissue"])
    with stage("statistics"):
        rows = tuple(
            {
                "session": slot.session,
                "group": slot.group,
                "tissue": tissue,
                "map": name,
                **asdict(tissue_statistics(stored[name][place][stored["tissue"][place] == label])),
            }
            for place, slot in enumerate(slots)
            for name in MAPS
            for tissue, label in TISSUES.items()
        )
    return Outcome(session=slots[0].session, status=Status.COMPLETE, rows=rows)
