"""Frames to volumes: which slices belong together, in which order, and why some make no volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qmri_core.series.acquisition import SeriesHeader
from storage.source.dicom.frames import Frame
from storage.source.series import NO_AFFINE, Matrix

SAME_DIRECTION = 2e-3  # cosines: writers round them to six digits, and some scanners jitter in the last
SAME_SPACING = 2e-3  # mm in the plane
EVEN = 0.02  # of the spacing: positions are written with two digits or more
SHEAR = 0.01  # mm of sideways drift per mm along the normal
_PARTING = frozenset({"diffusion", "angiography", "contrast_agent", "field_map"})
"""Traits in which slices of one volume cannot differ."""
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Slices in the order of z, and the volume that they make unless ``defect`` says why they make none."""

    frames: tuple[Frame, ...] = field(repr=False)
    shape: tuple[int, int, int] = (0, 0, 0)
    spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    affine: Matrix = NO_AFFINE
    defect: str = ""
    is_copy: bool = False
    n_volumes: int = 1
    n_strays: int = 0
    """Images of the same part that are left out, since they belong to no place of the volume."""
    rounding: float = 0.0
    """Millimetres to which positions are rounded, if that alone makes the steps uneven."""


STRAYS = 20
"""A volume has this many images, at least, for each single one among them that is left out; the first is free."""

MIN_AROUND = 10
"""Images of a volume, at least, among which a single one is a stray."""


