"""From a signed signal to what a magnitude image shows: the last step of a model."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def magnitude(signal: Tensor, *, noise: Tensor | float = 0.0) -> Tensor:
    r"""Mean magnitude of a signal with Gaussian noise in both channels: the Rician noise floor.

    .. math:: \bar M = \sigma \sqrt{\pi/2} \; e^{-x} \left[(1 + 2x) I_0(x) + 2x I_1(x)\right], \quad x = S^2 / 4\sigma^2

    Parameters
    ----------
    signal
        Signed signal.
    noise
        Standard deviation in one channel, in the unit of ``signal``; 0 gives the absolute value.

    Returns
    -------
    Tensor
        Same unit and shape as ``signal``; never below ``noise`` times 1.2533.

    References
    ----------
    Gudbjartsson and Patz 1995, MRM 34:910.
    """
    sigma = torch.as_tensor(noise, dtype=signal.dtype, device=signal.device)
    size = signal.abs()
    safe = torch.where(sigma > 0, sigma, torch.ones_like(sigma))
    x = (signal / safe) ** 2 / 4
    mean = safe * math.sqrt(math.pi / 2) * ((1 + 2 * x) * torch.special.i0e(x) + 2 * x * torch.special.i1e(x))
    return torch.where(sigma > 0, mean, size)
