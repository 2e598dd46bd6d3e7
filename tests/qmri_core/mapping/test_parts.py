"""Parts of several sessions in one device call: the same maps to the bit in every company, and calls that are full."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qmri_core.calibration.session_model import PersonLevels
from qmri_core.mapping import device as devices
from qmri_core.mapping.checkpoint import load_checkpoint
from qmri_core.mapping.device import BYTES_PER_VOXEL, MOST_VOXELS, Device, fitting_voxels
from qmri_core.mapping.inference import VOXELS, infer_parts, prepared
from qmri_core.mapping.parts import LARGE_PLANE, MANY_PLANES, WAITING, Part, in_calls
from qmri_core.series.acquisition import Contrast
from tests.qmri_core.mapping.test_inference_blocks import PROTOCOL, ROUNDING, SCALES, head

TWO = {contrast: PROTOCOL[contrast] for contrast in (Contrast.T1W, Contrast.T2W)}
CPU = torch.device("cpu")


def person(number: int) -> PersonLevels:
    return PersonLevels(
        mean=0.01 * number + np.array([0.02, -0.01, 0.03, 0.04]),
        determined=np.array([0.36, 0.25, 0.49, 0.64]),
        spread=np.array([0.04, 0.04, 0.035, 0.05]),
        n_people=20.0,
    )


def parts(
    owner: str, shape: tuple[int, int, int], *, slices: int, number: int = 0, protocol: Any = PROTOCOL
) -> Sequence[Part]:
    images, mask = head(shape)
    chosen = {contrast: image * (1 + 0.01 * number) for contrast, image in images.items() if contrast in protocol}
    scales = {contrast: SCALES[contrast] for contrast in protocol}
    return prepared(owner, chosen, mask, protocol, scales, person(number), slices=slices).parts


@pytest.fixture(scope="module")
def device() -> Device:
    return Device.here(load_checkpoint().network)


def found(device: Device, call: Sequence[Part]) -> list[NDArray[np.float32]]:
    return [tensor.numpy() for tensor in infer_parts(device.network, call, CPU)]


@pytest.mark.parametrize(
    ("shape", "slices"),
    [((8, 40, 32), 2), ((9, 40, 32), 3), ((5, 24, 20), 5), ((4, 70, 62), 2), ((5, 300, 280), 1)],
    ids=str,
)
def test_a_part_is_the_same_to_the_bit_in_every_company(
    device: Device, shape: tuple[int, int, int], slices: int
) -> None:
    """Sessions of two protocols and two persons: alone, in pairs, and all in several orders, as full as calls get."""
    mixed = [*parts("a", shape, slices=slices, number=0), *parts("b", shape, slices=slices, number=1, protocol=TWO)]
    shapes = {part.inside.shape[1:] for part in mixed}
    together = [part for part in mixed if part.inside.shape[1:] == max(shapes)][: (MANY_PLANES - 1) // slices]
    assert len({part.owner for part in together}) == 2
    alone = {id(part): found(device, [part])[0] for part in together}
    calls = [*itertools.combinations(together[:4], 2), together, together[::-1], together[1:] + together[:1]]
    for call in calls:
        for part, maps in zip(call, found(device, list(call)), strict=True):
            np.testing.assert_array_equal(maps, alone[id(part)])


def test_parts_of_many_planes_too(device: Device) -> None:
    a, b = (parts(name, (20, 40, 32), slices=20, number=k)[0] for k, name in enumerate("ab"))
    assert len(a.inside) >= MANY_PLANES
    (alone,) = found(device, [b])
    np.testing.assert_array_equal(found(device, [a, b])[1], alone)


def test_a_small_plane_alone_may_differ_in_company_and_so_has_none() -> None:
    a, b = (parts(name, (3, 40, 32), slices=1, number=k)[0] for k, name in enumerate("ab"))
    assert a.inside.numel() < LARGE_PLANE
    assert [len(call) for call in in_calls([a, b], lambda: 1 << 20)] == [1, 1]
    assert [len(call) for call in in_calls([a, b], lambda: 1 << 20, same_to_the_bit=False)] == [2]


@pytest.mark.parametrize(("same_to_the_bit", "expected"), [(True, [1, 1, 1]), (False, [3])])
def test_only_where_bits_count_few_and_many_planes_are_kept_apart(same_to_the_bit: bool, expected: list[int]) -> None:
    three = [parts(f"{k}", (10, 24, 20), slices=10, number=k)[0] for k in range(3)]
    assert [len(call) for call in in_calls(three, lambda: 1 << 20, same_to_the_bit=same_to_the_bit)] == expected


def test_in_bfloat16_company_stays_within_the_stated_bound(device: Device) -> None:
    """On a CPU: a GPU may choose other algorithms for other sizes, within the rounding of its features."""
    a, b = (parts(name, (6, 60, 56), slices=6, number=k)[0] for k, name in enumerate("ab"))
    (exact,) = found(device, [a])
    for call in ([a], [a, b]):
        rounded = infer_parts(device.network, call, CPU, precision=torch.bfloat16)[0].numpy()
        np.testing.assert_allclose(rounded[:3], exact[:3], rtol=4e-3)  # T1, T2, PD
        np.testing.assert_allclose(rounded[3:6], exact[3:6], rtol=1e-2)  # their standard uncertainties


def sizes(call: Sequence[Part]) -> int:
    return sum(part.inside.numel() for part in call)


def test_calls_are_of_one_shape_full_and_hold_every_part_once() -> None:
    sessions = [parts(f"{k}", shape, slices=2, number=k) for k, shape in enumerate([(8, 40, 32), (9, 24, 20)] * 4)]
    everything = [part for session in sessions for part in session]
    full = 6 * 40 * 32
    calls = list(in_calls(everything, lambda: full))
    assert sorted(id(part) for call in calls for part in call) == sorted(map(id, everything))
    for call in calls:
        assert len({part.inside.shape[1:] for part in call}) == 1
        assert sizes(call) <= full
        assert sum(len(part.inside) for part in call) < MANY_PLANES
    assert any(len({part.owner for part in call}) > 1 for call in calls)
    assert sum(sizes(call) for call in calls) > 0.6 * full * len([call for call in calls if len(call) > 1])


def test_no_more_waits_than_the_calls_may_hold() -> None:
    """Of parts that all have shapes of their own, few are held back, however many come."""
    shapes = [(5, 24 + 4 * k, 24) for k in range(30)]
    everything = [parts(f"{k}", shape, slices=5)[0] for k, shape in enumerate(shapes)]
    full = max(part.inside.numel() for part in everything)
    taken: list[Part] = []
    given: list[Part] = []
    for call in in_calls((taken.append(part) or part for part in everything), lambda: full):  # type: ignore[func-returns-value]
        given += call
        if len(taken) < len(everything):
            assert sizes(taken) - sizes(given) <= WAITING * full
    assert len(given) == 30


class Full(torch.OutOfMemoryError):
    """As an allocator raises it that has no memory left."""


@pytest.mark.parametrize("n_slices", [1, 2])
def test_a_call_that_does_not_fit_is_halved_and_later_ones_are_smaller(
    device: Device, n_slices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an allocator that is made up: no GPU has run it. The outermost slices have no brain."""
    call = [*parts("a", (8, 40, 32), slices=8), *parts("b", (6, 40, 32), slices=6, number=1)]
    expected = found(device, call)
    small, passes = n_slices * 40 * 32, []

    def limited(network: Any, some: Sequence[Part], *arguments: Any, **options: Any) -> Any:
        passes.append(sizes(some))
        if sizes(some) > small:
            raise Full
        return infer_parts(network, some, *arguments, **options)

    monkeypatch.setattr(devices, "infer_parts", limited)
    mine = Device(device.network, CPU, torch.float32, 1 << 17)
    result = mine.start(call)()
    assert mine.voxels <= small
    assert {part.owner for part, _ in result} == {"a", "b"}
    for owner, whole in zip("ab", expected, strict=True):
        pieces = [tensor.numpy() for part, tensor in result if part.owner == owner]
        np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=ROUNDING, atol=ROUNDING)
    passes.clear()
    mine.start(parts("c", (3, 40, 32), slices=1))()
    assert len(passes) == 1


