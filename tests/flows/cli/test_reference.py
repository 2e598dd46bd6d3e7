"""The reference: everything that a user can set or read is in it, by the code's own word."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.cli.main import app
from flows.cli.reference import EXIT_STATUSES, PAGES, pages
from flows.cli.store import TOO_OLD
from flows.ingest.problems import FILE_REASONS
from flows.settings import PREFIX, Settings
from flows.tables.summary import SESSIONS_FAILED
from qmri_core.series.remarks import RemarkKind
from storage.store.decisions.codes import MEANINGS as CODES
from storage.store.decisions.codes import Ground, Scope, Verdict
from storage.store.schema import MEANINGS, Reason, Status

ROOT = Path(__file__).parents[3]
SOURCES = sorted(path for floor in ("flows", "storage", "qmri_core") for path in (ROOT / floor).rglob("*.py"))


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    return pages()


def test_every_command_with_every_option_and_argument_is_in_it(reference: dict[str, str]) -> None:
    sections = dict(re.findall(r"^###+ `qmri ([\w -]+)`\n(.*?)(?=^##|\Z)", reference["commands.md"], re.M | re.S))
    commands = dict(_commands(typer.main.get_command(app)))
    assert set(sections) == set(commands)
    for name, command in commands.items():
        assert " ".join(command.help.split()) in " ".join(sections[name].split())
        assert len(command.params) > 0 or command.commands
        for parameter in command.params:
            # an option is told by what is typed, an argument by its name
            word = parameter.opts[0]
            assert re.search(rf"^\* `{re.escape(word)}\b[^`]*`: \S", sections[name], re.M), f"{name} {word}"


def _commands(group: Any, start: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield f"{start}{name}", command
        if hasattr(command, "commands"):
            yield from _commands(command, f"{start}{name} ")


def test_every_variable_that_the_code_reads_is_in_it(reference: dict[str, str]) -> None:
    named = {name for path in SOURCES for name in re.findall(r"\bQMRI_[A-Z_]*[A-Z]\b", path.read_text("utf-8"))}
    named |= {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    rows = dict(re.findall(r"^\| `(QMRI_\w+)` \| .* \| ([^|]+) \|$", reference["settings.md"], re.M))
    assert named == set(rows)
    assert all(meaning.strip() for meaning in rows.values())


def test_types_are_words(reference: dict[str, str]) -> None:
    types = set(re.findall(r"^\| `QMRI_\w+` \| ([^|]+) \|", reference["settings.md"], re.M))
    assert types == {"path", "text", "number", "true or false"}


def test_every_status_and_reason_is_in_it(reference: dict[str, str]) -> None:
    assert set(MEANINGS) == {*Status, *Reason}
    words = re.findall(r"^\| `(\w+)` \| \S", reference["states.md"], re.M)
    assert words == [*Status, *Reason, *RemarkKind, *FILE_REASONS]
    scans = (ROOT / "storage" / "source" / "scans.py").read_text("utf-8")
    trees = (ROOT / "storage" / "source" / "bids" / "tree.py").read_text("utf-8")
    unread = (ROOT / "storage" / "source" / "unread.py").read_text("utf-8")
    advice = (ROOT / "storage" / "source" / "discovery.py").read_text("utf-8")
    counted = re.findall(r"other\[\"(\w+)\"\]", scans) + re.findall(r"^    \"(\w+)\": \"", advice, re.M)
    counted += re.findall(r"other\[\"(\w+)\"\]", (ROOT / "storage/source/server/scan.py").read_text("utf-8"))
    counted += re.findall(r"\"(\w+)\"", re.findall(r"^DERIVATIVE, .*", trees, re.M)[0])
    counted += re.findall(r"^UNREAD\w+ = \"(\w+)\"", unread, re.M)
    assert set(counted) == {*FILE_REASONS, "not_image"}


def test_every_code_of_a_decision_is_in_it(reference: dict[str, str]) -> None:
    assert set(CODES) == {*Verdict, *Scope, *Ground}
    assert re.findall(r"^\| `(\w+)` \| \S", reference["decisions.md"], re.M) == [*Verdict, *Scope, *Ground]


def test_every_exit_status_is_in_it(reference: dict[str, str]) -> None:
    assert set(EXIT_STATUSES) == {0, 1, 2, SESSIONS_FAILED, TOO_OLD}
    for status, meaning in EXIT_STATUSES.items():
        assert f"| {status} | {meaning} |" in reference["exit-statuses.md"]


def test_pages_are_written_and_are_the_same_each_time(tmp_path: Path, reference: dict[str, str]) -> None:
    command = [sys.executable, "-m", "flows.cli.reference", str(tmp_path / "reference")]
    subprocess.run(command, check=True, cwd=ROOT, timeout=120)
    written = {path.name: path.read_text("utf-8") for path in (tmp_path / "reference").iterdir()}
    assert set(written) == set(PAGES)
    assert written == reference
