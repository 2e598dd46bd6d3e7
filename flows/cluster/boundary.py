"""What workers do with one session: read with storage, compute with qmri_core, write with storage.

The functions here are plain, importable and safe to run twice on the same session. `at_boundary` is the one place in
the project that catches every exception: a session that fails is data.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.cluster.dispatch import ClusterError
from qmri_core.calibration.session_model import Person
from qmri_core.series.acquisition import Acquisition, Contrast
from storage.source.series import ReadError, Series
from storage.store.locations import StorageFaultError
from storage.store.schema import Reason, Status

if TYPE_CHECKING:
    from icechunk import ForkSession

    from flows.maps.weights import Weights
    from storage.store.slots import Slot

MAPS = ("T1map", "T2map", "PDmap")
OF_INFERENCE = (*MAPS, *(f"{name}_sd" for name in MAPS), "residual")


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
    duration: float = 0.0


@dataclass(slots=True)
class Stage:
    """Name of the stage that a session is in, for the record should it fail."""

    name: str = "start"

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.name = name
        yield


REASONS: Mapping[str, Reason] = {
    "AlignmentError": Reason.ALIGNMENT,
    "BrainMaskError": Reason.BRAIN_MASK,
    "TissueError": Reason.BRAIN_MASK,
    "FieldOfViewError": Reason.FIELD_OF_VIEW,
    "FieldStrengthError": Reason.FIELD_STRENGTH,
    "CalibrationError": Reason.NO_CALIBRATION,
    "ReadError": Reason.READ_ERROR,
}
"""Reason of a failure by the type of its exception; anything else is an internal error."""
OWN_PACKAGES = {"qmri_core", "storage", "flows"}


def at_boundary(session: str, work: Callable[[Stage], Outcome]) -> Outcome:
    """Run the work of one session; whatever it raises becomes a failed outcome.

    A store that cannot be written now is no fault of the session: that error goes on, and ends the run.

    Only texts of exceptions that this project raises are kept, since they are known to name no path and no header
    text; of any other exception the type and the line of our code stay.
    """
    stage = Stage()
    began = time.perf_counter()
    try:
        return work(stage)
    except StorageFaultError:
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
        )


def outcome_of(session: str, stage: str, result: Outcome | BaseException) -> Outcome:
    """Outcome of a session whose worker may have died in the middle: that is a failed session too.

    Raises
    ------
    ClusterError
        If the cluster lost the task, which is not the session's fault: a later run does it.
    """
    if isinstance(result, ClusterError):
        raise result
    if not isinstance(result, BaseException):
        return result
    if isinstance(result, StorageFaultError):
        raise result
    return Outcome(
        session=session,
        status=Status.FAILED,
        reason=Reason.WORKER_LOST,
        stage=stage,
        error=type(result).__name__,
        explanation="the worker process ended while it worked on this session, twice; out of memory?",
    )


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        frame for frame in frames if any(f"/{part}/" in frame.filename for part in ("flows", "storage", "qmri_core"))
    ]
    last = ours[-1] if ours else frames[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}"


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestTask:
    """One session to preprocess and write."""

    slot: Slot
    status: Status
    series: Mapping[Contrast, Series] = field(repr=False)
    grid: Any = field(repr=False)
    fork: ForkSession = field(repr=False)


def ingest_session(task: IngestTask) -> Outcome:
    """Decode, preprocess and write one session; returns the fork to be committed and the session's values."""
    return at_boundary(task.slot.session, lambda stage: _ingest(task, stage))


def _ingest(task: IngestTask, stage: Stage) -> Outcome:
    from qmri_core.calibration.population import MEMBERS
    from qmri_core.calibration.scales import tissue_signals
    from qmri_core.preprocessing.quality import marks
    from qmri_core.preprocessing.session import preprocess
    from storage.source.discovery import read_volume
    from storage.store.waves import write_arrays

    began = time.perf_counter()
    with stage("read"):
        volumes = {contrast: read_volume(series) for contrast, series in task.series.items()}
    with stage("preprocess"):
        result = preprocess(volumes, task.grid)
    with stage("signal"):
        signals = tissue_signals(result.images, result.tissue)
    with stage("write"):
        arrays: dict[str, Any] = {str(contrast): image for contrast, image in result.images.items()}
        arrays |= {f"{contrast}_bias_field": field for contrast, field in result.bias_fields.items()}
        arrays |= {"brain_mask": result.brain_mask, "tissue": result.tissue, "affine": result.affine}
        fork = write_arrays(task.fork, task.slot, arrays)
    values: dict[str, object] = {"reference_contrast": str(result.reference), **result.quality}
    values["quality_marks"] = ",".join(marks(result.quality))
    values |= {
        f"{contrast}_{member}_signal": signals[contrast][tissue]
        for contrast in signals
        for tissue, member in MEMBERS.items()
    }
    return Outcome(
        session=task.slot.session,
        status=task.status,
        fork=fork,
        values=values,
        duration=time.perf_counter() - began,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InferTask:
    """One session to compute maps of."""

    location: str
    slot: Slot
    acquisitions: Mapping[Contrast, Acquisition] = field(repr=False)
    scales: Mapping[Contrast, float] = field(repr=False)
    person: Person = field(repr=False)
    weights: Weights = field(repr=False)
    fork: ForkSession = field(repr=False)


def infer_session(task: InferTask) -> Outcome:
    """Read one session's images, infer its maps, write them."""
    return at_boundary(task.slot.session, lambda stage: _infer(task, stage))


def _infer(task: InferTask, stage: Stage) -> Outcome:
    from flows.maps.weights import resident_checkpoint
    from qmri_core.mapping.inference import fastest, infer_maps
    from storage.store.waves import read_arrays, write_arrays

    began = time.perf_counter()
    with stage("read"):
        names = [str(contrast) for contrast in task.acquisitions]
        stored = read_arrays(task.location, task.slot, [*names, "brain_mask"])
        mask = (stored["brain_mask"] == 1).astype(np.uint8)
    with stage("load_model"):
        network = resident_checkpoint(task.weights).network
    with stage("infer"):
        images = {contrast: stored[str(contrast)] for contrast in task.acquisitions}
        device, precision = fastest()
        maps = infer_maps(
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


def clear_maps(location: str, slot: Slot, fork: ForkSession) -> ForkSession:
    """Take away a session's maps, which would else pass for those of the weights that failed."""
    from storage.store.waves import read_arrays, write_arrays

    shape = read_arrays(location, slot, ["brain_mask"])["brain_mask"].shape
    return write_arrays(fork, slot, {name: np.full(shape, np.nan, dtype=np.float32) for name in OF_INFERENCE})


@dataclass(frozen=True, slots=True, kw_only=True)
class SummariseTask:
    """One session to take tissue statistics of."""

    location: str
    slot: Slot


def summarise_session(task: SummariseTask) -> Outcome:
    """Tissue statistics of one session's maps, as rows."""
    return at_boundary(task.slot.session, lambda stage: _summarise(task, stage))


def _summarise(task: SummariseTask, stage: Stage) -> Outcome:
    from qmri_core.preprocessing.tissue import TISSUES
    from qmri_core.statistics import tissue_statistics
    from storage.store.waves import read_arrays

    with stage("read"):
        stored = read_arrays(task.location, task.slot, [*MAPS, "tissue"])
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


__all__ = [
    "InferTask",
    "IngestTask",
    "Outcome",
    "ReadError",
    "SummariseTask",
    "at_boundary",
    "infer_session",
    "ingest_session",
    "summarise_session",
]
