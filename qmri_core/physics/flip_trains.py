"""Refocusing angles of variable flip trains (SPACE, VISTA, CUBE) from the three angles that describe them."""

from __future__ import annotations

import math

START = 6
"""Pulses from the first angle down to the minimum."""


def variable_flip_train(
    length: int, centre_index: int, *, minimum: float, centre: float, maximum: float
) -> tuple[float, ...]:
    """Refocusing angles in radians, one per pulse.

    From 90 degrees + minimum / 2 in a parabola to the minimum within `START` pulses (so that the pseudo steady state
    is reached without oscillation), along a quarter sine to ``centre`` at pulse ``centre_index`` (from 1), then
    linearly to ``maximum`` at the last pulse. Vendors do not publish theirs; the shape follows Mugler 2014 (J Magn
    Reson Imaging 39:745) and Busse 2006 (Magn Reson Med 55:1030).

    Raises
    ------
    ValueError
        If the angles are not 0 < minimum <= centre <= maximum <= pi, or the centre lies outside the train.
    """
    if not 0 < minimum <= centre <= maximum <= math.pi:
        raise ValueError(
            f"angles {minimum:g}, {centre:g}, {maximum:g} rad are not 0 < minimum <= centre <= maximum <= pi; "
            "were degrees passed?"
        )
    if not START < centre_index < length:
        raise ValueError(f"centre_index {centre_index} not in ({START}, {length}), the length of the train")
    first = math.pi / 2 + minimum / 2
    angles = []
    for pulse in range(1, length + 1):
        if pulse <= START:
            angles.append(minimum + (first - minimum) * ((START + 1 - pulse) / START) ** 2)
        elif pulse <= centre_index:
            done = (pulse - START) / (centre_index - START)
            angles.append(minimum + (centre - minimum) * math.sin(math.pi / 2 * done))
        else:
            angles.append(centre + (maximum - centre) * (pulse - centre_index) / (length - centre_index))
    return tuple(angles)
