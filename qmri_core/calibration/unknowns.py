"""What is unknown of a cohort's levels, as one vector: where each part stands, and what is believed of it before.

See `qmri_core.calibration.hierarchy`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmri_core.calibration.hidden_parameters import GROUP_ERROR, SHARED, TRANSFERS
from qmri_core.calibration.levels import METHOD_ERRORS, TRENDS, Anchor, LevelGroup
from qmri_core.calibration.session_model import LEVELS, observations
from qmri_core.series.acquisition import Contrast, without_jitter

_N = len(LEVELS)
_FLAT = 10.0
"""Standard deviation of the log of a group's scale, and of what is unknown of its fluid: as good as any."""
_HELD = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Columns of the vector of unknowns: of a group's observations in their order, of clinics, trends and the rest."""

    size: int
    series: Sequence[NDArray[np.intp]]
    """Of each group, by observation: the scale, or what is unknown of fluid."""
    errors: Sequence[NDArray[np.intp]]
    """Of each group, by contrast: of the log of grey over white matter."""
    hidden: Sequence[slice]
    clinics: Mapping[str, slice]
    shared: slice
    trends: slice
    common: slice
    methods: Mapping[tuple[str, ...], int]
    """Of each method of anchors: its error in a quantity, and in a quantity of a tissue beyond that."""


def layout_of(groups: Sequence[LevelGroup], n_hidden: Sequence[int], anchors: Sequence[Anchor]) -> Layout:
    """Series of one scanner with equal acquisitions share a column; so do sessions of one clinic."""
    columns: dict[object, int] = {}

    def column(*key: object) -> int:
        return columns.setdefault(key, len(columns))

    series, errors = [], []
    for number, group in enumerate(groups):
        scanner = group.scanner or number
        settings = {contrast: without_jitter(one) for contrast, one in group.acquisitions.items()}
        one = [
            column("fluid", number, contrast) if tissue == "CSF" else column(scanner, settings[contrast])
            for contrast, tissue in observations(group.acquisitions)
        ]
        series.append(np.asarray(one))
        errors.append(np.asarray([column("error", number, contrast) for contrast in group.acquisitions]))
    end = len(columns)

    def span(n: int) -> slice:
        nonlocal end
        end += n
        return slice(end - n, end)

    hidden = [span(n) for n in n_hidden]
    clinics = {clinic: span(_N) for clinic in sorted({clinic for group in groups for clinic in group.clinics})}
    shared, trends, common = span(len(SHARED)), span(3 * _N), span(_N)
    methods = {key: span(1).start for key in dict.fromkeys(key for one in anchors for key in _errors_of(one))}
    return Layout(
        size=end,
        series=series,
        errors=errors,
        hidden=hidden,
        clinics=clinics,
        shared=shared,
        trends=trends,
        common=common,
        methods=methods,
    )


def priors_of(
    layout: Layout,
    names: Sequence[Sequence[tuple[Contrast, str, float]]],
    anchors: Sequence[Anchor],
    *,
    has_transfer: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and standard deviations of the unknowns; those of clinics are set apart.

    What all groups have in common is held, unless anchors make it free: contrasts alone would tell it by the errors
    that all of them share. Without ``has_transfer`` slices do not saturate each other.
    """
    mean, spreads = np.zeros(layout.size), np.ones(layout.size)
    for series, errors in zip(layout.series, layout.errors, strict=True):
        spreads[series], spreads[errors] = _FLAT, GROUP_ERROR
    for here, of_group in zip(layout.hidden, names, strict=True):
        spreads[here] = [spread for *_, spread in of_group]
    shared = np.asarray(SHARED)
    if not has_transfer:
        shared[TRANSFERS] = (0.0, _HELD)
    mean[layout.shared], spreads[layout.shared] = shared.T
    trends = np.asarray([TRENDS[level] for level in LEVELS]).reshape(-1, 2)
    mean[layout.trends], spreads[layout.trends] = trends.T
    spreads[layout.common] = [METHOD_ERRORS[level] if anchors else _HELD for level in LEVELS]
    for anchor in anchors:
        spreads[method_columns(layout, anchor)] = max(math.sqrt(0.5) * anchor.method_sd, _HELD)
    return mean, spreads


def method_columns(layout: Layout, anchor: Anchor) -> list[int]:
    """Columns of the errors of an anchor's method, of which its observation has the sum."""
    return [layout.methods[key] for key in _errors_of(anchor)]


def _errors_of(anchor: Anchor) -> tuple[tuple[str, ...], ...]:
    return (anchor.method, anchor.level[1]), (anchor.method, *anchor.level)
