"""What a CUDA device makes of this code, in one script that installs nothing: ``make gpu``.

It needs Python, numpy, torch and this folder. Each step whose library is absent is named and left out. It writes
``gpu.json`` and prints a table; without a CUDA device every step runs on the CPU, on a small case, so that the script
itself is tested (``tests/benchmarks/test_gpu.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from qmri_core.devices import fastest, in_precision
from qmri_core.mapping.device import Device
from qmri_core.mapping.inference import prepared, run_network, session_maps, slices_of
from qmri_core.mapping.network import N_CONDITIONS, N_INPUTS, MapNetwork, NetworkSettings
from qmri_core.mapping.parts import in_calls
from qmri_core.mapping.voxelwise import estimator
from qmri_core.physics.registry import signal
from qmri_core.series.acquisition import Contrast
from qmri_core.training.losses import negative_log_likelihood
from tests.protocols import plain_protocol

Rows = dict[str, Any]
_ROOT = Path(__file__).parents[2]
_FEWEST_STEPS = 5
_CLOSE = 0.03
"""Largest relative difference of maps in bfloat16 from float32 that ``tests/qmri_core/mapping`` allows."""
_PATIENCE = 75.0
"""Seconds for each of the two steps by pytest, so that all of them end in eight minutes, five of which are training."""
_OF_TESTS = ("pytest", "hypothesis", "filelock", "scipy", "pytest_timeout")
_OF_STORES = ("pytest", "hypothesis", "filelock", "scipy", "zarr", "icechunk", "xarray", "distributed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large the cases are: volumes [voxels along an axis], sessions, seconds of training, steps by torchrun."""

    side: int
    small_side: int
    sessions: int
    copied: int
    matrix: int
    training_seconds: float
    steps_together: int


ON_GPU = Size(
    side=200,
    small_side=80,
    sessions=24,
    copied=1 << 29,
    matrix=8192,
    training_seconds=300.0,
    steps_together=200,
)
ON_CPU = Size(side=32, small_side=16, sessions=3, copied=1 << 20, matrix=256, training_seconds=1.0, steps_together=5)


class AbsentError(RuntimeError):
    """A step cannot be had here; the text says why."""


def wait() -> None:
    """Until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """The shortest of some calls, after one that warms up."""
    call()
    wait()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - began)
    return min(times)


def weights() -> tuple[MapNetwork, str]:
    """The shipped network, or an untrained one of its size where safetensors is absent."""
    if find_spec("safetensors") is None:
        torch.manual_seed(0)
        return MapNetwork(NetworkSettings()).eval(), "untrained: safetensors is absent"
    from qmri_core.mapping.checkpoint import load_checkpoint

    return load_checkpoint().network, "shipped"


def head(side: int, seed: int = 0) -> tuple[dict[Contrast, NDArray[np.float32]], NDArray[np.uint8]]:
    """Noisy images of an ellipsoid that fills a fifth of the volume, and its mask."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij", sparse=True)
    mask = ((z / 0.65) ** 2 + (y / 0.85) ** 2 + (x / 0.70) ** 2 < 1).astype(np.uint8)
    images = {
        contrast: (540 + 90 * rng.standard_normal(mask.shape, dtype=np.float32)).astype(np.float32)
        for contrast in plain_protocol()
    }
    return images, mask


def needs(names: tuple[str, ...]) -> None:
    """Raise `AbsentError` unless all these libraries are here."""
    if absent := [name for name in names if find_spec(name) is None]:
        raise AbsentError(f"{', '.join(absent)} absent")


