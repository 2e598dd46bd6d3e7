"""What orchestration costs per session: Prefect, Dask and commits against the same functions called in a loop.

``pytest -m bench tests/benchmarks/test_orchestration.py -s`` prints milliseconds per session. The sessions are so small
that computing takes a tenth of what it takes for real ones, or less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

import flows.cluster.driver
import flows.maps.infer
from flows.cluster.clusters import dask_client
from flows.deployed.infer_maps import infer_maps
from flows.maps.infer import infer
from flows.settings import Settings
from qmri_core.mapping.checkpoint import save_checkpoint
from qmri_core.mapping.network import MapNetwork, NetworkSettings
from qmri_core.series.acquisition import Contrast
from qmri_core.series.geometry import Grid
from qmri_core.tissues import MEMBERS
from storage.store.acquisitions import acquisition_values
from storage.store.cohort import Placement, begin_append, commit, history, open_repository, write_arrays, writing
from tests.benchmarks.test_physics import ACQUISITIONS

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3000)]

GRID = Grid(shape=(4, 24, 24), spacing=(8.0, 8.0, 30.0))
PROTOCOL = {
    Contrast.T1W: replace(ACQUISITIONS["mprage"], contrast=Contrast.T1W),
    Contrast.T2W: replace(ACQUISITIONS["turbo_spin_echo"], contrast=Contrast.T2W),
}
WORKERS = 2


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New weights each time, so that all maps are stale each time."""
    folder = tmp_path_factory.mktemp("weights")

    def make() -> Iterator[Path]:
        number = 0
        while True:
            number += 1
            path = folder / f"{number}.safetensors"
            save_checkpoint(path, MapNetwork(NetworkSettings(widths=(4, 4, 4), embedding=4)), {})  # random ones
            yield path

    return make()


def make_store(location: Path, n_sessions: int) -> str:
    """A store of one group whose sessions have images and no maps."""
    tissue = np.zeros(GRID.shape, dtype=np.uint8)
    tissue[:, 4:20, 4:20] = 3
    rng = np.random.default_rng(0)
    names = [f"ses-{number:012x}" for number in range(n_sessions)]
    with writing(location, create=True) as repository:
        places = [Placement(session=name, scanner="scanner", protocol="protocol", grid=GRID) for name in names]
        wave = begin_append(repository, places)
        fork = wave.session.fork()
        for name in names:
            images = {str(contrast): rng.normal(100, 3, GRID.shape).astype(np.float32) for contrast in PROTOCOL}
            masks = {"tissue": tissue, "brain_mask": (tissue > 0).astype(np.uint8)}
            write_arrays(fork, wave.slots[name], {**images, **masks, "affine": np.eye(4)})
        common: dict[str, object] = {"magnetic_field_strength": 3.0}
        for contrast, acquisition in PROTOCOL.items():
            common |= acquisition_values(acquisition)
            common |= {f"{contrast}_{tissue}_signal": 100.0 for tissue in MEMBERS.values()}
        rows = [{"session": name, "status": "partial", "reason": "missing_contrast"} for name in names]
        commit(repository, wave, [fork], values=dict.fromkeys(names, common), rows=rows, message="Ingest")
    return str(location)


class Loop:
    """Stands for a client whose cluster is this process: the functions of the workers are called one by one."""

    status = "running"

    def nthreads(self) -> Mapping[str, int]:
        return {"here": WORKERS}

    def scheduler_info(self, **_: object) -> Mapping[str, Any]:
        return {"workers": {}}


def in_a_loop(client: object, function: Callable[[Any], Any], items: list[Any], **_: object) -> Iterator[Any]:
    del client
    for item in items:
        yield item, function(item)


class Timed:
    """A function that adds up the time spent in it, and counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self.seconds, self.calls = function, 0.0, 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return self._function(*arguments, **options)
        finally:
            self.seconds += time.perf_counter() - began
            self.calls += 1


@pytest.mark.parametrize("n_sessions", [50, 500])
def test_orchestration_per_session(
    n_sessions: int, checkpoints: Iterator[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "store", n_sessions)
    commits = Timed(flows.cluster.driver.commit)
    monkeypatch.setattr("flows.cluster.driver.commit", commits)

    def seconds(run: Callable[[], Any]) -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    with monkeypatch.context() as patch:
        patch.setattr("flows.cluster.driver.run_bounded", in_a_loop)
        infer(store, client=Loop(), checkpoint=next(checkpoints))  # type: ignore[arg-type]  # tables, first calibration
        work = Timed(flows.maps.infer.infer_sessions)
        patch.setattr("flows.maps.infer.infer_sessions", work)
        commits.seconds, commits.calls = 0.0, 0
        loop = seconds(lambda: infer(store, client=Loop(), checkpoint=next(checkpoints)))  # type: ignore[arg-type]
        committing, n_commits = commits.seconds, commits.calls
    with dask_client(Settings.model_construct(workers=WORKERS)) as client, prefect_test_harness():
        infer(store, client=client, checkpoint=next(checkpoints))  # workers import what they need
        submit = Timed(client.submit)
        monkeypatch.setattr(client, "submit", submit)
        dask = seconds(lambda: infer(store, client=client, checkpoint=next(checkpoints)))
        monkeypatch.setenv("QMRI_SCHEDULER", client.scheduler.address)
        infer_maps(store=store, checkpoint=next(checkpoints))  # Prefect imports what it needs
        prefect = seconds(lambda: infer_maps(store=store, checkpoint=next(checkpoints)))
        with get_client(sync_client=True) as prefect_client:
            n_task_runs = len(prefect_client.read_task_runs())
    snapshots = [snapshot for snapshot in history(open_repository(store)) if snapshot.message.startswith("Infer")]
    figures = {
        "functions": work.seconds,
        f"{n_commits} commits": committing,
        "planning": loop - work.seconds - committing,
        "all in a loop": loop,
        f"Dask, {WORKERS} workers": dask,
        "Prefect": prefect,
    }
    print(f"\n{n_sessions} sessions, ms per session:", {k: round(1000 * v / n_sessions, 1) for k, v in figures.items()})
    print(f"Dask tasks per session {submit.calls / n_sessions:.2f}, Prefect task runs per run {n_task_runs / 2:.0f}")
    assert len(snapshots) >= 5
    assert submit.calls <= n_sessions / 2  # batches of several sessions
    assert n_task_runs == 2  # one Prefect task per run, whatever the number of sessions
    assert prefect - dask < 0.5 * dask + 30  # Prefect costs seconds per run, nothing per session
