"""Speed and memory of inference on a volume of 8 million voxels, beside what the machine copies and multiplies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

# in a process of its own, whose peak of memory is then that of inference; run as (device, precision, threads, network)
_ONE_PROCESS = """
import json, resource, sys, time
import numpy as np, torch
from qmri_core.mapping import inference
from qmri_core.mapping.checkpoint import load_checkpoint
from tests.protocols import plain_protocol

device, precision, threads, has_network = sys.argv[1], getattr(torch, sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"
torch.set_num_threads(threads)
is_gpu = device == "cuda"
wait = torch.cuda.synchronize if is_gpu else lambda: None
REPEATS = 3 if is_gpu else 1

def seconds(call):
    call()
    wait()
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        call()
        wait()
        best = min(best, time.perf_counter() - began)
    return best

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

source = torch.rand((1 << 29 if is_gpu else 1 << 24), device=device)
target = torch.empty_like(source)
copied = 2 * source.nbytes / seconds(lambda: target.copy_(source))
n = 8192 if is_gpu else 1024
a = torch.rand((n, n), device=device, dtype=precision)
multiplied = 2 * n**3 / seconds(lambda: a @ a)
del source, target, a

side = 200
rng = np.random.default_rng(0)
z, y, x = np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij", sparse=True)
mask = ((z / 0.65) ** 2 + (y / 0.85) ** 2 + (x / 0.70) ** 2 < 1).astype(np.uint8)  # 1.6 l at 1 mm
protocol = plain_protocol()
noise = [rng.standard_normal(mask.shape, dtype=np.float32) for _ in protocol]
images = {contrast: 540 + 90 * each for contrast, each in zip(protocol, noise)}
del noise
scales = dict.fromkeys(protocol, 900.0)
network = load_checkpoint().network if has_network else None

def infer(start, end):
    part = {contrast: image[start:end] for contrast, image in images.items()}
    inference.session_maps(network, part, mask[start:end], protocol, scales, device=device, precision=precision)
    wait()

infer(98, 102)  # makes the tables of the echo trains
infer(0, side if is_gpu else 1)  # a GPU's allocator and its choice of algorithms
before = peak()
inside_block, plain = 0.0, inference.infer_parts

def timed(*arguments, **keywords):
    global inside_block
    wait()
    began = time.perf_counter()
    result = plain(*arguments, **keywords)
    wait()
    inside_block += time.perf_counter() - began
    return result

inference.infer_parts = timed
wall, cpu = time.perf_counter(), time.process_time()
for _ in range(REPEATS):
    infer(0, side)
wall, cpu = (time.perf_counter() - wall) / REPEATS, (time.process_time() - cpu) / REPEATS
print(json.dumps({
    "voxels": mask.size, "brain": int(mask.sum()), "wall": wall, "cpu": cpu, "device": inside_block / REPEATS,
    "before": before, "peak": peak(), "copied": copied, "multiplied": multiplied,
    "on_gpu": torch.cuda.max_memory_allocated() / 2**20 if is_gpu else 0.0,
    "name": torch.cuda.get_device_name() if is_gpu else "CPU",
}))
"""
_ROOT = Path(__file__).parents[2]


def measure(device: str, precision: str, threads: int, *, has_network: bool) -> dict[str, float]:
    arguments = [device, precision, str(threads), str(int(has_network))]
    done = subprocess.run(
        [sys.executable, "-c", _ONE_PROCESS, *arguments], capture_output=True, text=True, check=True, cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_WAIT_POLICY": "PASSIVE"},
    )  # fmt: skip
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(rows: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Rates in million voxels per second: of the volume, and of the brain in it."""
    yield f"{'':30} {'volume':>7} {'brain':>6} {'wall s':>7} {'CPU s':>6} {'blocks s':>8} {'MiB':>5} {'+ MiB':>6} {'GPU MiB':>7} {'copy GB/s':>9} {'TFLOP/s':>7}"  # noqa: E501
    for name, found in rows.items():
        volume, brain = (found[key] / found["wall"] / 1e6 for key in ("voxels", "brain"))
        yield (
            f"{name:30} {volume:7.3g} {brain:6.3g} {found['wall']:7.3g} {found['cpu']:6.3g} {found['device']:8.3g} "
            f"{found['peak']:5.0f} {found['peak'] - found['before']:6.0f} {found['on_gpu']:7.0f} "
            f"{found['copied'] / 1e9:9.0f} {found['multiplied'] / 1e12:7.3g}"
        )


@pytest.mark.parametrize("threads", [1, 2])
def test_voxels_per_second_and_memory(threads: int) -> None:
    """Aim on two threads: 400,000 voxels of the volume per second.

    Threads wait for each other without spinning: with neighbours on the cores, they would spin for most of the time.
    """
    rows = {
        f"{threads} thread(s), {'network' if has_network else 'voxelwise'}": measure(
            "cpu", "float32", threads, has_network=has_network
        )
        for has_network in (False, True)
    }
    print("", *table(rows), sep="\n")
    for found in rows.values():
        assert found["voxels"] / found["cpu"] > 200_000  # by the CPU's time, which others hardly disturb
        assert found["peak"] - found["before"] < 800


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_voxels_per_second_and_memory_of_a_gpu() -> None:
    """Aim on an H100: 150 million voxels of the volume per second in bfloat16, in the blocks."""
    rows = {
        f"{precision}, {'network' if has_network else 'voxelwise'}": measure(
            "cuda", precision, 2, has_network=has_network
        )
        for precision in ("float32", "bfloat16")
        for has_network in (False, True)
    }
    print("", next(iter(rows.values()))["name"], *table(rows), sep="\n")
    for name, found in rows.items():
        print(
            f"{name}: {found['voxels'] / found['device'] / 1e6:.0f} million voxels of the volume per second in blocks"
        )
        assert found["on_gpu"] < 16_000
