"""The network: corrects the voxelwise physics estimate in spatial context, conditioned on the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from qmri_core.calibration.session_model import LEVELS
from qmri_core.mapping.voxelwise import N_CONDITIONS
from qmri_core.series.acquisition import CONTRASTS

N_MAPS = 3
N_INPUTS = 2 * len(CONTRASTS) + 4
"""Compressed signals and presence of each contrast, voxelwise log T1, T2, PD, and the brain mask."""
LOG_SD_RANGE = (-5.0, 1.0)
"""Lowest and highest log of a standard deviation that the network states."""
MULTIPLE = 4
"""Voxels to a multiple of which slices are padded in y and x."""
REACH = 23
"""Voxels in y and x from which an output can see its inputs, at most: 2 + 4 + 8 + 4 + 2, and the grids of averages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """Widths of the three resolutions and of the conditioning vector's embedding, and what the weights learnt.

    ``undetermined`` is the share of the variance between people, in the order of
    `qmri_core.calibration.session_model.LEVELS`, that the signals of a session of training leave open on average: so
    much of it is in the deviations that the network states. 0 for weights that are not trained.
    """

    widths: tuple[int, int, int] = (16, 32, 64)
    embedding: int = 48
    undetermined: tuple[float, ...] = (0.0,) * len(LEVELS)


class Block(nn.Module):
    """Two 3 x 3 convolutions with a residual, scaled and shifted by the protocol; no normalisation layer.

    Normalisation would remove the absolute level that the calibration has just won.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Features of shape (slice, outputs, y, x) from (slice, inputs, y, x) and (slice, 2 * outputs)."""
        scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
        hidden = functional.silu(self.first(x)) * (1 + scale) + shift
        result: Tensor = self.shortcut(x) + functional.silu(self.second(hidden))
        return result


class MapNetwork(nn.Module):
    """Two-dimensional U-Net over axial slices that starts as the voxelwise estimate and learns its correction."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        fine, middle, coarse = settings.widths
        size = settings.embedding
        self.embed = nn.Sequential(nn.Linear(N_CONDITIONS, size), nn.SiLU(), nn.Linear(size, size), nn.SiLU())
        self.down1 = Block(N_INPUTS, fine, size)
        self.down2 = Block(fine, middle, size)
        self.bottom = Block(middle, coarse, size)
        self.up2 = Block(coarse + middle, middle, size)
        self.up1 = Block(middle + fine, fine, size)
        self.head = nn.Conv2d(fine + N_INPUTS, 2 * N_MAPS, 1)
        nn.init.zeros_(self.head.weight)
        self.head.bias = nn.Parameter(torch.tensor([0.0, 0.0, 0.0, -2.5, -2.5, -3.0]))

    def forward(self, inputs: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Log maps relative to white matter, and the log of their standard deviation.

        What is told of a session's tissues it is not told: signals and maps are as the population would have them
        (`qmri_core.mapping.standard`), so that maps follow what is told by that alone.

        Parameters
        ----------
        inputs
            Shape (slice, N_INPUTS, y, x), from `assemble`; y and x multiples of `MULTIPLE`.
        conditions
            Shape (slice, N_CONDITIONS).

        Returns
        -------
        tuple of Tensor
            Both of shape (slice, 3, y, x): log T1, T2, PD over the population's white matter; log standard deviations.
        """
        return self.modulated(inputs, self.modulations(conditions))

    def modulations(self, conditions: Tensor) -> list[Tensor]:
        """What the protocol of each slice does to the blocks, in their order: scales and shifts, (slice, 2 * outputs).

        Matrix products of another number of rows are rounded otherwise: the slices of a session have theirs computed
        together, whatever else goes through the network with them.
        """
        embedded = self.embed(conditions)
        return [block.modulation(embedded) for block in (self.down1, self.down2, self.bottom, self.up2, self.up1)]

    def modulated(self, inputs: Tensor, modulations: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What `forward` gives, of conditions that `modulations` has been asked about."""
        down1, down2, bottom, up2, up1 = modulations
        fine = self.down1(inputs, down1)
        middle = self.down2(functional.avg_pool2d(fine, 2), down2)
        coarse = self.bottom(functional.avg_pool2d(middle, 2), bottom)
        middle = self.up2(torch.cat([functional.interpolate(coarse, scale_factor=2.0), middle], dim=1), up2)
        fine = self.up1(torch.cat([functional.interpolate(middle, scale_factor=2.0), fine], dim=1), up1)
        with torch.autocast(inputs.device.type, enabled=False):  # what is added to maps is not rounded once more
            both = self.head(torch.cat([fine.to(inputs.dtype), inputs], dim=1))
        correction, log_sd = both.chunk(2, dim=1)
        start = inputs[:, -4:-1]
        return start + correction, log_sd.clamp(*LOG_SD_RANGE)


def assemble(compressed: Tensor, present: Tensor, voxelwise: Tensor, mask: Tensor) -> Tensor:
    """Input channels of the network.

    Parameters
    ----------
    compressed
        Shape (slice, contrast, y, x) in the order of `CONTRASTS`, from `voxelwise.compress`; 0 where absent.
    present
        Shape (slice, contrast), 1 or 0.
    voxelwise
        Shape (slice, 3, y, x).
    mask
        Shape (slice, y, x); the other channels are set to 0 outside.
    """
    planes = present[:, :, None, None].expand_as(compressed)
    inside = mask[:, None].to(compressed.dtype)
    return torch.cat([compressed * inside, planes * inside, voxelwise.clamp(-3.0, 3.5) * inside, inside], dim=1)
