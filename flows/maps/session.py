"""The steps by which a worker infers the maps of a session. Plain, importable, and safe to run twice."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flows.cluster.boundary import Outcome, Stage
from qmri_core.calibration.session_model import PersonLevels
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.series.remarks import Remark, RemarkKind
from qmri_core.tissues import MAPS
from storage.store.schema import Reason, Status

if TYPE_CHECKING:
    from icechunk import ForkSession

    from flows.maps.weights import Weights
    from qmri_core.mapping.inference import Prepared
    from storage.store.cohort import Cohort
    from storage.store.slots import Slot

OF_INFERENCE = (*MAPS, *(f"{name}_sd" for name in MAPS), "residual")
"""In the order of `qmri_core.mapping.inference.Maps`."""
VOXELS_AT_ONCE = 1 << 23
"""Of volumes that are made to be written, unless one has more: at 1 mm one by one, small ones all together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferTask:
    """One session to compute maps of."""

    cohort: Cohort
    slot: Slot
    acquisitions: Mapping[Contrast, Acquisition] = field(repr=False)
    scales: Mapping[Contrast, float] = field(repr=False)
    person: PersonLevels = field(repr=False)
    is_adult: bool = True
    """Or of unknown age."""
    weights: Weights = field(repr=False)
    fork: bytes = field(repr=False)
    """Of the wave, pickled: the sessions of a batch must not share one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What was read of a session."""

    images: Mapping[Contrast, NDArray[np.float32]] = field(repr=False)
    mask: NDArray[np.uint8] = field(repr=False)


def read_images(task: InferTask, stage: Stage) -> Images:
    """Images and brain mask of a session."""
    with stage("read"):
        stored = task.cohort.read(task.slot, [*map(str, task.acquisitions), "brain_mask"])
        mask = (stored["brain_mask"] == 1).astype(np.uint8)
        return Images(images={contrast: stored[str(contrast)] for contrast in task.acquisitions}, mask=mask)


def prepare(task: InferTask, read: Images, stage: Stage) -> Prepared:
    """Its parts, as large as the device takes them."""
    from flows.maps.weights import resident_device
    from qmri_core.mapping.inference import prepared, slices_of

    with stage("load_model"):
        device = resident_device(task.weights)
    with stage("infer"):
        slices = slices_of(device.place, read.mask.shape, device.voxels)
        name = task.slot.session
        return prepared(name, read.images, read.mask, task.acquisitions, task.scales, task.person, slices=slices)


def checked(task: InferTask, session: Prepared, packed: NDArray[np.float32]) -> Outcome:
    """Whether maps hold what was put in, before they are written; their deviations are widened where that covers it."""
    from qmri_core.mapping.closure import closure, mapped_session

    good = Outcome(session=task.slot.session, status=Status.COMPLETE)
    if not session.parts:
        return good
    stored = task.cohort.read(task.slot, ["tissue", "affine"])
    found = closure(mapped_session(session, packed, stored["tissue"], stored["affine"]))
    if found.has_failed and task.is_adult and not found.has_lesions:
        return replace(
            good,
            status=Status.FAILED,
            reason=Reason.CLOSURE,
            stage="closure",
            error="ClosureError",
            explanation=found.text,
        )
    if found.has_failed:
        return replace(good, remarks=(Remark(kind=RemarkKind.OUTSIDE_MODEL, text=found.text),))
    for name, factor in found.widened.items():
        packed[OF_INFERENCE.index(f"{name}_sd")] *= np.float32(factor)
    if found.widened:
        times = ", ".join(f"{name}_sd times {factor:.2g}" for name, factor in found.widened.items())
        return replace(good, remarks=(Remark(kind=RemarkKind.WIDENED, text=f"{times}: {found.text}"),))
    return good


def write_maps(task: InferTask, session: Prepared, packed: NDArray[np.float32], stage: Stage) -> Outcome:
    """Write the maps of a session to a fork of its own: what it may have written when it fails is in nobody else's.

    Maps that contradict what was put in are written too; the outcome says that they have failed.
    """
    from storage.store.waves import write_arrays

    with stage("closure"):
        found = checked(task, session, packed)
    with stage("write"):
        fork = pickle.loads(task.fork)  # noqa: S301 - of the wave, made by the run
        at_once = max(1, VOXELS_AT_ONCE // session.inside.size)
        for start in range(0, len(OF_INFERENCE), at_once):
            some = slice(start, start + at_once)
            volumes = zip(OF_INFERENCE[some], map(session.volume, packed[some]), strict=True)
            fork = write_arrays(fork, task.slot, dict(volumes))
    return replace(found, fork=fork, values={"synthesis_residual": median_residual(packed)})


def median_residual(packed: NDArray[np.float32]) -> float | None:
    """Median over the brain of re-synthesised against acquired images; None where nothing was computed."""
    values = packed[OF_INFERENCE.index("residual")]
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else None


def clear_maps(cohort: Cohort, slot: Slot, fork: ForkSession) -> ForkSession:
    """Take away a session's maps, which would else pass for those of the weights that failed."""
    from storage.store.waves import write_arrays

    shape = cohort.read(slot, ["brain_mask"])["brain_mask"].shape
    return write_arrays(fork, slot, {name: np.full(shape, np.nan, dtype=np.float32) for name in OF_INFERENCE})
