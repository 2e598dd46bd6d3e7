"""Voxelwise estimate of T1, T2 and PD from calibrated signals: the physics that the network starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmri_core.calibration.expectation import DEVIATIONS, UNTOLD, Expectation, moved_tissue
from qmri_core.calibration.population import Population, population, sample_tissues
from qmri_core.mapping.standard import Standard, standard_of, tissues_of
from qmri_core.physics.registry import fast_signal
from qmri_core.series.acquisition import CONTRASTS, Acquisition, Contrast

FLOOR = 0.05
"""Signals are compressed as log((x + FLOOR) / (1 + FLOOR)), x relative to white matter: nulled CSF stays finite."""
DEGREE = 3
"""Degree of the polynomial in the compressed signals."""
N_SAMPLES = 6000
"""Random voxels on which the polynomial is fitted."""
RIDGE = 1e-3
"""Weight of the squared coefficients beside the mean squared error."""
REFERENCE_TISSUES = 5
"""White matter, grey matter, CSF, a lesion and iron-rich nuclei: their signals describe a protocol to the network."""
ERROR_GAIN = 5.0
"""Factor that brings the error of the estimator to the size of the other conditions."""
ERROR_AT = slice(len(CONTRASTS) * (REFERENCE_TISSUES + 1), len(CONTRASTS) * (REFERENCE_TISSUES + 1) + 3)
"""Where the conditions hold the estimator's own error."""
TOLD_GAIN = 5.0
"""Factor that brings the uncertainty of what is told of a session to the size of the other conditions."""
N_CONDITIONS = ERROR_AT.stop + len(DEVIATIONS) + len(CONTRASTS)


SignalModel = Callable[..., Tensor]
"""Signal of an acquisition, PD, T1, T2 and the keyword ``transmit_scale``, like `fast_signal`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelwiseEstimator:
    """Polynomial regression of log T1, T2 and PD (relative to white matter) on the compressed signals of one protocol.

    The posterior mean under the population's wide prior, as well as a polynomial can follow it; built from the signal
    models, so that a protocol never seen before needs no training. Where the tissues of a session are expected beside
    the population's, signals are moved to those that the population would have, and the estimate back (``standard``):
    what it is drawn to is then what is expected, by whatever share.
    """

    contrasts: tuple[Contrast, ...]
    centre: NDArray[np.float64]
    width: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    """Shape (number of monomials, 3)."""
    conditions: NDArray[np.float32]
    """Shape (N_CONDITIONS,): what the protocol does to reference tissues, the estimator's own error, and the standard
    deviations of what is told of the session's tissues and of its scales."""
    white_matter_signal: tuple[float, ...]
    """Model signal of the white matter that is expected, by contrast."""
    white_matter: tuple[float, float, float]
    """T1 [s], T2 [s] and PD of the white matter that is expected."""
    expected: Expectation
    standard: Standard
    """Between the signals and maps of the session and those of the population."""
    model: SignalModel = fast_signal
    """What it is built on."""

    @property
    def log_sd(self) -> Tensor:
        """Log of the estimator's own error of log T1, T2 and PD over the population, shape (3,)."""
        return torch.from_numpy(self.conditions[ERROR_AT] / ERROR_GAIN).log()

    def units(self, scales: Mapping[Contrast, float]) -> list[float]:
        """Image units per unit of signal relative to the reference white matter, in the order of ``contrasts``."""
        signals = zip(self.contrasts, self.white_matter_signal, strict=True)
        return [scales[contrast] * signal for contrast, signal in signals]

    def __call__(self, compressed: Tensor) -> Tensor:
        """Log T1, T2, PD over the population's white matter.

        Parameters
        ----------
        compressed
            Shape (..., contrast, y, x) of the contrasts in ``self.contrasts``, from `compress` and, where the session's
            tissues are expected beside the population's, ``self.standard``.

        Returns
        -------
        Tensor
            Shape (..., 3, y, x).
        """
        centre, width, weights = (
            torch.as_tensor(each, dtype=compressed.dtype, device=compressed.device)
            for each in (self.centre, self.width, self.coefficients)
        )
        standard = ((compressed - centre[:, None, None]) / width[:, None, None]).clamp(-4.0, 4.0)
        # the monomials in rows: columns would be written with strides, which takes longer than all else together
        terms = torch.stack(_monomials(standard.unbind(-3)), dim=-3)
        estimate = weights.T @ terms.flatten(-2)
        return estimate.reshape(*estimate.shape[:-1], *compressed.shape[-2:])


