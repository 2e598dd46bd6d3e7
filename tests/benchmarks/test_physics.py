"""Speed and memory of the signal models: voxels per second, and ratios to the phase graph and to the textbook."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qmri_core.physics.flip_trains import variable_flip_train
from qmri_core.physics.lookup import lookup
from qmri_core.physics.registry import echo_train_of, fast_signal, signal
from qmri_core.physics.sequences import ECHO_TRAINS
from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence

pytestmark = pytest.mark.bench

SIDE = 100
N_DIRECT = 1 << 13

_TSE = Acquisition(
    contrast=Contrast.T2W,
    sequence=PulseSequence.TURBO_SPIN_ECHO,
    field_strength=3.0,
    repetition_time=6.0,
    echo_time=0.099,
    flip_angle=math.pi / 2,
    refocusing_angle=math.radians(150),
    echo_spacing=0.011,
    echo_train_length=18,
    centre_index=9,
    ramp=True,
)
_TRAIN = variable_flip_train(220, 85, minimum=0.44, centre=0.73, maximum=1.92)
ACQUISITIONS = {
    "spin_echo": replace(_TSE, sequence=PulseSequence.SPIN_ECHO, repetition_time=0.6, echo_time=0.012),
    "spoiled_gradient_echo": replace(
        _TSE, sequence=PulseSequence.SPOILED_GRADIENT_ECHO, repetition_time=0.25, echo_time=0.0025, flip_angle=1.2
    ),
    "mprage": replace(
        _TSE,
        sequence=PulseSequence.MPRAGE,
        repetition_time=2.3,
        inversion_time=0.9,
        echo_time=0.003,
        flip_angle=0.157,
        echo_spacing=0.0071,
        echo_train_length=176,
        centre_index=88,
    ),
    "turbo_spin_echo": _TSE,
    "inversion_recovery_tse": replace(
        _TSE, sequence=PulseSequence.INVERSION_RECOVERY_TSE, repetition_time=9.0, inversion_time=2.5
    ),
    "variable_flip_tse": replace(
        _TSE,
        sequence=PulseSequence.VARIABLE_FLIP_TSE,
        repetition_time=5.0,
        inversion_time=1.8,
        echo_spacing=0.0034,
        echo_time=85 * 0.0034,
        echo_train_length=len(_TRAIN),
        centre_index=85,
        flip_train=_TRAIN,
    ),
}
Model = Callable[..., Tensor]


def textbook(acquisition: Acquisition, pd: Tensor, t1: Tensor, t2: Tensor) -> Tensor:
    """The plain expressions: a yardstick of speed, not of truth."""
    recovery = torch.exp(-acquisition.repetition_time / t1)
    if acquisition.inversion_time is None:
        return pd * (1 - recovery) * torch.exp(-acquisition.echo_time / t2)
    inversion = torch.exp(-acquisition.inversion_time / t1)
    return pd * (1 - 2 * inversion + recovery) * torch.exp(-acquisition.echo_time / t2)


def head(device: str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Smooth maps with a little noise, as of a head: pd, t1, t2, transmit scale."""
    generator = torch.Generator().manual_seed(0)

    def smooth(low: float, high: float) -> Tensor:
        coarse = torch.rand(1, 1, 8, 8, 8, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, size=(SIDE,) * 3, mode="trilinear")[0, 0]
        noise = 0.02 * torch.randn(fine.shape, generator=generator)
        return (low + (high - low) * (fine + noise)).to(device)

    return smooth(0.6, 1.0), smooth(0.7, 2.0), smooth(0.05, 0.15), smooth(0.85, 1.15)


def seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Best of some runs after one to warm up; on one thread of the CPU its own time, which others do not disturb."""
    clock = time.process_time if torch.get_num_threads() == 1 and not torch.cuda.is_available() else time.perf_counter
    call()
    best = math.inf
    for _ in range(repeats):
        start = clock()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return best


def rate(model: Model, maps: tuple[Tensor, ...], *, is_backward: bool = False) -> float:
    """Voxels per second."""
    acquisition_maps, scale = maps[:3], maps[3]

    def forward() -> None:
        with torch.no_grad():
            model(*acquisition_maps, transmit_scale=scale)

    def both() -> None:
        leaves = [each.detach().requires_grad_() for each in acquisition_maps]
        model(*leaves, transmit_scale=scale).sum().backward()  # type: ignore[no-untyped-call]

    return maps[1].numel() / seconds(both if is_backward else forward)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def bind(model: Model, acquisition: Acquisition) -> Model:
    return lambda *maps, **keywords: model(acquisition, *maps, **keywords)


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_voxels_per_second(name: str, threads: int) -> None:
    acquisition, maps = ACQUISITIONS[name], head()
    fast = bind(fast_signal, acquisition)
    found = {"fast forward": rate(fast, maps), "fast forward+backward": rate(fast, maps, is_backward=True)}
    if acquisition.sequence in ECHO_TRAINS:
        few = tuple(each.flatten()[:N_DIRECT] for each in maps)
        exact = bind(signal, acquisition)
        found["phase graph forward"] = rate(exact, few)
        found["phase graph forward+backward"] = rate(exact, few, is_backward=True)
    text = ", ".join(f"{key} {value / 1e6:.3g} M/s" for key, value in found.items())
    print(f"\n{name}, {threads} threads: {text}")
    assert min(found.values()) > 0


@pytest.mark.parametrize("name", ["turbo_spin_echo", "inversion_recovery_tse", "variable_flip_tse"])
def test_lookup_against_phase_graph_and_textbook(name: str, threads: int) -> None:
    acquisition, maps = ACQUISITIONS[name], head()
    fast = rate(bind(fast_signal, acquisition), maps)
    n_direct = N_DIRECT if acquisition.flip_train else 16 * N_DIRECT
    direct = rate(bind(signal, acquisition), tuple(each.flatten()[:n_direct] for each in maps))
    constant = maps[1].numel() / seconds(lambda: fast_signal(acquisition, *maps[:3]))
    plain = maps[1].numel() / seconds(lambda: textbook(acquisition, *maps[:3]))
    print(
        f"\n{name}, {threads} threads: lookup {fast / direct:.0f} times as fast as the phase graph, "
        f"{plain / fast:.1f} times as slow as the textbook ({plain / constant:.1f} with one transmit scale)"
    )
    if threads == 1:  # wall times of two threads say little on a machine that others use
        # short trains are cheap to simulate
        assert fast / direct > (100 if name == "variable_flip_tse" else 20)
        assert plain / fast < 15


@pytest.mark.parametrize("name", ["turbo_spin_echo", "variable_flip_tse"])
def test_seconds_to_make_a_table(name: str) -> None:
    torch.set_num_threads(1)
    train = echo_train_of(replace(ACQUISITIONS[name], inversion_efficiency=0.91))
    start = time.perf_counter()
    table = lookup(train)
    took = time.perf_counter() - start
    size = (table.echo.nbytes + table.remainder.nbytes) / 2**20
    print(f"\n{name}: table made in {took:.2f} s, {size:.0f} MiB")
    assert took < (1 if name == "turbo_spin_echo" else 8)


@pytest.mark.parametrize("name", ["turbo_spin_echo", "variable_flip_tse"])
def test_peak_memory(name: str) -> None:
    code = (
        "import resource, torch; from tests.benchmarks import test_physics as t\n"
        "maps = t.head()\n"
        "few = tuple(each.flatten()[:8] for each in maps)\n"
        f"a = t.ACQUISITIONS[{name!r}]\n"
        "t.rate(t.bind(t.fast_signal, a), few)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with torch.no_grad(): t.fast_signal(a, *maps[:3], transmit_scale=maps[3])\n"
        "middle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "t.rate(t.bind(t.fast_signal, a), maps, is_backward=True)\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(before, middle, after)\n"
    )
    here = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(here)},
    )
    before, middle, after = (int(value) / 1024 for value in result.stdout.split())
    print(
        f"\n{name}, {SIDE**3 / 1e6:.0f} M voxels: peak {before:.0f} MiB, + {middle - before:.0f} MiB forward, "
        f"+ {after - before:.0f} MiB forward and backward"
    )
    assert middle - before < 400


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ACQUISITIONS)
def test_voxels_per_second_on_a_gpu(name: str) -> None:
    maps = head("cuda")
    fast = bind(fast_signal, ACQUISITIONS[name])
    print(
        f"\n{name}, GPU: forward {rate(fast, maps) / 1e6:.3g} M/s, both {rate(fast, maps, is_backward=True) / 1e6:.3g}"
    )
