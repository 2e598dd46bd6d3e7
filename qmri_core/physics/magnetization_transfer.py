"""Magnetization transfer between the slices of an echo train: how much it is expected to raise grey over white matter.

Refocusing pulses of other slices are off resonance for water, but not for protons bound to macromolecules, which take
their saturation to the water: white matter, with the larger bound pool, loses more signal than grey matter (Melki and
Mulkern 1992, Magn Reson Med 24:122; not checked). Here are a small simulation of the longitudinal magnetization of two
pools over one cycle, and how the shift is shared between tissues.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qmri_core.series.acquisition import Acquisition, PulseSequence
from qmri_core.tissues import REFERENCE_VALUES

if TYPE_CHECKING:
    from torch import Tensor

REALISED = (0.65, 0.20)
"""Mean and standard deviation of the shift in people over the simulated one. In one person 15 slices shift grey over
white matter by 7.3 (180 degrees) and 4.6 % (120 degrees), where two-pool simulations say 8.9 to 11.6 and 5.7 to 6.8 %
(signals of white matter and caudate in the code of Malik 2018, doi:10.1002/mrm.27040, read)."""
SLICE_OFFSET = 1500.0
"""Hertz between the pulses of neighbouring slices: bandwidths of refocusing pulses, with gaps; assumed."""

_SIMULATED = frozenset({PulseSequence.TURBO_SPIN_ECHO, PulseSequence.INVERSION_RECOVERY_TSE})
_GAMMA = 2.675221e8  # rad/s/T
_ENERGY = 0.0216e-12
"""Of a pulse, in T^2 s per rad^2: 213 uT^2 ms at 180 degrees in the code of Malik 2018; at other angles as its square.
Pulses of less angle may be shorter, and need more."""
_BOUND_T2 = 12e-6
_ON_RESONANCE = 15.1e-6
"""Absorption of the bound pool by pulses of its own slice, in seconds (the code of Malik 2018)."""
_IRON = 0.0125
"""Share of R2 that is taken off R1 before it stands for the bound pool: iron in nuclei shortens both."""
_LEAST_SHARE, _LARGEST_SHARE = -0.5, 2.0


@dataclass(frozen=True, slots=True)
class TwoPools:
    """Water and bound protons of a tissue; the bound share of all, the exchange from water per second, T1 in s."""

    bound: float
    exchange: float
    t1: float


WHITE_MATTER = TwoPools(bound=0.117, exchange=4.3, t1=0.779)
GREY_MATTER = TwoPools(bound=0.061, exchange=2.3, t1=1.087)
"""White matter and caudate of Gloor 2008, Magn Reson Med 60:691, at 1.5 T, as the code of Malik 2018 has them."""


def simulated_shift(acquisition: Acquisition) -> float | None:
    """Log by which the slices of a train raise grey over white matter, by simulation; times `REALISED` in people.

    0 for what is not an echo train in slices, as for trains in a slab, which saturate too (not modelled), and spin
    echoes; ``None`` where the number of slices is not known. Slices of one cycle are as many as its time has room for;
    with ``b1_rms`` the energy is the header's, else that of angles.
    """
    if acquisition.sequence not in _SIMULATED:
        return 0.0
    if acquisition.slices is None:
        return None
    if acquisition.slices < 2:
        return 0.0
    parameters = (
        round(acquisition.slices),
        acquisition.repetition_time,
        acquisition.echo_train_length or 1,
        acquisition.echo_spacing or 0.01,
        acquisition.refocusing_angle or math.pi,
        acquisition.flip_angle,
        acquisition.inversion_time,
        acquisition.b1_rms,
    )
    grey, white = (math.log(signal_left(pools, *parameters)) for pools in (GREY_MATTER, WHITE_MATTER))
    return grey - white


@lru_cache(maxsize=1024)
def signal_left(
    pools: TwoPools,
    slices: int,
    repetition_time: float,
    echo_train_length: int,
    echo_spacing: float,
    refocusing_angle: float,
    flip_angle: float = math.pi / 2,
    inversion_time: float | None = None,
    b1_rms: float | None = None,
    slice_offset: float = SLICE_OFFSET,
) -> float:
    """Signal of a slice among ``slices`` in turn over its signal alone: water's steady state before excitation.

    An own train leaves no longitudinal water and saturates the bound pool; trains of other slices saturate it by their
    energy and the mean absorption at their offsets. Seconds, radians, tesla, hertz.
    """
    train = echo_train_length * echo_spacing
    if train > repetition_time:
        return 1.0
    packages = math.ceil(slices * train / repetition_time - 1e-9)
    together = math.ceil(slices / packages)
    energy = _ENERGY * (echo_train_length * refocusing_angle**2 + flip_angle**2)
    if b1_rms is not None:
        energy = b1_rms**2 * repetition_time / together
    rate = math.pi * _GAMMA**2 * energy / train
    own = rate * _ON_RESONANCE
    other = rate * _absorption(together, slice_offset)
    inversion = None if inversion_time is None else repetition_time - inversion_time
    among, alone = (
        _steady_water(pools, _cycle(together, repetition_time, train, own, each), inversion) for each in (other, 0.0)
    )
    return abs(among / alone)


def _absorption(slices: int, offset: float) -> float:
    """Mean super-Lorentzian absorption in seconds at the offsets of other slices from a middle one; 0 of none.

    Morrison and Henkelman 1995, Magn Reson Med 33:475, as the code of Malik 2018 has it.
    """
    if slices < 2:
        return 0.0
    steps = 0.5 + np.arange(2000)
    widths = _BOUND_T2 / np.abs(3 * (steps / len(steps)) ** 2 - 1)
    offsets = offset * np.arange(1, slices // 2 + 1)[:, None]
    values = math.sqrt(2 / math.pi) * widths * np.exp(-2 * (2 * math.pi * offsets * widths) ** 2)
    return float(values.mean())


_Interval = tuple[float, float, bool]
"""Seconds, saturation rate of the bound pool per second, whether water relaxes freely."""


def _cycle(slices: int, repetition_time: float, train: float, own: float, other: float) -> list[_Interval]:
    """Intervals of a cycle: the slice's own train, then those of the others, evenly spread."""
    rest = repetition_time / slices - train
    result = [(train, own, False), (rest, 0.0, True)]
    for _ in range(slices - 1):
        result += [(train, other, True), (rest, 0.0, True)]
    return result


