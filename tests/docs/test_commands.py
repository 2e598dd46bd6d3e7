"""The commands and the Python of all pages are run as they stand, on the store that those of the README make."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from tests.docs.blocks import PAGES, README, blocks, name_of

pytestmark = [pytest.mark.walk, pytest.mark.timeout(2400)]

RUN = {"console", "python"}
WITH_COMMANDS = [page for page in PAGES if page != README and RUN & {block.language for block in blocks(page)}]


def environment(folder: Path, workers: Client) -> dict[str, str]:
    """Of a person with a key of their own, whose workers are there already and whose plots need no screen."""
    return os.environ | {
        "QMRI_KEY_FILE": str(folder / "key"),
        "QMRI_SCHEDULER": workers.scheduler.address,
        "MPLBACKEND": "Agg",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def run_page(page: Path, folder: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Run the blocks of a page one after the other in a folder; names that its Python has defined.

    A YAML block is the file that its first line names. What `make` does is run by CI.
    """
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.language == "yaml":
            (folder / block.text.split()[1].rstrip(":")).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            code = compile("\n" * block.line + block.text, str(page), "exec")
            exec(code, names)  # noqa: S102 - our own pages
        elif block.language == "console":
            for line in block.lines:
                if line.startswith("qmri"):
                    run_command(line, folder, variables)
    return names


def run_command(line: str, folder: Path, variables: dict[str, str]) -> None:
    done = subprocess.run(
        shlex.split(line), cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=1200
    )
    assert done.returncode == 0, (line, done.stdout[-1000:], done.stderr[-2000:])
    assert "matched no series" not in done.stderr, line


@pytest.fixture(scope="module")
def of_readme(workers: Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder that the README's commands leave, and the names that its snippet defines."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, run_page(README, folder, environment(folder, workers))


def test_the_commands_of_the_readme_and_its_snippet(of_readme: tuple[Path, dict[str, Any]]) -> None:
    folder, names = of_readme
    values = names["white_matter_t1"]
    assert values.sizes["session"] == 2
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.5  # seconds, at 3 T
    assert (folder / "report" / "report.html").is_file()
    assert {"groups.csv", "sessions.csv", "variation.csv"} <= {path.name for path in (folder / "tables").iterdir()}


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_the_commands_of_a_page(
    page: Path,
    of_readme: tuple[Path, dict[str, Any]],
    workers: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = shutil.copytree(of_readme[0], tmp_path / "work")
    shutil.copytree(folder / "cohort", folder / "demo" / "store")  # in place of the store that `make demo` leaves
    variables = environment(folder, workers)
    monkeypatch.chdir(folder)
    for name in ("PATH", "MPLBACKEND", "QMRI_KEY_FILE"):
        monkeypatch.setenv(name, variables[name])
    run_page(page, folder, variables)
