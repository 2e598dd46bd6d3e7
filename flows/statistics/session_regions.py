"""What `qmri regions` does with one session, on a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.cluster.boundary import Outcome, Stage, at_boundary
from flows.statistics.own_regions import Atlas, Masks, atlas_regions, labels_of_atlas, mask_regions
from qmri_core.analysis.regions import FEWEST_VOXELS, placed
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.tissues import MAPS
from storage.store.cohort import Cohort
from storage.store.opened.values import MASKS, STATISTICS, TEMPLATE
from storage.store.schema import NOT_COMPUTED, Status
from storage.store.slots import Slot

NOTHING = "none"
"""Region of the one row of a session in which too little was found to bring a template to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionTask:
    """A session to measure regions of."""

    cohort: Cohort
    slot: Slot
    acquisitions: Mapping[Contrast, Acquisition]
    made: Mapping[str, str]
    """What is to be measured, by atlas, and what it is made with."""
    atlas: Atlas | None
    masks: Masks | None


def measure_session(task: RegionTask) -> Outcome:
    """Rows of one session: statistics of each region and map."""
    return at_boundary(task.slot.session, partial(_measure, task))


def _measure(task: RegionTask, stage: Stage) -> Outcome:
    from qmri_core.analysis.regions import regions_in
    from qmri_core.preprocessing.template.brain import template
    from qmri_core.preprocessing.template.registration import labels_of
    from qmri_core.preprocessing.template.segmentation import regions_of
    from qmri_core.preprocessing.tissue import TissueError
    from qmri_core.series.geometry import spacing_of

    slot = task.slot
    with stage("read"):
        names = [
            *map(str, task.acquisitions),
            *MAPS,
            *(f"{name}_sd" for name in MAPS),
            "tissue",
            "brain_mask",
            "affine",
        ]
        stored = task.cohort.read(slot, names)
    mask = (stored["brain_mask"] == 1).astype(np.uint8)
    tissue = np.where(stored["tissue"] == NOT_COMPUTED, 0, stored["tissue"])
    rows: list[dict[str, object]] = []

    def measure(atlas: str, found: Mapping[str, NDArray[np.bool_]], quality: Mapping[str, float]) -> None:
        start = {"session": slot.session, "group": slot.group, "atlas": atlas, "made_with": task.made[atlas]}
        rows.extend(
            {
                **start,
                "region": region,
                "map": name,
                **_figures(stored, name, where),
                **quality,
                "placed": placed(region),
            }
            for name in MAPS
            for region, where in found.items()
        )

    with stage("regions"):
        if task.masks is not None and MASKS in task.made:
            measure(MASKS, mask_regions(task.masks, mask, stored["affine"]), {})
        if of_template := [name for name in task.made if name != MASKS]:
            images = {
                contrast: stored[str(contrast)]
                for contrast in task.acquisitions
                if np.isfinite(stored[str(contrast)]).any()
            }
            try:
                labels, registered = regions_of(images, mask, stored["affine"], task.acquisitions)
            except TissueError:
                nothing = {"session": slot.session, "group": slot.group, "region": NOTHING, "map": "", "n": 0}
                rows.extend({**nothing, "atlas": name, "made_with": task.made[name]} for name in of_template)
                return Outcome(session=slot.session, status=Status.COMPLETE, rows=tuple(rows))
            quality = {"overlap": registered.overlap, "stretch": registered.stretch}
            if TEMPLATE in task.made:
                x, y, z = map(float, spacing_of(stored["affine"]))
                measure(TEMPLATE, regions_in(labels, tissue, template().names, (z, y, x)), quality)
            if task.atlas is not None and task.atlas.name in task.made:
                at = labels_of_atlas(task.atlas.image, task.atlas.digest)
                own = labels_of(at, registered.warp, mask.shape, stored["affine"])
                measure(task.atlas.name, atlas_regions(task.atlas, own, np.where(mask > 0, tissue, 0)), quality)
    return Outcome(session=slot.session, status=Status.COMPLETE, rows=tuple(rows))


def _figures(stored: Mapping[str, Any], name: str, where: Any) -> dict[str, object]:  # noqa: ANN401 - arrays
    from qmri_core.statistics import tissue_statistics

    figures = asdict(tissue_statistics(stored[name][where]))
    stated = stored[f"{name}_sd"][where]
    known = stated[np.isfinite(stated)]
    if figures["n"] < FEWEST_VOXELS:
        return dict.fromkeys(STATISTICS, float("nan")) | {"n": figures["n"], "stated_sd": float("nan")}
    return {**figures, "stated_sd": float(known.mean()) if known.size else float("nan")}
