"""deepbet's network (a LinkNet) in slabs: the numbers of its own run, in a quarter of the memory and less time.

What is large is never whole: the maximum that follows the first convolution is taken of its raw values, as normalising
keeps their order; and of two classes only the difference is needed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv3d, conv_transpose3d, pad, relu_

_SLAB = 16
"""Planes of the input of the last step, or of the output of the first, that are computed at a time."""
_THICK_SLAB = 32
"""Planes of a convolution of several channels: fewer of them, and torch takes one that unfolds its input."""
_EPSILON = 1e-5  # that of torch's instance normalisation

Weights = Mapping[str, Tensor]


def is_brain(image: Tensor, weights: Weights) -> Tensor:
    """Where the network finds brain more probable than not.

    Parameters
    ----------
    image
        Normalised image of shape (x, y, z), multiples of 64, on any device.
    weights
        State of deepbet's network, on the same device.

    Returns
    -------
    Tensor
        Boolean, shape and device of the image.
    """
    with torch.inference_mode():
        shallow = _stem(image, weights)
        levels = [shallow]
        for depth in range(4):
            levels.append(_down(levels[-1], weights, f"down{depth}", stride=2 if depth else 1))
        values = levels.pop()
        for depth in range(4):
            values = _up(values, weights, f"up{depth}", stride=2 if depth < 3 else 1)
            values += levels.pop()
        values = _normalised(_doubled(values, *_of(weights, "tp_conv1.0")))
        values = _normalised(_convolved(values, *_of(weights, "conv.0")))
        return _larger_class(values, *_of(weights, "tp_conv2"))


def _of(weights: Weights, name: str) -> tuple[Tensor, Tensor | None]:
    return weights[f"{name}.weight"], weights.get(f"{name}.bias")


def _stem(image: Tensor, weights: Weights) -> Tensor:
    """Convolution of stride 2, instance normalisation and maximum of stride 2."""
    kernel = weights["init.0.weight"]
    n_planes = image.shape[0] // 4
    total = kernel.new_zeros(kernel.shape[0], dtype=torch.float64)
    squares, count = total.clone(), 0
    parts = []
    for first in range(0, n_planes, _SLAB):
        last = min(first + _SLAB, n_planes)
        begin = max(2 * first - 1, 0)  # the maximum reaches a plane back
        raw = _of_planes(image[None, None], kernel, 2 * begin, 4 * last - 1, stride=2)
        own = raw[:, :, 2 * first - begin :]
        total += own.sum(dim=(0, 2, 3, 4)).double()
        squares += own.square().sum(dim=(0, 2, 3, 4)).double()
        count += own[0, 0].numel()
        parts.append(_maximum(_maximum(_maximum(raw, 2, before=2 * first - begin), 3), 4))
    mean = total / count
    scale = (squares / count - mean.square() + _EPSILON).rsqrt()
    result = torch.cat(parts, dim=2)
    result -= mean.float()[:, None, None, None]
    result *= scale.float()[:, None, None, None]
    return relu_(result)


def _of_planes(values: Tensor, kernel: Tensor, start: int, stop: int, *, stride: int = 1) -> Tensor:
    """Convolution around the planes from ``start`` to before ``stop``, zeros beyond the ends."""
    reach = kernel.shape[2] // 2
    low, high = start - reach, stop + reach
    slab = values[:, :, max(low, 0) : high]
    missing = (0, 0, 0, 0, max(-low, 0), max(high - values.shape[2], 0))
    return conv3d(pad(slab, missing), kernel, stride=stride, padding=(0, reach, reach))


def _convolved(values: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    result = values.new_empty(1, kernel.shape[0], *values.shape[2:])
    for first in range(0, values.shape[2], _THICK_SLAB):
        last = min(first + _THICK_SLAB, values.shape[2])
        result[:, :, first:last] = _of_planes(values, kernel, first, last)
    return result if bias is None else result.add_(bias[:, None, None, None])


def _doubled(values: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Transposed convolution of stride 2."""
    x, y, z = values.shape[2:]
    result = values.new_empty(1, kernel.shape[1], 2 * x, 2 * y, 2 * z)
    for first in range(0, x, _THICK_SLAB):
        last = min(first + _THICK_SLAB, x)
        slab = values[:, :, first : last + 1]  # a plane of the result has two of the values around it
        planes = conv_transpose3d(slab, kernel, stride=2, padding=1, output_padding=1)
        result[:, :, 2 * first : 2 * last] = planes[:, :, : 2 * (last - first)]
    return result if bias is None else result.add_(bias[:, None, None, None])


def _maximum(values: Tensor, dim: int, before: int = 0) -> Tensor:
    """Maximum of three neighbours of stride 2 along an axis, whose first is not there (or is, with ``before`` 1)."""

    def every_other(start: int, stop: int | None = None) -> Tensor:
        return values[(slice(None),) * dim + (slice(start, stop, 2),)]

    result = torch.maximum(every_other(before), every_other(before + 1))
    later = result.narrow(dim, 1 - before, result.shape[dim] - 1 + before)
    torch.maximum(later, every_other(1 - before, -1), out=later)
    return result


def _normalised(values: Tensor, *, rectified: bool = True) -> Tensor:
    """Instance normalisation in place."""
    values -= values.mean(dim=(2, 3, 4), keepdim=True)
    squares = torch.linalg.vector_norm(values, dim=(2, 3, 4), keepdim=True).square()
    values *= (squares / values[0, 0].numel() + _EPSILON).rsqrt()
    return relu_(values) if rectified else values


def _down(values: Tensor, weights: Weights, name: str, stride: int) -> Tensor:
    """Two residual blocks, the first of which may halve the sampling."""
    for block, step in ((f"{name}.block1", stride), (f"{name}.block2", 1)):
        new = _normalised(conv3d(values, weights[f"{block}.double_conv.0.weight"], stride=step, padding=1))
        new = _normalised(conv3d(new, weights[f"{block}.double_conv.3.weight"], padding=1), rectified=False)
        beside = weights.get(f"{block}.downsample.0.weight")
        new += values if beside is None else _normalised(conv3d(values, beside, stride=step), rectified=False)
        values = relu_(new)
    return values


def _up(values: Tensor, weights: Weights, name: str, stride: int) -> Tensor:
    values = _normalised(conv3d(values, weights[f"{name}.conv1.0.weight"]))
    kernel = weights[f"{name}.tp_conv.0.weight"]
    values = _normalised(conv_transpose3d(values, kernel, stride=stride, padding=1, output_padding=stride - 1))
    return _normalised(conv3d(values, weights[f"{name}.conv2.0.weight"]))


def _larger_class(values: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Where the second class of the last step, which doubles the sampling, has the larger value."""
    to_second = (kernel[:, 1] - kernel[:, 0]).flatten(1).T  # (place in a block of 2 x 2 x 2, channel)
    least = 0.0 if bias is None else float(bias[0] - bias[1])
    x, y, z = values.shape[2:]
    result = values.new_empty((2 * x, 2 * y, 2 * z), dtype=torch.bool)
    for first in range(0, x, _SLAB):
        slab = values[0, :, first : first + _SLAB]
        second = (to_second @ slab.flatten(1)).reshape(8, *slab.shape[1:]) > least
        for place, part in enumerate(second):
            i, j, k = np.unravel_index(place, (2, 2, 2))
            result[2 * first + i : 2 * (first + slab.shape[1]) : 2, j::2, k::2] = part
    return result
