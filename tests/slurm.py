"""A real Slurm for tests: controller and one node on this machine, on the loopback; tests skip where it is missing.

Debian: ``apt-get install --no-install-recommends slurm-wlm``. No cgroups (memory limits are not enforced), no munge, no
accounting.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.orthanc import free_port

needs_slurm = pytest.mark.skipif(
    shutil.which("slurmctld") is None or shutil.which("slurmd") is None,
    reason="Slurm is not installed (Debian: slurm-wlm)",
)

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
MinJobAge=3600
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """Controller and node with their state in a folder, started and ended by the context."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.node = folder, socket.gethostname().split(".")[0]
        for part in ("state", "spool"):
            (folder / part).mkdir(parents=True)
        names = {"host": self.node, "user": getpass.getuser(), "folder": folder}
        ports = {"controller": free_port(), "node": free_port()}
        (folder / "slurm.conf").write_text(CONFIGURATION.format(**names, **ports))
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.start("slurmctld")
        self.start("slurmd")
        self.wait_for(lambda: self.ask("sinfo", "-h", "-o", "%t") == "idle", "an idle node")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.processes["slurmctld"].poll() is None:
            with suppress(AssertionError):
                self.ask("scancel", "--user", getpass.getuser())
                self.wait_for(lambda: not self.ask("squeue", "-h"), "the end of all jobs", 30)
        for name in ("slurmd", "slurmctld"):
            self.stop(name)

    def start(self, name: str) -> None:
        """Start one of the two, which goes on with the state it finds."""
        with (self.folder / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                [name, "-D"], env=self.environment, stdout=out, stderr=out, start_new_session=True
            )

    def stop(self, name: str) -> None:
        """End one of the two; jobs go on."""
        process = self.processes[name]
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def ask(self, *command: str) -> str:
        """Output of one of Slurm's commands."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        return done.stdout.strip() if done.returncode == 0 else f"{done.returncode}: {done.stderr.strip()}"

    def jobs(self, *states: str) -> list[str]:
        """Numbers of the jobs in one of the states, such as RUNNING; of all that there ever were, if none is given."""
        wanted = ("-t", ",".join(states or ("all",)))
        return self.ask("squeue", "-h", "-o", "%i", *wanted).split()

    def set_node(self, state: str) -> None:
        """Drain the node, take it down, or resume it."""
        refused = self.ask("scontrol", "update", f"nodename={self.node}", f"state={state}", "reason=test")
        assert refused in {"", "1: slurm_update error: Invalid node state specified"}, refused  # it is back already

    def wait_for(self, condition: Callable[[], Any], what: str, patience: float = 120) -> Any:
        """First true value of ``condition``."""
        end = time.monotonic() + patience
        while not (value := condition()):
            assert time.monotonic() < end, f"waited {patience:.0f} s in vain for {what}: {self.log()}"
            time.sleep(0.2)
        return value

    def log(self) -> str:
        """The last of what both wrote, and all jobs."""
        logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(self.folder.glob("*.log")))
        return f"{logs}\n{self.ask('squeue', '-t', 'all', '-o', '%i %j %T %M %r')}"
