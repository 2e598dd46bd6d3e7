"""From the native series of one session to aligned images, brain mask and tissue on the group grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.preprocessing.alignment import AlignmentError, align, resample
from qmri_core.preprocessing.bias_field import bias_field, thinned
from qmri_core.preprocessing.brain_mask import PLAUSIBLE_LITRES, BrainMaskError, brain_mask
from qmri_core.preprocessing.checks import ImageMismatchError, check, mirrored_text
from qmri_core.preprocessing.distances import box_around, depth, grown
from qmri_core.preprocessing.extent import is_stripped, missing_litres, support_of_stripped
from qmri_core.preprocessing.mirrored import fits_mirrored
from qmri_core.preprocessing.quality import figures_of_contrast, is_saturated
from qmri_core.preprocessing.tissue import segment
from qmri_core.series.acquisition import CONTRASTS, Acquisition, Contrast
from qmri_core.series.geometry import Affine, Grid, Volume, box_within, closest_canonical
from qmri_core.series.grouping import REFERENCES
from qmri_core.series.remarks import Remark

_MARGIN = 10.0
"""Millimetres around the brain that are kept; beyond, images are NaN, so that no face is stored."""
ALIGNMENT_MARGIN = 15.0
"""Millimetres around the brain that the alignment looks at: with the scalp, which holds on where the brain of a
spin-echo T1w has little contrast."""
MASK_GROWTH = 1.0
"""Millimetres by which the brain mask is widened: deepbet's edge lies 1 to 2 mm inside of the fluid in sulci (simulated
heads, whose masks then have a Dice of 0.97 instead of 0.955)."""
_DEPTH_MARGIN = 8.0
"""Millimetres around the brain in which its distance is asked: what half a thick slice and `MASK_GROWTH` reach."""
_BORDER = 4
"""Voxels around the tissues that figures of quality look at."""
MIN_COVERAGE = 0.6
"""Share of the brain that all contrasts must cover; of what the T1w lacks, as the others show it."""


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
    bias_fields: dict[Contrast, NDArray[np.float32]]
    """Fields by which the images were divided, at `qmri_core.series.geometry.FIELD_SHAPE` nodes."""
    marks: tuple[str, ...]
    """``<contrast>_skull_stripped``: only the brain was left of the image; ``<contrast>_saturated``: tissue lies at its
    largest value."""
    quality: dict[str, float]
    """``brain_volume`` [l], ``coverage`` [1], ``alignment_residual`` [mm], ``<contrast>_alignment`` (mutual
    information, nats), and as ``<contrast>_<figure>`` those of `quality.figures_of_contrast`."""
    remarks: tuple[Remark, ...] = ()
    """What is odd about the images; see `qmri_core.preprocessing.checks.check`."""


def preprocess(
    volumes: Mapping[Contrast, Volume], grid: Grid, acquisitions: Mapping[Contrast, Acquisition] | None = None
) -> Preprocessed:
    """Align, resample once, correct the bias field, mask and segment one session.

    The frame is that of the reference contrast (T2w, else FLAIR, else T1w): the grid's axes are its closest-canonical
    axes and the grid's centre is the centre of the brain. Every image is interpolated once, from native data.

    Parameters
    ----------
    volumes
        Native series by contrast; T1w must be among them.
    grid
        The group's grid.
    acquisitions
        What the series are said to be, which the images are then compared with; ``None`` for no comparison.

    Raises
    ------
    FieldOfViewError, AlignmentError, BrainMaskError, ImageMismatchError, TissueError
        With the reason; all are ``ValueError``.
    """
    t1w = volumes[Contrast.T1W]
    mask, is_t1w_stripped = _brain_of(t1w)
    others = [contrast for contrast in CONTRASTS if contrast in volumes and contrast is not Contrast.T1W]
    aligned = {contrast: _aligned(contrast, t1w, volumes[contrast], mask) for contrast in others}
    quality = {f"{contrast}_alignment": information for contrast, (_, information) in aligned.items()}
    from_t1w: dict[Contrast, Affine] = {Contrast.T1W: np.eye(4), **{name: to for name, (to, _) in aligned.items()}}
    reference = next(contrast for contrast in REFERENCES if contrast in volumes)
    to_t1w = np.asarray(np.linalg.inv(from_t1w[reference]), dtype=np.float64)
    affine = _frame(grid, volumes[reference], from_t1w[reference], t1w, mask)
    present = [contrast for contrast in CONTRASTS if contrast in volumes]
    brain = depth(mask > 0, t1w.affine, _DEPTH_MARGIN)
    edge = MASK_GROWTH * (not is_t1w_stripped)
    on_grid = np.nan_to_num(resample(brain, grid, affine, to_t1w, order=1), nan=np.inf) < edge
    del brain  # as large as the T1w's box around it
    near = grown(on_grid, grid.spacing[::-1], _MARGIN)
    images = {c: resample(volumes[c], grid, affine, from_t1w[c] @ to_t1w, where=near) for c in present}
    litres = float(np.prod(grid.spacing)) * 1e-6
    missing = missing_litres(t1w, mask, {contrast: volumes[contrast] for contrast in others}, from_t1w) / litres
    final_mask, quality["coverage"] = _covered(on_grid, images, missing)
    quality["brain_volume"] = float(on_grid.sum()) * litres  # voxels times litres
    fields = _without_fields(images, final_mask, grid)
    remarks = check(images, final_mask, grid.spacing, acquisitions) if acquisitions is not None else ()
    tissue = segment(images, final_mask)
    inside = {
        contrast: mask.view(bool)
        if contrast is Contrast.T1W
        else brain_in(volumes[contrast], from_t1w[contrast], t1w, mask)
        for contrast in images
    }
    quality["alignment_residual"] = _circle(volumes, from_t1w, inside, t1w, mask)
    box = box_around(tissue > 0, (1.0, 1.0, 1.0), _BORDER)
    for contrast, image in images.items():
        figures = figures_of_contrast(volumes[contrast], inside[contrast], image[box], tissue[box], grid.spacing)
        quality |= {f"{contrast}_{name}": value for name, value in figures.items()}
    return Preprocessed(
        images=images,
        brain_mask=final_mask,
        tissue=tissue,
        affine=affine,
        reference=reference,
        bias_fields=fields,
        marks=tuple(_marks(volumes, inside)),
        quality=quality,
        remarks=remarks,
    )


def _brain_of(t1w: Volume) -> tuple[NDArray[np.uint8], bool]:
    """Mask of the brain, and whether the image was stripped to it before: then it is searched for in what is left."""
    support = support_of_stripped(t1w)
    try:
        mask = brain_mask(t1w)
    except BrainMaskError:
        litres = 0.0 if support is None else float(support.sum()) * abs(float(np.linalg.det(t1w.affine[:3, :3]))) * 1e-6
        if support is None or not PLAUSIBLE_LITRES[0] <= litres <= PLAUSIBLE_LITRES[1]:
            raise
        return support.astype(np.uint8), True
    if support is None or not is_stripped(mask, support):
        return mask, False
    return np.where(support, mask, 0).astype(np.uint8), True


def _marks(volumes: Mapping[Contrast, Volume], inside: Mapping[Contrast, NDArray[np.bool_]]) -> Iterator[str]:
    """What to look at in the native images that no figure tells."""
    for contrast, brain in inside.items():
        support = support_of_stripped(volumes[contrast])
        if support is not None and is_stripped(brain.astype(np.uint8), support):
            yield f"{contrast}_skull_stripped"
        if is_saturated(volumes[contrast], brain):
            yield f"{contrast}_saturated"


def _aligned(contrast: Contrast, t1w: Volume, other: Volume, mask: NDArray[np.uint8]) -> tuple[Affine, float]:
    """See `align`; where that fails, an error that says so if the series fits mirrored."""
    try:
        return align(t1w, other, mask, ALIGNMENT_MARGIN)
    except AlignmentError as error:
        if fits_mirrored(t1w, other, mask, ALIGNMENT_MARGIN):
            raise ImageMismatchError(mirrored_text((Contrast.T1W, contrast))) from error
        raise


def _covered(
    brain: NDArray[np.bool_], images: Mapping[Contrast, NDArray[np.float32]], missing: float
) -> tuple[NDArray[np.uint8], float]:
    """The brain that all images cover, and its share of the brain; ``missing`` voxels lie beyond the T1w."""
    covered = brain.copy()
    for image in images.values():
        covered &= np.isfinite(image)
    share = float(covered.sum()) / max(float(brain.sum()) + missing, 1.0)
    if share < MIN_COVERAGE:
        raise FieldOfViewError(
            f"all contrasts together cover {share:.0%} of the brain on the grid; {MIN_COVERAGE:.0%} are needed"
        )
    return covered.astype(np.uint8), share


def _without_fields(
    images: Mapping[Contrast, NDArray[np.float32]], mask: NDArray[np.uint8], grid: Grid
) -> dict[Contrast, NDArray[np.float32]]:
    """Divide images by their bias fields, in place; the fields, thinned."""
    fields = {}
    for contrast, image in images.items():
        field = bias_field(image, mask, grid.spacing)
        fields[contrast] = thinned(field)
        image /= field
    return fields


def brain_in(native: Volume, from_t1w: Affine, t1w: Volume, mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The brain in the voxels of another series."""
    to_t1w = np.linalg.inv(t1w.affine) @ np.linalg.inv(from_t1w) @ native.affine
    box = box_within(
        native.array.shape, ndimage.find_objects(mask)[0], np.asarray(np.linalg.inv(to_t1w), dtype=np.float64)
    )
    turned = to_t1w[2::-1, 2::-1]  # both ends in the order z, y, x
    offset = to_t1w[2::-1, 3] + turned @ [part.start for part in box]
    size = tuple(part.stop - part.start for part in box)
    result = np.zeros(native.array.shape, dtype=bool)
    result[box] = ndimage.affine_transform(mask, turned, offset=offset, output_shape=size, order=0) > 0
    return result


