"""Inference from store to store beside the bare network on the same voxels, alone and several sessions together.

``pytest -m bench -s tests/benchmarks/test_batches.py``: processor time and wall time of one process, one thread each
for reading, computing and writing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

# in a process of its own, whose peak of memory is then that of inference; run as (folder, side, sessions)
_ONE_PROCESS = """
import json, math, pickle, resource, sys, time
import numpy as np, torch
torch.set_num_threads(1)
from flows.maps.batch import infer_session, infer_sessions
from flows.maps.session import InferTask
from flows.maps.weights import Weights, resident_device
from qmri_core.mapping.checkpoint import load_checkpoint
from qmri_core.mapping.network import MapNetwork
from qmri_core.series.geometry import Grid
from storage.store.cohort import Cohort, Placement, begin_append, begin_update, commit, write_arrays, writing
from tests.protocols import plain_protocol

store, side, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
grid = Grid(shape=(side,) * 3, spacing=(200 / side,) * 3)
z, y, x = np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij", sparse=True)
mask = ((z / 0.65) ** 2 + (y / 0.85) ** 2 + (x / 0.70) ** 2 < 1).astype(np.uint8)  # 1.6 l, a fifth of the volume
protocol = plain_protocol()
rng = np.random.default_rng(0)
names = [f"ses-{number:012x}" for number in range(n)]
with writing(store, create=True) as repository:
    wave = begin_append(repository, [Placement(session=s, scanner="a", protocol="b", grid=grid) for s in names])
    fork = wave.session.fork()
    for name in names:
        images = {str(c): 540 + 90 * rng.standard_normal(mask.shape, dtype=np.float32) for c in protocol}
        write_arrays(fork, wave.slots[name], {**images, "brain_mask": mask, "tissue": 3 * mask, "affine": np.eye(4)})
    del images
    commit(repository, wave, [fork], values={}, rows=[{"session": s, "status": "complete"} for s in names], message="x")
cohort = Cohort.open(store)
weights = Weights(digest=load_checkpoint().digest)
forward, seconds = MapNetwork.modulated, {"cpu": 0.0, "wall": 0.0, "voxels": 0}

def bare(self, inputs, *rest):
    began = time.thread_time(), time.perf_counter()
    result = forward(self, inputs, *rest)
    seconds["cpu"] += time.thread_time() - began[0]
    seconds["wall"] += time.perf_counter() - began[1]
    seconds["voxels"] += inputs[:, 0].numel()
    return result

MapNetwork.modulated = bare

def tasks():
    with writing(store) as repository:
        wave = begin_update(repository, names)
    fork = pickle.dumps(wave.fork)
    return [
        InferTask(cohort=cohort, slot=slot, acquisitions=protocol, scales=dict.fromkeys(protocol, 900.0), person=None,
                  weights=weights, fork=fork) for slot in wave.slots.values()
    ]

def measured(run):
    seconds.update(cpu=0.0, wall=0.0, voxels=0)
    began = time.process_time(), time.perf_counter()
    outcomes = run()
    cpu, wall = time.process_time() - began[0], time.perf_counter() - began[1]
    assert all(outcome.fork is not None for outcome in outcomes), outcomes
    return {"cpu": cpu / n, "wall": wall / n, "bare cpu": seconds["cpu"] / n, "bare wall": seconds["wall"] / n,
            "planes": seconds["voxels"] / n}

infer_session(tasks()[0])  # makes the tables of the echo trains
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
prepared = tasks()
alone = measured(lambda: [infer_session(task) for task in prepared])
peak_alone = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
prepared = tasks()
together = measured(lambda: infer_sessions(prepared))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
device = resident_device(weights)
print(json.dumps({"device": device.place.type, "alone": alone, "together": together, "peak alone": peak_alone,
                  "peak together": peak, "before": before}))
"""
_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("side", "n_sessions"), [(200, 3), (80, 12)])
def test_from_store_to_store(side: int, n_sessions: int, tmp_path: Path) -> None:
    """Aim: the bare network is 0.9 of the time from store to store."""
    done = subprocess.run(
        [sys.executable, "-c", _ONE_PROCESS, str(tmp_path / "store"), str(side), str(n_sessions)],
        capture_output=True, text=True, check=True, cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{n_sessions} sessions of {side}^3 voxels on {found['device']}, seconds per session:")
    for how in ("alone", "together"):
        row = found[how]
        print(
            f"  {how:9} store to store {row['cpu']:.2f} CPU, {row['wall']:.2f} wall; bare network {row['bare cpu']:.2f}"
            f" and {row['bare wall']:.2f}: {row['bare cpu'] / row['cpu']:.2f} and {row['bare wall'] / row['wall']:.2f};"
            f" peak {found[f'peak {how}']:.0f} MiB"
        )
    assert found["together"]["cpu"] < 1.15 * found["alone"]["cpu"]
    assert found["peak together"] < 2500
