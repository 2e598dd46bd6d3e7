"""The network of `qmri_core.baseline.published_recipe`, and its sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from qmri_core.series.acquisition import CONTRASTS
from qmri_core.tissues import RECIPE_WHITE_MATTER

UPPER_LIMITS = (5.0, 3.0, 1.0)
"""Largest T1 [s], T2 [s] and PD that the network can give."""
RECIPE_MULTIPLE = 8
"""Voxels to a multiple of which the recipe pads slices in y and x."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSettings:
    """Size of the network and of its training; the defaults are the paper's, `SMALL` is for a CPU."""

    widths: tuple[int, int, int] = (64, 128, 256)
    bottleneck: int = 512
    batch: int = 16
    n_epochs: int = 100
    """50 to 100 in the paper."""
    learning_rate: float = 1e-3
    seed: int = 1


SMALL = RecipeSettings(widths=(8, 16, 32), bottleneck=64, batch=4, learning_rate=4e-3)
"""An eighth of the paper's widths, 1.6 % of its parameters; a rate at which narrow layers move nearly as fast."""


class RecipeNetwork(nn.Module):
    """U-Net over axial slices: one encoder for all contrasts, their features fused at every scale.

    The paper's widths give 8.75 million parameters here; it says about 8.6. ``plane`` is the size in y and x that the
    network was trained on: smaller slices are padded to it, because background counts in instance normalisation.
    """

    def __init__(self, settings: RecipeSettings) -> None:
        super().__init__()
        widths = (*settings.widths, settings.bottleneck)
        self.down = nn.ModuleList(_block(before, after) for before, after in pairwise((1, *widths)))
        self.score = nn.ModuleList(
            nn.Sequential(nn.Conv2d(len(CONTRASTS) * width, width, 1), nn.ReLU(), nn.Conv2d(width, len(CONTRASTS), 1))
            for width in widths
        )
        steps = list(pairwise(reversed(widths)))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(before, after, 2, stride=2) for before, after in steps)
        self.up = nn.ModuleList(_block(2 * after, after) for _, after in steps)
        self.head = nn.Conv2d(widths[0], 3, 1)
        near = torch.logit(torch.tensor(RECIPE_WHITE_MATTER) / torch.tensor(UPPER_LIMITS))
        self.head.bias = nn.Parameter(near)  # where the warm-up leads, and narrow layers would come late
        self.plane = (0, 0)

    def forward(self, images: Tensor, present: Tensor) -> Tensor:
        """T1 [s], T2 [s] and PD, within `UPPER_LIMITS`.

        Parameters
        ----------
        images
            From `qmri_core.baseline.published_recipe.normalised`, shape (slice, contrast, y, x); y and x multiples of
            `RECIPE_MULTIPLE`, at least twice it.
        present
            Which contrasts may be looked at, shape (slice, contrast); at least one in each slice.

        Returns
        -------
        Tensor
            Shape (slice, 3, y, x).
        """
        where = present.flatten().nonzero()[:, 0]
        features = images.flatten(0, 1)[where][:, None]
        fused = []
        for level, (block, score) in enumerate(zip(self.down, self.score, strict=True)):
            features = block(functional.max_pool2d(features, 2) if level else features)
            every = features.new_zeros((present.numel(), *features.shape[1:])).index_copy(0, where, features)
            every = every.unflatten(0, tuple(present.shape))
            logits = score(every.flatten(1, 2)).masked_fill(~present[:, :, None, None], -math.inf)
            fused.append((logits.softmax(dim=1)[:, :, None] * every).sum(dim=1))
        x = fused.pop()
        for grow, block in zip(self.grow, self.up, strict=True):
            x = block(torch.cat([fused.pop(), grow(x)], dim=1))
        result: Tensor = torch.sigmoid(self.head(x)) * x.new_tensor(UPPER_LIMITS)[:, None, None]
        return result


def _block(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (before, after):
        layers += [nn.Conv2d(width, after, 3, padding=1), nn.InstanceNorm2d(after, affine=True), nn.ReLU()]
    return nn.Sequential(*layers)