def without_strays(parts: list[list[Frame]]) -> tuple[list[list[Frame]], list[list[Frame]]]:
    """Part what one series holds into volumes, and single images of another kind among those of a whole volume.

    A localizer, whose orientations have some images each, has no strays.
    """
    largest = max(parts, key=len)
    few = max(1, len(largest) // STRAYS)
    strays = [part for part in parts if len(part) <= few]
    if not strays or len(largest) < MIN_AROUND or sum(map(len, strays)) > few or stack(largest).defect:
        return parts, []
    return [part for part in parts if len(part) > few], strays


def alike_parts(frames: Iterable[Frame]) -> list[list[Frame]]:
    """Separate the frames of one series by complex part, echo, preparation, orientation and raster.

    Values within a tolerance stay together, so that rounding in a header does not tear a volume apart.
    """
    exact: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        key = (frame.header, frame.orientation, frame.pixel_spacing, frame.traits & _PARTING)
        exact.setdefault(key, []).append(frame)
    merged: list[list[Frame]] = []
    for members in sorted(exact.values(), key=lambda one: one[0].orientation is None):
        for group in merged:
            if _alike(group[0], members[0]):
                group.extend(members)
                break
        else:
            merged.append(list(members))
    return merged


def _alike(one: Frame, other: Frame) -> bool:
    a, b = one.header, other.header
    return (
        a.image_type == b.image_type
        and a.scanning_sequence == b.scanning_sequence
        and one.traits & _PARTING == other.traits & _PARTING
        and _close(a.echo_time, b.echo_time, 5e-5, 5e-3)
        and _close(a.inversion_time, b.inversion_time, 1e-3, 1e-2)
        and _close(a.flip_angle, b.flip_angle, 1e-2, 0.0)
        and _close(a.repetition_time, b.repetition_time, 1e-3, 5e-2)
        and (None in {one.orientation, other.orientation} or same_orientation(one.orientation, other.orientation))
        and _near(one.pixel_spacing, other.pixel_spacing, SAME_SPACING)
    )


def same_timing(a: SeriesHeader, b: SeriesHeader) -> bool:
    """Whether two headers give the same repetition and echo time."""
    return _close(a.echo_time, b.echo_time, 5e-5, 5e-3) and _close(a.repetition_time, b.repetition_time, 1e-3, 5e-2)


def same_orientation(a: tuple[float, ...] | None, b: tuple[float, ...] | None) -> bool:
    """Whether two pairs of direction cosines are equal within rounding."""
    return _near(a, b, SAME_DIRECTION)


def _close(a: float | None, b: float | None, absolute: float, relative: float) -> bool:
    if a is None or b is None:
        return a is b
    return abs(a - b) <= max(absolute, relative * max(abs(a), abs(b)))


def _near(a: tuple[float, ...] | None, b: tuple[float, ...] | None, tolerance: float) -> bool:
    if a is None or b is None:
        return a is b
    return all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


def stacks(frames: Sequence[Frame]) -> list[Stack]:
    """Volumes that the frames of one part make: usually one.

    Second and further copies of the same instance become stacks of their own, marked as copies: the same identifier and
    place, and the same pixels as far as two transfer syntaxes can be compared. Frames that fill the
    same positions several times are separated where a temporal position or acquisition number does so evenly.
    """
    ordered = sorted(frames, key=lambda frame: (frame.instance.path, frame.index))
    seen: dict[Hashable, int] = {}
    pixels: dict[Hashable, str] = {}
    copies: list[list[Frame]] = []
    for frame in ordered:
        one = frame.instance
        key: Hashable = (one.sop_instance or one.path, frame.index, _rounded(frame.position))
        if pixels.setdefault((key, one.transfer_syntax), one.pixels) != one.pixels:
            key = (one.path, key)  # another image under the same identifier
        occurrence = seen.get(key, 0)
        seen[key] = occurrence + 1
        if occurrence == len(copies):
            copies.append([])
        copies[occurrence].append(frame)
    result: list[Stack] = []
    for occurrence, members in enumerate(copies):
        is_copy = occurrence > 0
        volumes = [members] if is_copy else _volumes(members)
        made = [stack(part, is_copy=is_copy, n_volumes=len(volumes)) for part in volumes]
        result += made if len(made) > 1 or not made[0].defect else _freed(made[0])
    return result


def _freed(volume: Stack) -> list[Stack]:
    """Take single images out of a stack that has a defect, if it is whole without them."""
    frames = volume.frames
    few = max(1, len(frames) // STRAYS)
    if len(frames) <= MIN_AROUND:
        return [volume]
    for strays in (*_odd_counters(frames, few), _doubles(frames, few)):
        out = {id(frame) for frame in strays}
        rest = stack([frame for frame in frames if id(frame) not in out], is_copy=volume.is_copy)
        if out and not rest.defect:
            return [replace(rest, n_strays=len(out)), *(stack([frame], is_copy=volume.is_copy) for frame in strays)]
    return [volume]


def _odd_counters(frames: Sequence[Frame], few: int) -> Iterator[list[Frame]]:
    """Frames of which a counter or clock has another value than nearly all have."""
    for counter in range(min(len(frame.volume) for frame in frames)):
        common = Counter(frame.volume[counter] for frame in frames).most_common(1)[0]
        if len(frames) - common[1] <= few:
            yield [frame for frame in frames if frame.volume[counter] != common[0]]


def _doubles(frames: Sequence[Frame], few: int) -> list[Frame]:
    """Of images that share a position those whose instance number is out of line; none if there are many."""
    places: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        places.setdefault(_rounded(frame.position), []).append(frame)
    if any(place is None for place in places) or not 0 < len(frames) - len(places) <= few:
        return []
    single = [members[0] for members in places.values() if len(members) == 1]
    heights = np.asarray([frame.position for frame in single])
    numbers = np.asarray([frame.instance.instance_number for frame in single], dtype=float)
    line = np.linalg.lstsq(np.c_[heights, np.ones(len(single))], numbers, rcond=None)[0]
    strays: list[Frame] = []
    for members in places.values():
        away = [abs(frame.instance.instance_number - np.r_[frame.position or (), 1.0] @ line) for frame in members]
        if len(members) > 1 and sorted(away)[1] - min(away) > 1:
            strays += [frame for frame, far in zip(members, away, strict=True) if far != min(away)]
    return strays


def _rounded(position: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return None if position is None else tuple(round(value, 2) for value in position)


def _volumes(frames: list[Frame]) -> list[list[Frame]]:
    """Frames parted by a counter or clock of the header, if that and nothing less gives the same positions each time.

    A counter that parts the slices of one volume (those of a second pass, say) gives other positions in each part.
    """
    if len(frames) < 2 or not stack(frames).defect:
        return [frames]
    for counter in range(min(len(frame.volume) for frame in frames)):
        parts: dict[float, list[Frame]] = {}
        for frame in frames:
            parts.setdefault(frame.volume[counter], []).append(frame)
        if len(parts) > 1 and len({len(part) for part in parts.values()}) == 1:
            volumes = [stack(parts[value]) for value in sorted(parts)]
            if not any(volume.defect for volume in volumes) and all(_coincide(volumes[0], one) for one in volumes):
                return [list(volume.frames) for volume in volumes]
    return [frames]


def _coincide(one: Stack, other: Stack) -> bool:
    a, b = (np.asarray([frame.position for frame in volume.frames]) for volume in (one, other))
    return bool(np.abs(a - b).max() < 0.1 * one.spacing[2])


HEAD = 100.0
"""Millimetres: a volume of evenly spaced slices that reaches so far is no part of another."""


def join(volumes: Sequence[Stack]) -> list[Stack]:
    """Put together again what one acquisition was split into, whatever the series identifiers say.

    ``volumes`` are of one study. Those of equal timing, orientation and raster are one volume if all their slices
    together are evenly spaced, without gap or double, and none of them is a head by itself; where all of them are not,
    those of one series number may be.
    """
    families: list[list[Stack]] = []
    result: list[Stack] = []
    for volume in volumes:
        if not _may_be_part(volume):
            result.append(volume)
            continue
        family = next((one for one in families if _same_kind(one[0].frames[0], volume.frames[0])), None)
        if family is None:
            families.append([volume])
        else:
            family.append(volume)
    for family in families:
        whole = _union(family)
        if whole is not None:
            result.append(whole)
            continue
        numbers: dict[int, list[Stack]] = {}
        for part in family:
            numbers.setdefault(part.frames[0].instance.number, []).append(part)
        for parts in numbers.values():
            whole = _union(parts)
            result += parts if whole is None else [whole]
    return result


def _may_be_part(volume: Stack) -> bool:
    if volume.is_copy or volume.n_volumes > 1 or any(frame.instance.problem for frame in volume.frames):
        return False
    return not (len(volume.frames) > 1 and not volume.defect and _is_head(volume))


def _is_head(volume: Stack) -> bool:
    """Whether a stack reaches over a head with slices that do not leave room for others between them."""
    thickness = volume.frames[0].thickness or volume.spacing[2]
    return volume.spacing[2] * volume.shape[2] >= HEAD and volume.spacing[2] < 1.7 * thickness


def _same_kind(one: Frame, other: Frame) -> bool:
    a, b = one.instance, other.instance
    return (a.rows, a.columns) == (b.rows, b.columns) and _alike(one, other)


def _union(parts: Sequence[Stack]) -> Stack | None:
    if len(parts) < 2:
        return None
    whole = stack([frame for part in parts for frame in part.frames])
    thickness = whole.frames[0].thickness or whole.spacing[2]
    return None if whole.defect or whole.spacing[2] < 0.7 * thickness else whole


def stack(frames: Sequence[Frame], *, is_copy: bool = False, n_volumes: int = 1) -> Stack:
    """Order slices along their normal and derive the affine, or say what is wrong with them."""

    def broken(defect: str) -> Stack:
        return Stack(frames=tuple(frames), defect=defect, is_copy=is_copy, n_volumes=n_volumes)

    first = frames[0]
    lacking = sum(frame.position is None or frame.orientation is None for frame in frames)
    if lacking:
        return broken(f"{lacking} of {len(frames)} slices have no position or orientation")
    if first.pixel_spacing is None or min(first.pixel_spacing) <= 0:
        return broken("no pixel spacing")
    assert first.orientation is not None  # noqa: S101  # counted above
    row, column = np.asarray(first.orientation[:3]), np.asarray(first.orientation[3:])
    if abs(np.linalg.norm(row) - 1) > 1e-2 or abs(np.linalg.norm(column) - 1) > 1e-2 or abs(row @ column) > 1e-2:
        return broken("direction cosines are not orthonormal")
    normal = np.cross(column, row)  # the direction in which highdicom orders slices
    positions = np.asarray([frame.position for frame in frames])
    order = np.argsort(positions @ normal, kind="stable")
    ordered = tuple(frames[index] for index in order)
    positions = positions[order]
    height = positions @ normal
    shape = (first.instance.columns, first.instance.rows, len(frames))
    rounding = 0.0
    if len(frames) == 1:
        step = (first.thickness or 1.0) * normal
    else:
        defect = _uneven(height, ordered) or _sheared(positions, normal)
        rounding = _rounding(positions) if defect else 0.0
        if defect and not (rounding and _is_even_but_for(rounding, positions, normal)):
            return broken(defect)
        step = (positions[-1] - positions[0]) / (len(frames) - 1)
        if defect := _thinned(ordered, float(np.linalg.norm(step))) or _half_scaled(ordered):
            return broken(defect)
    affine = np.eye(4)
    affine[:3, 0] = _LPS_TO_RAS @ row * first.pixel_spacing[1]
    affine[:3, 1] = _LPS_TO_RAS @ column * first.pixel_spacing[0]
    affine[:3, 2] = _LPS_TO_RAS @ step
    affine[:3, 3] = _LPS_TO_RAS @ positions[0]
    return Stack(
        frames=ordered,
        shape=shape,
        spacing=(first.pixel_spacing[1], first.pixel_spacing[0], float(np.linalg.norm(step))),
        affine=matrix(affine),
        is_copy=is_copy,
        n_volumes=n_volumes,
        rounding=rounding,
    )


ROUNDINGS = (1.0, 0.1, 0.01)
"""Millimetres to which exporters round positions."""


def _rounding(positions: np.ndarray) -> float:
    """Millimetres to which all coordinates are rounded visibly; 0 if they have more than two decimals."""
    scaled = (positions / size for size in ROUNDINGS)
    return next((r for r, s in zip(ROUNDINGS, scaled, strict=True) if np.abs(s - np.rint(s)).max() < 1e-4), 0.0)


def _is_even_but_for(rounding: float, positions: np.ndarray, normal: np.ndarray) -> bool:
    """Whether slices are evenly spaced along a straight line, but for coordinates that were rounded.

    Rounding that would hide a missing slice is none that is allowed for.
    """
    number = np.arange(len(positions))
    design = np.c_[number, np.ones(len(number))]
    (step, _), *_ = np.linalg.lstsq(design, positions, rcond=None)
    away = np.abs(positions - design @ np.linalg.lstsq(design, positions, rcond=None)[0])
    along = float(step @ normal)
    sideways = float(np.linalg.norm(step - along * normal)) * len(number)
    height = positions @ normal
    reach = rounding * float(np.abs(normal).sum())
    slack = max(EVEN * along, 0.02)
    return bool(
        0 < reach < 0.4 * along
        and away.max() <= 0.5 * rounding + slack
        and np.abs(np.diff(height) - along).max() <= reach + slack
        and sideways <= SHEAR * along * len(number) + rounding
    )


def _uneven(height: np.ndarray, frames: Sequence[Frame]) -> str:
    """Say which neighbours are too close or too far apart; empty if none."""
    gaps = np.diff(height)
    typical = float(np.median(gaps))
    tolerance = max(EVEN * typical, 0.02)
    number = [frame.instance.instance_number or frame.index + 1 for frame in frames]
    doubled = np.flatnonzero(gaps < 0.01)
    if doubled.size:
        where = int(doubled[0])
        return f"{doubled.size + 1} of {len(frames)} slices share a position, first instance {number[where]}"
    wrong = np.flatnonzero(np.abs(gaps - typical) > tolerance)
    if wrong.size:
        where = int(wrong[0])
        return (
            f"gap of {gaps[where]:.2f} mm, not {typical:.2f} mm, between instances {number[where]} and "
            f"{number[where + 1]}: {wrong.size} uneven gaps"
        )
    return ""


def _thinned(frames: Sequence[Frame], step: float) -> str:
    """Say that slices between those that are there are missing, if the header's step and its numbering both say so."""
    stated = frames[0].step or 0.0
    times = round(step / stated) if stated > 0 else 1
    if times < 2 or abs(step - times * stated) > 0.05 * step:
        return ""
    numbers = np.diff([frame.instance.instance_number for frame in frames])
    if np.any(np.abs(numbers) != times):
        return ""
    return f"slices lie {step:.2f} mm apart, not {stated:.2f} mm, and their numbers skip as many"


def _half_scaled(frames: Sequence[Frame]) -> str:
    """Say that some slices lack the scale that others have, so that their values are on two scales."""
    for lacking, having in (("unscaled", ""), ("plain", "rescaled")):
        count = sum(lacking in frame.traits for frame in frames)
        has = sum(having in frame.traits for frame in frames) if having else len(frames) - count
        if count and has:
            return f"{count} of {len(frames)} slices lack the scale factor that {has} have"
    return ""


def _sheared(positions: np.ndarray, normal: np.ndarray) -> str:
    travel = positions[-1] - positions[0]
    along = float(travel @ normal)
    expected = positions[0] + np.linspace(0, 1, len(positions))[:, None] * travel
    wobble = float(np.abs(positions - expected).max())
    sideways = float(np.linalg.norm(travel - along * normal))
    if sideways > SHEAR * along + 0.02:
        return f"slices drift sideways by {sideways:.2f} mm over {along:.1f} mm"
    return f"slices are up to {wobble:.2f} mm beside a straight line" if wobble > max(EVEN * along, 0.1) else ""


def matrix(affine: np.ndarray) -> Matrix:
    """Nested tuples of a 4 x 4 array."""
    return tuple((float(r[0]), float(r[1]), float(r[2]), float(r[3])) for r in affine)
