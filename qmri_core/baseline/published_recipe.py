"""The recipe of van Lune et al. 2026 (arXiv 2601.05063), written afresh from its description: a baseline.

Each contrast is divided by the mode of its histogram; a U-Net that sees images alone, no acquisition parameters, gives
T1, T2 and PD; textbook signal equations turn these into images again, with a scale per contrast that may leave a
white-matter constant by 20 % at most; what is trained on is the difference to the images themselves.

No code and no weights of that work are used. Its description leaves open, and here is chosen: the histogram is that of
the brain (in the whole head fat can be the mode), its bins span the foreground, and the percentiles bound where the
mode is looked for; MPRAGE is an inversion recovery without its readout; outputs start near white matter; the scale is
that of a slice, and no gradient goes through it; the loss counts every contrast acquired, also one that the network was
not shown; attention takes all contrasts' features together, which alone tells it which is which. Images stay on their
grid (1 mm in plane there).

Trained with `qmri_core.baseline.network.SMALL`, or for minutes, this is not the paper's training; the record of
`train_recipe` says what it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from qmri_core.baseline.network import RECIPE_MULTIPLE, RecipeNetwork, RecipeSettings
from qmri_core.series.acquisition import CONTRASTS, Acquisition, Contrast, PulseSequence
from qmri_core.series.geometry import extent_in_plane, inside_of
from qmri_core.tissues import RECIPE_WHITE_MATTER

SCALE_FREEDOM = 0.2
N_BINS = 512
MODE_WINDOWS = {Contrast.T1W: (60.0, 95.0), Contrast.T2W: (35.0, 95.0), Contrast.FLAIR: (35.0, 95.0)}
"""Percentiles of the foreground between which the mode lies."""
LEAST_PD, PD_WEIGHT, SMOOTHNESS_WEIGHT = 0.60, 0.1, 0.01
RECIPE_WARM_UP = 100
"""Least steps towards the constants: an epoch of a small cohort is short."""
MIN_BRAIN = 64
"""Least voxels of brain in a slice that is trained on."""
BLOCK = 8
"""Slices per pass of inference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One axial slice to train on.

    ``images``: normalised, in the order of `CONTRASTS`, 0 outside the brain and where not acquired, shape
    (contrast, y, x); ``mask``: the brain, shape (y, x); ``acquisitions``: of the contrasts that were acquired.
    """

    images: NDArray[np.float32]
    mask: NDArray[np.bool_]
    acquisitions: Mapping[Contrast, Acquisition]


def histogram_mode(values: NDArray[np.float32], contrast: Contrast) -> float:
    """Most frequent value of the foreground, between the percentiles of the contrast.

    Parameters
    ----------
    values
        Finite values of the brain, of any shape.

    Raises
    ------
    ValueError
        If no positive mode can be found.
    """
    foreground = values[values > _otsu(values)] if values.size else values
    if not foreground.size:
        raise ValueError(f"{contrast}: no part of the brain is brighter than the rest; the image cannot be normalised")
    counts, edges = np.histogram(foreground, bins=N_BINS)
    low, high = np.percentile(foreground, MODE_WINDOWS[contrast])
    inside = (edges[1:] > low) & (edges[:-1] < high)
    index = int(np.argmax(np.where(inside, counts, -1)))
    mode = float(edges[index] + edges[index + 1]) / 2
    if not mode > 0:
        raise ValueError(f"{contrast}: the mode of the histogram is {mode:g}; it must be positive")
    return mode


def _otsu(values: NDArray[np.float32]) -> float:
    """Threshold that separates two classes best (Otsu 1979, IEEE Trans Syst Man Cybern 9:62).

    Of numpy's bins: SimpleITK's filter takes another one of 512 once in 200 histograms, and the mode that follows can
    then differ by 4 %, while the figures of the recipe were measured with this one.
    """
    counts, edges = np.histogram(values, bins=N_BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(edges[1 + int(np.argmax(np.nan_to_num(between)))])


def normalised(images: Mapping[Contrast, NDArray[np.float32]], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Each image over its mode, times the mask, in the order of `CONTRASTS`; absent ones are 0.

    Parameters
    ----------
    images, mask
        Of equal shape (z, y, x); images finite in the mask.

    Raises
    ------
    ValueError
        If an image cannot be normalised.
    """
    result = np.zeros((len(CONTRASTS), *mask.shape), dtype=np.float32)
    for contrast, image in images.items():
        brain = image[mask]
        result[CONTRASTS.index(contrast)][mask] = brain / histogram_mode(brain, contrast)
    return result


