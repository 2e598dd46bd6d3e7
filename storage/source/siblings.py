"""What the images of one session say about each other: the context in which each is decided on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Self

from qmri_core.series.acquisition import SeriesHeader
from qmri_core.series.classification import Context, SkipReason, is_mprage
from storage.source.dicom.frames import Frame
from storage.source.series import Series
from storage.source.stacks import Stack, same_orientation, same_timing

_TRAITS = frozenset(field.name for field in fields(Context) if field.type == "bool")
"""Flags of `Context` that frames may carry as traits."""

BETWEEN = 0.6
"""Step between the slices of a 2D acquisition over their thickness; slices that lie closer were made between others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What all frames of a session tell together."""

    began: float | None
    """When the first acquisition began."""
    lag: int | None
    """Days from the acquisition of an object to its making, the least of all."""
    n_images: Mapping[str, int]
    """Images by series identifier."""

    @classmethod
    def of(cls, frames: Iterable[Frame]) -> Self:
        """Overview of a session's frames."""
        moments, lags = set(), set()
        images: dict[str, set[object]] = defaultdict(set)
        for frame in frames:
            one = frame.instance
            images[one.series].add((one.sop_instance or one.path, frame.index, frame.position))
            if frame.instance.problem is None and frame.moment is not None:
                moments.add(frame.moment)
            if (lag := _lag(frame)) is not None:
                lags.add(lag)
        counts = {series: len(several) for series, several in images.items()}
        return cls(began=min(moments, default=None), lag=min(lags, default=None), n_images=counts)


def _lag(frame: Frame) -> int | None:
    """Days from the acquisition of an object to its making; None if not known."""
    if frame.created is None or frame.moment is None or frame.moment < _DAY:
        return None
    return frame.created - int(frame.moment // _DAY)


_DAY = 86_400.0


def context_of(parts: list[list[Frame]], strays: list[list[Frame]]) -> Context:
    """Gather what the parts of one series identifier say about each other; ``strays`` lie among them."""
    orientations: list[tuple[float, ...] | None] = []
    echoes: list[SeriesHeader] = []
    for part in parts:
        header = part[0].header
        known_here = part[0].orientation is not None
        if known_here and not any(same_orientation(part[0].orientation, known) for known in orientations):
            orientations.append(part[0].orientation)
        if not any(same_timing(header, known) for known in echoes) and header.echo_time is not None:
            echoes.append(header)
    return Context(
        n_orientations=max(1, len(orientations)),
        n_echoes=max(1, len(echoes)),
        diffusion=any("diffusion" in part[0].traits for part in parts),
        n_strays=sum(map(len, strays)),
    )


def context_in(volume: Stack, context: Context, overview: Overview) -> Context:
    """Complete the context of a volume by what its own frames say, and its place in the session's time."""
    traits = frozenset[str]().union(*(frame.traits for frame in volume.frames)) & _TRAITS
    moments = [frame.moment for frame in volume.frames if frame.moment is not None]
    acquired = min(moments) - overview.began if moments and overview.began is not None else None
    context = replace(
        context,
        n_volumes=volume.n_volumes,
        n_strays=context.n_strays + volume.n_strays,
        rounding=volume.rounding,
        n_missing=_n_missing(volume, overview),
        acquired=acquired,
        **dict.fromkeys(traits, True),
    )
    return replace(context, processed=True) if _is_processed(volume, overview) else context


def _n_missing(volume: Stack, overview: Overview) -> int:
    """How many images fewer there are than the header counts, in all series that a volume comes from."""
    declared = volume.frames[0].n_declared or 0
    present = sum(overview.n_images[series] for series in {frame.instance.series for frame in volume.frames})
    return max(0, declared - present)


def _is_processed(volume: Stack, overview: Overview) -> bool:
    """Whether somebody made the images from others: days later than the rest, or with slices between the acquired."""
    first = volume.frames[0]
    lag = _lag(first)
    if lag is not None and overview.lag is not None and lag > overview.lag:
        return True
    between = first.header.mr_acquisition_type == "2D" and first.thickness is not None and len(volume.frames) > 1
    return between and 0 < volume.spacing[2] < BETWEEN * (first.thickness or 0.0)


def with_siblings(members: Sequence[Series]) -> list[Series]:
    """Tell each series of one session of its phase images, and of further echoes, inversion times and flip angles."""
    volumes = [one for one in members if one.shape != (0, 0, 0) and one.problem is not SkipReason.DUPLICATE]
    prepared = {id(one): replace(one.header, echo_time=None) for one in members}
    result = []
    for series in members:
        alike = [
            one
            for one in volumes
            if one.shape == series.shape and _same_preparation(prepared[id(one)], prepared[id(series)])
        ]
        headers = [one.header for one in alike if not _PHASE & set(one.header.image_type)]
        same_angle = [one for one in headers if _close(one.flip_angle, series.header.flip_angle)]
        same_echo = [one for one in headers if _close(one.echo_time, series.header.echo_time)]
        n_echoes = _n_different(one.echo_time for one in same_angle)
        combined = n_echoes > 1 and is_mprage(series.header) and _is_combined(series, alike)
        context = replace(
            series.context,
            combined=combined,
            n_echoes=1 if combined else series.context.n_echoes,
            n_inversion_times=max(
                1, _n_different(one.inversion_time for one in headers), _named_inversions(series, volumes) + 1
            ),
            n_flip_angles=max(1, _n_different(one.flip_angle for one in same_echo)),
            n_sibling_echoes=1 if combined else max(1, n_echoes),
            has_phase=any({"P", "PHASE"} & set(one.header.image_type) for one in alike),
        )
        result.append(replace(series, context=context))
    return result


def _named_inversions(series: Series, volumes: Iterable[Series]) -> int:
    """How many images of the same cycle and shape are named as one of several inversion times, as of an MP2RAGE."""
    return sum(
        one.context.n_inversion_times > 1
        and one.shape == series.shape
        and _close(one.header.repetition_time, series.header.repetition_time)
        for one in volumes
    )


_PHASE = {"P", "PHASE", "R", "REAL", "I", "IMAGINARY"}


_COMBINED = frozenset({"RMS", "SOS", "MEAN", "COMBINED"})
"""Image types of what was made of several echoes."""


def _is_combined(series: Series, alike: Sequence[Series]) -> bool:
    """Whether a series was made of the echoes beside it: by its type, or as the one beside a series of all of them."""
    kinds = set(series.header.image_type)
    echoes = [one for one in alike if one.number != series.number and one.context.n_echoes > 1]
    plain = [one for one in alike if "M" in one.header.image_type]
    beside = len(echoes) > 1 and series.context.n_echoes == 1
    return bool(_COMBINED & kinds) or beside or ("OTHER" in kinds and "M" not in kinds and len(plain) > 1)


def _close(a: float | None, b: float | None) -> bool:
    return a is b if a is None or b is None else abs(a - b) <= 0.01 * max(abs(a), abs(b))


def _n_different(values: Iterable[float | None]) -> int:
    """How many values there are that differ by more than a hundredth."""
    known = sorted(value for value in values if value is not None)
    return len(known) and 1 + sum(b - a > 0.01 * b for a, b in pairwise(known))


def _same_preparation(one: SeriesHeader, other: SeriesHeader) -> bool:
    """Whether two headers without their echo times are of one preparation."""
    return same_timing(one, other) and one.scanning_sequence == other.scanning_sequence
