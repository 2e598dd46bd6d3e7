"""Signals of tissues and of their mixtures in one session, fitted where priors in space say that tissues may be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qmri_core.preprocessing.template.brain import CLASSES as TISSUES_OF_TEMPLATE

DARK = 0.2
"""Share of the median signal below which a voxel is dark, however dark: the log of nulled fluid has no bound."""
CLASSES = (*TISSUES_OF_TEMPLATE, "void")
"""Those of the template, and what is none of the brain's within its mask: dura, vessels, bone."""
_SHARES = (0.3, 0.7)
_PAIRS = (("csf", "cortex"), ("cortex", "white"), ("csf", "white"), ("csf", "deep"), ("deep", "white"))
N_ROUNDS = 30
"""Most rounds of expectation maximisation; 10 to 20 are usual."""
_SETTLED = 2e-3
"""Change of log means below which the fit has settled."""
_LEAST_SD = 0.03
"""Standard deviation of log signals below which no class falls."""
_OUTLIER_SHARE = 0.01
_OUTLIER_WIDTH = 3.0
"""Share of voxels that are no tissue's (lesions, vessels), and their standard deviation over that of all voxels."""
_AT_A_TIME = 100_000
"""Voxels whose probabilities are computed together: of all at once there are many copies."""


def _components() -> NDArray[np.float64]:
    """Shares of `CLASSES` in each component: the pure ones first."""
    rows = list(np.eye(len(CLASSES)))
    for (one, other), share in itertools.product(_PAIRS, _SHARES):
        row = np.zeros(len(CLASSES))
        row[CLASSES.index(one)], row[CLASSES.index(other)] = share, 1 - share
        rows.append(row)
    return np.stack(rows)


COMPONENTS = _components()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Log signals of `CLASSES` and of their mixtures.

    Parameters
    ----------
    means, covariances
        Of the logs of signals of the pure classes, shapes (class, contrast) and (class, contrast, contrast).
    shares
        Weights of `COMPONENTS`.
    signs
        Of the signals behind the magnitude, shape (class, contrast): fluid can be inverted.
    everywhere
        Mean and covariance of all voxels, for what is no tissue's.
    field
        Coefficients of what is left of the receive fields, shape (term, contrast).
    """

    means: NDArray[np.float64]
    covariances: NDArray[np.float64]
    shares: NDArray[np.float64]
    signs: NDArray[np.float64]
    everywhere: tuple[NDArray[np.float64], NDArray[np.float64]]
    field: NDArray[np.float64]

    def component_means(self) -> NDArray[np.float64]:
        """Shape (component, contrast)."""
        mixed = np.abs(COMPONENTS @ (self.signs * np.exp(self.means)))
        return np.asarray(np.log(np.maximum(mixed, DARK)))

    def component_covariances(self) -> NDArray[np.float64]:
        """Shape (component, contrast, contrast)."""
        return np.asarray(np.einsum("jk,kab->jab", COMPONENTS, self.covariances))


def log_signals(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logs of signals over their median, shape (voxel,)."""
    return np.asarray(np.log(np.maximum(values / np.median(values), DARK)), dtype=np.float32)


def terms(places: NDArray[np.floating]) -> NDArray[np.float32]:
    """Polynomials up to the third degree of places (voxel, axis) from -1 to 1, but the constant; (voxel, term)."""
    powers = [one for one in itertools.product(range(4), repeat=3) if 0 < sum(one) <= 3]
    wide = places.astype(np.float32)
    return np.stack([np.prod([wide[:, k] ** n for k, n in enumerate(one)], axis=0) for one in powers], axis=1)


def start(logs: NDArray[np.float32], priors: NDArray[np.float32], signs: NDArray[np.float64], n_terms: int) -> Mixture:
    """Signals of classes where priors (voxel, class) are most certain of them."""
    n_contrasts = logs.shape[1]
    covariance = np.cov(logs.T).reshape(n_contrasts, n_contrasts) + 1e-4 * np.eye(n_contrasts)
    means = np.empty((len(CLASSES), n_contrasts))
    for k in range(len(CLASSES)):
        sure = priors[:, k] >= np.quantile(priors[:, k], 1 - 0.25 * min(1.0, float(priors[:, k].mean()) + 0.05))
        means[k] = np.median(logs[sure], axis=0)
    shares = np.full(len(COMPONENTS), 0.3)
    shares[: len(CLASSES)] = 1.0
    return Mixture(
        means=means,
        covariances=np.stack([covariance / 4] * len(CLASSES)),
        shares=shares,
        signs=signs,
        everywhere=(logs.mean(axis=0), covariance * _OUTLIER_WIDTH**2),
        field=np.zeros((n_terms, n_contrasts)),
    )


