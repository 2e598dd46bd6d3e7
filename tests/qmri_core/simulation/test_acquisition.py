"""From a head to an image: signals, fields, position, scale, noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from qmri_core.physics.registry import signal
from qmri_core.series.geometry import Volume, spacing_of
from qmri_core.simulation.acquisition import Fields, acquire, draw_fields, rigid, series_affine
from qmri_core.simulation.protocols import SimulatedSeries, SliceGeometry, protocol_table
from qmri_core.simulation.signals import head_signal, ideal_signal
from qmri_core.simulation.smooth_fields import SmoothField
from tests.phantoms import phantom_anatomy

GEOMETRY = SliceGeometry(plane="axial", in_plane=4.0, thickness=4.0, gap=0.0)
FLAT = Fields(
    level=1.0,
    contrast=0.0,
    centre=(0.0, 0.0, 0.0),
    transmit=SmoothField(control=np.zeros((9, 9, 9), dtype=np.float32), spacing=60.0),
    receive=SmoothField(control=np.zeros((9, 9, 9), dtype=np.float32), spacing=60.0),
    rim=0.0,
)
SERIES = {str(s.contrast): s for s in protocol_table()[0].series}


def image(series: SimulatedSeries = SERIES["T2w"], **changes: object) -> Volume:
    affine = series_affine(GEOMETRY, resolution=4.0, tilt=0.0, centre=np.zeros(3))
    settings = {
        "affine": affine,
        "pose": np.eye(4),
        "fields": FLAT,
        "rng": np.random.default_rng(0),
        "resolution": 4.0,
        "snr": np.inf,
    } | changes
    return acquire(phantom_anatomy(0), series.acquisition, GEOMETRY, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("contrast", ["T1w", "T2w", "FLAIR"])
def test_signal_is_that_of_fluid_plus_that_of_the_rest(contrast: str) -> None:
    head, acquisition = phantom_anatomy(0), SERIES[contrast].acquisition
    got = head_signal(head, acquisition, 0.9)
    rng = np.random.default_rng(1)
    csf = head.subject.values["csf"]
    one = torch.ones((), dtype=torch.float64)
    fluid = float(signal(acquisition, one * csf.pd, one * csf.t1, one * csf.t2, transmit_scale=0.9))
    brain = np.argwhere(head.tissue > 0)
    for index in map(tuple, brain[rng.choice(len(brain), 60, replace=False)]):
        share = float(head.fractions[(0, *index)])
        pd = float(head.pd[index]) - share * csf.pd
        if pd < 0.01:
            continue
        r1 = (head.pd[index] / head.t1[index] - share * csf.pd / csf.t1) / pd
        r2 = (head.pd[index] / head.t2[index] - share * csf.pd / csf.t2) / pd
        rest = float(signal(acquisition, one * pd, one / float(r1), one / float(r2), transmit_scale=0.9))
        # table of phase graphs: 0.2 % of the signal
        assert_allclose(got[index], rest + share * fluid, rtol=3e-3, atol=3e-3 * ideal_signal(acquisition))


def test_contrasts_look_as_they_must() -> None:
    head = phantom_anatomy(0)
    mean = {}
    for name, series in SERIES.items():
        values = np.abs(head_signal(head, series.acquisition))
        mean[name] = [values[head.fractions[k] > 0.95].mean() for k in range(3)]
    assert mean["T1w"][0] < mean["T1w"][1] < mean["T1w"][2]
    assert mean["T2w"][0] > mean["T2w"][1] > mean["T2w"][2]
    assert mean["FLAIR"][0] < 0.5 * mean["FLAIR"][2] < mean["FLAIR"][1]


def test_flat_noise_free_image_on_the_heads_own_grid_is_the_signal() -> None:
    head = phantom_anatomy(0)
    affine = np.diag([-4.0, -4.0, 4.0, 1.0])
    affine[:3, 3] = 4 * 20, 4 * 20, -4 * 15  # on voxel centres of the head
    got = image(affine=affine).array
    expected = np.abs(head_signal(head, SERIES["T2w"].acquisition))
    origin = head.affine[:3, 3]
    for k, row, column in ((10, 20, 20), (20, 12, 25), (15, 30, 18)):
        i, j, m = np.rint((affine @ [column, row, k, 1])[:3] - origin).astype(int) // 4
        assert_allclose(got[k, row, column], expected[m, j, i], rtol=1e-4, atol=1e-6)


def test_scale_is_a_factor_and_noise_has_the_stated_size() -> None:
    series = SERIES["T1w"]
    assert_allclose(image(series, scale=7.0).array, 7 * image(series).array, rtol=1e-5)
    clean, noisy = image(series).array, image(series, snr=40.0).array
    sd = ideal_signal(series.acquisition) / 40
    bright = clean > 20 * sd
    assert_allclose((noisy - clean)[bright].std(), sd, rtol=0.05)
    assert_allclose(noisy[clean == 0].mean(), sd * np.sqrt(np.pi / 2), rtol=0.05)  # Rayleigh


def test_pose_moves_the_head_by_that_much() -> None:
    still, moved = image(), image(pose=rigid(np.zeros(3), np.array([4.0, -4.0, 4.0])))
    # one voxel up, one column to the right of the head, one row back
    assert_allclose(moved.array[1:, 1:, :-1], still.array[:-1, :-1, 1:], atol=1e-5)
    turned = image(pose=rigid(np.array([0.0, 0.0, 90.0]), np.zeros(3)))
    assert_allclose(_centre(turned)[:2], [-_centre(still)[1], _centre(still)[0]], atol=1.0)  # corners leave the view


def test_transmit_is_highest_inside_and_receive_is_positive() -> None:
    head = phantom_anatomy(0)
    for seed in range(4):
        fields = draw_fields(np.random.default_rng(seed))
        scale = fields.transmit_scale(head)
        brain = head.tissue > 0
        low, high = np.percentile(scale[brain], [1, 99])
        assert 0.78 < low < 0.98
        assert 1.02 < high < 1.22
        assert fields.receive_sensitivity(head).min() > 0.3
        spread = [np.log(fields.receive_sensitivity(head, flattening=f)[brain]).std() for f in (1.0, 0.3)]
        assert_allclose(spread[1], 0.3 * spread[0], rtol=0.05)


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal"])
def test_affine_has_spacing_and_centre(plane: str) -> None:
    geometry = SliceGeometry(plane=plane, in_plane=0.5, thickness=3.0, gap=0.5)
    affine = series_affine(geometry, resolution=2.0, tilt=7.0, centre=np.array([1.0, 2.0, 3.0]))
    assert_allclose(spacing_of(affine), [2.0, 2.0, 3.5])
    assert_allclose(np.abs(np.linalg.det(affine[:3, :3])), 2 * 2 * 3.5)
    volume = acquire(
        phantom_anatomy(0), SERIES["T1w"].acquisition, geometry, affine=affine, pose=np.eye(4), fields=FLAT,
        rng=np.random.default_rng(0), resolution=2.0, snr=np.inf,
    )  # fmt: skip
    middle = (np.asarray(volume.array.shape[::-1]) - 1) / 2
    assert_allclose((affine @ [*middle, 1])[:3], [1, 2, 3], atol=1e-9)


def _centre(volume: Volume) -> np.ndarray:
    """Centre of mass in millimetres."""
    z, y, x = np.indices(volume.array.shape)
    weights = volume.array / volume.array.sum()
    index = np.array([(weights * axis).sum() for axis in (x, y, z)])
    return (volume.affine @ [*index, 1])[:3]
