"""Alignment against known motion; resampling against images whose values are known everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from qmri_core.preprocessing.alignment import AlignmentError, align, resample
from qmri_core.preprocessing.template.brain import tissue_templates
from qmri_core.series.geometry import Grid, Volume
from tests.phantoms import smooth_volume


def moved(volume: Volume, rotation: tuple[float, float, float], shift: tuple[float, float, float]) -> Volume:
    """The same head after it has moved: its voxels lie elsewhere in the scanner."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix()
    motion[:3, 3] = shift
    return Volume(array=volume.array, affine=motion @ volume.affine)


@pytest.fixture(scope="module")
def brain() -> tuple[Volume, Volume, NDArray[np.uint8]]:
    """A brain of real anatomy at 3 mm in two contrasts of opposite sign."""
    parts = {name: volume.array[::3, ::3, ::3] for name, volume in tissue_templates().items()}
    gm, wm = parts["gm"], parts["wm"]
    mask = ndimage.binary_fill_holes(gm + wm > 0.3)
    fluid = np.where(mask, np.clip(1 - gm - wm, 0, 1), 0)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    t1w = Volume(array=(0.3 * fluid + 0.6 * gm + 1.0 * wm).astype(np.float32), affine=affine)
    t2w = Volume(array=(3.0 * fluid + 1.2 * gm + 0.8 * wm).astype(np.float32), affine=affine)
    return t1w, t2w, mask.astype(np.uint8)


@pytest.mark.parametrize("motion", [((3.0, -2.0, 4.0), (4.0, -3.0, 2.0)), ((8.0, -6.0, 5.0), (9.0, -7.0, 6.0))])
def test_known_motion_is_found_between_contrasts(
    brain: tuple[Volume, Volume, NDArray[np.uint8]], motion: tuple[tuple[float, float, float], ...]
) -> None:
    fixed, t2w, mask = brain
    other = moved(t2w, *motion)
    found, information = align(fixed, other, mask)
    truth = other.affine @ np.linalg.inv(fixed.affine)
    points = np.argwhere(mask)[::97, ::-1] @ fixed.affine[:3, :3].T + fixed.affine[:3, 3]
    difference = found - truth
    errors = np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1)
    assert errors.mean() < 0.3, errors.mean()  # millimetres; voxels are 3 mm
    assert errors.max() < 0.6, errors.max()
    assert information > 0.3


def test_motion_between_thick_slices_is_found() -> None:
    """The search went astray where the metric's gradient was smoothed by the thickness along all axes: 1.0 mm here."""
    thickness = 6.0
    parts = {name: volume.array[::2, ::2, ::2] for name, volume in tissue_templates().items()}
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    brain = parts["gm"] + parts["wm"] > 0.3
    t1w = Volume(array=(0.5 * parts["gm"] + parts["wm"]).astype(np.float32), affine=affine)
    t2w = Volume(array=(1.5 * parts["gm"] + parts["wm"]).astype(np.float32), affine=affine)
    n_z, n_y, n_x = brain.shape
    grid = Grid(shape=(round(2 * n_z / thickness), n_y, n_x), spacing=(2.0, 2.0, thickness))
    scanner = grid.affine(np.eye(3), np.array([n_x, n_y, n_z]))
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", (1.5, -1.0, 0.5), degrees=True).as_matrix()
    motion[:3, 3] = (0.7, -0.5, 1.2)

    def acquired(volume: Volume, pose: NDArray[np.float64]) -> Volume:
        return Volume(array=np.nan_to_num(resample(volume, grid, scanner, np.linalg.inv(pose))), affine=scanner)

    mask = acquired(Volume(array=brain.astype(np.float32), affine=affine), np.eye(4)).array > 0.5
    found, _ = align(acquired(t1w, np.eye(4)), acquired(t2w, motion), mask.astype(np.uint8))
    points = 2.0 * np.argwhere(brain)[::97, ::-1]
    difference = found - motion
    errors = np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1)
    assert errors.mean() < 0.5, errors.mean()  # millimetres


def test_averaging_before_the_search_does_not_move_the_image() -> None:
    """At 2 mm the fixed image is halved; thinned out instead of averaged it would lie a millimetre beside."""
    parts = {name: volume.array[::2, ::2, ::2] for name, volume in tissue_templates().items()}
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    mask = parts["gm"] + parts["wm"] > 0.3
    t1w = Volume(array=(0.6 * parts["gm"] + parts["wm"]).astype(np.float32), affine=affine)
    t2w = Volume(array=(1.2 * parts["gm"] + 0.8 * parts["wm"]).astype(np.float32), affine=affine)
    found, _ = align(t1w, t2w, mask.astype(np.uint8))
    assert np.abs(found - np.eye(4))[:3, 3].max() < 0.25  # millimetres


def test_the_same_input_gives_the_same_bits(brain: tuple[Volume, Volume, NDArray[np.uint8]]) -> None:
    fixed, t2w, mask = brain
    other = moved(t2w, (1.0, 2.0, -1.0), (2.0, 1.0, 0.0))
    first, second = align(fixed, other, mask), align(fixed, other, mask)
    np.testing.assert_array_equal(first[0], second[0])


def test_an_empty_mask_is_said_so() -> None:
    volume = smooth_volume()
    with pytest.raises(AlignmentError, match="empty"):
        align(volume, volume, np.zeros(volume.array.shape, dtype=np.uint8))


