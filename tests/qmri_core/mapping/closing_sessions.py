"""Right simulated sessions of all protocols taken to maps at 3 mm, and the same with a mistake planted."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.calibration.hierarchy import solve_levels
from qmri_core.calibration.levels import trend_covariates
from qmri_core.calibration.scales import (
    PRIOR_SPREADS,
    ScaleCalibration,
    calibrate_group,
    calibrated_acquisitions,
    level_group,
    scale_spreads,
    session_person,
    session_scales,
    tissue_signals,
)
from qmri_core.calibration.session_model import Spreads
from qmri_core.mapping.closure import Closure, MappedSession, closure
from qmri_core.mapping.inference import Maps, session_maps
from qmri_core.mapping.network import MapNetwork
from qmri_core.preprocessing.checks import ImageMismatchError, check
from qmri_core.preprocessing.tissue import TissueError, core, segment
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.tissues import TISSUES
from tests.qmri_core.preprocessing.mistaken_sessions import Prepared

T1W, T2W, FLAIR = Contrast
Scales = Mapping[Contrast, ScaleCalibration]
Acquisitions = Mapping[Contrast, Acquisition]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Right sessions of a group, and what is calibrated from them."""

    sessions: tuple[Prepared, ...]
    tissues: tuple[NDArray[np.uint8], ...]
    calibration: Scales
    spreads: Spreads


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """What became of a session: ``refused`` by the checks of ingest, else maps and what closure says of them."""

    refused: bool
    session: MappedSession | None = None
    closure: Closure | None = None

    @property
    def is_stopped(self) -> bool:
        """By ingest or closure."""
        return self.refused or (self.closure is not None and self.closure.has_failed)


def calibrated(sessions: Sequence[Prepared], acquisitions: Acquisitions, spreads: Spreads | None = None) -> Scales:
    """Calibration of a group alone, from all of its sessions."""
    tissues = [segment(one.images, one.mask) for one in sessions]
    signals = [tissue_signals(one.images, tissue) for one, tissue in zip(sessions, tissues, strict=True)]
    n = len(signals)
    covariates = trend_covariates(np.full(n, np.nan), np.zeros(n))
    people = [f"person-{number}" for number in range(n)]
    known = spreads or scale_spreads([(signals, acquisitions)])
    level = level_group(
        signals, acquisitions, people, clinics=["clinic"] * n, covariates=covariates, scanner="scanner", cohort=known
    )
    levels = solve_levels([level])
    return calibrate_group(signals, acquisitions, known, people=people, hidden=levels.hidden[0], level=levels.groups[0])


def groups_of(sessions: Sequence[Prepared]) -> dict[str, Group]:
    """Sessions by group, each calibrated by itself."""
    members: dict[str, list[Prepared]] = defaultdict(list)
    for one in sessions:
        members[one.group].append(one)
    return {
        name: Group(
            sessions=tuple(some),
            tissues=tuple(segment(one.images, one.mask) for one in some),
            calibration=calibrated(some, some[0].acquisitions, PRIOR_SPREADS),
            spreads=PRIOR_SPREADS,
        )
        for name, some in members.items()
    }


def mapped(network: MapNetwork, session: Prepared, calibration: Scales) -> Mapped:
    """Take a session the way that ingest and inference take it, from its aligned images on."""
    try:
        check(session.images, session.mask, session.spacing, session.acquisitions)
        tissue = segment(session.images, session.mask)
    except (ImageMismatchError, TissueError):
        return Mapped(refused=True)
    acquisitions = calibrated_acquisitions(calibration, session.acquisitions)
    of_session = calibration, tissue_signals(session.images, tissue), acquisitions
    scales, person = session_scales(*of_session), session_person(*of_session)
    maps = session_maps(network, session.images, session.mask, acquisitions, scales, person=person)
    inside = np.isfinite(maps.t1)
    found = MappedSession(
        maps=_named(maps, inside, ""),
        deviations=_named(maps, inside, "_sd"),
        signals={contrast: (session.images[contrast] / scales[contrast])[inside] for contrast in acquisitions},
        cores={name: core(tissue, label)[inside] for name, label in TISSUES.items()},
        acquisitions=acquisitions,
        person=person,
    )
    return Mapped(refused=False, session=found, closure=closure(found))


def _named(maps: Maps, inside: NDArray[np.bool_], suffix: str) -> dict[str, NDArray[np.float32]]:
    return {f"{name.upper()}map": getattr(maps, f"{name}{suffix}")[inside] for name in ("t1", "t2", "pd")}


