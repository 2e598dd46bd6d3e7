"""What a cohort costs as it grows: all stages by Prefect and Dask, and the commands, at 400 and at 4,121 tiny sessions.

``pytest -m soak -s tests/flows/test_growth.py`` prints the table. ``GROWTH=100,400`` takes other sizes.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.cluster.clusters import dask_client
from flows.deployed.aggregate_cohort import aggregate_cohort
from flows.deployed.infer_maps import infer_maps
from flows.deployed.ingest_cohort import ingest_cohort
from flows.deployed.reprocess_nightly import reprocess_nightly
from flows.settings import Settings
from storage.store.cohort import Cohort
from tests.flows.end_to_end import ROOT
from tests.flows.many_sessions import take_away_preprocessing, write_source

pytestmark = [pytest.mark.soak, pytest.mark.timeout(6 * 3600)]

SMALL, LARGE = map(int, os.environ.get("GROWTH", "400,4121").split(","))
SESSIONS_PER_GROUP = 41
WORKERS = 2
MOST = 1.5
"""Times what a session costs at `SMALL` that it may cost at `LARGE`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of a stage: seconds of processors, those of workers included, peak memory in MB, and tasks of Dask and Prefect.

    ``memory`` is of the process that does the stage, ``of_workers`` of the largest worker; 0 where it is not known.
    """

    seconds: float
    memory: float
    of_workers: float = 0.0
    dask: int = 0
    prefect: int = 0


def peak() -> float:
    """Peak memory of this process in MB since `forget_peak`."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class Meter:
    """Takes the cost of stages that run in this process on the client's workers."""

    def __init__(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self._client, self._submitted = client, 0
        submit = Client.submit

        def counted(*arguments: Any, **options: Any) -> Any:
            self._submitted += 1
            return submit(*arguments, **options)

        monkeypatch.setattr(Client, "submit", counted)

    def __call__(self, stage: Callable[[], object]) -> Cost:
        forget_peak()
        self._client.run(forget_peak)
        before, submitted, runs = self._seconds(), self._submitted, prefect_tasks()
        stage()
        return Cost(
            seconds=self._seconds() - before,
            memory=peak(),
            of_workers=max(self._client.run(peak).values()),
            dask=self._submitted - submitted,
            prefect=prefect_tasks() - runs,
        )

    def _seconds(self) -> float:
        return time.process_time() + sum(self._client.run(time.process_time).values())


def prefect_tasks() -> int:
    with get_client(sync_client=True) as client:
        return len(client.read_task_runs())


STARTER = """
import json, resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "flows.cli.main", *sys.argv[1:]], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3]))
"""
"""Starts a command from a small process: what one starts has at its peak at least the memory of its parent."""


def command(*words: object) -> Cost:
    """Cost of a command ``qmri``, with all that it starts; the memory is of the largest of these processes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "QMRI_WORKERS": str(WORKERS)}
    arguments = [sys.executable, "-c", STARTER, *map(str, words)]
    done = subprocess.run(arguments, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    seconds, memory = json.loads(done.stdout)
    return Cost(seconds=seconds, memory=memory)


def costs(folder: Path, n_sessions: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Cost]:
    """Costs of all stages on a cohort of its own, by their names."""
    n_groups = math.ceil(n_sessions / SESSIONS_PER_GROUP)
    source, store = write_source(folder / "in", n_sessions=n_sessions, n_groups=n_groups), str(folder / "store")
    monkeypatch.setenv("QMRI_KEY_FILE", str(folder / "key" / "key"))
    taken: dict[str, Cost] = {}
    with dask_client(Settings.model_construct(workers=WORKERS)) as client, monkeypatch.context() as patch:
        patch.setenv("QMRI_SCHEDULER", client.scheduler.address)
        take_away_preprocessing(client)
        meter = Meter(client, patch)
        stages: Mapping[str, Callable[[], object]] = {
            "ingest": lambda: ingest_cohort(source=source, store=store),
            "infer": lambda: infer_maps(store=store),
            "aggregate, with the report": lambda: aggregate_cohort(store=store),
            "the same again": lambda: aggregate_cohort(store=store),
            "a night without anything new": lambda: reprocess_nightly(source=source, store=store),
        }
        for name, stage in stages.items():
            taken[name] = meter(stage)
            print(f"{n_sessions} sessions, {name}: {taken[name]}", flush=True)
    cohort = Cohort.open(store)
    assert set(cohort.catalogue["status"]) == {"complete"}
    assert len(cohort.statistics) == 9 * n_sessions
    assert len(cohort.labels) == n_groups
    for words in (("status",), ("aggregate",), ("report", "--out", folder / "report"), ("evaluate",)):
        taken[f"`qmri {words[0]}`"] = command(*words, "--store", store)
        print(f"{n_sessions} sessions, qmri {words[0]}: {taken[f'`qmri {words[0]}`']}", flush=True)
    return taken


def test_no_session_costs_more_in_a_large_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """About an hour and a half on two free cores, most of it ingest and inference of the large cohort."""
    with prefect_test_harness(server_startup_timeout=300):
        small, large = (costs(tmp_path / str(size), size, monkeypatch) for size in (SMALL, LARGE))
    print(f"\n| stage | {SMALL:,} sessions: s, MB, worker MB, tasks | {LARGE:,} sessions | per session |")
    print("|---|---|---|---|")
    for name in large:
        cells = [
            f"{one.seconds:.1f} s, {one.memory:.0f} MB, {one.of_workers:.0f} MB, {one.dask} + {one.prefect}"
            for one in (small[name], large[name])
        ]
        print(f"| {name} | {' | '.join(cells)} | {growth(small[name], large[name]):.2f} |")
    assert {name: ratio for name in large if (ratio := growth(small[name], large[name])) > MOST} == {}
    assert {one.prefect for one in large.values()} <= {0, 1}
    for name in large:
        if name not in {"ingest", "infer"}:  # a task per session
            assert large[name].dask <= LARGE / 16 + LARGE / SESSIONS_PER_GROUP, name
        assert large[name].memory <= MOST * small[name].memory, name
        assert large[name].of_workers <= MOST * small[name].of_workers, name


def growth(small: Cost, large: Cost) -> float:
    """What a session costs in the large cohort over what it costs in the small one."""
    return large.seconds / LARGE / (small.seconds / SMALL)
