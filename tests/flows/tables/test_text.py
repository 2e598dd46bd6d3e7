"""Tables as text: whole and plain where a program or a file reads them, to the width of a terminal where people do."""

from __future__ import annotations

import sys

import pandas as pd
import pytest

from flows.tables.text import evaluation_table, mean_and_sd, table_parts, text_table

KEY = "siemens-prisma-3t-" + "k" * 200
ROWS = [("a", "1", "850 ± 12"), (KEY, "-", ":smile: [bold]x[/bold]"), ("b", "100", "3 %")]


def test_columns_are_aligned_and_numbers_stand_to_the_right() -> None:
    lines = text_table(["name", "n", "T1 [ms]"], [("a", "1", "850"), ("long name", "-", "1200"), ("b", "100", "-")])
    assert lines.splitlines() == [
        "name          n   T1 [ms]",
        "---------- ----- --------",
        "a             1       850",
        "long name     -      1200",
        "b           100         -",
    ]


def test_nothing_is_cut_broken_or_coloured_where_the_output_is_no_terminal() -> None:
    text = text_table(["name", "n", "explanation"], ROWS)
    assert len(text.splitlines()) == 2 + len(ROWS)
    assert KEY in text
    assert ":smile: [bold]x[/bold]" in text  # texts are shown as they are
    assert "\x1b" not in text
    assert set(text.splitlines()[1]) == {"-", " "}


@pytest.mark.parametrize("width", [40, 120])
def test_a_terminal_is_not_overrun(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    text = text_table(["name", "n", "explanation"], ROWS)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("k") == 200  # folded, not cut
    assert "\x1b" not in text


def test_a_table_without_rows_is_its_header() -> None:
    assert text_table(["group", "sessions"], []).splitlines()[0].split() == ["group", "sessions"]


def test_a_table_in_parts_is_the_same_table() -> None:
    rows = [[f"session {number}", str(number), "x" * (number % 7)] for number in range(10)]
    header = ["session", "number", "text"]
    parts = list(table_parts(header, lambda: iter(rows), n_rows=3))
    assert len(parts) == 4
    assert "\n".join(parts) == text_table(header, rows)
    assert list(table_parts(header, list)) == [text_table(header, [])]


def test_what_tells_no_people_apart_is_in_parentheses() -> None:
    common = {"tissue": "WM", "n_sessions": 5, "bias": 0.01, "r": 0.4, "cov": 0.02, "true_cov": 0.03}
    rows = [
        {**common, "map": "T1map", "model": "network", "slope": -0.47, "determined": 0.2},
        {**common, "map": "T2map", "model": "network", "slope": 1.13, "determined": 0.7},
        {**common, "map": "PDmap", "model": "network", "slope": 0.9, "determined": float("nan")},
    ]
    _, (weak, strong, unknown) = evaluation_table(pd.DataFrame(rows))
    assert weak[4:6] == ["(-0.47)", "(0.40)"]
    assert strong[4:6] == ["1.13", "0.40"]
    assert unknown[4:6] == ["0.90", "0.40"]
    lines = text_table(["slope"], [["(-0.47)"], ["1.13"]]).splitlines()
    assert [line.rstrip() for line in lines[2:]] == ["(-0.47)", "   1.13"]
    assert mean_and_sd(0.85, 0.012, "T1map", is_weak=True) == "850 (± 12)"
    assert mean_and_sd(0.85, 0.012, "T1map") == "850 ± 12"
