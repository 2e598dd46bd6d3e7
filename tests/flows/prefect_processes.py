"""A real Prefect server and a real process worker, as the README starts them, in a folder of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.flows.end_to_end import ROOT

PATIENCE = 900.0
"""Seconds to wait for anything on a busy machine."""

Process = subprocess.Popen[bytes]


def readme_lines(heading: str) -> list[str]:
    """Lines of the first shell block below a heading of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(rf"^## {re.escape(heading)}$.*?^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert block is not None, heading
    lines = [line.split("  #")[0].strip() for line in block[1].splitlines()]
    return [line for line in lines if line]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], Any], what: str, *, patience: float = PATIENCE) -> Any:
    """First true value of ``condition``."""
    end = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {patience:.0f} s in vain for {what}"
        time.sleep(0.2)
    return value


def stop(process: Process) -> None:
    """End a process and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@dataclass(slots=True)
class Prefect:
    """Processes of one Prefect installation; everything is stopped at the end of `prefect`."""

    folder: Path
    environment: dict[str, str]
    running: dict[str, Process] = field(default_factory=dict)

    def command(self, line: str) -> str:
        """Run a command as it was typed; its output."""
        done = subprocess.run(
            line.split(), cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, (line, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    def start(self, line: str, **more: str) -> None:
        """Start a command that goes on, in a session of its own; its output goes to a file of its name."""
        name = line.split()[1]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                line.split(),
                cwd=ROOT,
                env=self.environment | more,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self, name: str) -> None:
        stop(self.running.pop(name))

    def kill(self, name: str) -> None:
        """Without a word, with all that it has started."""
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def api(self, path: str, body: Mapping[str, Any] | None = None, *, method: str | None = None) -> Any:
        """Answer of the server's REST interface; nothing where it answers nothing."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - our own server
            self.environment["PREFECT_API_URL"] + path,
            data=data,
            headers={"Content-Type": "application/json"},
            method=method,
        )
        until = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > until:  # a server on SQLite, which something else writes to
                    raise
            time.sleep(1)

    def is_healthy(self) -> bool:
        try:
            return bool(self.api("/health"))
        except (urllib.error.URLError, OSError):
            return False

    def trigger(self, line: str) -> str:
        """Identifier of the run that a command has started."""
        match = re.search(r"UUID: ([0-9a-f-]{36})", self.command(line))
        assert match is not None
        return match[1]

    def state(self, run: str) -> dict[str, Any]:
        return dict(self.api(f"/flow_runs/{run}")["state"])

    def finished(self, run: str, *, patience: float = PATIENCE) -> dict[str, Any]:
        """Final state of a run."""
        final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        return dict(
            wait_until(
                lambda: state if (state := self.state(run))["type"] in final else None,
                f"the end of the run; {self.log('worker')[-3000:]}",
                patience=patience,
            )
        )

    def artifacts(self) -> dict[str, Any]:
        """Newest artifact of each key."""
        found = self.api("/artifacts/latest/filter", {})
        return {artifact["key"]: artifact for artifact in found}


@contextmanager
def prefect(folder: Path, *, lines: list[str], **settings: object) -> Iterator[Prefect]:
    """Everything that the README's ``lines`` start, up to the line that triggers a run."""
    port = free_port()
    own = {name: value for name, value in os.environ.items() if not name.startswith(("QMRI_", "PREFECT_"))}
    installation = Prefect(
        folder,
        own
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_LOGGING_COLORS": "false",
        }
        | {name: str(value) for name, value in settings.items()},
    )
    try:
        for line in lines:
            if line.startswith("export") or "deployment run" in line:
                continue
            if line.endswith("&"):
                installation.start(line.removesuffix("&").strip())
                if "server start" in line:
                    wait_until(installation.is_healthy, "the Prefect server")
            else:
                installation.command(line)
        yield installation
    finally:
        for process in reversed(installation.running.values()):
            stop(process)
