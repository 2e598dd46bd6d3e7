"""Intensity scales of series: estimated per group, shrunk per session by what the data show (empirical Bayes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmri_core.acquisition import Acquisition, Contrast
from qmri_core.population import Population, population
from qmri_core.preprocessing.tissue import WHITE_MATTER, core

MIN_WHITE_MATTER = 200
"""Voxels of core white matter that a session needs to say anything about its scales."""
N_BIOLOGY = 512


class CalibrationError(ValueError):
    """A group's scales cannot be determined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleCalibration:
    """What is known of the intensity scale of one contrast in one group.

    ``scale`` is in image units per unit of proton density and signal. ``shrinkage`` is the share of a session's
    deviation of the white-matter signal that is put down to its scale (the rest is taken as biology): 0 keeps all
    differences between people, 1 removes them. ``spread`` is the standard deviation over sessions of the log
    white-matter signal, NaN for one session; ``biology`` is what people alone explain of it.
    """

    scale: float
    reference_signal: float
    shrinkage: float
    spread: float
    biology: float
    n_sessions: int

    def session_scale(self, white_matter: float) -> float:
        """Scale of a session with this white-matter signal; the group's if the signal is NaN or not positive."""
        if not (np.isfinite(white_matter) and white_matter > 0):
            return self.scale
        deviation = float(np.log(white_matter / (self.scale * self.reference_signal)))
        return float(self.scale * np.exp(self.shrinkage * deviation))


def white_matter_signal(
    images: Mapping[Contrast, NDArray[np.float32]], tissue: NDArray[np.uint8]
) -> dict[Contrast, float]:
    """Median of each image in the core of white matter; NaN with fewer than `MIN_WHITE_MATTER` voxels."""
    inside = core(tissue, WHITE_MATTER)
    result = {}
    for contrast, image in images.items():
        values = image[inside]
        values = values[np.isfinite(values)]
        result[contrast] = float(np.median(values)) if values.size >= MIN_WHITE_MATTER else float("nan")
    return result


def calibrate_scale(signals: Sequence[float], acquisition: Acquisition) -> ScaleCalibration:
    """Scale of one contrast of a group, from the white-matter signals of its sessions.

    The reference acts on the *group mean*: the group's scale is the geometric mean over sessions of white-matter signal
    over the signal that the model gives for the population's white matter. A session's log deviation from it is the sum
    of its scale's (variance unknown) and its biology's (variance from the population's spread, through the model); its
    scale takes the share that the excess variance over sessions gives, the posterior mean of a normal model.

    Parameters
    ----------
    signals
        One per session, from `white_matter_signal`; NaN is left out.
    acquisition
        The group's acquisition of the contrast.

    Raises
    ------
    CalibrationError
        If no session has a usable white-matter signal.
    FieldStrengthError
        If no population values exist for the field strength.
    """
    values = population(acquisition.field_strength)
    usable = np.asarray([signal for signal in signals if np.isfinite(signal) and signal > 0], dtype=np.float64)
    if usable.size == 0:
        raise CalibrationError(
            f"no session of the group has {MIN_WHITE_MATTER} voxels of white matter in {acquisition.contrast}; "
            "its intensity scale cannot be set"
        )
    expected = reference_signal(acquisition, values)
    logs = np.log(usable / expected)
    biology = biological_spread(acquisition, values)
    variance = float(logs.var(ddof=1)) if usable.size > 1 else float("nan")
    excess = max(0.0, variance - biology**2) if usable.size > 1 else 0.0
    return ScaleCalibration(
        scale=float(np.exp(logs.mean())),
        reference_signal=expected,
        shrinkage=excess / (excess + biology**2),
        spread=float(np.sqrt(variance)),
        biology=biology,
        n_sessions=int(usable.size),
    )


def reference_signal(acquisition: Acquisition, values: Population) -> float:
    """Magnitude of the model's signal for the population's white matter."""
    import torch

    from qmri_core.physics.registry import signal

    wm = values.white_matter
    pd, t1, t2 = (torch.tensor(v, dtype=torch.float64) for v in (wm.pd, wm.t1, wm.t2))
    return abs(float(signal(acquisition, pd, t1, t2)))


def biological_spread(acquisition: Acquisition, values: Population) -> float:
    """Standard deviation of the log white-matter signal over people, from the population's spread of T1, T2 and PD."""
    import torch

    from qmri_core.physics.registry import signal

    wm = values.white_matter
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((3, N_BIOLOGY))
    pd = torch.from_numpy(wm.pd * np.exp(wm.pd_spread * noise[0]))
    t1 = torch.from_numpy(wm.t1 * np.exp(wm.t1_spread * noise[1]))
    t2 = torch.from_numpy(wm.t2 * np.exp(wm.t2_spread * noise[2]))
    magnitudes = signal(acquisition, pd, t1, t2).abs()
    return float(torch.log(magnitudes).std())
