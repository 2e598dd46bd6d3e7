"""Keys of scanner and protocol groups, and the grid of a group.

Bins. A number enters a protocol key as the middle of a bin of the width in `TOLERANCES`. Bin edges lie off every number
that a console shows (multiples of 1 ms, 0.01 ms, 1 degree and so on), by at least `EDGE_MARGIN` of a width, so that
rounding in a header (499.999786 ms for 500 ms) never moves a value to the next bin. Values that differ by more than a
width get different keys always, values that differ by less than the margin get the same key wherever they are shown
numbers.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping
from itertools import combinations

from qmri_core.series.acquisition import CONTRASTS, Acquisition, Contrast, SeriesHeader
from qmri_core.series.geometry import Affine, Grid, closest_canonical, spacing_of

EXTENT = (184.0, 224.0, 184.0)
"""Millimetres x, y, z that every group's grid covers: an adult head's brain with 10 mm around it."""

REFERENCES = (Contrast.T2W, Contrast.FLAIR, Contrast.T1W)
"""Contrast whose spacing and frame a group takes: the first that is there."""

TOLERANCES: dict[str, float] = {
    "repetition_time": 0.01,
    "inner_repetition_time": 0.0005,
    "echo_time": 0.002,
    "short_echo_time": 0.0005,
    "inversion_time": 0.01,
    "angle": math.radians(2.0),
    "echo_spacing": 0.0005,
    "echo_train_length": 4.0,
    "field_strength": 0.5,
    "spacing": 0.5,
}
"""Width of the bins: seconds, radians, echoes, tesla, millimetres."""

EDGE_MARGIN = 0.0035
"""Distance of bin edges from numbers shown on consoles, relative to the width."""

_EDGE = 0.5 + 2 * EDGE_MARGIN  # where a bin ends, in widths above its middle
_SHORT = 0.02  # s; echo times below have finer bins
_INNER = 0.1  # s; repetition times below are those of single gradient echoes


DIGEST_LENGTH = 12
"""Hexadecimal digits of the digest that ends a protocol's key: with 48 bits no two protocols share one by chance."""

NEAR = 0.15
"""Distance from a bin's edge, in widths, within which a session may belong to the neighbouring group as well."""

MAX_ALTERNATIVES = 8
"""Keys that a session near edges may have beside its own."""


def neighbours(value: float, width: float) -> tuple[int, ...]:
    """Bins other than its own whose edge is `NEAR` to a value: none or one."""
    number = binned(value, width)
    into = value / width - (number - 1 + _EDGE)
    return (number - 1,) if into < NEAR else (number + 1,) if into > 1 - NEAR else ()


def binned(value: float, width: float) -> int:
    """Return the number of the bin of ``width`` that holds ``value``; see the module's bin rule."""
    return math.ceil(value / width - _EDGE)


def scanner_key(header: SeriesHeader, device: str, *, software: bool = False) -> str:
    """Key of a scanner: manufacturer, model, field strength, pseudonym of the device; safe as a path.

    With ``software`` the digest of the software version is part of it, so that an upgrade makes another scanner.
    """
    strength = header.magnetic_field_strength
    field = "unknown-field" if strength is None else f"{_nominal(strength):g}t"
    model = re.sub(r"^(magnetom|signa|philips|siemens|ge)-(?=.)", "", header.model)
    parts = [header.manufacturer.lower() or "unknown", model or "model", field, device or "device"]
    if software and header.software:
        parts.append(header.software)
    return re.sub(r"[^a-z0-9.-]+", "-", "-".join(parts).lower()).strip("-.")


def _nominal(strength: float) -> float:
    """Field strength as it is sold: 1.494 T is a 1.5 T scanner."""
    width = TOLERANCES["field_strength"] if strength >= 1.0 else 0.1
    return round(round(strength / width) * width, 2)


def canonical_spacing(affine: Affine) -> tuple[float, float, float]:
    """Spacing in millimetres along the RAS axes nearest to the voxel axes, each taken once."""
    lengths = spacing_of(affine)
    order, _ = closest_canonical(affine)
    return (float(lengths[order[0]]), float(lengths[order[1]]), float(lengths[order[2]]))


