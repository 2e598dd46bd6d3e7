"""What a worker does to ingest one session: read, preprocess, write. Plain, importable, and safe to run twice."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flows.cluster.boundary import Outcome, Stage, at_boundary
from qmri_core.series.acquisition import Acquisition, Contrast
from storage.source.series import Series
from storage.store.schema import Status

if TYPE_CHECKING:
    from icechunk import ForkSession

    from storage.store.slots import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestTask:
    """One session to preprocess and write."""

    slot: Slot
    status: Status
    series: Mapping[Contrast, tuple[tuple[Series, bool], ...]] = field(repr=False)
    """Of each contrast the series that headers prefer and its repeats, each with whether looks may decide on it."""
    acquisitions: Mapping[Contrast, Acquisition] = field(repr=False)
    grid: Any = field(repr=False)
    fork: ForkSession = field(repr=False)


def ingest_session(task: IngestTask) -> Outcome:
    """Decode, preprocess and write one session; returns the fork to be committed and the session's values."""
    return at_boundary(task.slot.session, lambda stage: _ingest(task, stage))


def _ingest(task: IngestTask, stage: Stage) -> Outcome:
    from flows.ingest.repeats import by_looks, first_usable, is_enhanced, read_repeats
    from qmri_core.calibration.scales import tissue_signals
    from qmri_core.preprocessing.quality import marks
    from qmri_core.tissues import MEMBERS
    from storage.store.waves import write_arrays

    began = time.perf_counter()
    with stage("read"):
        repeats, unread = read_repeats(task.series)
    with stage("preprocess"):
        ordered, picks = by_looks(repeats)
        result, picks, unused = first_usable(ordered, picks, task.grid, task.acquisitions)
    with stage("signal"):
        signals = tissue_signals(result.images, result.tissue)
    with stage("write"):
        arrays: dict[str, Any] = {str(contrast): image for contrast, image in result.images.items()}
        arrays |= {f"{contrast}_bias_field": field for contrast, field in result.bias_fields.items()}
        arrays |= {"brain_mask": result.brain_mask, "tissue": result.tissue, "affine": result.affine}
        fork = write_arrays(task.fork, task.slot, arrays)
    values: dict[str, object] = {"reference_contrast": str(result.reference), **result.quality}
    seen = ("T1w_enhanced",) if is_enhanced(result) else ()
    values["quality_marks"] = ",".join((*marks(result.quality), *result.marks, *seen))
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
        remarks=(*unread, *unused, *result.remarks),
        taken={contrast: (pick.place, pick.why) for contrast, pick in picks.items() if pick.place},
        duration=time.perf_counter() - began,
    )
