"""Rigid alignment of the series of a session, and one resampling from native data to the group grid."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses
from numpy.typing import NDArray

from qmri_core.series.geometry import Affine, Grid, Volume, spacing_of

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
MOST_SAMPLES = 8
"""Largest number of samples of native data along each axis of a voxel of the grid."""
MAX_ROTATION = np.deg2rad(30.0)
"""Largest rotation between series of one visit, in radians; more is a failed registration."""
HISTOGRAM_BINS = 48
_WORKING_SPACING = 4.0
"""Millimetres; the fixed image is averaged to about this before the search."""
ENOUGH_INFORMATION = 0.2
"""Mutual information in nats that a registration needs. Seen: 0.44 to 0.91 on simulated and 0.45 to 0.66 on real
clinical sessions when right, about 0.1 when wrong."""
COARSE = 4.0
"""Millimetres of smoothing for the choice of a start."""
MOVING_SPACING = 2.0
"""Millimetres to about which every axis of the moving image is brought. What is finer is smoothed away in any case;
thick slices would lead the search astray: the metric smooths its gradient by the widest spacing along all axes."""
SCHEDULES = ((6.0, 3.0, 1.0), (3.0, 1.0), (1.0,))
"""Millimetres of smoothing per level: the wide search, and closer ones for when that goes astray."""
LAST_STEP = {6.0: 0.1, 3.0: 0.05, 1.0: 2e-3}
"""Millimetres of motion below which a level has done its part."""
BRIGHTEST = 0.97
"""Quantile above which intensities are clipped for the search."""


class AlignmentError(ValueError):
    """The series of a session could not be brought into one frame."""


def to_image(volume: Volume) -> sitk.Image:
    """Image of SimpleITK (LPS world) over the same voxels."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array, dtype=np.float32))
    lps = RAS_TO_LPS @ volume.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def to_ras(transform: sitk.Euler3DTransform) -> Affine:
    """Homogeneous matrix in RAS millimetres of a rigid transform of LPS points."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(transform.GetMatrix()).reshape(3, 3)
    centre = np.asarray(transform.GetCenter())
    matrix[:3, 3] = np.asarray(transform.GetTranslation()) + centre - matrix[:3, :3] @ centre
    return np.asarray(RAS_TO_LPS @ matrix @ RAS_TO_LPS, dtype=np.float64)


def align(fixed: Volume, moving: Volume, mask: NDArray[np.uint8]) -> tuple[Affine, float]:
    """Find where each point of ``fixed`` lies in ``moving``.

    Rigid, six parameters, Mattes mutual information over three resolutions, started where it is most informative
    of the scanner's own frame and the images' centres. Deterministic: one thread, no random sampling.

    Parameters
    ----------
    fixed, moving
        Volumes of any contrast and sampling.
    mask
        Where ``fixed`` counts, shape of its array; usually the dilated brain.

    Returns
    -------
    tuple
        The 4 x 4 matrix that takes RAS mm of ``fixed`` to RAS mm of ``moving``, and the mutual information reached
        (nats, larger is better).

    Raises
    ------
    AlignmentError
        If the images do not overlap or the motion found is not plausible for one visit.
    """
    if not mask.any():
        raise AlignmentError("the brain mask is empty; nothing to align")
    foreground = moving.array > moving.array.mean()
    if not foreground.any():
        raise AlignmentError("an image is the same everywhere; nothing to align")
    fixed_image, moving_image = to_image(_clipped(fixed, mask > 0)), to_image(_clipped(moving, foreground))
    mask_image = sitk.GetImageFromArray(np.ascontiguousarray(mask.astype(np.uint8)))
    mask_image.CopyInformation(fixed_image)
    centre_index = np.append(np.argwhere(mask).mean(axis=0)[::-1], 1.0)
    centre = (RAS_TO_LPS @ fixed.affine @ centre_index)[:3]
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # the metric adds up in the order in which threads end
    # every voxel of a coarser fixed image: as fast as random samples of the fine one, and without their noise;
    # means of blocks lie where the coarser voxels do, thinned out samples of an even factor half a voxel beside
    shrink = [max(1, round(_WORKING_SPACING / spacing)) for spacing in fixed_image.GetSpacing()]
    shrink_moving = [max(1, int(MOVING_SPACING / spacing + 0.05)) for spacing in moving_image.GetSpacing()]
    moving_image = sitk.BinShrink(moving_image, shrink_moving)
    moving_image = sitk.Expand(moving_image, [max(1, round(s / MOVING_SPACING)) for s in moving_image.GetSpacing()])
    fixed_image = sitk.BinShrink(fixed_image, shrink)
    mask_image = sitk.Cast(sitk.BinShrink(sitk.Cast(mask_image, sitk.sitkFloat32), shrink) >= 0.5, sitk.sitkUInt8)
    start = _best_start(fixed_image, moving_image, mask_image, centre)
    transform, information = start, _information(fixed_image, moving_image, mask_image, start)
    for sigmas in SCHEDULES:
        result = _search(fixed_image, moving_image, mask_image, start, sigmas)
        reached = _information(fixed_image, moving_image, mask_image, result)
        if reached > information:
            transform, information = result, reached
            break  # else the search has left a better place: search more closely around it
    matrix = to_ras(transform)
    rotation = float(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1)))
    if information < ENOUGH_INFORMATION or rotation > MAX_ROTATION:
        raise AlignmentError(
            f"best alignment of two series: {information:.3f} nats of mutual information (at least "
            f"{ENOUGH_INFORMATION:g} needed) at a rotation of {np.rad2deg(rotation):.0f} degrees (at most "
            f"{np.rad2deg(MAX_ROTATION):.0f}); are they of one session and one head?"
        )
    return matrix, information


def resample(
    volume: Volume, grid: Grid, affine: Affine, transform: Affine | None = None, *, nearest: bool = False
) -> NDArray[np.float32]:
    """Values of ``volume`` on a grid, interpolated once from its native voxels.

    Where the native voxels are finer than the grid's, the value is the mean over the grid's voxel: a thin-sliced T1w
    would else be that of the middle of a slice through which a thick-sliced T2w mixes tissues.

    Parameters
    ----------
    volume
        Native volume.
    grid, affine
        Target grid and the affine of its voxels to RAS mm of the reference series.
    transform
        4 x 4 matrix from RAS mm of the reference series to RAS mm of ``volume``; identity if not given.
    nearest
        Nearest neighbour (labels) instead of cubic B-spline (limited to the range of the native values).

    Returns
    -------
    ndarray
        Shape of the grid (z, y, x); NaN where ``volume`` was not acquired.
    """
    world = affine if transform is None else transform @ affine
    image = to_image(volume)
    steps = spacing_of(np.linalg.inv(volume.affine) @ world)  # native voxels per voxel of the grid
    counts = np.ones(3, dtype=int) if nearest else np.clip(np.rint(steps), 1, MOST_SAMPLES).astype(int)
    within = np.diag([*(1 / counts), 1.0])
    within[:3, 3] = (1 / counts - 1) / 2
    lps = RAS_TO_LPS @ world @ within
    to_moving = sitk.AffineTransform(3)
    to_moving.SetMatrix(lps[:3, :3].ravel().tolist())
    to_moving.SetTranslation(lps[:3, 3].tolist())
    method = sitk.ResampleImageFilter()
    method.SetNumberOfThreads(1)
    method.SetSize((np.asarray(grid.shape[::-1]) * counts).tolist())
    method.SetTransform(to_moving)
    method.SetDefaultPixelValue(float("nan"))
    method.SetInterpolator(sitk.sitkNearestNeighbor if nearest else sitk.sitkBSpline3)
    method.SetOutputPixelType(sitk.sitkFloat32)
    sampled = method.Execute(image)
    n_z, n_y, n_x = grid.shape
    samples = sitk.GetArrayViewFromImage(sampled).reshape(n_z, counts[2], n_y, counts[1], n_x, counts[0])
    result = samples.mean(axis=(1, 3, 5))
    low, high = float(volume.array.min()), float(volume.array.max())
    return np.asarray(np.clip(result, low, high), dtype=np.float32)


def _search(
    fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, start: sitk.Euler3DTransform, sigmas: tuple[float, ...]
) -> sitk.Euler3DTransform:
    transform = sitk.Euler3DTransform(start)
    for sigma in sigmas:
        method = _metric(mask)
        method.SetShrinkFactorsPerLevel([2 if sigma > 2 else 1])
        method.SetSmoothingSigmasPerLevel([sigma])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=1.0,
            minStep=LAST_STEP[sigma],
            numberOfIterations=100,
            relaxationFactor=0.6,
            gradientMagnitudeTolerance=1e-6,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        try:
            method.Execute(fixed, moving)
        except RuntimeError as error:  # how SimpleITK says that no sample overlaps
            raise AlignmentError("the series do not overlap in space; are they of one session?") from error
    return transform


def _information(fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, transform: sitk.Euler3DTransform) -> float:
    """Mutual information in nats; minus infinity where nothing overlaps."""
    method = _metric(mask)
    method.SetInitialTransform(transform)
    try:
        return -float(method.MetricEvaluate(fixed, moving))
    except RuntimeError:
        return -np.inf


def _metric(mask: sitk.Image) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _best_start(
    fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, centre: NDArray[np.float64]
) -> sitk.Euler3DTransform:
    """The more informative of two starts: the scanner's frame, and the centres of the images on each other."""
    geometry = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    coarse = [max(1, round(COARSE / spacing)) for spacing in moving.GetSpacing()]
    smooth_moving = sitk.BinShrink(sitk.SmoothingRecursiveGaussian(moving, COARSE), coarse)
    smooth_fixed = sitk.SmoothingRecursiveGaussian(fixed, COARSE)
    best, most = sitk.Euler3DTransform(), -np.inf
    for translation in ((0.0, 0.0, 0.0), sitk.Euler3DTransform(geometry).GetTranslation()):
        start = sitk.Euler3DTransform()
        start.SetCenter(centre.tolist())
        start.SetTranslation(translation)
        information = _information(smooth_fixed, smooth_moving, mask, start)
        if information > most:
            best, most = start, information
    return best


def _clipped(volume: Volume, inside: NDArray[np.bool_]) -> Volume:
    """Without the brightest voxels, which would leave few of the histogram's bins to the brain (fat, vessels, eyes)."""
    top = float(np.quantile(volume.array[inside], BRIGHTEST))
    return Volume(array=np.minimum(volume.array, np.float32(top)), affine=volume.affine)