def compress(relative: Tensor) -> Tensor:
    """Log-like scale of a signal relative to the reference white matter; 0 at white matter."""
    return torch.log((relative.clamp_min(0.0) + FLOOR) / (1 + FLOOR))


def estimator(
    acquisitions: Mapping[Contrast, Acquisition],
    model: SignalModel = fast_signal,
    *,
    expected: Expectation = UNTOLD,
) -> VoxelwiseEstimator:
    """Estimator of a protocol with any two or three contrasts for a session; cached by protocol.

    ``model`` is for ablations: what the images are taken to follow. ``expected`` is what the session's tissues are
    expected to be.

    Raises
    ------
    FieldStrengthError
        If no population values exist for the field strength.
    ValueError
        With fewer than two contrasts: three unknowns cannot be told from one image.
    """
    present = tuple(acquisitions[contrast] for contrast in CONTRASTS if contrast in acquisitions)
    if len(present) < 2:
        raise ValueError(f"{len(present)} contrast(s) cannot determine T1, T2 and PD; at least two are needed")
    return _expecting(_estimator(present, model), present, expected)


def _expecting(
    physics: VoxelwiseEstimator, acquisitions: Sequence[Acquisition], expected: Expectation
) -> VoxelwiseEstimator:
    """The estimator for a session whose tissues are expected somewhere."""
    sds = [
        sd if contrast in physics.contrasts else 0.0 for contrast, sd in zip(CONTRASTS, expected.scale_sds, strict=True)
    ]
    conditions = physics.conditions.copy()
    conditions[ERROR_AT.stop :] = TOLD_GAIN * np.asarray([*expected.sd, *sds], dtype=np.float32)
    result = replace(physics, conditions=conditions, expected=expected)
    if not any(expected.shift):
        return result
    values = population(acquisitions[0].field_strength)
    wm = values.white_matter
    white = moved_tissue(values, (wm.t1, wm.t2, wm.pd), "WM", expected.of("WM"))
    usual, moved = tissues_of(values), tissues_of(values, expected)
    usual_signals, moved_signals, white_signals = [], [], []
    for acquisition, reference in zip(acquisitions, physics.white_matter_signal, strict=True):
        of_white = float(_signals(physics.model, acquisition, np.asarray([white]))[0])
        usual_signals.append(compress(_signals(physics.model, acquisition, usual) / reference).numpy())
        moved_signals.append(compress(_signals(physics.model, acquisition, moved) / of_white).numpy())
        white_signals.append(of_white)
    standard = physics.standard.moved(
        signals=np.stack(moved_signals, axis=1) - np.stack(usual_signals, axis=1),
        maps=np.log(moved / np.asarray(white)) - np.log(usual / np.asarray(physics.white_matter)),
    )
    return replace(result, white_matter=white, white_matter_signal=tuple(white_signals), standard=standard)


def _signals(model: SignalModel, acquisition: Acquisition, tissues: NDArray[np.float64]) -> Tensor:
    t1, t2, pd = torch.from_numpy(tissues).unbind(1)
    return model(acquisition, pd, t1, t2).abs()


