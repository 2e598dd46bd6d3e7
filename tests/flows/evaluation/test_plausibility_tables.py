"""Tables without a truth from rows made by hand."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from flows.evaluation.plausibility_tables import (
    MAX_PAIRS_LISTED,
    candidate_table,
    pairs_for_people,
    resynthesis_table,
    value_table,
    values_for_people,
    visit_pairs,
    visit_table,
    weak_test,
)
from qmri_core.evaluation.literature import interval, literature

NAN = math.nan


def medians(tissue: str, name: str, values: dict[str, float]) -> pd.DataFrame:
    rows = [{"session": each, "tissue": tissue, "map": name, "median": value} for each, value in values.items()]
    return pd.DataFrame(rows)


def sessions(*rows: tuple[str, str, str, float]) -> pd.DataFrame:
    """Session, group, person and day."""
    return pd.DataFrame(list(rows), columns=["session", "group", "person", "day"])


def test_visits_are_ordered_by_their_day_and_compared_with_the_first() -> None:
    stored = sessions(
        ("third", "h", "p", NAN), ("second", "h", "p", 30.0), ("first", "g", "p", 0.0),
        ("alone", "g", "q", 0.0), ("x", "g", "", 0.0), ("y", "g", "", 0.0),
    )  # fmt: skip
    values = {"first": 0.8, "second": 0.84, "third": 0.6, "alone": 0.9, "x": 1.0, "y": 2.0}
    pairs = visit_pairs(medians("WM", "T1map", values), stored)
    white = pairs[(pairs["tissue"] == "WM") & (pairs["map"] == "T1map")]
    assert len(pairs) == 9 * len(white)
    assert white[["person", "first", "later", "pair"]].values.tolist() == [
        ["p", "first", "second", "two groups"], ["p", "first", "third", "two groups"],
    ]  # fmt: skip
    assert white["days"].iloc[0] == 30
    assert math.isnan(white["days"].iloc[1])
    assert list(white["difference"]) == pytest.approx([0.04 / 0.82, -0.2 / 0.7])
    assert pairs["difference"].notna().sum() == 2  # of other tissues and maps nothing is known
    (row,) = visit_table(pairs).to_dict("records")
    assert (row["pair"], row["tissue"], row["map"], row["n_pairs"]) == ("two groups", "WM", "T1map", 2)
    assert row["difference"] == pytest.approx((0.04 / 0.82 + 0.2 / 0.7) / 2)
    assert row["shift"] == pytest.approx((0.04 / 0.82 - 0.2 / 0.7) / 2)


def test_pairs_of_one_group_are_told_apart() -> None:
    stored = sessions(("a", "g", "p", 0.0), ("b", "g", "p", 1.0), ("c", "g", "q", 0.0), ("d", "h", "q", 5.0))
    pairs = visit_pairs(medians("GM", "T2map", {"a": 0.1, "b": 0.1, "c": 0.09, "d": 0.1}), stored)
    table = visit_table(pairs).set_index("pair")
    assert table.loc["same group", "difference"] == 0
    assert table.loc["two groups", "difference"] == pytest.approx(0.01 / 0.095)
    assert visit_pairs(medians("GM", "T2map", {"a": 0.1}), sessions(("a", "g", "p", 0.0))).empty
    assert visit_table(pd.DataFrame()).empty


def test_a_terminal_shows_a_bounded_number_of_pairs() -> None:
    n = MAX_PAIRS_LISTED + 5
    stored = sessions(*((f"s{number:03d}", "g", "p", float(number)) for number in range(n + 1)))
    pairs = visit_pairs(medians("WM", "T1map", {f"s{number:03d}": 0.8 for number in range(n + 1)}), stored)
    assert len(pairs) == 9 * n
    header, rows = pairs_for_people(pairs)
    assert len(rows) == MAX_PAIRS_LISTED
    assert dict(zip(header, rows[0], strict=True)) == {
        "first": "s000", "later": "s001", "days": "1", "pair": "same group", "WM T1": "0.0 %",
        **{f"{tissue} {quantity}": "-" for quantity in ("T1", "T2", "PD") for tissue in ("WM", "GM", "CSF")
           if (tissue, quantity) != ("WM", "T1")},
    }  # fmt: skip


def test_values_stand_beside_each_interval_of_their_field_strength() -> None:
    stored = pd.DataFrame({"session": ["a", "b", "c", "d"], "magnetic_field_strength": [3.0, 2.89, 1.5, 3.0]})
    table = value_table(medians("GM", "T1map", {"a": 1.2, "b": 1.4, "c": 1.2, "d": NAN}), stored)
    at_three = table[table["field_strength"] == 3.0]
    entries = [entry for entry in literature(3.0) if (entry.tissue, entry.map) == ("GM", "T1map")]
    assert len(at_three) == len(entries) == 4
    assert set(at_three["n_sessions"]) == {2}
    assert list(at_three["median"]) == pytest.approx([1.3] * 4)
    assert list(at_three["sd"]) == pytest.approx([0.2 / 2**0.5] * 4)
    assert list(at_three["is_inside"]) == [entry.low <= 1.3 <= entry.high for entry in entries]
    assert all(entry.citation in source for entry, source in zip(entries, at_three["source"], strict=True))
    (other,) = table[table["field_strength"] == 1.5].to_dict("records")
    assert (other["low"], other["high"], other["is_inside"]) == (1.063, 1.331, True)
    assert "Wright 2008" in other["source"]
    assert math.isnan(other["sd"])
    assert not table["is_imposed"].any()


def test_where_nothing_is_known_no_interval_is_made_up() -> None:
    stored = pd.DataFrame({"session": ["a"], "magnetic_field_strength": [1.5]})
    values = pd.concat([medians("WM", "T2map", {"a": 0.074}), medians("WM", "T1map", {"a": 0.7})])
    header, rows = values_for_people(value_table(values, stored))
    found = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["quantity"] for row in found] == ["WM T1 [ms]", "WM T2 [ms]"]
    assert (found[0]["interval"], found[0]["inside"]) == ("614 to 678", "no (imposed)")
    assert (found[1]["interval"], found[1]["inside"], found[1]["source"]) == ("none known", "-", "-")
    assert found[1]["field"] == "1.5 T"


def test_literature_is_of_one_field_strength() -> None:
    assert {entry.field_strength for entry in literature()} == {3.0}
    assert literature(2.89) == literature()
    assert {entry.field_strength for entry in literature(1.5)} == {1.5}
    assert literature(7.0) == ()
    low, high = interval("WM", "T1map") or (NAN, NAN)
    assert f"{1000 * low:.0f} to {1000 * high:.0f} ms" in weak_test()


def test_sessions_are_put_together_by_their_medians() -> None:
    def image(group: str, error: float, similarity: float, n: int = 9) -> dict[str, Any]:
        return {"group": group, "contrast": "T1w", "n": n, "error": error, "similarity": similarity}

    rows = [image("g", 0.1, 0.9), image("g", 0.2, 0.8), image("g", 0.9, 0.7), image("h", 0.3, NAN), image("h", 5, 5, 0)]
    table = resynthesis_table(rows).set_index("group")
    assert table.loc["g", ["n_sessions", "error", "similarity"]].tolist() == [3, 0.2, 0.8]
    assert table.loc["h", "n_sessions"] == 1
    assert math.isnan(table.loc["h", "similarity"])

    def bright(voxels: float, millilitres: float, ratio: float) -> dict[str, Any]:
        ratios = {f"{name}_ratio": ratio for name in ("T1map", "T2map", "PDmap")}
        return {"group": "g", "voxels": voxels, "millilitres": millilitres, **ratios}

    (row,) = candidate_table([bright(30, 3.0, 1.5), bright(10, 1.0, NAN), bright(NAN, NAN, NAN)]).to_dict("records")
    assert (row["n_sessions"], row["millilitres"], row["n_ratios"], row["T2map_ratio"]) == (2, 2.0, 1, 1.5)
