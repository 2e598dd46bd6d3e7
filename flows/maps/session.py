"""What a worker does to infer the maps of one session. Plain, importable, and safe to run twice."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from flows.cluster.boundary import Outcome, Stage, at_boundary
from qmri_core.calibration.session_model import PersonLevels
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.tissues import MAPS
from storage.store.schema import Status

if TYPE_CHECKING:
    from icechunk import ForkSession

    from flows.maps.weights import Weights
    from storage.store.cohort import Cohort
    from storage.store.slots import Slot

OF_INFERENCE = (*MAPS, *(f"{name}_sd" for name in MAPS), "residual")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferTask:
    """One session to compute maps of."""

    cohort: Cohort
    slot: Slot
    acquisitions: Mapping[Contrast, Acquisition] = field(repr=False)
    scales: Mapping[Contrast, float] = field(repr=False)
    person: PersonLevels = field(repr=False)
    weights: Weights = field(repr=False)
    fork: ForkSession = field(repr=False)


def infer_session(task: InferTask) -> Outcome:
    """Read one session's images, infer its maps, write them."""
    return at_boundary(task.slot.session, lambda stage: _infer(task, stage))


def _infer(task: InferTask, stage: Stage) -> Outcome:
    from flows.maps.weights import resident_checkpoint
    from qmri_core.mapping.inference import fastest, session_maps
    from storage.store.waves import write_arrays

    began = time.perf_counter()
    with stage("read"):
        names = [str(contrast) for contrast in task.acquisitions]
        stored = task.cohort.read(task.slot, [*names, "brain_mask"])
        mask = (stored["brain_mask"] == 1).astype(np.uint8)
    with stage("load_model"):
        network = resident_checkpoint(task.weights).network
    with stage("infer"):
        images = {contrast: stored[str(contrast)] for contrast in task.acquisitions}
        device, precision = fastest()
        maps = session_maps(
            network,
            images,
            mask,
            task.acquisitions,
            task.scales,
            device=device,
            precision=precision,
            person=task.person,
        )
    with stage("write"):
        arrays = {
            "T1map": maps.t1,
            "T2map": maps.t2,
            "PDmap": maps.pd,
            "T1map_sd": maps.t1_sd,
            "T2map_sd": maps.t2_sd,
            "PDmap_sd": maps.pd_sd,
            "residual": maps.residual,
        }
        fork = write_arrays(task.fork, task.slot, arrays)
    return Outcome(session=task.slot.session, status=Status.COMPLETE, fork=fork, duration=time.perf_counter() - began)


def clear_maps(cohort: Cohort, slot: Slot, fork: ForkSession) -> ForkSession:
    """Take away a session's maps, which would else pass for those of the weights that failed."""
    from storage.store.waves import write_arrays

    shape = cohort.read(slot, ["brain_mask"])["brain_mask"].shape
    return write_arrays(fork, slot, {name: np.full(shape, np.nan, dtype=np.float32) for name in OF_INFERENCE})