def _circle(
    volumes: Mapping[Contrast, Volume],
    from_t1w: Mapping[Contrast, Affine],
    inside: Mapping[Contrast, NDArray[np.bool_]],
    t1w: Volume,
    mask: NDArray[np.uint8],
) -> float:
    """Mean distance in the brain, mm, by which aligning T1w, a second series, a third one and T1w again misses.

    The last step is an alignment that was not used: of the third series to the second, or back to T1w if there are two.
    """
    others = [contrast for contrast in CONTRASTS if contrast in volumes and contrast is not Contrast.T1W]
    second, third = others[0], others[-1] if len(others) > 1 else Contrast.T1W
    try:
        onward, _ = align(volumes[second], volumes[third], inside[second].astype(np.uint8), ALIGNMENT_MARGIN)
    except AlignmentError:
        return float("nan")
    few = np.unravel_index(np.flatnonzero(mask)[::997], mask.shape)
    points = np.stack(few[::-1], axis=1) @ t1w.affine[:3, :3].T + t1w.affine[:3, 3]
    circle = np.linalg.inv(from_t1w[third]) @ onward @ from_t1w[second] - np.eye(4)
    return float(np.linalg.norm(points @ circle[:3, :3].T + circle[:3, 3], axis=1).mean())


def _frame(grid: Grid, reference: Volume, from_t1w: Affine, t1w: Volume, mask: NDArray[np.uint8]) -> Affine:
    """Affine of the grid: closest-canonical axes of the reference series, centred on the brain's bounding box."""
    order, flipped = closest_canonical(reference.affine)
    rotation = reference.affine[:3, list(order)] * np.where(flipped, -1.0, 1.0)
    rotation /= np.linalg.norm(rotation, axis=0)
    points = _ends_of_rows(mask)[:, ::-1]  # what is largest along any direction lies at an end of a row
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


def _ends_of_rows(mask: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Places (z, y, x) of the first and the last voxel of a mask in each row."""
    z, y = np.nonzero(mask.any(axis=2))
    rows = mask[z, y] > 0
    first, last = rows.argmax(axis=1), rows.shape[1] - 1 - rows[:, ::-1].argmax(axis=1)
    return np.concatenate([np.stack([z, y, first], axis=1), np.stack([z, y, last], axis=1)])
