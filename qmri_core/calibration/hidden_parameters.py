"""What headers hide of a group's acquisitions, from the mean contrast between its grey and white matter.

A header leaves out, or states in its vendor's own way, what contrast depends on: how well an inversion inverts, how
long a readout is, which time the echo time of a variable flip train is. Sessions of a group share it, so that the
group's mean tells of it what no session can. But that mean also holds what images of grey matter have in common
everywhere: fluid in the voxels of cortex, a weaker transmit field at the surface, magnetization transfer in multi-slice
trains. So all groups of a cohort are explained together (`qmri_core.calibration.hierarchy`), and what they share is
taken for no protocol's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qmri_core.calibration.population import Population, population
from qmri_core.physics.magnetization_transfer import REALISED, simulated_shift
from qmri_core.physics.sequences import check
from qmri_core.series.acquisition import CONTRASTS, Acquisition, AcquisitionError, Contrast, PulseSequence

PARAMETER_SPREADS: Mapping[str, float] = {
    "inversion_efficiency": 0.02,
    "refocusing_factor": 0.03,
    "echo_spacing": 0.05,
    "echo_train_length": 0.10,
    "repetition_time": 0.05,
    "t2_preparation_time": 0.15,
    "echo_time": 0.08,
}
"""Prior standard deviations of imputed parameters: of the first two themselves, of the logs of the others; assumed. The
echo time is that of a variable flip train, whose angles are imputed."""
AMBIGUOUS_ECHO_SPREAD = 0.40
"""Standard deviation of the log of an echo time that is not in the header; assumed. Where a header states the contrast
of a train, the time to the centre may be what that contrast takes, or what the header states (two thirds of it)."""
TRANSFER = "magnetization_transfer"
ADDED = frozenset({"inversion_efficiency", "refocusing_factor", TRANSFER})
"""Parameters that are moved themselves, not their logs."""
FURTHEST_SHIFT = 2.5
"""Largest distance that a parameter is moved, in prior standard deviations."""

_TRAINS = frozenset({PulseSequence.TURBO_SPIN_ECHO, PulseSequence.INVERSION_RECOVERY_TSE})
_OFFSETS: Mapping[Contrast, tuple[float, float]] = {
    Contrast.T1W: (0.0, 0.03),
    Contrast.T2W: (0.03, 0.03),
    Contrast.FLAIR: (-0.05, 0.03),
}
"""Mean and standard deviation of the log of grey over white matter beside the model's, which all groups share: voxels
of cortex hold other tissue too (`qmri_core.calibration.scales.tissue_signals`). Means over the heads that training
draws; standard deviations are assumed."""
_TRANSMIT_AT_CORTEX = (-0.08, 0.05)
"""Mean and standard deviation of the log of the transmit scale in grey matter at 3 T, with the shading of white matter
divided out; assumed. The field is weaker at the surface (Collins 2005, J Magn Reson Imaging 21:192; not checked). At
other field strengths both are taken in proportion."""
_UNKNOWN_TRANSFER = (0.05, 0.06)
"""Mean and standard deviation of what magnetization transfer adds to the log of grey over white matter in multi-slice
trains of an unknown number of slices; assumed. White matter loses 10 to 25 %, grey matter less (Melki and Mulkern 1992,
Magn Reson Med 24:122; not checked)."""
SHARED = (*(_OFFSETS[contrast] for contrast in CONTRASTS), _TRANSMIT_AT_CORTEX, REALISED, _UNKNOWN_TRANSFER)
"""Mean and standard deviation of each of what all groups share. That of magnetization transfer by the protocol is the
share of the simulated shift that people have."""
TRANSFERS = slice(-2, None)
"""Of `SHARED`, what magnetization transfer does."""
_OF_TRANSMIT, OF_PROTOCOL, _OF_UNKNOWN = range(len(CONTRASTS), len(SHARED))
"""Places in `SHARED`."""
_NO_SHARE = 1e-6
GROUP_ERROR = 0.015
"""Standard deviation of the log ratio of a group's mean beside all other effects; assumed."""
_STEP = 0.05
_RATIOS_KEPT = 1 << 14
"""Ratios that are kept: groups of one protocol share those at their headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """By how much one parameter of an acquisition is moved, and its standard deviations before and after.

    Inversion efficiency and refocusing factor are moved themselves, of others the log. ``effect`` is the change of the
    log of grey over white matter by a move of ``prior_sd``. Magnetization transfer, of which no header says anything,
    is moved too, from none to what is found (`qmri_core.physics.magnetization_transfer`).
    """

    name: str
    shift: float
    sd: float
    prior_sd: float
    effect: float


def hidden_spreads(acquisition: Acquisition) -> dict[str, float]:
    """Prior standard deviations of what the header of an acquisition hides, by the names of parameters."""
    names = ["inversion_efficiency", "refocusing_factor", "t2_preparation_time"]
    if acquisition.sequence is PulseSequence.MPRAGE:
        names += ["echo_spacing", "echo_train_length", "repetition_time"]
    spreads = {
        name: PARAMETER_SPREADS[name]
        for name in names
        if getattr(acquisition, name) and acquisition.mark(name) == "assumed"
    }
    if acquisition.sequence is PulseSequence.VARIABLE_FLIP_TSE:
        is_stated = acquisition.mark("echo_time") == "measured"
        spreads["echo_time"] = PARAMETER_SPREADS["echo_time"] if is_stated else AMBIGUOUS_ECHO_SPREAD
    return spreads


def hidden_names(acquisitions: Mapping[Contrast, Acquisition]) -> list[tuple[Contrast, str, float]]:
    """Contrast, name and prior standard deviation of everything that the headers of a group hide."""
    return [
        (contrast, *each)
        for contrast, acquisition in acquisitions.items()
        for each in hidden_spreads(acquisition).items()
    ]


def moved(acquisition: Acquisition, shifts: Mapping[str, float]) -> Acquisition:
    """An acquisition with hidden parameters moved by ``shifts``, see `Hidden`; unchanged where that cannot be run.

    The echo spacing of a variable flip train moves with its echo time. In MPRAGE the centre of k-space keeps its place
    in the readout, and an inversion time that was derived from the readout moves along.
    """
    changes: dict[str, float | int] = {}
    for name, shift in shifts.items():
        start = float(getattr(acquisition, name))
        changes[name] = start + shift if name in ADDED else start * math.exp(shift)
    if "inversion_efficiency" in changes:
        changes["inversion_efficiency"] = min(1.0, changes["inversion_efficiency"])
    spacing = acquisition.echo_spacing or 0.0
    if acquisition.sequence is PulseSequence.VARIABLE_FLIP_TSE and "echo_time" in changes:
        changes["echo_spacing"] = spacing * math.exp(shifts["echo_time"])
    if acquisition.sequence is PulseSequence.MPRAGE and {"echo_train_length", "echo_spacing"} & set(changes):
        length, centre = acquisition.echo_train_length or 1, acquisition.centre_index or 1
        changes["echo_train_length"] = round(changes.get("echo_train_length", length))
        changes["centre_index"] = max(1, round(centre * changes["echo_train_length"] / length))
        if acquisition.mark("inversion_time") == "derived":
            after = (changes["centre_index"] - 1) * changes.get("echo_spacing", spacing)
            changes["inversion_time"] = (acquisition.inversion_time or 0.0) + after - (centre - 1) * spacing
    try:
        result = replace(acquisition, **changes)  # type: ignore[arg-type]
        check(result)
    except AcquisitionError:
        return acquisition
    return result


def is_multi_slice(acquisition: Acquisition) -> bool:
    """Whether it is a train in slices whose pulses saturate each other's bound pool: magnetization transfer shows."""
    return acquisition.sequence in _TRAINS and acquisition.contrast is not Contrast.T1W


