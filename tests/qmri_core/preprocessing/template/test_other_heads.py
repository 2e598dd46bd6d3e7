"""Regions on heads that are not the template's: label maps of four people, scanned in 3D and in slices of 6 mm.

Half a minute of a processor per scan; ``QMRI_HEADS=6`` takes all label maps that there are. They have FreeSurfer's
codes, and are not ours to ship: ``QMRI_DATA_DIR/anatomy/synthseg_labels``.
"""

from __future__ import annotations

import os
from functools import cache

import pandas as pd
import pytest

from qmri_core.analysis.regions import PLACED
from qmri_core.preprocessing.checks import ImageMismatchError
from storage.simulated.templates import label_maps
from storage.store.opened.values import are_believed
from tests.qmri_core.preprocessing.template.other_heads import FOLDER, PROTOCOLS, measured, scanned

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no label maps in QMRI_DATA_DIR/anatomy/synthseg_labels"),
]

WIDE = 0.03
"""Share of ventricles from which on a head counts as one with atrophy; of the four two have 0.01, two 0.05 and more."""
N_HEADS = int(os.environ.get("QMRI_HEADS", "4"))


@cache
def table() -> tuple[pd.DataFrame, tuple[tuple[str, str], ...]]:
    """Rows of all heads and protocols, sides together; and those that ingest refuses."""
    tables, refused = [], []
    for number in range(N_HEADS):
        for protocol in PROTOCOLS:
            try:
                head = scanned(number, protocol)
            except ImageMismatchError:
                refused.append((label_maps(FOLDER)[number].name.split(".")[0], protocol))
                continue
            tables.append(measured(head).assign(protocol=protocol))
    rows = pd.concat(tables, ignore_index=True)
    rows["region"] = rows["region"].str.removesuffix("_L").str.removesuffix("_R")
    rows["people"] = rows["ventricles"].map(lambda share: "atrophy" if share > WIDE else "young")
    return rows, tuple(refused)


def test_regions_are_placed_better_than_by_the_affine_and_as_well_as_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows, refused = table()
    figures = [f"{way} {what}" for what in ("dice", "T1", "T2") for way in ("deformed", "affine", "true labels")]
    by_group = rows.groupby(["region", "protocol", "people"])[figures].mean().drop(columns="true labels dice")
    with capsys.disabled(), pd.option_context("display.width", 200, "display.max_rows", 200, "display.max_columns", 20):
        print(f"\n{by_group.round(3)}\n{rows.groupby(['head', 'protocol'])[['overlap', 'stretch']].first().round(2)}")
        print(f"refused by ingest: {', '.join(map(str, refused)) or 'none'}")
    if N_HEADS < 4:
        pytest.skip("figures of fewer than four heads are printed, and held against nothing")
    of_regions = rows.groupby("region")[["deformed dice", "affine dice"]].mean()
    assert (of_regions["deformed dice"] > of_regions["affine dice"]).all(), of_regions
    if N_HEADS == 4:
        assert of_regions["deformed dice"].to_dict() == pytest.approx(PLACED, abs=0.03)


def test_what_is_believed_is_near_the_truth() -> None:
    """Medians of T1 over what is labelled, mean over people of a group; the grid alone makes up to 10 % of error."""
    rows, _ = table()
    is_believed = are_believed(rows.assign(placed=rows["region"].map(PLACED)))
    assert set(rows.loc[~is_believed, "region"]) >= {"accumbens"}
    believed = rows[is_believed]
    assert set(PLACED) - set(believed["region"]) == {"accumbens"}
    errors = believed.groupby(["region", "protocol", "people"])["deformed T1"].mean().abs()
    assert errors.max() < 0.15, errors.sort_values().tail()