@lru_cache(maxsize=256)
def _estimator(acquisitions: tuple[Acquisition, ...], model: SignalModel) -> VoxelwiseEstimator:
    values = population(acquisitions[0].field_strength)
    wm = values.white_matter
    rng = np.random.default_rng(1)
    tissues = sample_tissues(values, N_SAMPLES, rng)
    pd, t1, t2 = (torch.from_numpy(tissues[:, k]) for k in (2, 0, 1))
    transmit = torch.from_numpy(1 + 0.07 * rng.standard_normal(N_SAMPLES)).clamp(0.75, 1.25)
    references = _reference_tissues(values)
    features, fingerprint, wm_signals = [], [], []
    for acquisition in acquisitions:
        reference = model(acquisition, references[:, 2], references[:, 0], references[:, 1]).abs()
        signal = model(acquisition, pd, t1, t2, transmit_scale=transmit).abs() / reference[0]
        scale = np.exp(0.02 * rng.standard_normal(N_SAMPLES))
        noise = rng.standard_normal((2, N_SAMPLES)) * 0.02
        magnitude = np.hypot(signal.numpy() * scale + noise[0], noise[1])
        features.append(compress(torch.from_numpy(magnitude)))
        fingerprint.append(compress(reference / reference[0]))
        wm_signals.append(float(reference[0]))

    def compressed(tissues: NDArray[np.float64], scales: NDArray[np.float64]) -> NDArray[np.float64]:
        one, two, density = (torch.from_numpy(tissues[:, k].copy()) for k in range(3))
        transmits = torch.from_numpy(scales)
        planes = [
            compress(model(acquisition, density, one, two, transmit_scale=transmits).abs() / reference)
            for acquisition, reference in zip(acquisitions, wm_signals, strict=True)
        ]
        return np.asarray(torch.stack(planes, dim=1).numpy())

    x = torch.stack(features, dim=1)
    centre, width = x.mean(dim=0), x.std(dim=0) + 1e-3
    terms = torch.stack(_monomials(((x - centre) / width).clamp(-4.0, 4.0).unbind(-1)), dim=-1)
    target = torch.log(torch.from_numpy(tissues / np.array([wm.t1, wm.t2, wm.pd])))
    normal = terms.T @ terms + RIDGE * N_SAMPLES * torch.eye(terms.shape[1], dtype=terms.dtype)
    coefficients = torch.linalg.solve(normal, terms.T @ target)
    error = (terms @ coefficients - target)[t1 < 2.0].square().mean(dim=0).sqrt()
    conditions = np.zeros(N_CONDITIONS, dtype=np.float32)
    step = REFERENCE_TISSUES + 1
    for acquisition, prints in zip(acquisitions, fingerprint, strict=True):
        start = CONTRASTS.index(acquisition.contrast) * step
        conditions[start] = 1.0
        conditions[start + 1 : start + step] = prints.numpy()
    conditions[ERROR_AT] = ERROR_GAIN * error.numpy()
    return VoxelwiseEstimator(
        contrasts=tuple(acquisition.contrast for acquisition in acquisitions),
        centre=centre.numpy(),
        width=width.numpy(),
        coefficients=coefficients.numpy(),
        conditions=conditions,
        white_matter_signal=tuple(wm_signals),
        white_matter=(wm.t1, wm.t2, wm.pd),
        model=model,
        expected=UNTOLD,
        standard=standard_of(values, compressed),
    )


def _reference_tissues(values: Population) -> Tensor:
    wm, gm, csf = values.white_matter, values.grey_matter, values.csf
    rows = [
        (wm.t1, wm.t2, wm.pd),
        (gm.t1, gm.t2, gm.pd),
        (csf.t1, csf.t2, csf.pd),
        (1.2 * gm.t1, 2.0 * wm.t2, 0.86),
        (1.15 * wm.t1, 0.7 * wm.t2, 0.72),
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _monomials(x: Sequence[Tensor]) -> list[Tensor]:
    """All monomials up to `DEGREE` of some variables, each from one of a degree less."""
    terms: dict[tuple[int, ...], Tensor] = {(): torch.ones_like(x[0])}
    for degree in range(1, DEGREE + 1):
        for chosen in combinations_with_replacement(range(len(x)), degree):
            terms[chosen] = x[chosen[0]] if degree == 1 else terms[chosen[:-1]] * x[chosen[-1]]
    return list(terms.values())
