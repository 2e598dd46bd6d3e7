"""Slurm as sites have it: munge, two nodes, and cgroups that hold jobs to their memory.

Ten minutes for all, on two cores that others use as well.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import KilledWorker

from tests.deploy.slurm_runs import (
    IMAGES,
    assert_all_is_there,
    begin_at,
    begun,
    done_by_jobs,
    ended,
    export,
    last_line,
    nap,
    no_job_is_left,
)
from tests.flows.end_to_end import Processed
from tests.slurm import Slurm, needs_a_site, needs_slurm

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800), needs_slurm, needs_a_site]

NODES = ("first", "second")
MEGABYTE = 1 << 20


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    with Slurm(tmp_path / "slurm", NODES, is_site=True) as cluster:
        begin_at(cluster, tmp_path / "here", monkeypatch)
        yield cluster


def node_of_work(seconds: float) -> tuple[str, str]:
    """After a nap: the node that did it, and the cgroup of its memory."""
    nap(seconds)
    groups = Path("/proc/self/cgroup").read_text()
    return os.environ["SLURMD_NODENAME"], groups


def test_ingest_by_jobs_on_two_nodes(
    slurm: Slurm, processed: Processed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five minutes."""
    export(processed, tmp_path / "store", monkeypatch)
    process, begin = begun("ingest"), time.monotonic()
    slurm.wait_for(lambda: len(slurm.jobs("RUNNING")) == 2, "two workers")
    assert sorted(slurm.ask("squeue", "-h", "-t", "RUNNING", "-o", "%N").split()) == sorted(NODES)
    ingested = ended(process, begin)
    assert ingested.status == 0, ingested.said
    assert "3 complete" in ingested.said
    assert_all_is_there(tmp_path / "store", processed, *IMAGES)
    no_job_is_left(slurm)


def test_a_job_that_is_lost_goes_on_at_the_other_node(slurm: Slurm) -> None:
    """One minute. A node is drained in the middle of a run and its job is ended; jobs are in cgroups of their node."""
    done: list[str] = []
    for _, (node, groups) in done_by_jobs(node_of_work, [1.0, 2.0, 3.0]):
        assert f":/slurm_{node}/" in groups
        if not done:
            slurm.set_node("drain", node)
            slurm.ask("scancel", *slurm.jobs("RUNNING"))
        done.append(node)
    assert len(done) == 3
    assert set(done) == set(NODES)
    no_job_is_left(slurm)


def take(megabytes: int) -> int:
    """Hold some memory, all of it touched, for as long as Slurm needs to see it."""
    held = bytearray(b"1") * (megabytes * MEGABYTE)
    time.sleep(1)
    return len(held) // MEGABYTE


@pytest.mark.parametrize(("limit", "said"), [("0.95", "exceeded 95% memory budget"), ("False", "oom-kill event")])
def test_a_job_that_takes_more_memory_than_it_asked_for_is_ended_and_named(slurm: Slurm, limit: str, said: str) -> None:
    """Two minutes each. By Dask, which knows the limit of its cgroup, or by the cgroup; what fits is done."""
    fits, never = [1, 2, 3], 2000
    prologue = [f"export DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE={limit}"]
    outcomes = dict(
        done_by_jobs(take, [fits[0], never, *fits[1:]], memory="4 GB", job_mem="1000M", job_script_prologue=prologue)
    )
    assert sorted(outcomes) == [*fits, never]
    assert isinstance(outcomes.pop(never), KilledWorker)
    assert outcomes == {each: each for each in fits}
    no_job_is_left(slurm)
    assert said in "".join(path.read_text() for path in Path("qmri-logs").glob("*/*.err"))


def test_a_munge_that_is_down_ends_a_run_before_it_begins(
    slurm: Slurm, processed: Processed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One minute."""
    export(processed, tmp_path / "store", monkeypatch)
    slurm.stop("munged")
    run = ended(begun("ingest"), time.monotonic())
    assert run.status == 1
    assert re.match(r"qmri: no Dask worker, and Slurm takes no jobs \(sbatch: error: .*munge", last_line(run.said))
    assert "Traceback" not in run.said
    slurm.start("munged")
    slurm.wait_for(lambda: slurm.ask("sinfo", "-h", "-o", "%t") == "idle", "idle nodes")
