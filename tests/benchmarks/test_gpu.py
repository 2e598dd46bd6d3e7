"""The script for a CUDA device, on the CPU with a small case: no CUDA device has run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu

_ROOT = Path(gpu.__file__).parents[2]
_ABSENT = (*gpu._OF_TESTS, *gpu._OF_STORES, "safetensors", "deepbet", "SimpleITK", "nibabel", "pandas", "pydicom")
_BARE = f"""
import importlib.util, runpy, sys
absent = set({_ABSENT!r})
plain = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split(".")[0] in absent else plain(name, package)

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.argv = ["gpu", *sys.argv[1:]]
runpy.run_module("tests.benchmarks.gpu", run_name="__main__")
"""


def run(out: Path, *command: str) -> dict[str, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, *command, "--out", str(out)], capture_output=True, text=True, check=False, cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, dict[str, object]] = json.loads(out.read_text())
    return found


@pytest.mark.walk
@pytest.mark.timeout(900)
@pytest.mark.skipif(torch.cuda.is_available(), reason="make gpu takes eight minutes of a CUDA device")
def test_every_step_runs_where_all_libraries_are(tmp_path: Path) -> None:
    found = run(tmp_path / "gpu.json", "-m", "tests.benchmarks.gpu")
    steps = {step.__name__ for step in gpu.STEPS}
    assert steps < found.keys()
    assert {name for name in steps if "left_out" in found[name]} == {"store_to_store"}
    assert "skipped" in str(found["marked_tests"]["outcome"])
    assert float(str(found["agreement"]["t1_largest"])) < 1e-4
    assert float(str(found["training"]["last_loss"])) < float(str(found["training"]["first_loss"]))
    assert found["two_processes"]["processes"] == 2


@pytest.mark.walk
@pytest.mark.timeout(900)
@pytest.mark.skipif(torch.cuda.is_available(), reason="make gpu takes eight minutes of a CUDA device")
def test_torch_and_numpy_are_enough_and_what_is_absent_is_named(tmp_path: Path) -> None:
    found = run(tmp_path / "gpu.json", "-c", _BARE)
    left_out = {name: str(rows) for name, rows in found.items() if "left_out" in str(rows)}
    assert set(left_out) == {"marked_tests", "brain_masks", "store_to_store"}
    assert "icechunk" in left_out["store_to_store"]
    assert "safetensors is absent" in str(found["agreement"]["weights"])


def test_a_step_that_fails_is_told_and_keeps_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_size: gpu.Size) -> gpu.Rows:
        raise ValueError("no such device")

    monkeypatch.setattr(gpu, "STEPS", (broken, gpu.limits))
    found, is_good = gpu.measure(gpu.ON_CPU)
    assert not is_good
    assert found["broken"]["failed"] == "ValueError: no such device"
    assert found["limits"]["copied_GB_per_s"] > 0
