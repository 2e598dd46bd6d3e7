"""deepbet's network in slabs against deepbet's own run of it, on any device; what is no brain, and what is a fault."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from qmri_core.preprocessing import brain_mask as masks
from qmri_core.preprocessing.brain_mask import (
    BrainMaskError,
    _box,
    _largest,
    _normalised,
    _sampled,
    _weights,
    brain_mask,
)
from qmri_core.preprocessing.brain_network import is_brain
from qmri_core.series.geometry import Volume
from tests.phantoms import smooth_volume
from tests.qmri_core.preprocessing.heads import head

CPU = torch.device("cpu")


def textured(network: int) -> torch.Tensor:
    """An image in which both networks find something."""
    image = torch.from_numpy(smooth_volume((128, 128, 128), seed=network).array)
    image += 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return _normalised(image, 0.0, 3.0)


def volume(array: np.ndarray) -> Volume:
    return Volume(array=array.astype(np.float32), affine=np.diag([3.0, 3.0, 3.0, 1.0]))


@pytest.fixture(scope="module")
def theirs() -> Any:
    """deepbet's own."""
    from deepbet import BrainExtraction

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.load")  # deepbet ships TorchScript
        return BrainExtraction(no_gpu=True)


@pytest.mark.parametrize("network", [0, 1], ids=["head", "brain"])
def test_the_network_in_slabs_gives_what_it_gives_whole(network: int, theirs: Any) -> None:
    whole = (theirs.bbox_model, theirs.model)[network]
    image = textured(network)
    with torch.no_grad():
        expected = whole(image[None, None])[0, 1] > 0.5
    assert 0.01 < float(expected.float().mean()) < 0.99
    differ = is_brain(image, _weights(CPU)[network]) != expected
    assert int(differ.sum()) <= 1e-4 * expected.numel()  # rounding, where both classes are as probable


def test_a_worker_has_no_pandas_of_it() -> None:
    """Nor anything else of deepbet's code, which costs a worker 57 MB."""
    script = "import sys; from qmri_core.preprocessing import brain_mask as m; m._weights(m._CPU); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"pandas", "pyarrow", "deepbet", "nibabel"} & set(done.stdout.split())


@pytest.mark.parametrize("seed", range(4))
def test_the_box_of_a_head_and_what_is_kept_of_it_are_deepbets(seed: int, theirs: Any) -> None:
    rng = np.random.default_rng(seed)
    field = smooth_volume((128, 128, 128), seed=seed).array
    head = field > np.quantile(field, rng.uniform(0.5, 0.97))
    head &= rng.random(head.shape) > 0.01  # voids of all kinds, at the border too
    shape = tuple(int(length) for length in rng.integers(40, 320, size=3))
    from deepbet.utils import keep_largest_connected_component

    largest = keep_largest_connected_component(head.astype(np.float32))
    np.testing.assert_array_equal(_largest(head), largest > 0)
    expected = theirs.get_bbox_with_margin(torch.from_numpy(largest), shape, 0.1)
    assert [part.indices(1000) for part in _box(largest > 0, shape) or ()] == [part.indices(1000) for part in expected]
    theirs.bbox = (slice(None),) * 3
    np.testing.assert_array_equal(
        ndimage.binary_fill_holes(_largest(head)), theirs.postprocess(head.astype(np.uint8)) > 0
    )
    assert ndimage.binary_fill_holes(_largest(head)).sum() > _largest(head).sum()


@pytest.mark.parametrize("shape", [(40, 61, 128), (300, 17, 256)])
@pytest.mark.parametrize("size", [128, 256])
def test_samples_are_those_of_torch(shape: tuple[int, int, int], size: int) -> None:
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    image[3, 4, 5] = np.nan
    box = tuple(slice(length // 9, length - length // 7) for length in shape)
    inside = torch.nan_to_num(torch.from_numpy(image))[box][None, None]
    expected = torch.nn.functional.interpolate(inside, (size,) * 3, mode="nearest-exact")[0, 0]
    same = _sampled(image, box, size) == expected
    assert float(same.float().mean()) > 0.98  # beside them where a place lies between two voxels


def test_nothing_is_made_elsewhere_than_on_the_device_of_the_image() -> None:
    """With another default device, whatever is made without saying where cannot be joined with the rest."""
    image, weights = textured(0), _weights(CPU)[0]
    expected = is_brain(image, weights)
    with torch.device("meta"):
        assert torch.empty(1).is_meta
        found = is_brain(image, weights)
    assert torch.equal(found, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("network", [0, 1], ids=["head", "brain"])
def test_a_gpu_finds_the_same_but_for_rounding(network: int) -> None:
    image = textured(network)
    expected = masks._is_brain_on(CPU, image, network)
    found = masks._is_brain_on(torch.device("cuda"), image, network)
    assert found.device == CPU
    assert int((found != expected).sum()) <= 1e-4 * expected.numel()


def test_where_the_memory_of_the_device_is_full_the_cpu_finds_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By a device that is made up: no GPU has run it."""
    image = textured(0)
    expected = is_brain(image, _weights(CPU)[0])
    plain, asked = masks._is_brain_on, []

    def full(place: torch.device, *arguments: object) -> torch.Tensor:
        asked.append(place.type)
        if place.type == "cuda":
            raise torch.OutOfMemoryError
        return plain(place, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(masks, "_is_brain_on", full)
    assert torch.equal(masks._is_brain(image, 0), expected)
    assert asked == ["cuda", "cpu"]
    assert "memory is full" in caplog.text


@pytest.mark.parametrize(("shape", "value"), [((40, 40, 40), 0.0), ((40, 40, 40), 7.0), ((1, 60, 60), 1.0)])
def test_a_volume_without_a_head_has_no_brain(shape: tuple[int, int, int], value: float) -> None:
    with pytest.raises(BrainMaskError, match="no brain"):
        brain_mask(volume(np.full(shape, value)))


@pytest.mark.parametrize("error", [RuntimeError, ValueError, AssertionError])
def test_a_fault_of_our_own_network_is_not_taken_for_a_missing_brain(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise error("sizes do not match")

    monkeypatch.setattr(masks, "is_brain", broken)
    with pytest.raises(error, match="sizes do not match") as raised:
        brain_mask(volume(head()[0]))
    assert not isinstance(raised.value, BrainMaskError)
