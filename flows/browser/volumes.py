"""Volumes for the viewer, and thumbnails: read from the store when they are asked for."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.browser.view import View
from flows.pictures.volumes import MAP_WINDOWS
from qmri_core.series.acquisition import CONTRASTS

LABELS = ("brain_mask", "tissue")
THUMBNAIL = 112
"""Pixels of the longer side of a thumbnail, at most."""
MAX_THUMBNAILS = 4096
"""Thumbnails that are kept in memory, some 3 kB each."""


def nifti(view: View, session: str, name: str) -> bytes:
    """One volume of a session as NIfTI-1, on the grid of its group: axes x, y, z in RAS millimetres.

    Values are those of the store: float32 with NaN for not computed, or labels, with 255 for it.
    """
    from nibabel.nifti1 import Nifti1Image

    slot = view.cohort.slots[session]
    values = np.asarray(view.cohort.read(slot, [name])[name])
    first = [np.asarray(view.cohort.nodes.array(slot.group, axis)[:]) for axis in "xyz"]
    affine = np.diag([*(float(np.diff(places[:2])[0]) if places.size > 1 else 1.0 for places in first), 1.0])
    affine[:3, 3] = [float(places[0]) for places in first]
    image = Nifti1Image(np.ascontiguousarray(values.transpose(2, 1, 0)), affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    return bytes(image.to_bytes())


@lru_cache(maxsize=MAX_THUMBNAILS)
def thumbnail(view: View, session: str, name: str) -> bytes:
    """The axial slice through the middle of the brain as a small JPEG, the patient's right on the left.

    Only the slices of one chunk of the store are read. What is not computed is dark blue.
    """
    section = middle_section(view, session, name)
    return jpeg(section, name, THUMBNAIL)


def middle_section(view: View, session: str, name: str) -> NDArray[Any]:
    """Slice in the middle of the volume, shape (y, x)."""
    slot = view.cohort.slots[session]
    places = np.asarray(view.cohort.nodes.array(slot.group, "z")[:])
    return np.asarray(view.cohort.read_part(slot, name, (int(places.size // 2),)))


def jpeg(section: NDArray[Any], name: str, size: int) -> bytes:
    """A slice of shape (row from below, column from the patient's left) as JPEG, windowed as in the report."""
    from PIL import Image

    grey = windowed(section, name)
    picture = Image.fromarray(grey[::-1, ::-1], mode="RGB")
    picture.thumbnail((size, size))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=82)
    return buffer.getvalue()


def windowed(section: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Grey levels of a slice, shape (row, column, 3); dark blue where nothing was computed."""
    low, high = window(section, name)
    known = np.isfinite(section)
    level = np.clip((np.where(known, section, low) - low) / ((high - low) or 1.0), 0, 1)
    grey = np.repeat((255 * level).astype(np.uint8)[..., None], 3, axis=-1)
    grey[~known] = (10, 18, 38)
    return grey


def window(section: NDArray[Any], name: str) -> tuple[float, float]:
    """Values that are black and white: those of the report for maps, from 0 to nearly the brightest for images."""
    if name in MAP_WINDOWS:
        factor, low, high, _ = MAP_WINDOWS[name]
        return low / factor, high / factor
    if name in LABELS:
        return 0.0, 3.0
    known = section[np.isfinite(section)]
    known = known[known > 0] if name in CONTRASTS else known
    return 0.0, float(np.percentile(known, 99.5)) if known.size else 1.0
