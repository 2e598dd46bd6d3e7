"""Slurm that takes no jobs: the run says so and ends. With programs that stand for Slurm's.

tests/deploy/test_slurm.py has a real one.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import pytest
import yaml

from flows.cluster import slurm
from flows.cluster.clusters import ClusterError, dask_client, run_bounded
from flows.cluster.slurm import Cluster, Job, refusal_of
from flows.settings import Settings

ROOT = Path(__file__).parents[3]

AWAY = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"
REFUSED = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of programs that come before all others; in the folder of the run, which is another."""
    folder, here = tmp_path / "bin", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(here)
    monkeypatch.setattr(slurm, "PAUSE", 0.2)
    put(folder, "scancel", 'for job in "$@"; do kill -- "-$job" 2> /dev/null; done')
    return folder


def put(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def double(item: int) -> int:
    return 2 * item


def run(heartbeat: float = 0.5, **configuration: Any) -> list[Any]:
    sites = yaml.safe_load((ROOT / "deploy" / "slurm" / "dask.yaml").read_text(encoding="utf-8"))
    with (
        dask.config.set(dask.config.merge(dask.config.config, sites)),  # as from the file that DASK_CONFIG names
        dask.config.set(configuration),
        dask_client(Settings.model_construct(scheduler="slurm", workers=1)) as client,
    ):
        return sorted(result for _, result in run_bounded(client, double, range(3), heartbeat=heartbeat))


@pytest.mark.parametrize("missing", ["sbatch", "scancel"])
def test_without_slurm_nothing_is_begun(missing: str, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(programs, "sbatch", "exit 1")
    (programs / missing).unlink()
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(ClusterError, match=rf"^QMRI_SCHEDULER=slurm: there is no {missing} here; start the run where"):
        run()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (f"echo '{AWAY}' >&2; exit 1", r"Slurm takes no jobs \(sbatch: error: .*Unable to contact slurm controller"),
        (f"echo '{REFUSED}' >&2; exit 1", r"Slurm takes no jobs \(sbatch: error: .*Invalid account"),
        ("exit 7", "sbatch ended with 7"),
        ("echo fine", "sbatch names no job"),
        pytest.param("exec sleep 600", "sbatch did not answer in 120 s", marks=pytest.mark.walk),
    ],
)
def test_a_run_whose_jobs_are_refused_says_so_and_ends(
    script: str, said: str, programs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Job, "submit_command", "timeout 1 sbatch")
    put(programs, "sbatch", f"echo >> {programs}/asked; {script}")
    with pytest.raises(ClusterError, match=rf"^no Dask worker, and {said}.*; what is stored stays, run again to re"):
        run()
    assert len((programs / "asked").read_text()) >= slurm.SUBMISSIONS
    assert "Traceback" not in "".join(capfd.readouterr())


def test_jobs_that_wait_for_ever_end_the_run_when_its_patience_is_over(programs: Path) -> None:
    put(programs, "sbatch", "echo Submitted batch job 12345678")
    put(programs, "squeue", "echo 'job 12345678 waits (Resources)'")
    with pytest.raises(ClusterError, match=r"no Dask worker for 4 s \(job 12345678 waits \(Resources\)\); what is"):
        run(0.2, **{"qmri.no-worker-timeout": "1 s"})


@pytest.mark.parametrize(
    ("script", "jobs", "said"),
    [
        ("printf 'job 5 waits (Priority)\\njob 6 waits (Resources)\\n'; echo $@ > asked", ["5", "6", None], True),
        ("echo job 5 waits; exit 1", ["5"], False),
        ("rm $0; exec squeue", ["5"], False),
        ("echo job 5 waits", [None], False),
    ],
)
def test_what_jobs_wait_for_is_asked_where_it_can_be(
    script: str, jobs: list[str | None], said: bool, programs: Path
) -> None:
    put(programs, "squeue", script)
    cluster = SimpleNamespace(workers={number: SimpleNamespace(job_id=job) for number, job in enumerate(jobs)})
    assert Cluster.waiting(cluster) == ("job 5 waits (Priority); job 6 waits (Resources)" if said else "")
    assert not said or "--jobs=5,6" in Path("asked").read_text()


@pytest.mark.walk
def test_a_controller_that_comes_back_is_asked_again(programs: Path) -> None:
    put(
        programs,
        "sbatch",
        f"""echo >> {programs}/asked
if [ $(wc -l < {programs}/asked) -lt {slurm.SUBMISSIONS} ]; then echo '{AWAY}' >&2; exit 1; fi
cp "$1" {programs}/script
setsid bash {programs}/script > /dev/null 2>&1 &
echo "Submitted batch job $!"
""",
    )
    assert run(15.0) == [0, 2, 4]
    assert len((programs / "asked").read_text()) == slurm.SUBMISSIONS
    assert [path.name for path in Path.cwd().iterdir()] == ["qmri-logs"]  # and no slurm-N.out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Exit code: 1\nCommand:\nsbatch x\nstdout:\n\nstderr:\nsbatch: error: no\nmore\n", "(sbatch: error: no)"),
        ("Exit code: -9\nCommand:\nsbatch x\nstdout:\n\nstderr:\n\n", "sbatch ended with -9"),
        ("Exit code: 124\nCommand:\ntimeout\nstdout:\n\nstderr:\nsbatch: retrying\n", "did not answer"),
    ],
)
def test_refusals_are_one_line(text: str, said: str) -> None:
    assert said in refusal_of(RuntimeError(text))
    assert "\n" not in refusal_of(RuntimeError(text))
