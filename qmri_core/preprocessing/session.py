"""From the native series of one session to aligned images, brain mask and tissue on the group grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.acquisition import CONTRASTS, Contrast
from qmri_core.geometry import Affine, Grid, Volume, closest_canonical, spacing_of
from qmri_core.preprocessing.alignment import align, resample
from qmri_core.preprocessing.bias_field import bias_field
from qmri_core.preprocessing.brain_mask import brain_mask
from qmri_core.preprocessing.tissue import segment

PREPROCESSING_VERSION = 1
"""Raised when results change; makes stored sessions stale."""
REFERENCE_ORDER = (Contrast.T2W, Contrast.FLAIR, Contrast.T1W)
MARGIN = 10.0
"""Millimetres around the brain that are kept; beyond, images are NaN, so that no face is stored."""
ALIGNMENT_MARGIN = 15.0
"""Millimetres around the brain that the alignment looks at: with the scalp, which holds on where the brain of a
spin-echo T1w has little contrast."""
MIN_COVERAGE = 0.6
"""Share of the brain that all contrasts must cover."""


class FieldOfViewError(ValueError):
    """The brain does not fit the group grid, or the series do not cover it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessed:
    """One session on its group grid; arrays of shape (z, y, x)."""

    images: dict[Contrast, NDArray[np.float32]]
    brain_mask: NDArray[np.uint8]
    tissue: NDArray[np.uint8]
    affine: Affine
    reference: Contrast
    quality: dict[str, float]
    """``brain_volume`` [l], ``coverage`` [1], ``<contrast>_alignment`` (mutual information, nats)."""


def preprocess(volumes: Mapping[Contrast, Volume], grid: Grid) -> Preprocessed:
    """Align, resample once, correct the bias field, mask and segment one session.

    The frame is that of the reference contrast (T2w, else FLAIR, else T1w): the grid's axes are its closest-canonical
    axes and the grid's centre is the centre of the brain. Every image is interpolated once, from native data.

    Parameters
    ----------
    volumes
        Native series by contrast; T1w must be among them.
    grid
        The group's grid.

    Raises
    ------
    FieldOfViewError, AlignmentError, BrainMaskError, TissueError
        With the reason; all are ``ValueError``.
    """
    t1w = volumes[Contrast.T1W]
    mask = brain_mask(t1w)
    native_spacing = tuple(spacing_of(t1w.affine)[::-1].tolist())
    around = _grow(mask > 0, native_spacing, ALIGNMENT_MARGIN).astype(np.uint8)
    quality: dict[str, float] = {}
    from_t1w: dict[Contrast, Affine] = {Contrast.T1W: np.eye(4)}
    for contrast in CONTRASTS:
        if contrast in volumes and contrast is not Contrast.T1W:
            from_t1w[contrast], quality[f"{contrast}_alignment"] = align(t1w, volumes[contrast], around)
    reference = next(contrast for contrast in REFERENCE_ORDER if contrast in volumes)
    to_t1w = np.asarray(np.linalg.inv(from_t1w[reference]), dtype=np.float64)
    affine = _frame(grid, volumes[reference], from_t1w[reference], t1w, mask)
    images = {
        contrast: resample(volumes[contrast], grid, affine, from_t1w[contrast] @ to_t1w)
        for contrast in CONTRASTS
        if contrast in volumes
    }
    soft_mask = Volume(array=ndimage.gaussian_filter(mask.astype(np.float32), 0.6), affine=t1w.affine)
    on_grid = np.nan_to_num(resample(soft_mask, grid, affine, to_t1w)) > 0.5
    covered = on_grid.copy()
    for image in images.values():
        covered &= np.isfinite(image)
    voxel_litres = float(np.prod(grid.spacing)) * 1e-6
    native_litres = float(mask.sum()) * abs(float(np.linalg.det(t1w.affine[:3, :3]))) * 1e-6
    quality["brain_volume"] = native_litres
    quality["coverage"] = float(covered.sum()) * voxel_litres / native_litres
    if quality["coverage"] < MIN_COVERAGE:
        raise FieldOfViewError(
            f"all contrasts together cover {quality['coverage']:.0%} of the brain on the grid; "
            f"{MIN_COVERAGE:.0%} are needed"
        )
    final_mask = covered.astype(np.uint8)
    near = _grow(on_grid, grid.spacing[::-1], MARGIN)
    for contrast, image in images.items():
        field = bias_field(image, final_mask, grid.spacing)
        images[contrast] = np.where(near, image / field, np.nan).astype(np.float32)
    tissue = segment(images, final_mask)
    return Preprocessed(
        images=images,
        brain_mask=final_mask,
        tissue=tissue,
        affine=affine,
        reference=reference,
        quality=quality,
    )


def _frame(grid: Grid, reference: Volume, from_t1w: Affine, t1w: Volume, mask: NDArray[np.uint8]) -> Affine:
    """Affine of the grid: closest-canonical axes of the reference series, centred on the brain's bounding box."""
    order, flipped = closest_canonical(reference.affine)
    rotation = reference.affine[:3, list(order)] * np.where(flipped, -1.0, 1.0)
    rotation /= np.linalg.norm(rotation, axis=0)
    points = np.argwhere(mask)[:, ::-1]
    world_points = points @ t1w.affine[:3, :3].T + t1w.affine[:3, 3]
    world_points = world_points @ from_t1w[:3, :3].T + from_t1w[:3, 3]
    along = world_points @ rotation
    low, high = along.min(axis=0), along.max(axis=0)
    extent = np.asarray(grid.shape[::-1]) * np.asarray(grid.spacing)
    if np.any(high - low > extent):
        size = " x ".join(f"{v:.0f}" for v in high - low)
        room = " x ".join(f"{v:.0f}" for v in extent)
        raise FieldOfViewError(f"a brain of {size} mm does not fit the group grid of {room} mm")
    return grid.affine(rotation, rotation @ ((low + high) / 2))


def _grow(mask: NDArray[np.bool_], spacing: tuple[float, ...], distance: float) -> NDArray[np.bool_]:
    """The mask and all within ``distance`` mm of it; ``spacing`` in array order."""
    reach = [int(np.ceil(distance / s)) for s in spacing]
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    wide = tuple(slice(max(0, b.start - r), b.stop + r) for b, r in zip(box, reach, strict=True))
    result = np.zeros(mask.shape, dtype=bool)
    result[wide] = ndimage.distance_transform_edt(~mask[wide], sampling=spacing) <= distance
    return result