def transferred(acquisition: Acquisition, realised: float, sd: float) -> tuple[Hidden, ...]:
    """The shift by magnetization transfer that an acquisition has, where it is known of its protocol; else nothing.

    ``realised`` is the share of the simulated shift, ``sd`` its standard deviation.
    """
    shift = simulated_shift(acquisition)
    if not shift or abs(realised) < _NO_SHARE:
        return ()
    before = REALISED[1] * abs(shift)
    return (Hidden(name=TRANSFER, shift=realised * shift, sd=sd * abs(shift), prior_sd=before, effect=before),)


def linearised(
    acquisitions: Mapping[Contrast, Acquisition],
    names: Sequence[tuple[Contrast, str, float]],
    shifts: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Log ratios by contrast at ``shifts`` of `hidden_names`; their slopes on what groups share and on the parameters.

    Shapes (contrast,), (contrast, len(SHARED)) and (contrast, len(names)).
    """
    n = len(acquisitions)
    expected, of_shared, of_hidden = np.zeros(n), np.zeros((n, len(SHARED))), np.zeros((n, len(names)))
    values = population(next(iter(acquisitions.values())).field_strength)
    for row, (contrast, acquisition) in enumerate(acquisitions.items()):
        mine = {name: float(shift) for (one, name, _), shift in zip(names, shifts, strict=True) if one is contrast}
        steps = (1.0, math.exp(_STEP), math.exp(-_STEP))
        expected[row], up, down = log_ratio(moved(acquisition, mine), values, steps)
        of_shared[row, CONTRASTS.index(contrast)] = 1.0
        of_shared[row, _OF_TRANSMIT] = (up - down) / (2 * _STEP) * acquisition.field_strength / 3.0
        shift = simulated_shift(acquisition)
        of_shared[row, OF_PROTOCOL] = shift or 0.0
        of_shared[row, _OF_UNKNOWN] = float(shift is None and is_multi_slice(acquisition))
        for column, (one, name, spread) in enumerate(names):
            if one is contrast:
                [up], [down] = (
                    log_ratio(moved(acquisition, {**mine, name: mine[name] + step}), values)
                    for step in (spread, -spread)
                )
                of_hidden[row, column] = (up - down) / (2 * spread)
    return expected, of_shared, of_hidden


@lru_cache(maxsize=_RATIOS_KEPT)
def log_ratio(
    acquisition: Acquisition, values: Population, transmit_scales: tuple[float, ...] = (1.0,)
) -> tuple[float, ...]:
    """Log of the signal of the population's grey over that of its white matter, for each transmit scale."""
    import torch

    from qmri_core.physics.registry import signal

    rows = [(one.pd, one.t1, one.t2) for one in (values.grey_matter, values.white_matter)]
    pd, t1, t2 = torch.tensor(rows, dtype=torch.float64).T[..., None].expand(3, 2, len(transmit_scales)).flatten(1)
    scale = torch.tensor(transmit_scales, dtype=torch.float64).repeat(2)
    grey, white = signal(acquisition, pd, t1, t2, transmit_scale=scale).abs().log().reshape(2, -1)
    return tuple(float(ratio) for ratio in grey - white)
