"""The report: complete, self-contained, without identities, and its numbers are those of the tables."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from flows.evaluation.with_truth import EvaluateResult
from flows.report.build import write_report
from flows.tables.text import MAP_FORMATS, group_table, mean_and_sd, number, percent, variation_table
from qmri_core.evaluation.literature import interval, literature
from qmri_core.tissues import WHITE_FIRST
from tests.flows.tiny_cohort import GROUPS, make_store, statistics

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Checks that every element is closed in order; gathers texts, pictures and whatever would load something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.images: list[dict[str, str]] = []
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        if tag == "img":
            self.images.append(values)
        self.links += [values[name] for name in ("src", "href") if name in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    folder = tmp_path_factory.mktemp("cohort")
    path = write_report(make_store(folder), folder / "report", aggregate=statistics())
    assert path == folder / "report" / "report.html"
    text = path.read_text(encoding="utf-8")
    assert str(folder) not in text
    parsed = Page()
    parsed.feed(text)
    assert parsed.open == []
    return text, parsed


def test_the_page_loads_nothing_and_runs_nothing(page: tuple[str, Page]) -> None:
    text, parsed = page
    assert text.startswith("<!DOCTYPE html>")
    assert not parsed.tags & {"script", "link", "iframe", "object"}
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in parsed.links)
    assert "url(" not in text
    assert "@import" not in text


def test_no_absolute_path_is_shown(page: tuple[str, Page]) -> None:
    words = " ".join(page[1].texts).split()
    assert not [word for word in words if re.match(r"^[\"'(]*(/[A-Za-z]|[A-Z]:\\|file:)", word)]


def test_every_group_has_a_picture_with_a_text_in_its_place(page: tuple[str, Page]) -> None:
    images = page[1].images
    assert len(images) == len(GROUPS)
    for image in images:
        data = base64.b64decode(image["src"].split(",", 1)[1])
        assert data.startswith(b"\x89PNG")
        assert len(data) > 5000
        assert "axial slice of T1w, T2w, FLAIR, T1map, T2map, PDmap" in image["alt"]


def test_states_failures_and_provenance_are_told(page: tuple[str, Page]) -> None:
    text = " ".join(" ".join(page[1].texts).split())
    for expected in (
        "ses-ffffffffffff",
        "read error",
        "missing contrast",
        "c0ffee",
        "schema version",
        "worthless",
        "The truth is not known",
        *GROUPS,
    ):
        assert expected in text


def test_values_stand_beside_their_literature(page: tuple[str, Page]) -> None:
    text = " ".join(" ".join(page[1].texts).split())
    assert "859 ± 12" in text or "858 ± 12" in text  # white-matter T1 of sessions 0 and 2: 850 and 867 ms
    assert "600 to 1735" in text
    assert "Bojorquez 2017" in text


def test_known_truth_is_shown_beside_the_null_model(tmp_path: Path) -> None:
    rows = [
        {"tissue": "WM", "map": "T1map", "model": model, "n_sessions": 4, "bias": 0.031, "slope": slope, "r": slope}
        | {"cov": cov, "true_cov": 0.02}
        for model, slope, cov in (("network", 0.47, 0.011), ("null", 0.0, 0.0))
    ]
    store = make_store(tmp_path, per_group=1)
    evaluation = EvaluateResult(table=pd.DataFrame(rows))
    path = write_report(store, tmp_path, aggregate=statistics(1), evaluation=evaluation)
    parsed = Page()
    parsed.feed(path.read_text(encoding="utf-8"))
    cells = [text.strip() for text in parsed.texts if text.strip()]
    first = cells.index("network")
    assert cells[first : first + 7] == ["network", "4", "3.1 %", "0.47", "0.47", "1.1 %", "2.0 %"]
    assert "null" in cells
    assert "The truth is not known" not in " ".join(cells)


def test_literature_intervals_hold_their_values_and_name_a_source() -> None:
    for entry in literature():
        assert entry.low < entry.high
        assert not entry.value < entry.low
        assert not entry.value > entry.high
        assert entry.citation
        assert entry.checked in {"abstract", "second-hand", "not checked"}
        assert entry.tissue in WHITE_FIRST
        assert entry.map in MAP_FORMATS
    assert interval("WM", "T1map") == (0.6, 1.735)
    known = {(tissue, name) for tissue in WHITE_FIRST for name in MAP_FORMATS if interval(tissue, name)}
    everything = {(tissue, name) for tissue in WHITE_FIRST for name in MAP_FORMATS}
    assert known == everything - {("CSF", "PDmap")}  # 1 by definition


def test_tables_use_the_units_in_which_people_read() -> None:
    tables = statistics()
    header, rows = group_table(tables.groups, {GROUPS[0]: "G1", "unknown/group": "G2"})
    assert header[:3] == ["group", "n", "WM T1 [ms]"]
    assert rows[0][:2] == ["G1", "2"]
    assert rows[1] == ["G2", "0", *["-"] * 9]
    header, rows = variation_table(tables.variation)
    white = next(row for row in rows if row[0] == "WM T1 [ms]")
    means = [0.85 * 1.01, 0.85 * 1.02]  # groups of sessions 0, 2 and 1, 3
    cov = abs(means[1] - means[0]) / 2**0.5 / (sum(means) / 2)
    assert white == [
        "WM T1 [ms]",
        "2",
        f"{500 * sum(means):.0f}",
        f"{1000 * cov * sum(means) / 2:.1f}",
        f"{100 * cov:.1f} %",
        "-",  # without a calibration nothing is known of what it imposes
        "-",
        "0.0 %",  # all modes are equal there
    ]
    assert number(float("nan"), "T1map") == percent(float("nan")) == "-"
    assert number(0.075, "T2map") == "75.0"
    assert mean_and_sd(1.631, 0.0223, "T2map") == "1631 ± 22"
    assert mean_and_sd(0.7, float("nan"), "PDmap") == "0.700"