def is_covered(planted: Mapped, right: Mapped) -> bool:
    """Whether the right maps' medians of white and grey matter lie within two stated deviations of the planted ones."""
    if planted.session is None or right.session is None or planted.closure is None:
        return False
    for name in ("T1map", "T2map"):
        factor = planted.closure.widened.get(name, 1.0)
        for tissue in ("WM", "GM"):
            here, there = planted.session.places(tissue), right.session.places(tissue)
            values = planted.session.maps[name][here]
            sd = float(np.median(planted.session.deviations[name][here] / values)) * factor
            if abs(math.log(np.median(values) / np.median(right.session.maps[name][there]))) > 2 * sd:
                return False
    return True


def without_contrast(session: Prepared, index: int) -> Prepared:
    """A T1w in which white and grey matter are one, fluid stays dark."""
    image, rng = session.images[T1W], np.random.default_rng(index)
    tissue = segment(session.images, session.mask)
    flat = np.nanmedian(image[tissue >= 2]) * (1 + 0.04 * rng.standard_normal(image.shape))
    return _with_image(session, T1W, np.where(tissue >= 2, flat, image))


def swapped(session: Prepared, index: int) -> Prepared:
    """Two series under each other's name."""
    one, other = ((T1W, T2W), (T2W, FLAIR), (T1W, FLAIR))[index % 3]
    images = {**session.images, one: session.images[other], other: session.images[one]}
    return replace(session, images=images)


def misaligned(session: Prepared, index: int) -> Prepared:
    """One series 5 mm away, along each axis in turn."""
    contrast, axis = (T1W, T2W, FLAIR)[index % 3], index // 3 % 3
    steps = [0.0, 0.0, 0.0]
    steps[axis] = 5.0 / session.spacing[2 - axis]
    image = session.images[contrast]
    moved = ndimage.shift(np.nan_to_num(image), steps, order=1, mode="nearest")
    return _with_image(session, contrast, np.where(np.isfinite(image), moved, np.nan))


def wrong_mask(session: Prepared, index: int) -> Prepared:
    """A mask that lies 15 mm away, or is 6 mm too wide."""
    if index % 2:
        return replace(session, mask=ndimage.binary_dilation(session.mask, iterations=2).astype(np.uint8))
    return replace(session, mask=np.roll(session.mask, round(15 / session.spacing[1]), axis=1))


def of_field(session: Prepared, index: int) -> Prepared:  # noqa: ARG001 - as all of them
    """3 T taken for 1.5 T."""
    return _with_headers(session, {contrast: {"field_strength": 1.5} for contrast in session.acquisitions})


def header_lies(name: str) -> Callable[[Prepared, int], Prepared]:
    """A parameter 30 % too long or too short in the headers: TI of FLAIR or T1w, TE of the T2w, angle of the T1w."""

    def change(session: Prepared, index: int) -> Prepared:
        factor = 1.3 if index % 2 else 0.7
        stated = session.acquisitions
        if name == "TI":
            has_time = [contrast for contrast in (T1W, FLAIR) if stated[contrast].inversion_time is not None]
            contrast = has_time[index // 2 % len(has_time)]
            return _with_headers(
                session, {contrast: {"inversion_time": factor * float(stated[contrast].inversion_time or 0)}}
            )
        if name == "TE":
            t2w = stated[T2W]
            times: dict[str, object] = {"echo_time": factor * t2w.echo_time}
            if t2w.echo_spacing is not None:
                times["echo_spacing"] = factor * t2w.echo_spacing
            return _with_headers(session, {T2W: times})
        return _with_headers(session, {T1W: {"flip_angle": factor * stated[T1W].flip_angle}})

    return change


def _with_image(session: Prepared, contrast: Contrast, image: NDArray[np.float64]) -> Prepared:
    return replace(session, images={**session.images, contrast: image.astype(np.float32)})


def _with_headers(session: Prepared, changes: Mapping[Contrast, Mapping[str, object]]) -> Prepared:
    stated = session.acquisitions
    changed = {contrast: replace(stated[contrast], **values) for contrast, values in changes.items()}  # type: ignore[arg-type]
    return replace(session, acquisitions={**stated, **changed})


OF_SESSIONS: Mapping[str, Callable[[Prepared, int], Prepared]] = {
    "T1w without contrast": without_contrast,
    "series swapped": swapped,
    "misaligned by 5 mm": misaligned,
    "wrong mask": wrong_mask,
}
"""Mistakes of one session of a right group."""
OF_GROUPS: Mapping[str, Callable[[Prepared, int], Prepared]] = {
    "wrong field strength": of_field,
    "TI off by 30 %": header_lies("TI"),
    "TE off by 30 %": header_lies("TE"),
    "angle off by 30 %": header_lies("angle"),
}
"""Mistakes of a protocol, which all sessions of a group have, and its calibration too."""
