"""Volumes for the viewer, read from the store when they are asked for."""

from __future__ import annotations

import numpy as np

from flows.browser.view import View


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
