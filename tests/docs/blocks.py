"""The pages that people read, and the fenced blocks on them."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tests.flows.end_to_end import ROOT

README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))
"""Every page whose blocks are run: the README first, which makes the store for all others."""

NOT_RUN = "# not run here: "
"""How a block of the language ``sh`` begins that needs what a test does not have; the rest of the line says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block: its language, its text without the margin, and its line on the page."""

    language: str
    text: str
    line: int

    @property
    def lines(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.strip()]


def blocks(page: Path) -> list[Block]:
    """Fenced blocks of a page, in order; in lists too."""
    text = page.read_text(encoding="utf-8")
    fences = re.finditer(r"^( *)```(\S*)\n(.*?)^\1```$", text, flags=re.DOTALL | re.MULTILINE)
    return [
        Block(language=fence[2], text=textwrap.dedent(fence[3]), line=text.count("\n", 0, fence.start()) + 1)
        for fence in fences
    ]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()
