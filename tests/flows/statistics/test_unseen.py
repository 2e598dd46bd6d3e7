"""What of a variation between groups is imposed away, from what calibrations say of levels."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from flows.statistics.aggregate import tables_of
from flows.tables.text import variation_table

MEDIANS = {"a": 0.84, "b": 0.85, "c": 0.86}


def statistics() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"session": f"{group}-{name}", "group": group, "tissue": "WM", "map": name}
            | {"median": median, "mode": median}
            for group, median in MEDIANS.items()
            for name in ("T1map", "PDmap")
        ]
    )


def levels(**apart: float) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"group": group, "tissue": "WM", "quantity": "t1", "apart": sd, "freedom": 2.0}
            for group, sd in apart.items()
        ],
        columns=["group", "tissue", "quantity", "apart", "freedom"],
    )


def test_what_is_imposed_away_stands_beside_the_variation() -> None:
    found = tables_of(statistics(), levels=levels(a=0.01, b=0.01, c=0.01)).variation.set_index("map")
    assert found["cov"]["T1map"] == pytest.approx(0.01 / 0.85)
    assert found["cov_imposed"]["T1map"] == pytest.approx(0.01 * math.sqrt(3 / 2))
    assert 0.002 < found["cov_error"]["T1map"] < 0.01
    assert math.isnan(found["cov_imposed"]["PDmap"])  # its level is none of those that are estimated
    header, [white, density] = variation_table(found.reset_index())
    assert dict(zip(header, white, strict=True))["imposed away"] == "1.2 %"
    assert dict(zip(header, density, strict=True))["error"] == "-"


@pytest.mark.parametrize("known", [None, levels(), levels(a=0.01, b=0.01), levels(a=0.01, b=0.01, c=math.nan)])
def test_what_no_calibration_says_is_not_known(known: pd.DataFrame | None) -> None:
    found = tables_of(statistics(), levels=known).variation
    assert found["cov_imposed"].isna().all()
    assert found["cov_error"].isna().all()
    assert found["cov"].notna().all()
