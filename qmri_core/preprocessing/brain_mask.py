"""Brain mask by deepbet (Fisch et al. 2024), whose weights come with its wheel.

Only these are used: its code imports pandas and pyarrow, 57 MB that a worker has no use for.

Its networks run on the GPU of this process where there is one, in float32. What a GPU finds differs from what a CPU
does by rounding: in single voxels, where both classes are as probable.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.devices import fastest, in_precision
from qmri_core.preprocessing.brain_network import Weights, is_brain
from qmri_core.series.geometry import Volume, closest_canonical

PLAUSIBLE_LITRES = (0.5, 2.2)
"""Volume of parenchyma, ventricles and sulcal CSF; outside, the extraction failed."""
_SMALL, _LARGE = 128, 256
"""Samples along each axis of the head in which a box is looked for, and of that box; the networks were trained so."""
_MARGIN = 0.1
"""Of the box, as a share of its size."""
_ENOUGH = 0.02
"""Share of a plane that the head fills in the box."""
_HEAD, _BRAIN = 0, 1
"""deepbet's two networks: the one that finds the head's box, and the one that finds the brain in it."""
_CPU = torch.device("cpu")

_log = logging.getLogger(__name__)


class BrainMaskError(ValueError):
    """No plausible brain was found."""


def brain_mask(t1w: Volume) -> NDArray[np.uint8]:
    """Mask of the brain with ventricles and sulcal CSF.

    Parameters
    ----------
    t1w
        Head, any orientation and spacing; T1w is what the network was trained on.

    Returns
    -------
    ndarray
        0 or 1, uint8, shape of ``t1w.array``.

    Raises
    ------
    BrainMaskError
        If nothing is found or the volume is not that of a brain.

    References
    ----------
    Fisch et al. 2024, Computers in Biology and Medicine 179:108845 (deepbet).
    """
    order, flipped = closest_canonical(t1w.affine)
    flips = tuple(axis for axis in range(3) if flipped[axis])
    canonical = np.flip(t1w.array.transpose(2, 1, 0).transpose(order), axis=flips)  # x, y, z towards R, A, S
    mask = _found(canonical)
    if mask is None:
        raise BrainMaskError(f"deepbet found no brain in a volume of shape {t1w.array.shape}")
    back = np.flip(mask, axis=flips).transpose(np.argsort(order)).transpose(2, 1, 0)
    litres = float(back.sum()) * abs(float(np.linalg.det(t1w.affine[:3, :3]))) * 1e-6
    if not PLAUSIBLE_LITRES[0] <= litres <= PLAUSIBLE_LITRES[1]:
        raise BrainMaskError(f"a brain of {litres:.2f} l was found, outside {PLAUSIBLE_LITRES} l")
    return np.ascontiguousarray(back, dtype=np.uint8)


def _found(image: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """What ``deepbet.BrainExtraction.run_model`` and ``postprocess`` find in an image (x, y, z towards R, A, S)."""
    small = _sampled(image, (slice(None),) * 3, _SMALL)
    low, high = torch.quantile(small, torch.tensor([0.005, 0.995])).tolist()
    head = _is_brain(_normalised(small, low, high), _HEAD).numpy()
    box = _box(_largest(head), image.shape)
    if box is None:
        return None
    inside = _is_brain(_normalised(_sampled(image, box, _LARGE), low, high), _BRAIN).numpy()
    back = [_nearest(size, part.stop - part.start) for size, part in zip(inside.shape, box, strict=True)]
    brain = _largest(inside[np.ix_(*back)])
    if not brain.any():
        return None
    mask = np.zeros(image.shape, dtype=np.uint8)
    mask[box] = ndimage.binary_fill_holes(brain)
    return mask


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest part of a mask whose voxels touch, at corners too."""
    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    return np.asarray(mask & (labels == counts.argmax()))


def _box(head: NDArray[np.bool_], shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    """Box with a margin around a head, in an image of another shape; None where too little is left of it.

    As ``deepbet.BrainExtraction.get_bbox_with_margin``, in single precision.
    """
    box = []
    for axis, length in enumerate(shape):
        filled = np.flatnonzero(head.mean(axis=tuple({0, 1, 2} - {axis})) > _ENOUGH)
        if not filled.size:
            return None
        scale = np.float32(length) / np.float32(head.shape[axis])
        centre = np.rint(scale * np.float32((filled[0] + filled[-1] + 1) / 2))
        widened = np.float32(1) + np.float32(2) * np.float32(_MARGIN)
        size = np.rint(widened * (scale * np.float32(filled[-1] + 1 - filled[0])))
        box.append(slice(max(0, int(centre - size / 2)), min(length, int(centre + size / 2))))
    return tuple(box) if all(part.stop > part.start for part in box) else None


def _is_brain(image: torch.Tensor, network: int) -> torch.Tensor:
    """Where a network finds brain, on the CPU; computed on the fastest device whose memory it fits into."""
    place, _ = fastest()
    if place.type != "cpu":
        try:
            return _is_brain_on(place, image, network)
        except torch.OutOfMemoryError:
            _log.warning("the device's memory is full: this brain mask is computed on the CPU")
        # outside of the handler, whose traceback would keep the tensors of what has failed
        torch.cuda.empty_cache()
    return _is_brain_on(_CPU, image, network)


def _is_brain_on(place: torch.device, image: torch.Tensor, network: int) -> torch.Tensor:
    with in_precision(torch.float32, place):
        return is_brain(image.to(place), _weights(place)[network]).cpu()


def _sampled(image: NDArray[np.float32], box: Sequence[slice], size: int) -> torch.Tensor:
    """Nearest values of the box of an image at so many places along each axis; what is not finite is zero."""
    places = [
        part.indices(length)[0] + _nearest(len(range(*part.indices(length))), size)
        for part, length in zip(box, image.shape, strict=True)
    ]
    return torch.nan_to_num_(torch.from_numpy(image[np.ix_(*places)].astype(np.float32, copy=False)))


def _nearest(size: int, n_places: int) -> NDArray[np.intp]:
    """Of so many places evenly over an axis the nearest voxels, as torch's ``nearest-exact`` has it."""
    return np.minimum(((np.arange(n_places) + 0.5) * (size / n_places)).astype(np.intp), size - 1)


def _normalised(image: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """As ``deepbet.utils.normalize``, in place."""
    image.sub_(low).div_(high - low).clamp_(0, 1)
    deviation, mean = torch.std_mean(image)
    return image.sub_(mean).div_(deviation).mul_(0.226).add_(0.449)


@lru_cache(maxsize=2)
def _weights(place: torch.device) -> tuple[Weights, Weights]:
    """Of deepbet's networks `_HEAD` and `_BRAIN`, on a device."""
    found = find_spec("deepbet")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("deepbet, whose wheel has the weights, is not installed")
    folder = Path(found.origin).parents[1] / "data" / "models"
    with warnings.catch_warnings():
        # deepbet ships TorchScript, which torch 2.15 deprecates
        warnings.filterwarnings("ignore", message=".*torch.jit.load")
        networks = [torch.jit.load(str(folder / name), map_location=place) for name in ("bbox_model.pt", "model.pt")]  # type: ignore[no-untyped-call]
    head, brain = (network.state_dict() for network in networks)
    return head, brain
