"""Inference of the same session in other blocks, batches, crops and precisions: the same maps, in bounded memory."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from qmri_core.calibration.expectation import DEVIATIONS, Expectation
from qmri_core.devices import fastest
from qmri_core.mapping import inference, parts
from qmri_core.mapping.checkpoint import load_checkpoint
from qmri_core.mapping.inference import Maps, run_network, session_maps
from qmri_core.mapping.network import MULTIPLE, N_INPUTS, REACH, MapNetwork, NetworkSettings
from qmri_core.mapping.parts import cropped
from qmri_core.mapping.voxelwise import N_CONDITIONS, estimator
from qmri_core.physics.registry import fast_signal
from qmri_core.series.acquisition import Contrast
from tests.protocols import plain_protocol

PROTOCOL = plain_protocol()
SCALES = {Contrast.T1W: 900.0, Contrast.T2W: 40.0, Contrast.FLAIR: 7.0}
ROUNDING = 2e-5  # of float32 through ten convolutions, which sum in another order in another shape; found: 5e-6
Images = dict[Contrast, NDArray[np.float32]]


def head(shape: tuple[int, int, int], at: tuple[float, float] = (0.0, 0.0)) -> tuple[Images, NDArray[np.uint8]]:
    """Noisy images of smooth tissue in an ellipsoid, which touches an edge of the slices if ``at`` says so."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = (z / 0.9) ** 2 + ((y - at[0]) / 0.35) ** 2 + ((x - at[1]) / 0.3) ** 2 < 1
    wave = np.sin(7 * y + 3 * z) * np.cos(9 * x)
    maps = [torch.from_numpy(v).float() for v in (0.75 + 0.1 * wave, 1.2 + 0.4 * wave, 0.09 + 0.02 * wave)]
    clean = {c: SCALES[c] * fast_signal(PROTOCOL[c], *maps).abs().numpy() for c in PROTOCOL}
    noisy = {c: image * (1 + 0.03 * rng.standard_normal(shape)) for c, image in clean.items()}
    return {c: image.astype(np.float32) for c, image in noisy.items()}, mask.astype(np.uint8)


def assert_same(one: Maps, other: Maps, rtol: float = ROUNDING) -> None:
    for name in Maps.__dataclass_fields__:
        atol = rtol if name == "residual" else 0.0  # a difference of signals about 1: may be close to zero itself
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def shipped() -> MapNetwork:
    return load_checkpoint().network


@pytest.mark.parametrize("block", [1, 4, 7, 100])
def test_the_size_of_blocks_does_not_matter(shipped: MapNetwork, block: int) -> None:
    images, mask = head((13, 70, 62))
    expected = session_maps(shipped, images, mask, PROTOCOL, SCALES)
    assert_same(session_maps(shipped, images, mask, PROTOCOL, SCALES, block=block), expected)


def test_slices_do_not_depend_on_others(shipped: MapNetwork) -> None:
    """But through what is the session's: its medians, to which the residual is relative."""
    images, mask = head((12, 70, 62))
    whole = session_maps(shipped, images, mask, PROTOCOL, SCALES)
    some = slice(5, 9)
    few = {c: image[some] for c, image in images.items()}
    part = session_maps(shipped, few, mask[some], PROTOCOL, SCALES)
    for name in ("t1", "t2", "pd", "t1_sd", "t2_sd", "pd_sd"):
        np.testing.assert_allclose(getattr(whole, name)[some], getattr(part, name), rtol=ROUNDING, err_msg=name)


def test_slices_do_not_depend_on_their_place_in_a_batch_of_sessions(shipped: MapNetwork) -> None:
    physics = estimator(PROTOCOL, expected=Expectation(shift=tuple(np.linspace(-0.03, 0.04, len(DEVIATIONS)))))
    generator = torch.Generator().manual_seed(0)
    batch = 0.3 + torch.rand((6, 3, 40, 44), generator=generator)  # of two sessions, three slices each
    mask = (torch.rand((6, 40, 44), generator=generator) > 0.3).float()
    with torch.inference_mode():
        together = torch.cat(run_network(shipped, batch, mask, physics), dim=1)
        swapped = torch.cat(run_network(shipped, batch.roll(3, 0), mask.roll(3, 0), physics), dim=1).roll(-3, 0)
        alone = torch.cat([torch.cat(run_network(shipped, batch[k : k + 1], mask[k : k + 1], physics), 1)
                           for k in range(6)])  # fmt: skip
    np.testing.assert_allclose(together, swapped, atol=ROUNDING)  # of logarithms
    np.testing.assert_allclose(together, alone, atol=ROUNDING)


