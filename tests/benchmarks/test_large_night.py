"""A night without anything new over 4,121 tiny sessions in 100 groups, written in bulk: its own processor time."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from icechunk import ForkSession
from numpy.typing import NDArray

from flows.cluster.boundary import Outcome
from flows.cluster.clusters import dask_client
from flows.ingest import source_plans
from flows.ingest.rows import row_of
from flows.ingest.source_plans import SourcePlans
from flows.maps.session import InferTask
from flows.night import reprocess
from flows.settings import Settings
from flows.statistics.session import SummariseTask
from qmri_core.tissues import MAPS, TISSUES
from storage.pseudonyms import load_key
from storage.source.discovery import Scanned, scan_source
from storage.store.arrays import write_arrays
from storage.store.cohort import Cohort
from storage.store.schema import Status
from storage.store.slots import Slot
from tests.benchmarks.test_night import LIMIT, NIGHT, ROOT
from tests.flows.many_sessions import preprocess, write_source

N_SESSIONS, N_GROUPS = map(int, os.environ.get("NIGHT", "4121,100").split(","))
AT_ONCE = 512
"""Sessions of a wave, whose commits would else take most of the time."""


def write_few(fork: ForkSession, slot: Slot, arrays: Mapping[str, NDArray[Any]]) -> ForkSession:
    """Write what a session must not lack."""
    return write_arrays(fork, slot, {name: arrays[name] for name in ("T1w", "affine")})


def no_maps(tasks: Sequence[InferTask]) -> tuple[Outcome, ...]:
    """Stand-in for inference, which says that all went well."""
    forks = [pickle.loads(task.fork) for task in tasks]  # noqa: S301 - of the wave, made by the run
    return tuple(
        Outcome(session=task.slot.session, status=Status.COMPLETE, fork=fork)
        for task, fork in zip(tasks, forks, strict=True)
    )


def no_statistics(task: SummariseTask) -> Outcome:
    """Stand-in for statistics of maps that are not there."""
    figures = dict.fromkeys(("mean", "sd", "median", "mode", "q05", "q25", "q75", "q95"), 1.0) | {"n": 100}
    rows = tuple(
        {"session": slot.session, "group": slot.group, "tissue": tissue, "map": name, **figures}
        for slot in task.slots
        for name in MAPS
        for tissue in TISSUES
    )
    return Outcome(session=task.slots[0].session, status=Status.COMPLETE, rows=rows)


def write_cohort(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write a source and the store of its sessions, with all values and tables, and with a single volume of each."""
    source, store = write_source(folder / "in", n_sessions=N_SESSIONS, n_groups=N_GROUPS), str(folder / "store")
    monkeypatch.setattr("flows.ingest.repeats.preprocess", preprocess)
    monkeypatch.setattr("storage.store.waves.write_arrays", write_few)
    monkeypatch.setattr("flows.ingest.run.SESSIONS_PER_WORKER", AT_ONCE)
    monkeypatch.setattr("flows.maps.infer.SESSIONS_PER_WORKER", AT_ONCE)
    monkeypatch.setattr("flows.maps.infer.infer_sessions", no_maps)
    monkeypatch.setattr("flows.statistics.aggregate.summarise_sessions", no_statistics)
    key, index = folder / "key", folder / "index.sqlite"
    with dask_client(Settings.model_construct(workers=1), processes=False) as client:
        reprocess(source, store, key=load_key(key), client=client, index=index)
    return [str(source), store, str(key), str(index)]


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_a_large_night_without_anything_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prints seconds; writing the store takes five minutes on a free machine."""
    arguments = write_cohort(tmp_path, monkeypatch)
    for name in ("first", "second"):
        done = subprocess.run(
            [sys.executable, "-c", NIGHT, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
        text, loading, seconds, own = json.loads(done.stdout)
        print(
            f"\n{name} night over {N_SESSIONS} sessions: {own:.1f} s of the processor in {seconds:.1f} s, "
            f"after {loading:.1f} s of imports"
        )
        assert text.startswith("nothing new")
    assert own < LIMIT


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_planning_a_large_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prints processor time of planning from series and from kept plans, in one run; no store is needed."""
    source, index = write_source(tmp_path / "in", n_sessions=N_SESSIONS, n_groups=N_GROUPS), tmp_path / "index.sqlite"
    monkeypatch.setattr(source_plans, "forgotten", lambda *_: frozenset())
    rows: dict[str, dict[str, object]] = {}
    monkeypatch.setattr(source_plans, "known_rows", lambda _: rows)
    monkeypatch.setattr(source_plans, "excluded", lambda _: frozenset())
    taken: dict[str, float] = {}
    for name in ("new", "from kept plans", "from series"):
        if name == "from series":
            monkeypatch.setattr(Scanned, "kept", lambda *_: None)
        began = time.process_time()
        with scan_source(source, key=bytes(32), index=index) as scanned:
            scan = time.process_time() - began
            plans = SourcePlans(scanned, cast(Cohort, None), bytes(32), [], by_software=False)
            taken[name] = time.process_time() - began - scan
            if not rows:
                made = map(plans.plan, scanned.sessions)
                rows |= {plan.session: {**row_of(plan), "group": plan.group} for plan in made}
            else:
                assert plans.sort_out()[0] == []
        print(f"\n{N_SESSIONS} sessions {name}: scan {scan:.1f} s, planning {taken[name]:.1f} s")
    assert taken["from kept plans"] < taken["from series"] / 4
