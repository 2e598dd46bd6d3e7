"""Which bits of a stored value count, what its sign is, and which values stand for no signal.

Exporters contradict the pixels that they keep: more bits are used than stated, or others, or overlays lie in bits that
no value has. An image is smooth, and a wrong reading of it is not: values that pass the end of their range begin anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.source.series import ReadError

NEGATIVE = 0.1
"""Of the 98th percentile of absolute values: signals that lie further below zero are none of a magnitude image."""

CLOSER = 0.02
"""Share of neighbours, see `_share_closer`, above which all bits count. In simulated slices of which 6 to 9 of 10 bits
are stated it is 0.07 and more, with overlays in bits 12 or 15 it is 0."""

MANY_NEGATIVE = 0.01
"""Share of such voxels above which an image is refused; interpolation leaves few of them, at edges."""


def is_settled(stored: NDArray[Any], bits: int, high: int) -> bool:
    """Whether values mean the same however their bits are counted, so that other slices say nothing of them."""
    signed = stored.dtype.kind == "i"
    if stored.dtype.kind not in "iu" or not 0 < bits < 8 * stored.dtype.itemsize:
        return True
    used = _used(stored)
    return not used or (high == bits - 1 and not used >> (bits - signed))


def read_bits(stored: NDArray[Any], bits: int, high: int) -> NDArray[Any]:
    """Values of slices, of which all bits were decoded.

    Those that the header states count, with their sign, unless values have more bits and are smoother with all of them;
    where the highest bit is stated otherwise and the lowest are never used, values are put in place. Dark slices use
    few bits, so that all slices of a series that are not `is_settled` are to be read together.

    Parameters
    ----------
    stored
        Integers as they lie in the file, in the type that the header states, of shape (..., rows, columns); floats are
        returned as they are.
    bits, high
        Bits stored and the number of the highest, as the header states them.
    """
    if stored.dtype.kind not in "iu":
        return stored
    allocated = 8 * stored.dtype.itemsize
    if not 0 < bits < allocated:
        return stored
    shift, used = high + 1 - bits, _used(stored)
    if not used >> (bits - (stored.dtype.kind == "i")):
        return stored
    if 0 < shift <= allocated - bits and used >> bits and not used & (2**shift - 1):
        return np.asarray(np.right_shift(stored, shift))
    stated = np.asarray(np.right_shift(np.left_shift(stored, allocated - bits), allocated - bits))
    if not used >> bits or np.array_equal(stated, stored):
        return stated
    return stored if _share_closer(stored, stated) > CLOSER else stated


def _used(stored: NDArray[Any]) -> int:
    """The bits that any of the values has."""
    return int(np.bitwise_or.reduce(stored, axis=None)) & ((1 << (8 * stored.dtype.itemsize)) - 1)


def _share_closer(whole: NDArray[Any], stated: NDArray[Any]) -> float:
    """Of neighbours whose further bits differ, the share that is closer with these bits than without."""
    n_closer = n_differing = 0
    planes = (one.reshape(-1, *one.shape[-2:]) for one in (whole, stated))
    for pair in zip(*planes, strict=True):
        all_bits, few_bits = (one.astype(np.int64) for one in pair)
        for axis in (-1, -2):
            differing = np.diff(all_bits - few_bits, axis=axis) != 0
            with_all, without = (np.abs(np.diff(one, axis=axis)) for one in (all_bits, few_bits))
            n_differing += int(differing.sum())
            n_closer += int((differing & (with_all < without)).sum())
    return n_closer / max(1, n_differing)


def padded(stored: NDArray[Any], padding: float | None) -> NDArray[np.bool_]:
    """Pixels that stand for none: those of the padding value, if it lies outside of all others and at the border."""
    nothing = np.zeros(stored.shape, dtype=bool)
    if not padding or stored.dtype.kind not in "iu":
        return nothing
    wraps = 2 ** (8 * stored.dtype.itemsize)
    found = (stored.astype(np.int64) - int(padding)) % wraps == 0
    rest = stored[~found]
    if not found.any() or not rest.size or rest.min() < stored[found][0] < rest.max():
        return nothing
    border = np.zeros_like(found)
    border[..., [0, -1], :] = border[..., :, [0, -1]] = True
    return found if (found & border).any() else nothing


def check_sign(array: NDArray[np.float32], where: str) -> None:
    """Refuse an image whose signal is below zero in more than a few voxels.

    Raises
    ------
    ReadError
        Saying how many, and what may be the cause.
    """
    if array.size == 0 or float(array.min()) >= 0:
        return
    share = float((array < -NEGATIVE * float(np.percentile(np.abs(array), 98))).mean())
    if share > MANY_NEGATIVE:
        raise ReadError(
            f"{where}: {share:.0%} of its voxels are negative, which a magnitude image has not: an offset, a "
            "normalisation or a lost sign; export the scanner's own image"
        )
