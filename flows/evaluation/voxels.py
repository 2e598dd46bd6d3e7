"""Maps against the truth of a simulated cohort voxel by voxel: what workers do with a session, or two of one person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flows.cluster.boundary import Outcome, Stage, at_boundary
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.tissues import MAPS
from storage.store.schema import Status

if TYPE_CHECKING:
    from qmri_core.baseline.network import RecipeNetwork
    from qmri_core.evaluation.with_truth import Truth
    from storage.store.cohort import Cohort
    from storage.store.slots import Slot


NETWORK, VOXELWISE, RECIPE, NULL = "network", "voxelwise", "published recipe", "null model"
"""Models by the names that tables give them, in their order."""
MODES = "network, modes"
"""Of tissues as segmented: the network's maps by where values crowd, not by their median."""
TRUE = "true maps"
"""Beside the models of a pair: what two sessions' grids leave of the truth."""

Estimates = dict[str, list[NDArray[np.float32]]]
"""T1, T2 and PD by model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTask:
    """One session to compare with its truth; ``subject`` tells who was scanned on several scanners.

    ``recipe`` is the published recipe's network, where it is to be compared too.
    """

    cohort: Cohort
    slot: Slot
    subject: str
    truth: Path = field(repr=False)
    acquisitions: Mapping[Contrast, Acquisition] = field(repr=False)
    scales: Mapping[Contrast, float] = field(repr=False)
    recipe: RecipeNetwork | None = field(default=None, repr=False)


def evaluate_session(task: EvaluationTask) -> Outcome:
    """Compare one session's maps with its truth.

    ``kind`` of the outcome's rows is ``voxels``, ``regions``, or ``tissues``: medians over the tissues as segmented, of
    the models that the store holds no statistics of.
    """
    return at_boundary(task.slot.session, lambda stage: _evaluate(task, stage))


def _evaluate(task: EvaluationTask, stage: Stage) -> Outcome:
    from qmri_core.evaluation.with_truth import compare_session
    from qmri_core.statistics import tissue_statistics
    from qmri_core.tissues import TISSUES
    from storage.simulated.truth import read_truth

    estimates, sd, stored = _estimates(task, stage)
    with stage("read"):
        truth = read_truth(task.truth)
    with stage("compare"):
        field_strength = next(iter(task.acquisitions.values())).field_strength
        by_voxel, by_region = compare_session(estimates, sd, truth, field_strength, stored["affine"])
        by_tissue = [
            {"model": model, "map": name, "tissue": tissue, "median": tissue_statistics(values[where]).median}
            for tissue, where in ((tissue, stored["tissue"] == label) for tissue, label in TISSUES.items())
            for model, maps in estimates.items()
            for name, values in zip(MAPS, maps, strict=True)
            if model != NETWORK
        ]
    start: dict[str, Any] = {"session": task.slot.session, "group": task.slot.group, "subject": task.subject}
    rows = [
        *({"kind": "voxels", **start, **row, "moments": asdict(row["moments"])} for row in by_voxel),
        *({"kind": "regions", **start, **row} for row in by_region),
        *({"kind": "tissues", **start, **row} for row in by_tissue),
    ]
    return Outcome(session=task.slot.session, status=Status.COMPLETE, rows=tuple(rows))


def _estimates(task: EvaluationTask, stage: Stage) -> tuple[Estimates, Estimates, dict[str, NDArray[Any]]]:
    """Maps of one session by every model but the null model, their standard deviations, and what else is stored."""
    from qmri_core.baseline.published_recipe import infer_recipe
    from qmri_core.mapping.inference import session_maps

    with stage("read"):
        deviations = [f"{name}_sd" for name in MAPS]
        names = [*MAPS, *deviations, *map(str, task.acquisitions), "brain_mask", "tissue", "affine"]
        stored = task.cohort.read(task.slot, names)
    with stage("infer"):
        images = {contrast: stored.pop(str(contrast)) for contrast in task.acquisitions}
        mask = (stored["brain_mask"] == 1).astype(np.uint8)
        alone = session_maps(None, images, mask, task.acquisitions, task.scales)
        estimates = {NETWORK: [stored.pop(name) for name in MAPS], VOXELWISE: [alone.t1, alone.t2, alone.pd]}
        sd = {NETWORK: [stored.pop(name) for name in deviations], VOXELWISE: [alone.t1_sd, alone.t2_sd, alone.pd_sd]}
        if task.recipe is not None:
            estimates[RECIPE] = list(infer_recipe(task.recipe, images, mask))
    return estimates, sd, stored


def pairs_of(tasks: Sequence[EvaluationTask]) -> list[tuple[EvaluationTask, EvaluationTask]]:
    """Each person's first session with every later one of the same person."""
    first: dict[str, EvaluationTask] = {}
    return [(other, task) for task in tasks if (other := first.setdefault(task.subject, task)) is not task]


