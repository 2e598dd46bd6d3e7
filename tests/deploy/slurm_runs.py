"""Runs by Slurm's jobs, for tests: `qmri` in a process of its own, and naps as jobs of ``deploy/slurm/dask.yaml``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import pytest
import yaml

import flows.cluster.slurm  # noqa: F401 - makes the defaults of dask-jobqueue known, which a context would forget
from flows.cluster.clusters import dask_client, run_bounded
from flows.settings import Settings
from storage.store.cohort import Cohort
from storage.store.lifecycle.verify import verify
from tests.flows.end_to_end import ROOT, Processed, arrays, assert_same_arrays
from tests.slurm import Slurm

CONFIGURATION = ROOT / "deploy" / "slurm" / "dask.yaml"
IMAGES = ("T1w", "T2w", "FLAIR", "brain_mask", "tissue", "affine")


def begin_at(cluster: Slurm, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs of this process begin in an empty folder, on a cluster."""
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def export(processed: Processed, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the how-to exports, for the cohort of all tests."""
    for name, value in {
        "DASK_CONFIG": CONFIGURATION,
        "QMRI_SCHEDULER": "slurm",
        "QMRI_WORKERS": 2,
        "QMRI_SOURCE": processed.source,
        "QMRI_STORE": store,
        "QMRI_KEY_FILE": processed.key_file,
        "QMRI_QUIET_FOR": 0,
    }.items():
        monkeypatch.setenv(name, str(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    status: int
    said: str
    seconds: float


def ended(process: subprocess.Popen[str], begin: float, patience: float = 900) -> Ended:
    said, _ = process.communicate(timeout=patience)
    return Ended(status=process.returncode, said=said, seconds=time.monotonic() - begin)


def begun(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def last_line(said: str) -> str:
    return said.strip().splitlines()[-1]


def nap(seconds: float) -> tuple[float, int]:
    """A piece of work, and the process that did it."""
    time.sleep(seconds)
    return seconds, os.getpid()


def done_by_jobs(
    work: Callable[[Any], Any], items: Iterable[Any], *, workers: int = 1, **configuration: Any
) -> Iterator[tuple[Any, Any]]:
    """Work on jobs as `deploy/slurm/dask.yaml` has them."""
    sites = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))
    with (
        dask.config.set(dask.config.merge(dask.config.config, sites)),
        dask.config.set({f"jobqueue.slurm.{name.replace('_', '-')}": value for name, value in configuration.items()}),
        dask_client(Settings.model_construct(scheduler="slurm", workers=workers)) as client,
    ):
        yield from run_bounded(client, work, items)


def napped(naps: list[float], **configuration: Any) -> Iterator[tuple[float, Any]]:
    """Naps on such jobs, one at a time."""
    return done_by_jobs(nap, naps, **configuration)


def no_job_is_left(slurm: Slurm) -> None:
    slurm.wait_for(lambda: not slurm.jobs("RUNNING", "PENDING", "COMPLETING"), "the end of all jobs", 60)


def assert_all_is_there(store: Path, processed: Processed, *names: str) -> None:
    """All sessions as one machine makes them, bit by bit."""
    found, expected = arrays(store), arrays(processed.store)
    assert set(found) == set(expected)
    for session in expected:
        chosen = names or tuple(expected[session])
        assert_same_arrays({n: found[session][n] for n in chosen}, {n: expected[session][n] for n in chosen})
    assert verify(Cohort.open(store)) == []