def fit(
    mixture: Mixture, logs: NDArray[np.float32], priors: NDArray[np.float32], design: NDArray[np.float32]
) -> Mixture:
    """Expectation maximisation of means, covariances, shares and field, from where ``mixture`` is.

    Parameters
    ----------
    logs
        From `log_signals`, shape (voxel, contrast).
    priors
        Of `CLASSES`, shape (voxel, class).
    design
        From `terms`, shape (voxel, term).
    """
    n_classes, n_contrasts = len(CLASSES), logs.shape[1]
    least = _LEAST_SD**2 * np.eye(n_contrasts)
    for _ in range(N_ROUNDS):
        flat = logs - design @ mixture.field.astype(np.float32)
        probability = _probabilities(mixture, flat, priors)
        pure = probability[:, :n_classes].astype(np.float64)
        counts = pure.sum(axis=0)
        means, covariances = np.empty_like(mixture.means), np.empty_like(mixture.covariances)
        pooled = np.zeros((n_contrasts, n_contrasts))
        for k in range(n_classes):
            means[k] = pure[:, k] @ flat / max(counts[k], 1e-9)
            left = flat - means[k]
            covariances[k] = (pure[:, k, None] * left).T @ left
            pooled += covariances[k] * (k > 0)
        pooled /= max(float(counts[1:].sum()), 1.0)
        weight = 0.01 * len(logs)  # voxels of the pooled brain that each class is taken to have beside
        covariances = (covariances + weight * pooled) / (counts + weight)[:, None, None] + least
        expected = probability[:, :-1].sum(axis=0, dtype=np.float64)
        possible = _spatial(priors).sum(axis=0, dtype=np.float64)
        shares = (expected + 10) / (possible + 10)
        moved = float(np.abs(means - mixture.means).max())
        mixture = replace(
            mixture,
            means=means,
            covariances=covariances,
            shares=shares / shares[:n_classes].max(),
        )
        mixture = replace(mixture, field=_field(mixture, logs, probability, design))
        if moved < _SETTLED:
            break
    return mixture


def fractions(
    mixture: Mixture, logs: NDArray[np.float32], priors: NDArray[np.float32], design: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Expected share of each of `CLASSES` in each voxel, shape (voxel, class)."""
    result = np.empty((len(logs), len(CLASSES)), dtype=np.float32)
    field, shares = mixture.field.astype(np.float32), COMPONENTS.astype(np.float32)
    for part in _slices(len(logs)):
        flat = logs[part] - design[part] @ field
        probability = _probabilities(mixture, flat, priors[part])
        mixed = probability[:, :-1] @ shares
        left = priors[part] / np.maximum(priors[part].sum(axis=1, keepdims=True), 1e-9)
        result[part] = mixed + probability[:, -1:] * left  # a lesion is of the tissue that lies there
    return result


def _spatial(priors: NDArray[np.float32]) -> NDArray[np.float32]:
    """What priors of classes say of components, before their shares: a mixture needs both of its classes nearby."""
    n_classes = len(CLASSES)
    result = np.empty((len(priors), len(COMPONENTS)), dtype=np.float32)
    result[:, :n_classes] = priors
    for j, row in enumerate(COMPONENTS[n_classes:], start=n_classes):
        one, other = np.flatnonzero(row)
        result[:, j] = 2 * priors[:, one] * priors[:, other]
    return result


def _probabilities(mixture: Mixture, flat: NDArray[np.float32], priors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each component, and last of none of them; shape (voxel, component + 1)."""
    means = np.vstack([mixture.component_means(), mixture.everywhere[0]])
    covariances = np.concatenate([mixture.component_covariances(), mixture.everywhere[1][None]])
    weights = np.empty((len(flat), len(means)), dtype=np.float32)
    weights[:, :-1] = _spatial(priors) * mixture.shares.astype(np.float32)
    weights[:, :-1] *= (1 - _OUTLIER_SHARE) / np.maximum(weights[:, :-1].sum(axis=1, keepdims=True), 1e-12)
    weights[:, -1] = _OUTLIER_SHARE
    for j, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        whiten = np.linalg.inv(np.linalg.cholesky(covariance))
        scaled = flat @ whiten.T.astype(np.float32) - (whiten @ mean).astype(np.float32)
        density = np.exp(np.einsum("nc,nc->n", scaled, scaled) * np.float32(-0.5))
        weights[:, j] *= density * np.float32(np.prod(np.diag(whiten)))
    weights[:, -1] += np.finfo(np.float32).tiny
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def _field(
    mixture: Mixture, logs: NDArray[np.float32], probability: NDArray[np.float32], design: NDArray[np.float32]
) -> NDArray[np.float64]:
    """What is smooth in what signals differ by from those of their pure classes; penalised least squares."""
    if design.shape[1] == 0:
        return mixture.field
    pure = probability[:, 1 : len(CLASSES)]  # fluid tells little: it is nulled, or flows
    result = np.empty_like(mixture.field)
    for c in range(logs.shape[1]):
        precision = 1 / mixture.covariances[1:, c, c]
        weight = pure @ precision
        left = logs[:, c] * weight - pure @ (precision * mixture.means[1:, c])
        normal = design.T @ (weight[:, None] * design)
        penalty = 0.02 * float(weight.sum()) * np.eye(design.shape[1])
        result[:, c] = np.linalg.solve(normal + penalty, design.T @ left)
    return result


def _slices(size: int) -> Iterator[slice]:
    return (slice(first, first + _AT_A_TIME) for first in range(0, size, _AT_A_TIME))