def test_a_slice_that_does_not_fit_is_an_error(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise Full

    monkeypatch.setattr(devices, "infer_parts", full)
    mine = Device(device.network, CPU, torch.float32, 1 << 17)
    with pytest.raises(torch.OutOfMemoryError):
        mine.start(parts("a", (3, 40, 32), slices=3))


def test_halves_of_a_part_are_the_part() -> None:
    (part,) = parts("a", (7, 40, 32), slices=7)
    first, second = part.halves()
    assert (first.where, second.where) == (slice(0, 3), slice(3, 7))
    assert torch.equal(torch.cat([first.inside, second.inside]), part.inside)
    assert torch.equal(torch.cat([first.relative, second.relative], dim=1), part.relative)
    assert first.relative.shape[1] == int(first.inside.sum())
    (single,) = parts("a", (3, 40, 32), slices=1)
    assert single.halves() == (single,)


@pytest.mark.parametrize(
    ("free", "expected"), [(1 << 20, VOXELS["cpu"]), (8_000_000_000, 4_000_000), (1 << 40, MOST_VOXELS)]
)
def test_the_bound_follows_the_free_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch, free: int, expected: int) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 2 * free))
    assert fitting_voxels(torch.device("cuda")) == expected
    assert expected * BYTES_PER_VOXEL <= free or expected == VOXELS["cpu"]
    assert fitting_voxels(CPU) == VOXELS["cpu"]
