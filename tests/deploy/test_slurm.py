"""A real Slurm: `ingest` and `infer` by its jobs, and what may happen to the controller, the node and the jobs.

Half an hour for all, on two cores that others use as well.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from distributed import KilledWorker

from flows.cluster.clusters import ClusterError
from tests.deploy.slurm_runs import (
    IMAGES,
    assert_all_is_there,
    begin_at,
    begun,
    ended,
    export,
    last_line,
    napped,
    no_job_is_left,
)
from tests.flows.end_to_end import ROOT, Processed
from tests.slurm import Slurm, needs_slurm

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800), needs_slurm]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """A cluster of this test's own; runs begin in an empty folder."""
    with Slurm(tmp_path / "slurm") as cluster:
        begin_at(cluster, tmp_path / "here", monkeypatch)
        yield cluster


@pytest.fixture
def environment(processed: Processed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the how-to exports, for the cohort of all tests; the store."""
    export(processed, tmp_path / "store", monkeypatch)
    return tmp_path / "store"


def test_ingest_and_infer_by_jobs_one_of_which_is_cancelled(
    slurm: Slurm, environment: Path, processed: Processed
) -> None:
    """Five minutes. The job that `scancel` ends in the middle of a session is replaced, and nothing is lost."""
    process, begin = begun("ingest"), time.monotonic()
    slurm.wait_for(lambda: len(slurm.jobs("RUNNING")) == 2, "two workers")
    slurm.wait_for(lambda: len(workers_at_work()) == 2, "two workers at work")
    cancelled = slurm.jobs("RUNNING")[0]
    slurm.ask("scancel", cancelled)
    ingested = ended(process, begin)
    assert ingested.status == 0, ingested.said
    assert "3 complete" in ingested.said
    assert len(slurm.jobs()) > 2
    inferred = ended(begun("infer", "--checkpoint", str(processed.checkpoint)), time.monotonic())
    assert inferred.status == 0, inferred.said
    assert_all_is_there(environment, processed)
    slurm.wait_for(lambda: not slurm.jobs("RUNNING", "PENDING", "COMPLETING"), "the end of all jobs")
    assert [path.name for path in Path.cwd().iterdir()] == ["qmri-logs"]  # no slurm-N.out


def workers_at_work() -> list[Path]:
    """What workers print who have joined a run."""
    return [path for path in Path("qmri-logs").glob("*/*.err") if "Starting established connection" in path.read_text()]


def test_the_file_for_a_night_as_it_stands(slurm: Slurm, environment: Path, processed: Processed) -> None:
    """Five minutes."""
    Path("deploy").symlink_to(ROOT / "deploy")
    programs = Path("bin")
    programs.mkdir()
    (programs / "qmri").write_text(f'#!/bin/sh\nexec {sys.executable} -m flows.cli.main "$@"\n')
    (programs / "qmri").chmod(0o755)
    slurm.environment |= os.environ | {"PATH": f"{programs.resolve()}{os.pathsep}{os.environ['PATH']}"}
    job = slurm.ask("sbatch", "--parsable", "deploy/slurm/run.sbatch")
    slurm.wait_for(lambda: job not in slurm.jobs("PENDING", "RUNNING", "COMPLETING"), "the end of the night", 900)
    log = Path("qmri-logs", f"run-{job}.out").read_text()
    assert slurm.ask("squeue", "-h", "-t", "all", "-j", job, "-o", "%T") == "COMPLETED", log
    assert "3 complete" in log
    assert_all_is_there(environment, processed, *IMAGES)
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["bin", "deploy", "qmri-logs"]


@pytest.mark.usefixtures("environment")
def test_a_controller_that_is_down_ends_a_run_before_it_begins(slurm: Slurm) -> None:
    """One minute."""
    slurm.stop("slurmctld")
    run = ended(begun("ingest"), time.monotonic())
    assert run.status == 1
    assert re.match(
        r"qmri: no Dask worker, and Slurm takes no jobs \(sbatch: error: .*slurm controller", last_line(run.said)
    )
    assert "Traceback" not in run.said
    assert run.seconds < 180
    slurm.start("slurmctld")


def test_a_controller_that_goes_in_the_middle_costs_nothing_while_the_jobs_live(slurm: Slurm) -> None:
    """One minute. The jobs that nobody can cancel end by themselves, as they have no scheduler any more."""
    done = []
    for _, (seconds, _) in napped([1.0, 2.0, 3.0]):
        if not done:
            slurm.stop("slurmctld")
        done.append(seconds)
    assert sorted(done) == [1.0, 2.0, 3.0]
    slurm.start("slurmctld")
    no_job_is_left(slurm)


def test_a_controller_that_goes_and_a_worker_that_dies_end_the_run(slurm: Slurm) -> None:
    """Two minutes."""
    with pytest.raises(ClusterError, match=r"no Dask worker, and Slurm takes no jobs \(sbatch: error: .*controller"):
        lose_both(slurm)
    slurm.start("slurmctld")
    no_job_is_left(slurm)


def lose_both(slurm: Slurm) -> None:
    """Lose the controller, and the worker with its nanny, in the middle of a run."""
    for _, (_, process) in napped([1.0, 600.0]):
        slurm.stop("slurmctld")
        nanny = psutil.Process(process).parent()
        assert nanny is not None
        nanny.kill()
        os.kill(process, signal.SIGKILL)


def test_a_run_waits_for_a_drained_node_and_says_for_what(slurm: Slurm, caplog: pytest.LogCaptureFixture) -> None:
    """One minute."""
    slurm.set_node("drain")
    with ThreadPoolExecutor(1) as threads:

        def return_it() -> None:
            slurm.wait_for(lambda: "waits" in caplog.text, "the run to say that it waits")
            slurm.set_node("resume")

        returned = threads.submit(return_it)
        assert [seconds for _, (seconds, _) in napped([1.0])] == [1.0]
        returned.result()
    assert re.search(r"no Dask worker: job \d+ waits \(.*DRAINED", caplog.text)
    no_job_is_left(slurm)


def test_a_node_drained_in_the_middle_finishes_what_it_has(slurm: Slurm) -> None:
    """Half a minute."""
    done = []
    for _, (seconds, process) in napped([1.0, 2.0, 3.0]):
        if not done:
            slurm.set_node("drain")
        done.append((seconds, process))
    assert sorted(seconds for seconds, _ in done) == [1.0, 2.0, 3.0]
    assert len({process for _, process in done}) == 1
    no_job_is_left(slurm)


def test_a_node_that_fails_in_the_middle_gives_its_jobs_back(slurm: Slurm) -> None:
    """Two minutes; Slurm itself puts the jobs of such a node back into the queue, and the run asks for others."""
    done = []
    for _, (seconds, process) in napped([1.0, 10.0]):
        if not done:
            slurm.set_node("down")
            slurm.set_node("resume")
        done.append((seconds, process))
    assert sorted(seconds for seconds, _ in done) == [1.0, 10.0]
    assert len({process for _, process in done}) == 2
    no_job_is_left(slurm)


def test_work_that_is_cut_by_the_time_limit_is_done_by_the_next_job(slurm: Slurm) -> None:
    """Ten minutes: Slurm looks at limits twice a minute. What fits into no job is named, and the rest is done."""
    fits, never = [25.0, 26.0, 27.0, 28.0], 900.0
    outcomes = dict(napped([*fits[:2], never, *fits[2:]], walltime="00:01:00", worker_extra_args=[]))
    assert sorted(outcomes) == [*fits, never]
    assert isinstance(outcomes.pop(never), KilledWorker)
    assert all(outcome[0] == seconds for seconds, outcome in outcomes.items())
    assert "TIMEOUT" in slurm.ask("squeue", "-h", "-t", "all", "-o", "%T").split()
