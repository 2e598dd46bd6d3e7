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

from flows.cluster.kinds import ONE_THREAD

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

_HEAD = """
import json, pickle, resource, sys, time
import numpy as np, torch
torch.set_num_threads(1)
from qmri_core.series.geometry import Grid
from storage.store.cohort import Cohort, Placement, begin_append, begin_update, commit, write_arrays, writing
from tests.protocols import plain_protocol

store, side, n, how = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
protocol = plain_protocol()
names = [f"ses-{number:012x}" for number in range(n)]
"""
_MAKE = """
grid = Grid(shape=(side,) * 3, spacing=(200 / side,) * 3)
z, y, x = np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij", sparse=True)
mask = ((z / 0.65) ** 2 + (y / 0.85) ** 2 + (x / 0.70) ** 2 < 1).astype(np.uint8)  # 1.6 l, a fifth of the volume
rng = np.random.default_rng(0)
with writing(store, create=True) as repository:
    wave = begin_append(repository, [Placement(session=s, scanner="a", protocol="b", grid=grid) for s in names])
    fork = wave.session.fork()
    for name in names:
        images = {str(c): 540 + 90 * rng.standard_normal(mask.shape, dtype=np.float32) for c in protocol}
        write_arrays(fork, wave.slots[name], {**images, "brain_mask": mask, "tissue": 3 * mask, "affine": np.eye(4)})
    commit(repository, wave, [fork], values={}, rows=[{"session": s, "status": "complete"} for s in names], message="x")
"""
_MEASURE = """
from flows.maps.batch import infer_session, infer_sessions
from flows.maps.session import InferTask
from flows.maps.weights import Weights, resident_device
from qmri_core.calibration.session_model import PersonLevels
from qmri_core.mapping.checkpoint import load_checkpoint
from qmri_core.mapping.network import MapNetwork
from qmri_core.mapping.voxelwise import estimator

cohort = Cohort.open(store)
weights = Weights(digest=load_checkpoint().digest)
plain, bare = MapNetwork.modulated, {"cpu": 0.0, "wall": 0.0}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def timed(self, *arguments):
    began = time.thread_time(), time.perf_counter()
    result = plain(self, *arguments)
    bare["cpu"] += time.thread_time() - began[0]
    bare["wall"] += time.perf_counter() - began[1]
    return result

MapNetwork.modulated = timed
with writing(store) as repository:
    wave = begin_update(repository, names)
tasks = [
    InferTask(cohort=cohort, slot=slot, acquisitions=protocol, scales=dict.fromkeys(protocol, 900.0),
              person=PersonLevels(mean=np.zeros(4), determined=np.ones(4), spread=np.full(4, 0.04), n_people=1e9),
              weights=weights, fork=pickle.dumps(wave.fork))
    for slot in wave.slots.values()
]
estimator(protocol), resident_device(weights)  # makes the tables of the echo trains, reads the weights
before = peak()
infer_session(tasks[0])  # imports and tables, once in a process
bare.update(cpu=0.0, wall=0.0)
began = time.process_time(), time.perf_counter()
outcomes = infer_sessions(tasks) if how == "together" else [infer_session(task) for task in tasks]
cpu, wall = time.process_time() - began[0], time.perf_counter() - began[1]
assert all(outcome.fork is not None for outcome in outcomes), outcomes
print(json.dumps({"device": resident_device(weights).place.type, "cpu": cpu / n, "wall": wall / n,
                  "bare cpu": bare["cpu"] / n, "bare wall": bare["wall"] / n, "before": before, "peak": peak()}))
"""
_ROOT = Path(__file__).parents[2]


def process(code: str, *arguments: object) -> str:
    """In a process of its own, whose peak of memory is then that of inference; as workers have it otherwise."""
    done = subprocess.run(
        [sys.executable, "-c", _HEAD + code, *map(str, arguments)],
        capture_output=True, text=True, check=True, cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT), **ONE_THREAD, "MALLOC_TRIM_THRESHOLD_": "536870912",
             "MALLOC_MMAP_THRESHOLD_": "33554432"},
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize(("side", "n_sessions"), [(200, 3), (80, 12)])
def test_from_store_to_store(side: int, n_sessions: int, tmp_path: Path) -> None:
    """Aim: the bare network is 0.9 of the time from store to store."""
    process(_MAKE, tmp_path / "store", side, n_sessions, "make")
    found = {
        how: json.loads(process(_MEASURE, tmp_path / "store", side, n_sessions, how).splitlines()[-1])
        for how in ("alone", "together")
    }
    print(f"\n{n_sessions} sessions of {side}^3 voxels on {found['alone']['device']}, seconds per session:")
    for how, row in found.items():
        print(
            f"  {how:9} store to store {row['cpu']:.2f} CPU, {row['wall']:.2f} wall; bare network {row['bare cpu']:.2f}"
            f" and {row['bare wall']:.2f}: {row['bare cpu'] / row['cpu']:.2f} and {row['bare wall'] / row['wall']:.2f};"
            f" peak {row['peak']:.0f} MiB, {row['peak'] - row['before']:.0f} of them of the sessions"
        )
    assert found["together"]["cpu"] < 1.15 * found["alone"]["cpu"]
    assert found["together"]["peak"] < 2000