def run_pytest(*arguments: str) -> str:
    """What pytest prints of some tests of this folder.

    Raises
    ------
    RuntimeError
        If a test fails.
    subprocess.TimeoutExpired
        If they take too long on a device.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments],
        capture_output=True, text=True, check=False, cwd=_ROOT, env={**os.environ, "PYTHONPATH": str(_ROOT)},
        timeout=_PATIENCE if torch.cuda.is_available() else None,
    )  # fmt: skip
    if done.returncode not in (0, 5):  # 5: none was chosen
        raise RuntimeError(done.stdout[-2000:])
    return done.stdout


def marked_tests(_size: Size) -> Rows:
    """The tests that are marked ``gpu``; benchmarks have steps of their own here."""
    needs(_OF_TESTS)
    lines = run_pytest("-m", "gpu and not bench", "tests/qmri_core").splitlines()
    return {"outcome": lines[-1].strip(" =")}


def limits(size: Size) -> Rows:
    """Copy bandwidth and rate of matrix products of the device, in the precision of inference."""
    place, precision = fastest()
    source = torch.rand(size.copied, device=place)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / seconds(lambda: target.copy_(source))
    a = torch.rand((size.matrix, size.matrix), device=place, dtype=precision)
    multiplied = 2 * size.matrix**3 / seconds(lambda: a @ a)
    return {"copied_GB_per_s": copied / 1e9, "multiplied_TFLOP_per_s": multiplied / 1e12}


def agreement(size: Size) -> Rows:
    """Largest and median relative difference of maps from those in float32 on the CPU."""
    network, which = weights()
    (images, mask), protocol = head(size.small_side), plain_protocol()
    scales = dict.fromkeys(protocol, 900.0)
    expected = session_maps(network, images, mask, protocol, scales)
    place, precision = fastest()
    rows: Rows = {"weights": which, "precision": str(precision)}
    for name in ("t1", "t2", "pd", "t1_sd", "t2_sd", "pd_sd"):
        found = getattr(session_maps(network, images, mask, protocol, scales, device=place, precision=precision), name)
        difference = np.abs(found / getattr(expected, name) - 1)[mask > 0]
        rows |= {f"{name}_largest": float(difference.max()), f"{name}_median": float(np.median(difference))}
    largest = max(rows[f"{name}_largest"] for name in ("t1", "t2", "pd", "t1_sd", "t2_sd", "pd_sd"))
    if largest > _CLOSE:
        raise RuntimeError(f"maps differ by {largest:.3f} of float32 on the CPU, more than {_CLOSE}")
    return rows


def bare_network(size: Size) -> Rows:
    """Voxels of planes per second of the network alone, on one full call of random planes."""
    network, _ = weights()
    device = Device.here(network)
    plane = -(-size.side // 8) * 8
    n = max(1, min(size.side, device.voxels // plane**2))
    planes = torch.rand((n, N_INPUTS, plane, plane), device=device.place).to(memory_format=torch.channels_last)
    conditions = torch.rand((n, N_CONDITIONS), device=device.place)
    with torch.inference_mode(), in_precision(device.precision, device.place):
        took = seconds(lambda: device.network(planes, conditions))
    return {"voxels_per_call": n * plane**2, "million_voxels_per_s": n * plane**2 / took / 1e6}


def batches(size: Size) -> Rows:
    """Small sessions one per call and together, arrays to arrays; the voxels of planes that the network sees."""
    network, _ = weights()
    device, protocol = Device.here(network), plain_protocol()
    scales = dict.fromkeys(protocol, 900.0)
    heads = [head(size.small_side, seed) for seed in range(size.sessions)]
    slices = slices_of(device.place, (size.small_side,) * 3, device.voxels)
    sessions = [
        prepared(str(k), images, mask, protocol, scales, None, slices=slices) for k, (images, mask) in enumerate(heads)
    ]
    parts = [part for session in sessions for part in session.parts]
    is_cpu = device.place.type == "cpu"
    calls = list(in_calls(iter(parts), lambda: device.voxels, same_to_the_bit=is_cpu))

    def run(some: list[Any]) -> None:
        for finish in [device.start(call) for call in some]:
            finish()

    alone, together = seconds(lambda: run([[part] for part in parts]), 2), seconds(lambda: run(calls), 2)
    voxels = sum(part.inside.numel() for part in parts)
    return {
        "sessions": size.sessions,
        "calls": len(calls),
        "alone_million_voxels_per_s": voxels / alone / 1e6,
        "together_million_voxels_per_s": voxels / together / 1e6,
    }


def brain_masks(_size: Size) -> Rows:
    """Seconds of one brain mask on the device and on the CPU."""
    needs(("deepbet", "scipy", "SimpleITK", "nibabel"))
    from qmri_core.preprocessing import brain_mask as masks

    image = torch.from_numpy(np.random.default_rng(0).random((128,) * 3, dtype=np.float32))
    place, _ = fastest()
    return {
        "device_s": seconds(lambda: masks._is_brain_on(place, image, 0), 1),
        "cpu_s": seconds(lambda: masks._is_brain_on(torch.device("cpu"), image, 0), 1),
    }


def store_to_store(_size: Size) -> Rows:
    """Share of the bare network in inference from store to store, by the benchmark of its own; aim .9."""
    needs(_OF_STORES)
    if not torch.cuda.is_available():
        raise AbsentError("no CUDA device: pytest -m bench -s tests/benchmarks/test_batches.py is the CPU's")
    printed = run_pytest("-m", "bench", "-s", "tests/benchmarks/test_batches.py")
    return {"printed": [line.strip() for line in printed.splitlines() if "store to store" in line]}


def training(size: Size) -> Rows:
    """Steps of training on drawn maps, by their likelihood; with ``torchrun`` all processes average their gradients.

    Not the training of the shipped weights, which draws simulated heads and needs more libraries: its throughput.
    """
    torch.manual_seed(0)
    place, precision = fastest()
    rank = int(os.environ.get("RANK", "0"))
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    network = MapNetwork(NetworkSettings()).to(place)
    trained: torch.nn.Module = network
    if distributed.is_initialized():
        trained = torch.nn.parallel.DistributedDataParallel(network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    physics, protocol = estimator(plain_protocol()), plain_protocol()
    generator = torch.Generator(place).manual_seed(rank)
    side = min(96, size.side // 8 * 8)
    white = torch.tensor(physics.white_matter, device=place)[None, :, None, None]

    def step() -> float:
        truth = 0.2 * torch.randn((6, 3, side, side), generator=generator, device=place)
        pd, t1, t2 = ((truth.exp() * white)[:, k] for k in (2, 0, 1))
        planes = [
            signal(protocol[contrast], pd, t1, t2).abs() / reference
            for contrast, reference in zip(physics.contrasts, physics.white_matter_signal, strict=True)
        ]
        relative = torch.stack(planes, dim=1).float()
        relative = relative * (1 + 0.02 * torch.randn(relative.shape, generator=generator, device=place))
        mask = torch.ones((6, side, side), device=place)
        estimate, log_sd = run_network(trained, relative, mask, physics, precision=precision)
        loss = negative_log_likelihood(estimate, log_sd, truth, mask)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    def goes_on(n: int) -> bool:
        if distributed.is_initialized():  # all processes stop at the same step
            return n < size.steps_together
        return time.perf_counter() - began < size.training_seconds or n < _FEWEST_STEPS

    first, n, began = step(), 0, time.perf_counter()
    last = first
    while goes_on(n):
        last, n = step(), n + 1
    wait()
    took = time.perf_counter() - began
    return {"steps": n, "million_voxels_per_s": n * 6 * side**2 / took / 1e6, "first_loss": first, "last_loss": last}


def two_processes(_size: Size) -> Rows:
    """Two processes that train together by torchrun, each on a device of its own; on a CPU both share it."""
    if torch.cuda.is_available() and torch.cuda.device_count() < 2:
        raise AbsentError("one CUDA device")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
         "tests.benchmarks.gpu", "--only-training"],
        capture_output=True, text=True, check=False, cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: Rows = json.loads(done.stdout.splitlines()[-1])
    return found


STEPS: tuple[Callable[[Size], Rows], ...] = (
    marked_tests,
    limits,
    agreement,
    bare_network,
    batches,
    brain_masks,
    store_to_store,
    training,
    two_processes,
)


def measure(size: Size) -> tuple[Rows, bool]:
    """What all steps say, and whether none failed; a step that fails does not keep the others."""
    place, precision = fastest()
    result: Rows = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if place.type == "cuda" else "CPU",
        "devices": torch.cuda.device_count(),
        "precision": str(precision),
    }
    is_good, start = True, time.perf_counter()
    for step in STEPS:
        began = time.perf_counter()
        try:
            rows = step(size)
        except AbsentError as error:
            rows = {"left_out": str(error)}
        except Exception as error:  # noqa: BLE001 - each step is told, and the run ends with status 1
            rows, is_good = {"failed": f"{type(error).__name__}: {error}"}, False
        result[step.__name__] = {**rows, "seconds": time.perf_counter() - began}
        print(f"{step.__name__:16} {_line(result[step.__name__])}", flush=True)
    result["seconds"] = time.perf_counter() - start
    return result, is_good


def _line(rows: Rows) -> str:
    return "; ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in rows.items()
    )


def main() -> int:
    """Run all steps, write the JSON, print the table; status 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="where the figures go")
    parser.add_argument("--only-training", action="store_true", help="one process of torchrun")
    options = parser.parse_args()
    size = ON_GPU if torch.cuda.is_available() else ON_CPU
    if options.only_training:
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        rows = training(size)
        is_first, n = distributed.get_rank() == 0, distributed.get_world_size()
        distributed.destroy_process_group()
        if is_first:
            print(json.dumps({**rows, "processes": n}))
        return 0
    result, is_good = measure(size)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(
        f"{options.out}: {result['device']}, torch {result['torch']}, Python {result['python']}, "
        f"{result['seconds']:.0f} s"
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
