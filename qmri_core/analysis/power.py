"""People needed to find an effect."""

from __future__ import annotations

import math

SMALLEST_SHOWN = 0.1
"""Share of a true difference that values must show for a number of people to mean anything."""


def people_needed(
    effect: float,
    *,
    between: float,
    within: float,
    shown: float = 1.0,
    visits: int = 1,
    power: float = 0.8,
    alpha: float = 0.05,
) -> float:
    """People per arm for a two-sided t test of means over visits to find a relative difference; infinite where none do.

    Parameters
    ----------
    effect
        Of the true values, relative: 0.03 for 3 %.
    between, within
        Standard deviations of logs between people, and between visits of one.
    shown
        Share of a true difference that the values show (`qmri_core.calibration.reliability.shown_share`).

    Returns
    -------
    float
        Rounded up; at least 2.
    """
    from statsmodels.stats.power import TTestIndPower

    if not shown >= SMALLEST_SHOWN:
        return math.inf
    size = abs(math.log1p(effect)) * shown / math.sqrt(between**2 + within**2 / visits)
    if size > 5:  # two people tell it; the solver does not go there
        return 2
    return max(2, math.ceil(float(TTestIndPower().solve_power(effect_size=size, power=power, alpha=alpha))))
