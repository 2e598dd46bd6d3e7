"""What a protocol can determine: Jacobian, condition number and Cramer-Rao bound of its signals.

Parameters are always in the order T1, T2, PD, and changes are relative, so that the three compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qmri_core.physics.registry import signal
from qmri_core.series.acquisition import Acquisition


def jacobian(
    acquisitions: Sequence[Acquisition], pd: Tensor, t1: Tensor, t2: Tensor, *, transmit_scale: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Signals of a protocol and their derivatives with respect to the logarithms of T1, T2 and PD.

    Parameters
    ----------
    acquisitions
        Series of the protocol, commonly T1w, T2w and FLAIR.
    pd, t1, t2
        Maps of broadcasting shapes; ``t1`` and ``t2`` in seconds. Double precision is advised.
    transmit_scale
        Actual over nominal angle.

    Returns
    -------
    tuple of Tensor
        Signed signals, shape ``(..., n)``, and derivatives, shape ``(..., n, 3)``, in the unit of ``pd``: the change
        of the signal per relative change of T1, T2, PD.
    """
    ones = torch.ones_like(pd * t1 * t2 * transmit_scale)
    leaves = [(value * ones).detach().requires_grad_() for value in (t1, t2, pd)]
    signals, rows = [], []
    with torch.enable_grad():
        for acquisition in acquisitions:
            value = signal(acquisition, leaves[2], leaves[0], leaves[1], transmit_scale=transmit_scale)
            slopes = torch.autograd.grad(value.sum(), leaves)
            signals.append(value.detach())
            rows.append(torch.stack([slope * leaf.detach() for slope, leaf in zip(slopes, leaves, strict=True)], -1))
    return torch.stack(signals, -1), torch.stack(rows, -2)


def condition_number(signals: Tensor, derivatives: Tensor) -> Tensor:
    """Condition number of the relative Jacobian: relative change of T1, T2, PD per relative change of the signals.

    Parameters
    ----------
    signals, derivatives
        As `jacobian` returns them.

    Returns
    -------
    Tensor
        Shape ``(...)``; inf where the Jacobian is singular.
    """
    relative = derivatives / signals.unsqueeze(-1)
    values = torch.linalg.svdvals(relative)
    return torch.where(values[..., -1] > 0, values[..., 0] / values[..., -1], torch.inf)


def cramer_rao_bound(
    derivatives: Tensor, noise: Tensor, *, prior_deviation: tuple[float, float, float] | None = None
) -> Tensor:
    """Smallest relative standard deviation with which T1, T2 and PD can be estimated in one voxel, scales known.

    Parameters
    ----------
    derivatives
        As `jacobian` returns them, shape ``(..., n, 3)``.
    noise
        Standard deviation of each signal, in its unit, shape ``(n,)`` or broadcasting against ``(..., n)``.
    prior_deviation
        Relative standard deviations of an independent normal prior on T1, T2, PD; without it, the signals alone speak.

    Returns
    -------
    Tensor
        Relative standard deviations of T1, T2, PD, shape ``(..., 3)``; inf where they cannot be determined.
    """
    weighted = derivatives / noise.unsqueeze(-1)
    information = weighted.transpose(-1, -2) @ weighted
    if prior_deviation is not None:
        prior = torch.as_tensor(prior_deviation, dtype=derivatives.dtype, device=derivatives.device)
        information = information + torch.diag(prior**-2)
    # scaled to a unit diagonal, so that the test for singularity does not depend on units
    scale = information.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(derivatives.dtype).tiny).sqrt()
    values, vectors = torch.linalg.eigh(information / (scale.unsqueeze(-1) * scale.unsqueeze(-2)))
    floor = 16 * torch.finfo(derivatives.dtype).eps * values[..., -1:]
    inverse = torch.where(values > floor, 1 / values.clamp(min=1e-300), torch.inf)
    share = vectors**2
    variance = torch.where(share > 1e-12, share * inverse.unsqueeze(-2), torch.zeros_like(share)).sum(-1)
    return variance.sqrt() / scale


def scale_gain(signals: Tensor, derivatives: Tensor) -> Tensor:
    """Relative error of T1, T2, PD per relative error of each series' intensity scale, for three series.

    Parameters
    ----------
    signals, derivatives
        As `jacobian` returns them, for exactly three acquisitions.

    Returns
    -------
    Tensor
        Shape ``(..., 3, 3)``: parameter by series; inf where the Jacobian is singular.
    """
    determinant = torch.linalg.det(derivatives)
    usable = determinant != 0
    safe = torch.where(usable[..., None, None], derivatives, torch.eye(3, dtype=derivatives.dtype).to(derivatives))
    gain = torch.linalg.inv(safe) * signals.unsqueeze(-2)
    return torch.where(usable[..., None, None], gain, torch.inf)
