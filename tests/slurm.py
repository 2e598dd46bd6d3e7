"""A real Slurm for tests: controller and nodes on this machine, on the loopback; tests skip where it is missing.

Debian: ``apt-get install --no-install-recommends slurm-wlm``. One node without munge and cgroups as it stands; a site's
own has munge, and cgroups that end what takes more memory than its job asked for. No accounting.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
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

needs_a_site = pytest.mark.skipif(
    shutil.which("munged") is None or not os.access("/sys/fs/cgroup/freezer", os.W_OK),
    reason="munge is not installed, or cgroups of version 1 are not ours to make (Slurm asks systemd for version 2)",
)

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
MinJobAge=3600
SchedulerParameters=batch_sched_delay=0,sched_interval=1
PartitionName=main Nodes={nodes} Default=YES MaxTime=INFINITE State=UP
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} RealMemory=16000 State=UNKNOWN\n"
)
PLAIN = """\
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
"""
SITE = """\
AuthType=auth/munge
AuthInfo=socket={munge}/socket
CredType=cred/munge
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/cgroup
"""
CGROUPS = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainRAMSpace=yes
"""


class Slurm:
    """Controller and nodes with their state in a folder, started and ended by the context.

    With ``is_site`` it has munge and cgroups, and nodes of one core, so that jobs of two cores need two nodes.
    """

    def __init__(self, folder: Path, nodes: Sequence[str] = (), *, is_site: bool = False) -> None:
        host = socket.gethostname().split(".")[0]
        self.folder, self.nodes, self.is_site = folder, tuple(nodes) or (host,), is_site
        (folder / "state").mkdir(parents=True)
        self.munge = Path(tempfile.mkdtemp(prefix="munge-", dir="/run" if is_site else None))  # a path that is safe
        text = CONFIGURATION.format(
            host=host, user=getpass.getuser(), folder=folder, controller=free_port(), nodes=",".join(self.nodes)
        )
        text += SITE.format(munge=self.munge) if is_site else PLAIN
        for name in self.nodes:
            text += NODE.format(name=name, host=host, port=free_port(), cores=1 if is_site else 4)
        (folder / "slurm.conf").write_text(text)
        (folder / "cgroup.conf").write_text(CGROUPS)
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        if self.is_site:
            self.munge.chmod(0o755)
            (self.munge / "key").write_bytes(os.urandom(128))
            (self.munge / "key").chmod(0o600)
            self.start("munged")
            self.wait_for((self.munge / "socket").exists, "munge")
        self.start("slurmctld")
        for node in self.nodes:
            self.start(node)
        self.wait_for(lambda: self.ask("sinfo", "-h", "-o", "%t") == "idle", "idle nodes")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.processes["slurmctld"].poll() is None:
            with suppress(AssertionError):
                self.ask("scancel", "--user", getpass.getuser())
                self.wait_for(lambda: not self.ask("squeue", "-h"), "the end of all jobs", 30)
        for name in reversed(self.processes):
            self.stop(name)
        shutil.rmtree(self.munge)
        if self.is_site:  # Slurm leaves its own
            for made in (f"*/slurm_{node}" for node in self.nodes):
                for folder in Path("/sys/fs/cgroup").glob(made):
                    for inner, _folders, _files in os.walk(folder, topdown=False):
                        os.rmdir(inner)  # noqa: PTH106 - as walk says it

    def start(self, name: str) -> None:
        """Start munged, the controller, or a node, which goes on with the state it finds."""
        options = [f"--{part}-file={self.munge / part}" for part in ("key", "pid", "log", "seed")]
        command = {
            "munged": ["munged", "--foreground", f"--socket={self.munge / 'socket'}", *options],
            "slurmctld": ["slurmctld", "-D"],
        }.get(name, ["slurmd", "-D", "-N", name])
        with (self.folder / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=out, start_new_session=True
            )

    def stop(self, name: str) -> None:
        """End one of them; jobs go on."""
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

    def set_node(self, state: str, node: str | None = None) -> None:
        """Drain a node (the first), take it down, or resume it."""
        refused = self.ask("scontrol", "update", f"nodename={node or self.nodes[0]}", f"state={state}", "reason=test")
        assert refused in {"", "1: slurm_update error: Invalid node state specified"}, refused  # it is back already

    def wait_for(self, condition: Callable[[], Any], what: str, patience: float = 120) -> Any:
        """First true value of ``condition``."""
        end = time.monotonic() + patience
        while not (value := condition()):
            assert time.monotonic() < end, f"waited {patience:.0f} s in vain for {what}: {self.log()}"
            time.sleep(0.2)
        return value

    def log(self) -> str:
        """The last of what all wrote, and all jobs."""
        logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(self.folder.glob("*.log")))
        return f"{logs}\n{self.ask('squeue', '-t', 'all', '-o', '%i %j %T %M %r')}"
