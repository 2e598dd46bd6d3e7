"""Which stored sessions a training may see, and their calibrated slices. No map and no truth is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.calibration.calibrate import calibrate, current_calibrations
from flows.calibration.groups import signals_of
from flows.maps.staleness import obstacle
from flows.progress import Progress, quiet
from flows.tables.text import records
from qmri_core.calibration.scales import calibrated_acquisitions, session_person, session_scales
from qmri_core.series.acquisition import Acquisition, Contrast
from storage.store.acquisitions import acquisitions_of
from storage.store.cohort import Cohort
from storage.store.schema import Status

if TYPE_CHECKING:
    from qmri_core.calibration.session_model import PersonLevels
    from qmri_core.training.self_supervision import Images
    from storage.store.slots import Slot

HELD_OUT_SHARE = 0.2
"""Share of people, and of groups where there are at least `LEAST_GROUPS`, that no training sees."""
LEAST_GROUPS = 4
MOST_SESSIONS = 128
"""Read for training, random ones: 3 MB each at 1 mm."""
MOST_HELD_OUT = 16
SLICES = 12
"""Read of a session for training."""
HELD_OUT_SLICES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Pseudonyms of sessions to train on, and held out: of other people and, as far as can be, other groups."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def split(stored: Sequence[Mapping[str, Any]]) -> Split:
    """Divide sessions by person, never by session; the division of one store stays when it grows.

    People and groups are held out by the hash of their pseudonym or key. Sessions of held-out groups are trained on by
    nobody, and those of held-out people in other groups count only where no group is held out.

    Parameters
    ----------
    stored
        With ``session``, ``person`` and ``group``.
    """
    people = _lowest({str(row["person"]) for row in stored})
    names = {str(row["group"]) for row in stored}
    groups = _lowest(names) if len(names) >= LEAST_GROUPS else set()
    train = [row for row in stored if str(row["person"]) not in people and str(row["group"]) not in groups]
    others = [row for row in stored if str(row["person"]) in people]
    strict = [row for row in others if str(row["group"]) in groups]
    return Split(
        train=tuple(sorted(str(row["session"]) for row in train)),
        held_out=tuple(sorted(str(row["session"]) for row in strict or others)),
    )


def stored_images(
    cohort: Cohort, *, seed: int, progress: Progress = quiet
) -> tuple[list[Images], list[Images], dict[str, int]]:
    """Calibrated slices of a store's training split and of what is held out; both empty without two people.

    Groups without a calibration get their first.

    Returns
    -------
    tuple
        Slices to train on, slices held out, and for the record how many sessions and groups each comes from.
    """
    calibrate(cohort, progress=progress)
    cohort = cohort.refreshed()
    calibrations = current_calibrations(cohort)
    usable = [
        row
        for row in records(cohort.sessions)
        if row["status"] != Status.SKIPPED and obstacle(row, calibrations) is None and len(acquisitions_of(row)) > 1
    ]
    divided = split(usable)
    if not divided.train or not divided.held_out:
        return [], [], {}
    rows = {str(row["session"]): row for row in usable}
    drawn = [
        [str(name) for name in np.random.default_rng([seed, 6]).permutation(names)[:most]]
        for names, most in ((divided.train, MOST_SESSIONS), (divided.held_out, MOST_HELD_OUT))
    ]
    total = sum(map(len, drawn))
    read: list[list[Images]] = []
    for names, n in zip(drawn, (SLICES, HELD_OUT_SLICES), strict=True):
        images: list[Images] = []
        for name in names:
            progress(sum(map(len, read)) + len(images), total, "read slices")
            row = rows[name]
            scales = calibrations[str(row["group"])][1]
            acquisitions = calibrated_acquisitions(scales, acquisitions_of(row))
            of_session = scales, signals_of(row, acquisitions), acquisitions
            known = session_scales(*of_session), session_person(*of_session)
            if (slices := _slices(cohort, cohort.slots[name], acquisitions, *known, n, seed)) is not None:
                images.append(slices)
        read.append(images)
    counts = {
        f"{what}_{unit}": len({str(rows[name][column]) for name in names})
        for what, names in zip(("train", "held_out"), drawn, strict=True)
        for unit, column in (("sessions", "session"), ("people", "person"), ("groups", "group"))
    }
    return read[0], read[1], counts


def _slices(
    cohort: Cohort,
    slot: Slot,
    acquisitions: Mapping[Contrast, Acquisition],
    scales: Mapping[Contrast, float],
    person: PersonLevels,
    n: int,
    seed: int,
) -> Images | None:
    from qmri_core.training.self_supervision import calibrated_slices

    stored = cohort.read(slot, [*map(str, acquisitions), "brain_mask"])
    images = {contrast: stored[str(contrast)] for contrast in acquisitions}
    mask = (stored["brain_mask"] == 1).astype(np.uint8)
    rng = np.random.default_rng([seed, 7, int(hashlib.sha256(slot.session.encode()).hexdigest()[:8], 16)])
    return calibrated_slices(images, mask, acquisitions, scales, person, n=n, rng=rng)


def _lowest(names: set[str]) -> set[str]:
    """Names whose hash is in the lowest fifth; at least the lowest of several, so that small stores hold out one."""
    ranks = {name: int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32 for name in names}
    if len(ranks) < 2:
        return set()
    return {name for name, rank in ranks.items() if rank < HELD_OUT_SHARE or rank == min(ranks.values())}
