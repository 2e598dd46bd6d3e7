"""Where a NIfTI image lies: the choice between its two transforms, qform and sform.

The scanner's is wanted: sizes are those of the person, and all images of a session share one frame.

1. Both agree (no corner moves by more than half a voxel): either.
2. Of two that disagree, the one whose code is 1 (scanner); of two with the same claim, the sform, as the format says.
3. An sform that shears, or whose voxels are not as large as ``pixdim``, is never taken: the qform is if it has a code,
   else the image is refused. A qform cannot shear or scale.
4. Two that disagree on which side is left are refused, whatever their codes.
5. Without a code of either the image is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_core.series.geometry import Affine, spacing_of
from storage.source.damage import NIBABEL, DamagedError, library_errors

_SCANNER = 1
_TEMPLATES = frozenset({3, 4})
"""Codes of Talairach and MNI space; 2 is that of another image, and what libraries write where nothing is said."""

_AGAIN = ": convert the image again from its origin, or correct the wrong transform and set the other's code to 0"

MAX_SCALE = 0.02
"""Largest difference of a voxel's size from ``pixdim``, relative; single precision and rounded headers stay below it.
A head that is so much larger has 6 % more volume."""

SIZES = (0.05, 60.0)
"""Millimetres: no voxel of a head is smaller or larger, so that another unit is meant."""

MAX_SHEAR = 0.06
"""Largest cosine of the angle between two axes: about 3 degrees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The affine that is taken; why there is none, if so; and what to say of a choice."""

    affine: Affine
    problem: str = ""
    remark: str = ""


def place_of(header: Any, shape: tuple[int, ...]) -> Place:  # noqa: ANN401 - of nibabel, which has no types
    """Choose the transform of an image by its header; see the rule of this module."""
    sizes = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    place = _chosen(header, shape)
    steps = sizes if place.problem else spacing_of(place.affine)
    if np.isfinite(steps).all() and steps.min() > 0 and not SIZES[0] <= steps.min() <= steps.max() <= SIZES[1]:
        unit = _UNITS.get(int(header["xyzt_units"]) & 7, "no unit")
        text = f"voxels of {_millimetres(steps)} mm, with {unit} stated: convert the image to millimetres"
        return Place(affine=np.eye(4), problem=text)
    return place


_UNITS = {1: "metres", 2: "millimetres", 3: "micrometres"}


def _chosen(header: Any, shape: tuple[int, ...]) -> Place:  # noqa: ANN401
    qform, sform = (_affine(header, name) for name in ("qform", "sform"))
    codes = {name: int(header[f"{name}_code"]) for name in ("qform", "sform")}
    shown = f"sform code {codes['sform']}, qform code {codes['qform']}"
    nowhere = np.eye(4)
    if max(codes.values()) <= 0:
        return Place(affine=nowhere, problem="no orientation in the header: qform and sform codes are 0")
    sizes = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    wrong = _distorted(sform, sizes) if codes["sform"] > 0 else ""
    if codes["qform"] <= 0:
        if wrong:
            return Place(affine=nowhere, problem=f"{wrong} ({shown}), and there is no other transform")
        return _told(sform, codes["sform"], shown)
    if _broken(qform):
        return Place(affine=nowhere, problem="the affine is singular")
    if codes["sform"] <= 0:
        return _told(qform, codes["qform"], shown)
    if wrong:
        return Place(affine=qform, remark=f"{wrong} ({shown}): the qform is taken")
    if np.linalg.det(qform[:3, :3]) * np.linalg.det(sform[:3, :3]) < 0:
        return Place(affine=nowhere, problem=f"sform and qform disagree on which side is left ({shown}){_AGAIN}")
    moved = _moved(sform, qform, shape)
    if moved <= 0.5 * float(spacing_of(qform).min()):
        return _told(sform, min(codes.values()), shown)
    if codes["qform"] == _SCANNER and codes["sform"] != _SCANNER:
        return Place(affine=qform, remark=f"sform and qform differ by {moved:.0f} mm ({shown}): the qform is taken")
    return Place(affine=sform, remark=f"sform and qform differ by {moved:.0f} mm ({shown}): the sform is taken")


def _affine(header: Any, name: str) -> Affine:  # noqa: ANN401
    """A transform of the header; not finite if its numbers make none."""
    try:
        with library_errors(NIBABEL):
            return np.asarray(getattr(header, f"get_{name}")(), dtype=np.float64)
    except DamagedError:
        return np.full((4, 4), np.nan)


def _told(affine: Affine, code: int, shown: str) -> Place:
    """A transform that nothing contradicts; one to a template alone may have changed the size of the head."""
    if _broken(affine):
        return Place(affine=np.eye(4), problem="the affine is singular")
    remark = f"placed in a template alone ({shown}): the head may not have its own size" if code in _TEMPLATES else ""
    return Place(affine=affine, remark=remark)


def _broken(affine: Affine) -> bool:
    return not np.isfinite(affine).all() or abs(float(np.linalg.det(affine[:3, :3]))) < 1e-6


def _distorted(sform: Affine, sizes: NDArray[np.float64]) -> str:
    """How an sform shears or scales, in words; empty if it does neither."""
    if _broken(sform):
        return "the affine is singular"
    steps = spacing_of(sform)
    if not np.allclose(steps, sizes, rtol=MAX_SCALE, atol=0.0):
        return f"voxels of {_millimetres(steps)} mm by the sform are of {_millimetres(sizes)} mm by pixdim"
    axes = sform[:3, :3] / steps
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    return f"the sform shears by {np.degrees(np.arcsin(min(1.0, shear))):.1f} degrees" if shear > MAX_SHEAR else ""


def _millimetres(steps: NDArray[np.float64]) -> str:
    return " x ".join(f"{step:.3g}" for step in steps)


def _moved(one: Affine, other: Affine, shape: tuple[int, ...]) -> float:
    """Largest distance in millimetres between the places that two transforms give to a corner of an image."""
    far = np.asarray(shape[:3], dtype=np.float64) - 1
    corners = np.array([[x, y, z, 1.0] for x in (0, far[0]) for y in (0, far[1]) for z in (0, far[2])])
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())
