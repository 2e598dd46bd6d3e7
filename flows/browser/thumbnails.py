"""Thumbnails and planes as small pictures, stored ones or read from the store when they are asked for."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.browser.view import View
from flows.pictures.slices import LABELS, fitted, fitted_shape, grey_levels
from storage.store.schema import NOT_COMPUTED
from storage.store.thumbnails import PER_CHUNK, PICTURED, SIZE, read_chunk

DARK = (10, 18, 38)
"""Where nothing was computed."""
MAX_CHUNKS = 128
"""Chunks of stored thumbnails that are kept in memory, 290 kB each."""
MAX_THUMBNAILS = 4096
"""Thumbnails that are kept in memory, some 3 kB each."""


JPEG = {"format": "JPEG", "quality": 82}
"""For pictures that are asked for one by one: quickly made."""
WEBP = {"format": "WEBP", "quality": 80}
"""For pictures that are kept in a file: half the size, and no less like what is stored (by peak signal to noise)."""


@lru_cache(maxsize=MAX_THUMBNAILS)
def thumbnail(view: View, session: str, name: str) -> bytes:
    """The axial slice through the middle of the volume as a small JPEG, the patient's right on the left.

    As `aggregate` has made it; where it has not, of what the session holds now, from the slices of one chunk of the
    store. What is not computed is dark blue.
    """
    return coded(thumbnail_levels(view, session, name), JPEG)


def thumbnail_levels(view: View, session: str, name: str) -> NDArray[np.uint8]:
    """The same as grey levels, 0 where nothing is computed."""
    row = view.thumbnails.get(session)
    if row is None or name not in PICTURED:
        return levels_of(middle_section(view, session, name), name, SIZE)
    _, _, rows, columns = view.cohort.nodes.array(view.cohort.slots[session].group, name).shape
    height, width = fitted_shape(rows, columns, SIZE)
    return _levels(view, row - row % PER_CHUNK, name)[row % PER_CHUNK, :height, :width]


@lru_cache(maxsize=MAX_CHUNKS)
def _levels(view: View, row: int, name: str) -> NDArray[np.uint8]:
    return read_chunk(view.cohort.root, row, name)


def middle_section(view: View, session: str, name: str) -> NDArray[Any]:
    """Slice in the middle of the volume, shape (y, x)."""
    slot = view.cohort.slots[session]
    return np.asarray(view.cohort.read_part(slot, name, (view.cohort.nodes.array(slot.group, name).shape[1] // 2,)))


def levels_of(section: NDArray[Any], name: str, size: int) -> NDArray[np.uint8]:
    """A slice of shape (row from below, column from the patient's left) as grey levels, windowed as in the report."""
    return fitted(grey_levels(section, name) if name not in LABELS else label_levels(section), size)


def label_levels(section: NDArray[Any]) -> NDArray[np.uint8]:
    """Levels of a slice of labels; 255 stands for not computed there."""
    return np.where(section == NOT_COMPUTED, 0, 1 + 84 * np.minimum(section, 3)).astype(np.uint8)


def coded(levels: NDArray[np.uint8], form: Mapping[str, Any]) -> bytes:
    """Grey levels as a picture of the form `JPEG` or `WEBP`."""
    from PIL import Image

    grey = np.repeat(levels[::-1, ::-1, None], 3, axis=-1)
    grey[levels[::-1, ::-1] == 0] = DARK
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, **form)
    return buffer.getvalue()