def protocol_keys(
    acquisitions: Mapping[Contrast, Acquisition], spacings: Mapping[Contrast, tuple[float, float, float]]
) -> tuple[str, ...]:
    """The key of a protocol, and those of the groups behind the bin edges that it is `NEAR` to.

    Sessions of one protocol whose values scatter around an edge are brought together by putting each into the larger
    of its groups; see `settle`.

    Parameters
    ----------
    acquisitions
        Interpreted parameters of the contrasts that the session has.
    spacings
        Spacing per contrast along the RAS axes; see `canonical_spacing`.

    Returns
    -------
    tuple
        Keys, the protocol's own first: readable, lower case, safe as a path. One part per contrast, the group's
        spacing, and a digest of all binned parameters:
        ``t1w-mprage-tr2300-ti900_t2w-tse-tr6000-te100_1.0x1.0x1.0mm-3fa2b8c41d70``. `grid_of` needs nothing else.

    Raises
    ------
    ValueError
        If there is no contrast.
    """
    if not acquisitions:
        raise ValueError("a protocol needs at least one contrast; a session without any has no group")
    present = [contrast for contrast in CONTRASTS if contrast in acquisitions]
    reference = next(contrast for contrast in REFERENCES if contrast in acquisitions)
    own = {contrast: dict(_bins(acquisitions[contrast])) for contrast in present}
    places = [(contrast, name, other) for contrast in present for name, other in _near(acquisitions[contrast])]
    size = _group_spacing(spacings[reference])
    sizes = [size, *(other for other in _near_spacings(spacings[reference]) if other != size)]
    keys = []
    for chosen in _subsets(places):
        bins = {contrast: dict(own[contrast]) for contrast in present}
        for contrast, name, other in chosen:
            bins[contrast][name] = other
        keys += [_key(acquisitions, bins, one) for one in sizes]
    return tuple(dict.fromkeys(keys))[: 1 + MAX_ALTERNATIVES]


def _subsets(places: list[tuple[Contrast, str, int]]) -> list[tuple[tuple[Contrast, str, int], ...]]:
    """Subsets of at most three places, small ones first."""
    return [chosen for size in range(min(3, len(places)) + 1) for chosen in combinations(places, size)]


def _key(
    acquisitions: Mapping[Contrast, Acquisition],
    bins: Mapping[Contrast, Mapping[str, int]],
    spacing: tuple[float, float, float],
) -> str:
    parts = [_readable(acquisitions[contrast], numbers) for contrast, numbers in bins.items()]
    detail = repr([(contrast.value, tuple(numbers.items())) for contrast, numbers in bins.items()]) + repr(spacing)
    digest = hashlib.sha256(detail.encode()).hexdigest()[:DIGEST_LENGTH]
    size = "x".join(f"{value:.1f}" for value in spacing)
    return f"{'_'.join(parts)}_{size}mm-{digest}"


def settle(candidates: Mapping[str, tuple[str, ...]], stored: Mapping[str, str] | None = None) -> dict[str, str]:
    """Choose one group for each session, so that values at the edge of a bin tear no protocol apart.

    Parameters
    ----------
    candidates
        For each session the groups that it may belong to, its own first.
    stored
        Groups of the sessions that a store holds already.

    Returns
    -------
    dict
        The group of each session of ``candidates``: where it is stored already, else the one with most sessions,
        else its own. The result does not depend on the order of the sessions.
    """
    stored = stored or {}
    sizes = Counter(group for session, group in stored.items() if session not in candidates)
    sizes.update(
        held if (held := stored.get(session)) in groups else groups[0] for session, groups in candidates.items()
    )
    chosen = {}
    for session, groups in candidates.items():
        held = stored.get(session)
        most = max(sizes[group] for group in groups)
        first = min(group for group in groups if sizes[group] == most)
        chosen[session] = held if held in groups else first
    return chosen


_SHORT_NAMES = {
    "spin_echo": "se",
    "turbo_spin_echo": "tse",
    "spoiled_gradient_echo": "spgr",
    "mprage": "mprage",
    "inversion_recovery_tse": "irtse",
    "variable_flip_tse": "vfl",
}