def sample_slices(
    images: Mapping[Contrast, NDArray[np.float32]],
    mask: NDArray[np.bool_],
    acquisitions: Mapping[Contrast, Acquisition],
    n: int,
    rng: np.random.Generator,
) -> list[Slice]:
    """Up to ``n`` random slices of a session that hold brain, cut to its extent in plane.

    Parameters
    ----------
    images, mask
        Aligned images in arbitrary unit and the brain, shape (z, y, x).
    acquisitions
        Of the contrasts in ``images``.

    Raises
    ------
    ValueError
        If an image cannot be normalised.
    """
    mask = inside_of(images.values(), mask)
    useful = np.flatnonzero(mask.sum(axis=(1, 2)) >= MIN_BRAIN)
    if not useful.size:
        return []
    rows, columns = extent_in_plane(mask)
    volume = normalised(images, mask)[:, :, rows, columns]
    indices = np.sort(rng.permutation(useful)[:n])
    return [
        Slice(images=volume[:, z].copy(), mask=mask[z, rows, columns].copy(), acquisitions=acquisitions)
        for z in indices
    ]


def textbook_signal(acquisition: Acquisition, pd: Tensor, t1: Tensor, t2: Tensor) -> Tensor:
    r"""Magnitude of the signal by the textbook, with the echo times of trains shortened by a constant factor.

    .. math::
        \text{gradient echo} \quad & PD \, \sin\alpha \, (1 - E_1) / (1 - E_1 \cos\alpha) \\
        \text{spin echo, TSE} \quad & PD \, (1 - E_1) \, E_2 \\
        \text{FLAIR} \quad & PD \, |1 - 2 E_1(TI) + E_1(TR)| \, E_2 \\
        \text{MPRAGE} \quad & PD \, |1 - 2 E_1(TI) / (1 + E_1(TR))|

    with :math:`E_1 = e^{-TR/T_1}`, :math:`E_2 = e^{-f TE/T_2}` and f = 0.9 (T2w), 0.89 (FLAIR), 0.42 (FLAIR with an
    echo time from 0.2 s) or 1 (T1w). Left out, as there: echo trains, readouts, refocusing angles, transmit field.

    Parameters
    ----------
    pd, t1, t2
        Maps of equal shape; ``pd`` relative, ``t1`` and ``t2`` in seconds.

    Returns
    -------
    Tensor
        Signal in the unit of ``pd``.
    """
    time = acquisition.echo_time
    factor = {Contrast.T1W: 1.0, Contrast.T2W: 0.9, Contrast.FLAIR: 0.42 if time >= 0.2 else 0.89}[acquisition.contrast]
    left = torch.exp(-acquisition.repetition_time / t1)
    if acquisition.sequence is PulseSequence.SPOILED_GRADIENT_ECHO:
        sine, cosine = math.sin(acquisition.flip_angle), math.cos(acquisition.flip_angle)
        return pd * sine * (1 - left) / (1 - cosine * left)
    decayed = torch.exp(-factor * time / t2)
    if acquisition.inversion_time is None:
        return pd * (1 - left) * decayed
    inverted = 2 * torch.exp(-acquisition.inversion_time / t1)
    if acquisition.sequence is PulseSequence.MPRAGE:
        return pd * (1 - inverted / (1 + left)).abs()
    return pd * (1 - inverted + left).abs() * decayed


def bounded_scale(signal: Tensor, image: Tensor, mask: Tensor, acquisition: Acquisition) -> Tensor:
    """Factor from signal to image: least squares in the mask, within 20 % of what brings white matter to 1.

    Parameters
    ----------
    signal, image, mask
        Shape (y, x).
    """
    constant = 1 / _white_matter_signal(acquisition)
    fitted = (signal * image * mask).sum() / (signal.square() * mask).sum().clamp_min(1e-12)
    return fitted.clamp((1 - SCALE_FREEDOM) * constant, (1 + SCALE_FREEDOM) * constant)


@lru_cache(maxsize=4096)
def _white_matter_signal(acquisition: Acquisition) -> float:
    t1, t2, pd = (torch.tensor(value) for value in RECIPE_WHITE_MATTER)
    return float(textbook_signal(acquisition, pd, t1, t2))