def _steady_water(pools: TwoPools, intervals: list[_Interval], inversion: float | None) -> float:
    """Water before excitation that repeats itself; water is inverted ``inversion`` seconds after excitation."""
    whole = np.diag([0.0, 1.0, 1.0])  # excitation takes all water
    before = 0.0
    steps: dict[_Interval, NDArray[np.float64]] = {}
    for duration, rate, is_free in intervals:
        parts = [duration]
        if inversion is not None and before <= inversion < before + duration:
            parts = [inversion - before, duration - (inversion - before)]
        for number, seconds in enumerate(parts):
            if number:
                whole = np.diag([-1.0, 1.0, 1.0]) @ whole
            key = (seconds, rate, is_free)
            if key not in steps:
                steps[key] = _step(pools, *key)
            whole = steps[key] @ whole
        before += duration
    return float(np.linalg.solve(np.eye(2) - whole[:2, :2], whole[:2, 2])[0])


def _step(pools: TwoPools, seconds: float, rate: float, is_free: bool) -> NDArray[np.float64]:
    """Change of water, bound pool and one over some seconds."""
    from scipy.linalg import expm

    relaxation, to_bound = 1 / pools.t1, pools.exchange
    ratio = pools.bound / (1 - pools.bound)
    to_water = to_bound / ratio
    water = [-relaxation - to_bound, to_water, relaxation] if is_free else [0.0, 0.0, 0.0]
    bound = [to_bound, -relaxation - to_water - rate, relaxation * ratio]
    return np.asarray(expm(np.asarray([water, bound, [0.0, 0.0, 0.0]]) * max(seconds, 0.0)), dtype=np.float64)


def share_of_shift(t1: Tensor, t2: Tensor, field_strength: float) -> Tensor:
    """Share of the shift of grey over white matter that a tissue has: 0 for white matter, 1 for grey matter.

    The bound pool is taken to be linear in R1 with what iron adds to it taken off (as in the model of Callaghan 2015,
    doi:10.1002/mrm.25210; not checked), from its reference values of both tissues; so nuclei need no labels. At 3 T
    caudate has 1.0, putamen .9, thalamus .7, pallidum .5. By bound pools that were measured (caudate .113, putamen
    .118, thalamus .158, pallidum .164 between .212 of white and .098 of grey matter) these are .9, .8, .5, .4; by
    simulation 1, 1, .3, .6. Fluid has 1.9; in people it shifts by more, which is left out.

    Parameters
    ----------
    t1, t2
        Seconds.
    field_strength
        Tesla; the nearest one with reference values counts.
    """
    values = REFERENCE_VALUES[min(REFERENCE_VALUES, key=lambda one: abs(one - field_strength))]
    grey, white = (1 / values[name]["t1"].value - _IRON / values[name]["t2"].value for name in ("GM", "WM"))
    share = (white - (1 / t1 - _IRON / t2)) / (white - grey)
    return share.clamp(_LEAST_SHARE, _LARGEST_SHARE)
