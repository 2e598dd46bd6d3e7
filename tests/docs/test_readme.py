"""The commands of the README are run as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from distributed import Client

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Fenced blocks at the margin."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_every_command_is_run_here_or_by_ci() -> None:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    assert {line.split()[0] for line in lines} == {"make", "qmri"}
    ci = (Path(__file__).parents[2] / ".ci" / "run").read_text()
    assert all(line in ci for line in lines if line.startswith("make"))


@pytest.mark.walk
@pytest.mark.timeout(1800)
def test_the_commands_work_one_after_the_other_and_the_snippet_on_their_store(workers: Client, tmp_path: Path) -> None:
    environment = os.environ | {
        "QMRI_KEY_FILE": str(tmp_path / "key"),
        "QMRI_SCHEDULER": workers.scheduler.address,  # workers that are there already
        "PATH": _with_scripts(),
    }
    for block in blocks("console"):
        for line in block.splitlines():
            if line.startswith("qmri"):
                done = subprocess.run(
                    shlex.split(line), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, (line, done.stderr[-2000:])
    (snippet,) = blocks("python")
    check = (
        snippet
        + "\nprint(white_matter_t1.sizes['session'], float(white_matter_t1.min()), float(white_matter_t1.max()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    sessions, low, high = done.stdout.split()
    assert sessions == "2"
    assert 0.5 < float(low) <= float(high) < 1.5  # seconds, at 3 T


def _with_scripts() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