def recipe_loss(
    maps: Tensor, images: Tensor, mask: Tensor, acquisitions: Sequence[Mapping[Contrast, Acquisition]]
) -> Tensor:
    """Mean L1 over the contrasts acquired, a hinge on low PD, and total variation in units of white matter.

    Parameters
    ----------
    maps, images
        Shape (slice, 3, y, x) and (slice, contrast, y, x), normalised.
    mask
        Shape (slice, y, x).
    acquisitions
        By slice.
    """
    errors = []
    for (t1, t2, pd), planes, inside, series in zip(maps.clamp_min(1e-3), images, mask, acquisitions, strict=True):
        for contrast, acquisition in series.items():
            image = planes[CONTRASTS.index(contrast)]
            signal = textbook_signal(acquisition, pd, t1, t2)
            scale = bounded_scale(signal.detach(), image, inside, acquisition)
            errors.append(((scale * signal - image).abs() * inside).sum() / inside.sum().clamp_min(1))
    hinge = (functional.relu(LEAST_PD - maps[:, 2]) * mask).sum() / mask.sum().clamp_min(1)
    relative = maps / maps.new_tensor(RECIPE_WHITE_MATTER)[:, None, None]
    variation = torch.zeros((), dtype=maps.dtype, device=maps.device)
    for axis in (-1, -2):
        both = mask.diff(dim=axis).eq(0) * mask.narrow(axis, 1, mask.shape[axis] - 1)
        steps = relative.diff(dim=axis).abs() * both[:, None]
        variation = variation + steps.sum() / (3 * both.sum()).clamp_min(1)
    return torch.stack(errors).mean() + PD_WEIGHT * hinge + SMOOTHNESS_WEIGHT * variation


def warm_up_loss(maps: Tensor, mask: Tensor) -> Tensor:
    """Mean L1 of the maps to the constants of white matter, relative to these; shapes as for `recipe_loss`."""
    relative = maps / maps.new_tensor(RECIPE_WHITE_MATTER)[:, None, None]
    return ((relative - 1).abs() * mask[:, None]).sum() / (3 * mask.sum()).clamp_min(1)