@pytest.mark.parametrize("at", [(0.0, 0.0), (0.6, -0.65), (-0.9, 0.95)], ids=["middle", "at a corner", "over the edge"])
def test_a_crop_leaves_no_seam(shipped: MapNetwork, monkeypatch: pytest.MonkeyPatch, at: tuple[float, float]) -> None:
    """Beside whole slices, which `cropped` is kept from cropping."""
    images, mask = head((6, 149, 162), at)
    found = session_maps(shipped, images, mask, PROTOCOL, SCALES)
    shapes = []

    def whole(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        shapes.append(cropped(inside).shape)
        return np.pad(inside, [(0, 0), (0, 3), (0, 2)])

    monkeypatch.setattr(parts, "cropped", whole)
    assert_same(found, session_maps(shipped, images, mask, PROTOCOL, SCALES))
    assert all(y * x < 0.75 * 152 * 164 for _, y, x in shapes)


def test_a_tighter_crop_would_leave_seams(shipped: MapNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above can see one."""
    images, mask = head((6, 149, 162))
    expected = session_maps(shipped, images, mask, PROTOCOL, SCALES)
    monkeypatch.setattr(parts, "REACH", 0)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same(session_maps(shipped, images, mask, PROTOCOL, SCALES), expected)


def test_the_network_reaches_as_far_as_it_says_and_no_farther() -> None:
    """By gradients of outputs at each place of the grids of averages, in double precision."""
    torch.manual_seed(0)
    network = MapNetwork(NetworkSettings(widths=(4, 4, 4), embedding=4)).double()
    torch.nn.init.normal_(network.head.weight)
    middle = 10 * MULTIPLE
    farthest = 0
    for shift in range(MULTIPLE):
        inputs = torch.randn((1, N_INPUTS, 20 * MULTIPLE, 20 * MULTIPLE), dtype=torch.float64, requires_grad=True)
        log_maps, _ = network(inputs, torch.randn((1, N_CONDITIONS), dtype=torch.float64))
        at = middle + shift
        gradient = torch.autograd.grad(log_maps[..., at, at].sum(), inputs)[0]
        for axis in (2, 3):
            seen = gradient.abs().amax(dim=tuple({0, 1, 2, 3} - {axis})).nonzero()[:, 0]
            farthest = max(farthest, int((seen - at).abs().max()))
    assert farthest == REACH


def test_crops_hold_the_mask_and_its_surroundings() -> None:
    inside = np.zeros((2, 101, 90), dtype=bool)
    inside[1, 50:53, 80] = True
    found = cropped(inside)
    assert found.shape == (2, 76 - 24, 92 - 56)
    np.testing.assert_array_equal(np.argwhere(found), np.argwhere(inside) - [0, 24, 56])


def test_features_of_bfloat16_change_maps_little(shipped: MapNetwork) -> None:
    images, mask = head((4, 60, 56))
    exact = session_maps(shipped, images, mask, PROTOCOL, SCALES)
    rounded = session_maps(shipped, images, mask, PROTOCOL, SCALES, precision=torch.bfloat16)
    assert not np.array_equal(rounded.t1, exact.t1, equal_nan=True)
    # eight bits of the correction, which is a few per cent; of the log standard deviation, which is about -3
    for names, rtol in ((("t1", "t2", "pd"), 3e-3), (("t1_sd", "t2_sd", "pd_sd"), 3e-2)):  # found: 1e-3 and 1.2e-2
        for name in names:
            np.testing.assert_allclose(getattr(rounded, name), getattr(exact, name), rtol=rtol, err_msg=name)


def test_precision_concerns_the_network_only() -> None:
    images, mask = head((3, 40, 42))
    exact = session_maps(None, images, mask, PROTOCOL, SCALES)
    assert_same(session_maps(None, images, mask, PROTOCOL, SCALES, precision=torch.bfloat16), exact, rtol=0)


def test_weights_stay_as_they_are(shipped: MapNetwork) -> None:
    images, mask = head((3, 40, 42))
    before = [weight.clone() for weight in shipped.parameters()]
    session_maps(shipped, images, mask, PROTOCOL, SCALES, device="cpu", precision=torch.bfloat16)
    for weight, expected in zip(shipped.parameters(), before, strict=True):
        assert weight.dtype == torch.float32
        assert weight.stride() == expected.stride()
        torch.testing.assert_close(weight, expected, rtol=0, atol=0)


class AliveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations have made and that are alive; ``most`` at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(each, torch.Tensor):
                self._count(each.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        place = storage.data_ptr()
        if place and place not in self.alive:
            self.alive[place] = storage.nbytes()
            weakref.finalize(storage, self.alive.pop, place, None)
            self.most = max(self.most, sum(self.alive.values()))


def test_memory_of_tensors_does_not_grow_with_the_number_of_slices(
    shipped: MapNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(inference.VOXELS, "cpu", 2 * 64 * 60)
    most = {}
    for depth in (2, 4, 40):
        images, mask = head((3, 64, 60))
        many = {c: np.repeat(image[1:2], depth, axis=0) for c, image in images.items()}
        with AliveBytes() as alive:
            session_maps(shipped, many, np.repeat(mask[1:2], depth, axis=0), PROTOCOL, SCALES)
        most[depth] = alive.most
    packed = (most[40] - most[4]) / (36 * 64 * 60)  # bytes per voxel of the volume: signals and mask, made beforehand
    assert packed < 4  # where images have 12, and a pass needs hundreds
    assert most[4] < 1.05 * most[2]  # of the pass before, the maps are still there
    assert 0 < most[2] < 1000 * 2 * 64 * 60  # bytes per voxel of a pass


@pytest.mark.parametrize(("has_gpu", "expected"), [(False, ("cpu", torch.float32)), (True, ("cuda", torch.bfloat16))])
def test_a_gpu_is_used_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, expected: tuple[str, torch.dtype]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    device, precision = fastest()
    assert (device.type, precision) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("precision", "rtol"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_a_gpu_gives_the_same_maps(shipped: MapNetwork, precision: torch.dtype, rtol: float) -> None:
    """Of bfloat16 not the residual: it is a difference of nearly equal signals."""
    images, mask = head((6, 70, 62))
    expected = session_maps(shipped, images, mask, PROTOCOL, SCALES)
    found = session_maps(shipped, images, mask, PROTOCOL, SCALES, device="cuda", precision=precision)
    for name in ("t1", "t2", "pd", "t1_sd", "t2_sd", "pd_sd"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=rtol, err_msg=name)
    if precision is torch.float32:
        np.testing.assert_allclose(found.residual, expected.residual, rtol=1e-2, atol=1e-4)
