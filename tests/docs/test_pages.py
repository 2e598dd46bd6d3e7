"""What holds for all pages: blocks are run or say why not, links lead somewhere, the first pages stay short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from qmri_core.mapping.checkpoint import content_digest
from storage.source.assume_file import load_entries
from tests.docs.blocks import NOT_RUN, PAGES, README, Block, blocks, name_of
from tests.flows.end_to_end import ROOT
from tests.flows.prefect_processes import readme_lines

OTHERS = (ROOT / "CHANGELOG.md", *sorted((ROOT / "qmri_core").rglob("*.md")))
WIDTH = 120

page = pytest.mark.parametrize("page", PAGES, ids=name_of)
page_or_other = pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name_of)


def is_started_by_a_test(page: Path, block: Block) -> bool:
    """Whether the lines of a block are those that the tests of the deployments run, from the README."""
    known = readme_lines("Deployments")
    return page in (README, ROOT / "docs/tutorials/first-deployment.md") and all(
        line.split("  #")[0].strip() in known for line in block.lines
    )


@page
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for block in blocks(page):
        where = f"{name_of(page)}:{block.line}"
        match block.language:
            case "console":
                assert {line.split()[0] for line in block.lines} <= {"make", "qmri"}, where
                assert all(line in ci for line in block.lines if line.startswith("make")), where
            case "sh":
                reason = block.text.startswith(NOT_RUN) and len(block.lines[0]) > len(NOT_RUN)
                assert reason or is_started_by_a_test(page, block), where
            case "yaml":
                assert re.match(r"# \w+\.yaml", block.text), f"{where}: the first line names the file"
                yaml.safe_load(block.text)
            case language:
                assert language in {"python", "text"}, where


def test_the_tutorial_has_the_commands_of_the_readme_in_their_order() -> None:
    tutorial = ROOT / "docs/tutorials/first-deployment.md"
    of_tutorial = [block for block in blocks(tutorial) if is_started_by_a_test(tutorial, block)]
    lines = [line.split("  #")[0].strip() for block in of_tutorial for line in block.lines]
    assert lines == readme_lines("Deployments")


def test_examples_of_the_assume_file_are_valid(tmp_path: Path) -> None:
    for number, block in enumerate(blocks(ROOT / "docs/how-to/assumptions.md")):
        if block.language == "yaml":
            file = tmp_path / f"{number}.yaml"
            file.write_text(block.text, encoding="utf-8")
            assert load_entries(file)


@page_or_other
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'src="([^"]+)"', text)
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


@page_or_other
def test_lines_are_not_wider_than_a_screen(page: Path) -> None:
    """Tables, pictures and commands cannot be broken."""
    prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "!["))]
    assert [line for line in lines if len(line) > WIDTH] == []


@pytest.mark.parametrize("page", [README, ROOT / "qmri_core/weights/MODEL_CARD.md"], ids=name_of)
def test_the_first_pages_are_short(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 120


def test_the_model_card_is_of_the_shipped_weights() -> None:
    card = ROOT / "qmri_core/weights/MODEL_CARD.md"
    content = (card.parent / "maps.safetensors").read_bytes()
    assert f"`{content_digest(content, name='shipped')}`" in card.read_text(encoding="utf-8")


def test_every_page_can_be_reached() -> None:
    """The navigation of the site names every page; mkdocs itself tests that the pages it names are there."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in PAGES if path != README]
    assert [name for name in pages if f": {name}\n" not in navigation] == []