def test_series_in_frames_of_their_own_are_found_from_their_centres(
    brain: tuple[Volume, Volume, NDArray[np.uint8]],
) -> None:
    fixed, t2w, mask = brain
    found, _ = align(fixed, moved(t2w, (0.0, 0.0, 0.0), (900.0, 0.0, 0.0)), mask)
    np.testing.assert_allclose(found[:3, 3], [900.0, 0.0, 0.0], atol=1.0)


def test_an_image_that_shares_nothing_is_refused(brain: tuple[Volume, Volume, NDArray[np.uint8]]) -> None:
    fixed, _, mask = brain
    noise = np.random.default_rng(0).standard_normal(fixed.array.shape).astype(np.float32)
    with pytest.raises(AlignmentError, match=r"nats .* of one session and one head"):
        align(fixed, Volume(array=noise, affine=fixed.affine), mask)


def test_a_linear_image_is_resampled_exactly_whatever_the_axes() -> None:
    rng = np.random.default_rng(4)
    rotation = Rotation.from_rotvec(rng.uniform(-0.4, 0.4, 3)).as_matrix()
    native = Grid(shape=(30, 34, 32), spacing=(2.5, 2.0, 3.0)).affine(rotation, np.zeros(3))
    gradient = np.array([0.3, -0.2, 0.5])
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (32, 34, 30)), indexing="ij"), axis=-1)
    world = index @ native[:3, :3].T + native[:3, 3]
    volume = Volume(array=(world @ gradient + 40).transpose(2, 1, 0).astype(np.float32), affine=native)
    grid = Grid(shape=(10, 12, 14), spacing=(1.5, 1.5, 1.5))
    target = grid.affine(np.eye(3), np.array([2.0, -1.0, 3.0]))
    result = resample(volume, grid, target)
    where = np.stack(np.meshgrid(*(np.arange(n) for n in (14, 12, 10)), indexing="ij"), axis=-1)
    expected = ((where @ target[:3, :3].T + target[:3, 3]) @ gradient + 40).transpose(2, 1, 0)
    np.testing.assert_allclose(result, expected, rtol=2e-4)  # the spline's boundary condition decays over 10 voxels


def test_fine_voxels_are_averaged_over_those_of_the_grid() -> None:
    fine = np.random.default_rng(5).normal(100, 20, (24, 20, 16)).astype(np.float32)
    # sagittal: columns run along y, rows along z, slices along x, as many T1w do
    axes = np.array([[0, 0, 1.0, -7.5], [1.0, 0, 0, -9.5], [0, 1.0, 0, -11.5], [0, 0, 0, 1.0]])
    volume = Volume(array=fine.transpose(2, 0, 1), affine=axes)  # (x, z, y) of an array (z, y, x)
    grid = Grid(shape=(6, 10, 16), spacing=(1.0, 2.0, 4.0))
    result = resample(volume, grid, grid.affine(np.eye(3), np.zeros(3)))
    expected = fine.reshape(6, 4, 10, 2, 16, 1).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(result, expected, rtol=1e-3)


def test_what_was_not_acquired_is_nan_and_values_stay_in_range() -> None:
    volume = smooth_volume((20, 20, 20), spacing=2.0)
    grid = Grid(shape=(40, 40, 40), spacing=(2.0, 2.0, 2.0))
    result = resample(volume, grid, grid.affine(np.eye(3), np.zeros(3)))
    assert np.isnan(result[0, 0, 0])
    inside = np.isfinite(result)
    assert inside.sum() == pytest.approx(20**3, rel=0.2)
    assert result[inside].min() >= volume.array.min()
    assert result[inside].max() <= volume.array.max()


@pytest.mark.parametrize("order", [0, 1, 3])
def test_wanted_voxels_are_the_same_as_among_all(order: int) -> None:
    volume = smooth_volume((20, 24, 22), spacing=2.0)
    grid = Grid(shape=(12, 30, 30), spacing=(1.5, 1.5, 4.0))
    rotation = Rotation.from_euler("xyz", (10.0, -20.0, 5.0), degrees=True).as_matrix()
    affine = grid.affine(rotation, (volume.affine @ [10.0, 9.0, 8.0, 1.0])[:3])
    wanted = np.zeros(grid.shape, dtype=bool)
    wanted[3:9, 8:20, 10:17] = True
    every, some = resample(volume, grid, affine, order=order), resample(volume, grid, affine, order=order, where=wanted)
    assert np.isfinite(every[wanted]).sum() > 500
    np.testing.assert_allclose(some[wanted], every[wanted], rtol=1e-5)
    assert np.isnan(some[~wanted]).all()


def test_no_voxel_wanted_is_none_found() -> None:
    volume = smooth_volume((20, 20, 20), spacing=2.0)
    grid = Grid(shape=(10, 10, 10), spacing=(2.0, 2.0, 2.0))
    result = resample(volume, grid, grid.affine(np.eye(3), np.zeros(3)), where=np.zeros(grid.shape, dtype=bool))
    assert np.isnan(result).all()


@pytest.mark.parametrize("margin", [6.0, 12.0])
def test_what_lies_beside_the_mask_counts_within_the_margin(
    brain: tuple[Volume, Volume, NDArray[np.uint8]], margin: float
) -> None:
    """Beside the brain both images are noise, which informs of nothing."""
    rng = np.random.default_rng(0)
    noisy = [np.where(brain[2] > 0, one.array, rng.uniform(0, 2, one.array.shape)) for one in brain[:2]]
    fixed, moving = (Volume(array=one.astype(np.float32), affine=brain[0].affine) for one in noisy)
    _, within = align(fixed, moving, brain[2])
    _, around = align(fixed, moving, brain[2], margin)
    assert around < 0.9 * within
