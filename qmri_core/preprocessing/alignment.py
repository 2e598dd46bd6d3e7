"""Rigid alignment of the series of a session, and one resampling from native data to the group grid."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses
from numpy.typing import NDArray

from qmri_core.geometry import Affine, Grid, Volume

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
MAX_ROTATION = np.deg2rad(30.0)
"""Between series of one visit; more is a failed registration."""
HISTOGRAM_BINS = 32
WORKING_SPACING = 4.0
"""Millimetres; the fixed image is thinned out to about this before the search."""
ENOUGH_INFORMATION = 0.05
"""Nats; a registration that ends below is tried once more from the centres of the images."""


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

    Rigid, six parameters, Mattes mutual information over three resolutions, started from the scanner's own frame and,
    if that fails, from the centres of the images. Deterministic: one thread, no random sampling.

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
    fixed_image, moving_image = to_image(fixed), to_image(moving)
    mask_image = sitk.GetImageFromArray(np.ascontiguousarray(mask.astype(np.uint8)))
    mask_image.CopyInformation(fixed_image)
    inside = np.argwhere(mask > 0)
    if inside.size == 0:
        raise AlignmentError("the brain mask is empty; nothing to align")
    centre = fixed_image.TransformContinuousIndexToPhysicalPoint(inside.mean(axis=0)[::-1].tolist())
    scanner_frame = sitk.Euler3DTransform()
    scanner_frame.SetCenter(centre)
    image_centres = sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(
            fixed_image, moving_image, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
        )
    )
    found: list[tuple[float, Affine]] = []
    for start in (scanner_frame, image_centres):
        try:
            matrix, information = _register(fixed_image, moving_image, mask_image, start)
        except RuntimeError:  # how SimpleITK says that no sample overlaps
            continue
        found.append((information, matrix))
        if information > ENOUGH_INFORMATION and _rotation(matrix) < MAX_ROTATION:
            return matrix, information
    if not found:
        raise AlignmentError("the series do not overlap in space; are they of one session?")
    information, matrix = max(found, key=lambda pair: pair[0])
    raise AlignmentError(
        f"best alignment of two series: {information:.3f} nats of mutual information (more than {ENOUGH_INFORMATION:g} "
        f"needed) at a rotation of {np.rad2deg(_rotation(matrix)):.0f} degrees (less than "
        f"{np.rad2deg(MAX_ROTATION):.0f} needed); are they of one session and one head?"
    )


def resample(
    volume: Volume, grid: Grid, affine: Affine, transform: Affine | None = None, *, nearest: bool = False
) -> NDArray[np.float32]:
    """Values of ``volume`` on a grid, interpolated once from its native voxels.

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
    lps = RAS_TO_LPS @ world
    to_moving = sitk.AffineTransform(3)
    to_moving.SetMatrix(lps[:3, :3].ravel().tolist())
    to_moving.SetTranslation(lps[:3, 3].tolist())
    method = sitk.ResampleImageFilter()
    method.SetNumberOfThreads(1)
    method.SetSize(list(grid.shape[::-1]))
    method.SetTransform(to_moving)
    method.SetDefaultPixelValue(float("nan"))
    method.SetInterpolator(sitk.sitkNearestNeighbor if nearest else sitk.sitkBSpline3)
    method.SetOutputPixelType(sitk.sitkFloat32)
    result = sitk.GetArrayFromImage(method.Execute(image))
    low, high = float(volume.array.min()), float(volume.array.max())
    return np.asarray(np.clip(result, low, high), dtype=np.float32)


def _register(
    fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, start: sitk.Euler3DTransform
) -> tuple[Affine, float]:
    # every voxel of a coarser fixed image: as fast as random samples of the fine one, and without their noise
    shrink = [max(1, round(WORKING_SPACING / spacing)) for spacing in fixed.GetSpacing()]
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # the metric adds up in the order in which threads end
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetMetricFixedMask(sitk.Shrink(mask, shrink))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([2, 2, 1])
    method.SetSmoothingSigmasPerLevel([6.0, 3.0, 1.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=2e-3, numberOfIterations=100, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    transform = sitk.Euler3DTransform(start)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(sitk.Shrink(fixed, shrink), moving)
    return to_ras(transform), -float(method.GetMetricValue())


def _rotation(matrix: Affine) -> float:
    """Angle in radians."""
    return float(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1)))
