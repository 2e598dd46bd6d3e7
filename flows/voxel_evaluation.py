"""Maps against the truth of a simulated cohort voxel by voxel: what workers do with a session, or two of one person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.stages import MAPS, Outcome, Stage, at_boundary
from qmri_core.acquisition import Acquisition, Contrast
from storage.schema import Status

if TYPE_CHECKING:
    from storage.slots import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTask:
    """One session to compare with its truth; ``subject`` tells who was scanned on several scanners."""

    location: str
    slot: Slot
    subject: str
    truth: Path = field(repr=False)
    acquisitions: Mapping[Contrast, Acquisition] = field(repr=False)
    scales: Mapping[Contrast, float] = field(repr=False)


def evaluate_session(task: EvaluationTask) -> Outcome:
    """Compare one session's maps with its truth; ``kind`` of the outcome's rows is ``voxels`` or ``regions``."""
    return at_boundary(task.slot.session, lambda stage: _evaluate(task, stage))


def _evaluate(task: EvaluationTask, stage: Stage) -> Outcome:
    from qmri_core.evaluation import compare_session
    from qmri_core.inference import infer_maps
    from qmri_core.population import population
    from storage.simulation_files import read_truth
    from storage.waves import read_arrays

    with stage("read"):
        deviations = [f"{name}_sd" for name in MAPS]
        names = [*MAPS, *deviations, *map(str, task.acquisitions), "brain_mask", "affine"]
        stored = read_arrays(task.location, task.slot, names)
        truth = read_truth(task.truth)
    with stage("infer"):
        images = {contrast: stored[str(contrast)] for contrast in task.acquisitions}
        mask = (stored["brain_mask"] == 1).astype(np.uint8)
        alone = infer_maps(None, images, mask, task.acquisitions, task.scales)
    with stage("compare"):
        by_voxel, by_region = compare_session(
            {"network": [stored[name] for name in MAPS], "voxelwise": [alone.t1, alone.t2, alone.pd]},
            {"network": [stored[name] for name in deviations], "voxelwise": [alone.t1_sd, alone.t2_sd, alone.pd_sd]},
            truth,
            population(next(iter(task.acquisitions.values())).field_strength),
            stored["affine"],
        )
    start: dict[str, Any] = {"session": task.slot.session, "group": task.slot.group, "subject": task.subject}
    rows = [
        *({"kind": "voxels", **start, **row, "moments": asdict(row["moments"])} for row in by_voxel),
        *({"kind": "regions", **start, **row} for row in by_region),
    ]
    return Outcome(session=task.slot.session, status=Status.COMPLETE, rows=tuple(rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTask:
    """Two sessions of one person to compare in the person's own frame."""

    location: str
    subject: str
    slots: tuple[Slot, Slot]
    truths: tuple[Path, Path] = field(repr=False)


def pairs_of(tasks: Sequence[EvaluationTask]) -> list[PairTask]:
    """Each person's first session with every later one of the same person."""
    first: dict[str, EvaluationTask] = {}
    return [
        PairTask(
            location=task.location,
            subject=task.subject,
            slots=(other.slot, task.slot),
            truths=(other.truth, task.truth),
        )
        for task in tasks
        if (other := first.setdefault(task.subject, task)) is not task
    ]


def evaluate_pair(task: PairTask) -> Outcome:
    """Agreement of two sessions of one person, over voxels of one tissue on the grid of the person's truth."""
    return at_boundary(task.slots[0].session, lambda stage: _evaluate_pair(task, stage))


def _evaluate_pair(task: PairTask, stage: Stage) -> Outcome:
    from qmri_core.evaluation import on_truth_grid, pair_agreement, pure_tissues
    from storage.simulation_files import read_truth
    from storage.waves import read_arrays

    with stage("read"):
        truths = [read_truth(folder) for folder in task.truths]
        stored = [read_arrays(task.location, slot, [*MAPS, "affine"]) for slot in task.slots]
    with stage("compare"):
        first, second = (
            on_truth_grid([arrays[name] for name in MAPS], arrays["affine"], truth)
            for arrays, truth in zip(stored, truths, strict=True)
        )
        inside = pure_tissues(truths[0].fractions)["parenchyma"]
        pair = "same group" if task.slots[0].group == task.slots[1].group else "two groups"
        rows = []
        for name, one, other in zip(MAPS, first, second, strict=True):
            moments, difference = pair_agreement(one, other, inside)
            rows.append({"pair": pair, "map": name, "difference": difference, "moments": asdict(moments)})
    return Outcome(session=task.slots[0].session, status=Status.COMPLETE, rows=tuple(rows))