def _readable(one: Acquisition, bins: Mapping[str, int]) -> str:
    parts = [one.contrast.value.lower(), _SHORT_NAMES[one.sequence.value]]
    width = TOLERANCES["repetition_time"] if one.repetition_time >= _INNER else TOLERANCES["inner_repetition_time"]
    parts.append(f"tr{_milliseconds(bins['repetition_time'] * width)}")
    if one.inversion_time is not None:
        parts.append(f"ti{_milliseconds(bins['inversion_time'] * TOLERANCES['inversion_time'])}")
    elif one.contrast is Contrast.T2W:
        width = TOLERANCES["short_echo_time"] if one.echo_time < _SHORT else TOLERANCES["echo_time"]
        parts.append(f"te{_milliseconds(bins['echo_time'] * width)}")
    return "-".join(parts)


def _milliseconds(value: float) -> str:
    return f"{value * 1000:.1f}".removesuffix(".0")


def _bins(one: Acquisition) -> tuple[tuple[str, int], ...]:
    """Bin of every parameter that changes the signal, in a fixed order."""
    return tuple((name, -1 if value is None else binned(value, width)) for name, value, width in _values(one))


def _near(one: Acquisition) -> list[tuple[str, int]]:
    """Bins beside their own that parameters are near to."""
    return [
        (name, other)
        for name, value, width in _values(one)
        if value is not None and name != "field_strength"
        for other in neighbours(value, width)
    ]


def _values(one: Acquisition) -> tuple[tuple[str, float | None, float], ...]:
    inner = one.repetition_time < _INNER
    short = one.echo_time < _SHORT
    values: list[tuple[str, float | None, str]] = [
        ("repetition_time", one.repetition_time, "inner_repetition_time" if inner else "repetition_time"),
        ("echo_time", one.echo_time, "short_echo_time" if short else "echo_time"),
        ("inversion_time", one.inversion_time, "inversion_time"),
        ("flip_angle", one.flip_angle, "angle"),
        ("refocusing_angle", one.refocusing_angle, "angle"),
        ("echo_spacing", one.echo_spacing, "echo_spacing"),
        ("echo_train_length", one.echo_train_length, "echo_train_length"),
        ("field_strength", _nominal(one.field_strength), "field_strength"),
    ]
    return tuple((name, value, TOLERANCES[kind]) for name, value, kind in values)


def _group_spacing(spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    """Spacing of the grid: bins of 0.5 mm from 1 to 8 mm, equal along all axes for isotropic voxels."""
    x, y, z = (_limited(binned(value, TOLERANCES["spacing"])) for value in _isotropic(spacing))
    return (x, y, z)


def _near_spacings(spacing: tuple[float, float, float]) -> list[tuple[float, float, float]]:
    """Spacings of grids behind one edge."""
    width = TOLERANCES["spacing"]
    even = _isotropic(spacing)
    own = _group_spacing(spacing)
    if even[0] == even[1] == even[2]:
        return [(size, size, size) for size in map(_limited, neighbours(even[0], width))]
    result = []
    for axis, value in enumerate(even):
        for other in neighbours(value, width):
            changed = list(own)
            changed[axis] = _limited(other)
            result.append((changed[0], changed[1], changed[2]))
    return result


def _isotropic(spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    if max(spacing) < 1.05 * min(spacing):
        mean = math.prod(spacing) ** (1 / 3)
        return (mean, mean, mean)
    return spacing


def _limited(number: int) -> float:
    return min(max(number * TOLERANCES["spacing"], 1.0), 8.0)


def grid_of(protocol: str) -> Grid:
    """Grid of a protocol group: the spacing that its key names, over the fixed extent.

    Raises
    ------
    ValueError
        If the text is no protocol key.
    """
    match = re.search(r"_(\d+\.\d)x(\d+\.\d)x(\d+\.\d)mm-[0-9a-f]+$", protocol)
    if match is None:
        raise ValueError(f"{protocol!r} is no protocol key: it must end like _1.0x1.0x1.0mm-3fa2b8c41d70")
    x, y, z = (float(text) for text in match.groups())
    sizes = [math.ceil(round(extent / step, 6)) for extent, step in zip(EXTENT, (x, y, z), strict=True)]
    return Grid(shape=(sizes[2], sizes[1], sizes[0]), spacing=(x, y, z))