def kept_contrasts(acquired: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Contrast dropout: each with probability 0.5, but one at most is missing.

    Parameters
    ----------
    acquired
        Shape (slice, contrast); a slice that lacks a contrast keeps the others.
    """
    kept = acquired.copy()
    for row in kept:
        dropped = rng.permutation(np.flatnonzero(rng.random(row.size) < 0.5))
        if row.all() and dropped.size:
            row[dropped[0]] = False
    return kept


def train_recipe(
    slices: Sequence[Slice],
    settings: RecipeSettings,
    *,
    deadline: float | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    device: str = "cpu",
) -> tuple[RecipeNetwork, dict[str, Any]]:
    """Train on images alone, with Adam at a constant rate after a warm-up to the constants.

    Parameters
    ----------
    slices
        From `sample_slices`, of all sessions.
    settings
        Equal settings and slices on equal hardware give equal weights unless a deadline cuts them short.
    deadline
        Seconds of training in place of ``settings.n_epochs``; at most a tenth of them is warm-up.
    progress
        Called with steps (with a deadline: seconds) done and in all, and a line of text.
    device
        Of PyTorch.

    Returns
    -------
    tuple
        The network in evaluation mode, and the record of its training: settings, sizes, steps, seconds, losses.

    Raises
    ------
    ValueError
        Without slices.
    """
    if not slices:
        raise ValueError("there is no slice to train on; no session holds enough brain")
    network = _first_weights(settings).to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    network.plane = _plane([each.mask.shape for each in slices])
    rng = np.random.default_rng([settings.seed, 3])
    per_epoch = math.ceil(len(slices) / settings.batch)
    n_steps, warm_up = settings.n_epochs * per_epoch, max(per_epoch, RECIPE_WARM_UP)
    batches = _shuffled(slices, settings.batch, rng)
    losses: list[float] = []
    began, step, spent = time.monotonic(), 0, 0.0
    while spent < deadline if deadline is not None else step < n_steps:
        is_warming = step < warm_up and (deadline is None or spent < deadline / 10)
        loss = _loss(network, next(batches), rng, is_warming=is_warming)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        step, spent = step + 1, time.monotonic() - began
        if not is_warming:
            losses.append(loss.item())
        is_last = spent >= deadline if deadline is not None else step == n_steps
        if progress is not None and (step % 10 == 0 or is_last):
            done, total = (step, n_steps) if deadline is None else (min(int(spent), int(deadline)), int(deadline))
            progress(done, total, f"{step} steps, loss {loss.item():.3f}")
    lasted = {"steps": step, "epochs": round(step / per_epoch, 1), "seconds": round(spent)}
    return network.eval(), {"settings": asdict(settings), "slices": len(slices), **lasted, **_record(network, losses)}


def _first_weights(settings: RecipeSettings) -> RecipeNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        return RecipeNetwork(settings)


def _shuffled(slices: Sequence[Slice], size: int, rng: np.random.Generator) -> Iterator[list[Slice]]:
    """Batches without end; every slice once before any comes again."""
    while True:
        order = rng.permutation(len(slices))
        for start in range(0, len(order), size):
            yield [slices[index] for index in order[start : start + size]]


def _loss(network: RecipeNetwork, members: Sequence[Slice], rng: np.random.Generator, *, is_warming: bool) -> Tensor:
    """Loss of a batch of which some contrasts are kept from the network."""
    device = network.head.weight.device
    images, mask = (part.to(device) for part in _collated(members, network.plane))
    acquired = np.array([[contrast in each.acquisitions for contrast in CONTRASTS] for each in members])
    maps = network(images, torch.from_numpy(kept_contrasts(acquired, rng)).to(device))
    if is_warming:
        return warm_up_loss(maps, mask)
    return recipe_loss(maps, images, mask, [each.acquisitions for each in members])


def _record(network: RecipeNetwork, losses: Sequence[float]) -> dict[str, float]:
    """Number of parameters, and the mean loss of the first and the last tenth of the steps; NaN of none."""
    tenth = max(1, len(losses) // 10)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "first_loss": float(np.mean(losses[:tenth])) if losses else float("nan"),
        "last_loss": float(np.mean(losses[-tenth:])) if losses else float("nan"),
    }


def infer_recipe(
    network: RecipeNetwork, images: Mapping[Contrast, NDArray[np.float32]], mask: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Maps of one session by a trained network.

    Parameters
    ----------
    network
        In evaluation mode.
    images, mask
        Aligned images in arbitrary unit and the brain mask, shape (z, y, x).

    Returns
    -------
    tuple
        T1 [s], T2 [s] and PD, shape (z, y, x); NaN outside the mask, and where a contrast is not finite.

    Raises
    ------
    ValueError
        Without an image, or if one cannot be normalised.
    """
    if not images:
        raise ValueError("no contrast was given; at least one is needed")
    inside = inside_of(images.values(), mask)
    result = np.full((3, *mask.shape), np.nan, dtype=np.float32)
    if inside.any():
        rows, columns = extent_in_plane(inside)
        volume = torch.from_numpy(normalised(images, inside)[:, :, rows, columns].copy())
        present = torch.tensor([contrast in images for contrast in CONTRASTS])
        device = network.head.weight.device
        height, width = volume.shape[-2:]
        for start in range(0, len(mask), BLOCK):
            block = slice(start, min(start + BLOCK, len(mask)))
            where = inside[block, rows, columns]
            if not where.any():
                continue
            planes = _centred(volume[:, block].movedim(1, 0), _plane([(height, width), network.plane])).to(device)
            with torch.inference_mode():
                maps = network(planes, present.to(device).expand(len(planes), -1)).cpu()
            top, left = ((size - own) // 2 for size, own in zip(maps.shape[-2:], (height, width), strict=True))
            inner = maps[..., top : top + height, left : left + width].movedim(1, 0).numpy()
            result[:, block, rows, columns] = np.where(where, inner, np.float32(np.nan))
    t1, t2, pd = result
    return t1, t2, pd


def _plane(shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    """Size that holds all shapes (y, x) and that the network can halve."""
    height, width = (
        max(2 * RECIPE_MULTIPLE, RECIPE_MULTIPLE * math.ceil(max(sizes) / RECIPE_MULTIPLE))
        for sizes in zip(*shapes, strict=True)
    )
    return height, width


def _centred(planes: Tensor, plane: tuple[int, int]) -> Tensor:
    """Planes of shape (..., y, x) in the middle of larger ones, 0 around."""
    (height, width), (y, x) = plane, planes.shape[-2:]
    top, left = (height - y) // 2, (width - x) // 2
    return functional.pad(planes, (left, width - x - left, top, height - y - top))


def _collated(slices: Sequence[Slice], plane: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Images and masks of a batch, shapes (slice, contrast, y, x) and (slice, y, x)."""
    images = [_centred(torch.from_numpy(each.images), plane) for each in slices]
    masks = [_centred(torch.from_numpy(each.mask.astype(np.float32)), plane) for each in slices]
    return torch.stack(images), torch.stack(masks)
