"""Workers as Slurm jobs: what Slurm refuses is known to the run, and what jobs print lies in a folder of the run.

dask-jobqueue submits a job once, prints a traceback where `sbatch` fails, and waits for the worker for ever.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import dask
from dask_jobqueue.slurm import SLURMCluster, SLURMJob
from distributed import Security, Status

from flows.cluster.dispatch import ClusterError

SUBMISSIONS = 3
"""Times that one job is submitted before Slurm counts as away."""

PAUSE = 5.0
"""Seconds between them; a controller that is started anew is back by then."""

ANSWER = 120
"""Seconds in which `sbatch` has to answer; without a controller it keeps trying for minutes."""

_OF_TIMEOUT = "Exit code: 124\n"


class Cluster(SLURMCluster):
    """Cluster of Slurm jobs; ``refusal`` says why Slurm took none when it was last asked, and is empty if it did."""

    refusal: str = ""

    def waiting(self) -> str:
        """Which of the jobs wait, and for what, as Slurm says it; empty where none does or Slurm does not answer."""
        jobs = [job.job_id for job in list(self.workers.values()) if getattr(job, "job_id", None)]
        if not jobs:
            return ""
        command = ["squeue", "--noheader", "--states=PENDING", "--format=job %i waits (%r)", f"--jobs={','.join(jobs)}"]
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER, check=True)  # noqa: S603
            return "; ".join(line.strip() for line in done.stdout.splitlines())
        return ""


class Job(SLURMJob):
    """One job, submitted a few times; if Slurm will not have it, it is forgotten and asked for again later."""

    submit_command = f"timeout {ANSWER} {SLURMJob.submit_command}"

    async def start(self) -> None:
        """Submit the job; raises nothing."""
        refusal = ""
        for submission in range(SUBMISSIONS):
            if submission:
                await asyncio.sleep(PAUSE)
            try:
                await super().start()  # type: ignore[no-untyped-call]
            except (OSError, RuntimeError, ValueError) as error:
                refusal = refusal_of(error)
            else:
                asyncio.get_running_loop().call_soon(self._tell, "")
                return
        self.status = (
            Status.running
        )  # as is asserted of what has started; and of what is left at the end, that it is not
        asyncio.get_running_loop().call_soon(setattr, self, "status", Status.failed)
        asyncio.get_running_loop().call_later(PAUSE, self._tell, refusal)

    def _tell(self, refusal: str) -> None:
        """Tell the cluster, which knows the job only after its start, how it went."""
        reference = getattr(self, "_cluster", None)
        cluster = None if reference is None else reference()
        if cluster is None:
            return
        cluster.refusal = refusal
        if refusal:
            cluster.worker_spec.pop(self.name, None)
            cluster.workers.pop(self.name, None)


def refusal_of(error: Exception) -> str:
    """What `sbatch` said, in one line."""
    text = str(error)
    if _OF_TIMEOUT in text:
        return f"sbatch did not answer in {ANSWER} s"
    said = re.search(r"^stderr:\n\s*(\S.*)", text, flags=re.MULTILINE)
    if said is not None:
        return f"Slurm takes no jobs ({said[1].strip()})"
    code = re.search(r"^Exit code: (-?\d+)$", text, flags=re.MULTILINE)
    return f"sbatch ended with {code[1]}" if code else "sbatch names no job that it has submitted"


def slurm_cluster(security: Security | None) -> Cluster:
    """Start a scheduler here, whose workers will be Slurm jobs.

    Raises
    ------
    ClusterError
        If there is no Slurm on this machine.
    """
    for program in (SLURMJob.submit_command, SLURMJob.cancel_command):
        if shutil.which(program) is None:
            raise ClusterError(f"QMRI_SCHEDULER=slurm: there is no {program} here; start the run where Slurm is")
    options: dict[str, Any] = {"job_cls": Job}
    if security is not None:
        options["security"] = security
    if dask.config.get("jobqueue.slurm.log-directory", None) is None:
        options["log_directory"] = str(Path("qmri-logs", f"slurm-{datetime.now():%Y%m%dT%H%M%S}"))
    return Cluster(**options)
