"""Volumes for the viewer, no finer than a screen shows them, and the exact values at a voxel: read when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flows.browser.plain import exact
from flows.browser.view import View
from flows.pictures.slices import window
from storage.store.schema import IMAGE_NAMES, NOT_COMPUTED

if TYPE_CHECKING:
    from storage.store.slots import Slot

MOST = 256
"""Voxels along an axis that a plane on the screen shows; of twice as many every second one travels, and so on."""
NOT_SHOWN = -32768
"""What is not computed, in volumes of 16 bits."""
HALF = 32767
"""Levels on either side of the middle of a volume's range."""
DIFFERENCE_PART = 0.2
"""Of the window of an image: the difference of two that has full colour."""
WINDOWS = {"T2map_sd": (0.0, 0.05), "PDmap_sd": (0.0, 0.1), "residual": (0.0, 0.3), "brain_mask": (0.0, 1.0)}
"""Values that are black and white, in the unit of the store, of what `flows.pictures.slices.window` has none."""


class GridError(ValueError):
    """Two volumes do not lie on one grid."""


@dataclass(frozen=True, slots=True)
class GridOf:
    """Grid of a group, in the order x, y, z: voxels, millimetres of the first voxel (RAS) and from one to the next."""

    shape: tuple[int, ...]
    first: tuple[float, ...]
    step: tuple[float, ...]

    @property
    def every(self) -> tuple[int, ...]:
        """Which voxels of each axis travel: 1 for all, 2 for every second one."""
        return tuple(max(1, size // MOST) for size in self.shape)


def grid_of(view: View, slot: Slot) -> GridOf:
    """The grid on which all volumes of a session lie."""
    places = [np.asarray(view.cohort.nodes.array(slot.group, axis)[:], dtype=float) for axis in "xyz"]
    return GridOf(
        tuple(one.size for one in places),
        tuple(float(one[0]) for one in places),
        tuple(float(one[1] - one[0]) if one.size > 1 else 1.0 for one in places),
    )


def shown_volume(view: View, session: str, name: str) -> bytes:
    """One volume of a session for the viewer, as NIfTI-1 in RAS millimetres.

    Floats travel as 16-bit integers, scaled so that the lowest value, the highest and the one that is drawn black are
    kept, with `NOT_SHOWN`, below them all, for not computed; labels as they are, with 255 for it. Of an axis of twice
    `MOST` voxels or more every second one travels, of three times as many every third. The header says which values
    are black and white.
    """
    slot = view.cohort.slots[session]
    grid = grid_of(view, slot)
    values = _thinned(view.cohort.read(slot, [name])[name], grid)
    shades = WINDOWS.get(name) or window(values[::2, ::2, ::2], name)
    return _nifti(values, grid, shades, reaches=shades[0])


def shown_difference(view: View, session: str, other_view: View, other: str, name: str) -> bytes:
    """Of a volume, what ``other`` has more than ``session``, voxel by voxel; as `shown_volume`.

    It is 0 where one of them is not computed; 0 is the middle of the colours.

    Raises
    ------
    GridError
        If the two do not lie on one grid.
    """
    first, second = view.cohort.slots[session], other_view.cohort.slots[other]
    grid = grid_of(view, first)
    if grid != grid_of(other_view, second):
        raise GridError("the two are not on one grid")
    one, two = (
        _thinned(of.cohort.read(slot, [name])[name], grid) for of, slot in ((view, first), (other_view, second))
    )
    low, high = WINDOWS.get(name) or window(one[::2, ::2, ::2], name)
    values = _computed(two) - _computed(one)
    full = DIFFERENCE_PART * max(abs(low), abs(high))
    return _nifti(np.nan_to_num(values, nan=0.0), grid, (-full, full), reaches=0.0)


def value_at(view: View, session: str, name: str, voxel: tuple[int, int, int]) -> dict[str, float | None]:
    """What the store holds at a voxel (x, y, z): the value, and its deviation where there is one; None: not computed.

    Raises
    ------
    IndexError
        If the grid has no such voxel.
    """
    slot = view.cohort.slots[session]
    place = voxel[::-1]
    shape = view.cohort.nodes.array(slot.group, name).shape[1:]
    if not all(0 <= at < size for at, size in zip(place, shape, strict=True)):
        raise IndexError(f"the grid has {'x'.join(map(str, shape[::-1]))} voxels")
    found = {"value": exact(view.cohort.read_part(slot, name, place), NOT_COMPUTED)}
    if f"{name}_sd" in IMAGE_NAMES:
        found["deviation"] = exact(view.cohort.read_part(slot, f"{name}_sd", place), NOT_COMPUTED)
    return found


def _thinned(values: NDArray[Any], grid: GridOf) -> NDArray[Any]:
    x, y, z = grid.every
    return np.asarray(values)[::z, ::y, ::x]


def _computed(values: NDArray[Any]) -> NDArray[np.float32]:
    """Floats, NaN for not computed."""
    return values if values.dtype.kind == "f" else np.where(values == NOT_COMPUTED, np.float32(np.nan), values)


def _nifti(values: NDArray[Any], grid: GridOf, shades: tuple[float, float], *, reaches: float) -> bytes:
    """Values of the shape (z, y, x) as a file; their order in memory is that of NIfTI, in which x runs fastest.

    Its range reaches down to ``reaches`` at least.
    """
    from nibabel.nifti1 import Nifti1Header

    coded, slope, middle = _scaled(values, reaches) if values.dtype.kind == "f" else (values, 1.0, 0.0)
    header: Any = Nifti1Header()  # type: ignore[no-untyped-call]
    header.set_data_shape(values.shape[::-1])
    header.set_data_dtype(coded.dtype)
    affine = np.diag([*(step * every for step, every in zip(grid.step, grid.every, strict=True)), 1.0])
    affine[:3, 3] = grid.first
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = slope, middle
    header["cal_min"], header["cal_max"] = shades
    header["vox_offset"] = len(header.binaryblock) + 4
    return bytes(header.binaryblock) + bytes(4) + np.ascontiguousarray(coded).tobytes()


def _scaled(values: NDArray[Any], reaches: float) -> tuple[NDArray[np.int16], float, float]:
    """Floats as 16-bit integers, and by which factor and from which middle they are got back.

    The range reaches down to ``reaches`` at least: to black, so that `NOT_SHOWN`, one level below it, is drawn so too.
    """
    known = np.isfinite(values)
    low = float(np.min(values, where=known, initial=reaches))
    high = float(np.max(values, where=known, initial=-np.inf))
    if not low < high:
        low, high = (low - 1.0, low + 1.0) if low == high else (-1.0, 1.0)
    slope, middle = np.float32((high - low) / (2 * HALF)), np.float32((high + low) / 2)
    levels = (np.where(known, values, middle) - middle) / slope
    coded = np.clip(np.rint(levels, out=levels), -HALF, HALF, out=levels).astype(np.int16)
    coded[~known] = NOT_SHOWN
    return coded, float(slope), float(middle)
