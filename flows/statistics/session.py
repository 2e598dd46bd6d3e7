"""What a worker does to take the tissue statistics of one session."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from flows.cluster.boundary import Outcome, Stage, at_boundary
from qmri_core.tissues import MAPS, TISSUES
from storage.store.schema import Status

if TYPE_CHECKING:
    from storage.store.cohort import Cohort
    from storage.store.slots import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class SummariseTask:
    """One session to take tissue statistics of."""

    cohort: Cohort
    slot: Slot


def summarise_session(task: SummariseTask) -> Outcome:
    """Tissue statistics of one session's maps, as rows."""
    return at_boundary(task.slot.session, lambda stage: _summarise(task, stage))


def _summarise(task: SummariseTask, stage: Stage) -> Outcome:
    from qmri_core.statistics import tissue_statistics

    with stage("read"):
        stored = task.cohort.read(task.slot, [*MAPS, "tissue"])
    with stage("statistics"):
        rows = tuple(
            {
                "session": task.slot.session,
                "group": task.slot.group,
                "tissue": tissue,
                "map": name,
                **asdict(tissue_statistics(stored[name][stored["tissue"] == label])),
            }
            for name in MAPS
            for tissue, label in TISSUES.items()
        )
    return Outcome(session=task.slot.session, status=Status.COMPLETE, rows=rows)