def kind_of_pair(first: str, second: str) -> str:
    """Whether the groups of two sessions of one person are one."""
    return "same group" if first == second else "two groups"


def evaluate_pair(pair: tuple[EvaluationTask, EvaluationTask]) -> Outcome:
    """Agreement of two sessions of one person by each model, on the grid of their truth.

    Over voxels that are of one tissue in the truth, and over those of them that both sessions' grids show unmixed too:
    in thick slices most voxels are mixed with their neighbours, by no fault of a model. The true maps over the voxels
    of each grid agree as maps without error would. The null model is painted in both on the person's tissue: it agrees
    as well as can be, whatever is in the images.
    """
    return at_boundary(pair[0].slot.session, lambda stage: _evaluate_pair(pair, stage))


def _evaluate_pair(pair: tuple[EvaluationTask, EvaluationTask], stage: Stage) -> Outcome:
    from qmri_core.evaluation.with_truth import pair_agreement, pure_tissues
    from storage.simulated.truth import read_truth

    with stage("read"):
        truth = read_truth(pair[0].truth)
    pure = pure_tissues(truth.fractions)
    first, unmixed_in_first = _in_parenchyma(pair[0], truth, pure, stage)
    with stage("read"):
        truth = read_truth(pair[1].truth)
    second, unmixed_in_second = _in_parenchyma(pair[1], truth, pure, stage)
    with stage("compare"):
        kind = kind_of_pair(pair[0].slot.group, pair[1].slot.group)
        both = unmixed_in_first & unmixed_in_second
        rows = []
        for voxels, where in {"of the truth": np.ones_like(both), "of both sessions": both}.items():
            for model, maps in first.items():
                start = {"voxels": voxels, "model": model, "pair": kind}
                for name, one, other in zip(MAPS, maps, second[model], strict=True):
                    moments, difference = pair_agreement(one, other, where)
                    rows.append({**start, "map": name, "difference": difference, "moments": asdict(moments)})
    return Outcome(session=pair[0].slot.session, status=Status.COMPLETE, rows=tuple(rows))


def _in_parenchyma(
    task: EvaluationTask, truth: Truth, pure: Mapping[str, NDArray[np.bool_]], stage: Stage
) -> tuple[Estimates, NDArray[np.bool_]]:
    """Values of every model in voxels of one tissue, and which are of one tissue in the session's own voxels too.

    Of two sessions no more than these are held at a time.
    """
    from qmri_core.evaluation.with_truth import PURITY, null_model, on_truth_grid, truth_on_grid

    estimates, _, stored = _estimates(task, stage)
    inside = pure["parenchyma"]
    with stage("compare"):
        shape = estimates[NETWORK][0].shape
        true, fractions = truth_on_grid(truth, shape=shape, affine=stored["affine"])
        purest = fractions[1:].max(axis=0)
        of_maps = {**estimates, TRUE: true}
        found = {
            model: [on_truth_grid([values], stored["affine"], truth)[0][inside] for values in maps]
            for model, maps in of_maps.items()
        }
        unmixed = on_truth_grid([purest], stored["affine"], truth)[0][inside] >= PURITY
        field_strength = next(iter(task.acquisitions.values())).field_strength
        computed = np.isfinite(found[NETWORK][0])
        found[NULL] = [values[inside] for values in null_model(pure, field_strength, inside)]
        for model in (TRUE, NULL):
            found[model] = [np.where(computed, values, np.float32(np.nan)) for values in found[model]]
    return found, unmixed
