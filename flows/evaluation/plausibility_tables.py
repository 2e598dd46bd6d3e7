"""Tables of maps without a truth: beside the literature, given back, between visits, where FLAIR is bright."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import groupby

import numpy as np
import pandas as pd

from flows.evaluation.tables import Row, finite_median, table_by
from flows.evaluation.voxels import kind_of_pair
from flows.tables.text import MAP_FORMATS, Rows, mean_and_sd, number, percent, quantities, records
from qmri_core.calibration.population import population
from qmri_core.calibration.scales import ANCHOR
from qmri_core.evaluation.literature import interval, literature
from qmri_core.statistics import Moments
from qmri_core.tissues import WHITE_FIRST

MAX_PAIRS_LISTED = 40
"""Pairs of visits that a terminal shows."""


def weak_test() -> str:
    """What the tables do not show, in words for people."""
    low, high = interval("WM", "T1map") or (math.nan, math.nan)
    return (
        "Nothing above shows that a map is right: there is no truth here. To lie within an interval is a weak test: "
        f"reported white-matter T1 at 3 T alone spans {number(low, 'T1map')} to {number(high, 'T1map')} ms. The mean "
        "white matter of a group is imposed by the calibration (marked imposed): its level is no finding. Images that "
        "are given back do not fix the level of the maps, since the scale of each image is free. Bright voxels are no "
        "segmentation of lesions, and the maps are made from the same FLAIR."
    )


def value_table(statistics: pd.DataFrame, stored: pd.DataFrame) -> pd.DataFrame:
    """Medians of tissues beside each interval of the literature: one row per field strength, tissue, map and interval.

    median and sd (ddof 1) are over n_sessions, of their medians; low, high, is_inside, method, source and checked are
    of the interval, NaN and None where none is known. is_imposed: the calibration sets the mean of this tissue, so that
    its level was not measured. Within an interval is a weak test anyway: reported values differ by a factor of two.

    Parameters
    ----------
    statistics
        Session, tissue, map, median; in the unit of the store.
    stored
        Session and magnetic_field_strength.
    """
    fields = {str(row["session"]): float(row["magnetic_field_strength"]) for row in records(stored)}
    known = statistics[np.isfinite(statistics["median"].astype(float))]
    nominal = known["session"].map(lambda name: population(fields[str(name)]).field_strength)
    unknown = dict.fromkeys(("method", "source", "checked"), "")
    rows: list[dict[str, object]] = []
    for field_strength in sorted(set(nominal)):
        for tissue, name, _ in quantities():
            chosen = (nominal == field_strength) & (known["tissue"] == tissue) & (known["map"] == name)
            medians = known.loc[chosen, "median"].astype(float)
            if medians.empty:
                continue
            middle = float(np.median(medians))
            start = {
                "field_strength": field_strength,
                "tissue": tissue,
                "map": name,
                "n_sessions": len(medians),
                "median": middle,
                "sd": Moments.of(medians).standard_deviation(),
                "is_imposed": tissue == ANCHOR,
            }
            entries = [each for each in literature(field_strength) if (each.tissue, each.map) == (tissue, name)]
            rows += [
                {
                    **start,
                    "low": each.low,
                    "high": each.high,
                    "is_inside": each.low <= middle <= each.high,
                    "method": each.method,
                    "source": f"{each.citation}. doi:{each.doi}" if each.doi else each.citation,
                    "checked": each.checked,
                }
                for each in entries
            ] or [{**start, "low": math.nan, "high": math.nan, "is_inside": None, **unknown}]
    return pd.DataFrame(rows)


def visit_pairs(statistics: pd.DataFrame, stored: pd.DataFrame) -> pd.DataFrame:
    """First against each later session of one person: one row per pair, tissue and map.

    person, first, later (pseudonyms), days between (NaN if a date is missing; such sessions come last), pair (``same
    group`` or ``two groups``), tissue, map, first_median, later_median, and the difference later minus first relative
    to the mean of both, so that neither is the reference.

    Parameters
    ----------
    statistics
        Session, tissue, map, median.
    stored
        Session, group, person and day. Sessions whose person is not known are in no pair.
    """
    medians = {
        (str(row["session"]), str(row["tissue"]), str(row["map"])): float(row["median"]) for row in records(statistics)
    }
    with_person = [row for row in records(stored) if row["person"]]
    ordered = sorted(with_person, key=lambda row: (row["person"], math.isnan(row["day"]), row["day"], row["session"]))
    rows: list[dict[str, object]] = []
    for person, (first, *later) in groupby(ordered, key=lambda row: row["person"]):
        for other in later:
            start = {
                "person": person,
                "first": first["session"],
                "later": other["session"],
                "days": other["day"] - first["day"],
                "pair": kind_of_pair(first["group"], other["group"]),
            }
            for tissue, name, _ in quantities():
                x, y = (medians.get((one["session"], tissue, name), math.nan) for one in (first, other))
                values = {"first_median": x, "later_median": y, "difference": 2 * (y - x) / (x + y)}
                rows.append({**start, "tissue": tissue, "map": name, **values})
    return pd.DataFrame(rows)


def visit_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """One row per kind of pair, tissue and map: n_pairs; over pairs, the median difference, absolute and signed."""
    return table_by(
        [row for row in records(pairs) if math.isfinite(row["difference"])],
        ("pair", "tissue", "map"),
        lambda members: {
            "n_pairs": len(members),
            "difference": finite_median(abs(row["difference"]) for row in members),
            "shift": finite_median(row["difference"] for row in members),
        },
    )


def resynthesis_table(rows: Iterable[Row]) -> pd.DataFrame:
    """One row per group and contrast: n_sessions, and medians over them of the error and the similarity."""
    return table_by(
        [row for row in rows if row["n"]],
        ("group", "contrast"),
        lambda members: {
            "n_sessions": len(members),
            "error": finite_median(row["error"] for row in members),
            "similarity": finite_median(row["similarity"] for row in members),
        },
    )


def candidate_table(rows: Iterable[Row]) -> pd.DataFrame:
    """One row per group: sessions with a FLAIR, their median millilitres, and ratios where enough voxels are bright."""

    def figures(members: list[Row]) -> dict[str, object]:
        ratios = {f"{name}_ratio": finite_median(row[f"{name}_ratio"] for row in members) for name in MAP_FORMATS}
        return {
            "n_sessions": len(members),
            "millilitres": finite_median(row["millilitres"] for row in members),
            "n_ratios": sum(math.isfinite(row["T1map_ratio"]) for row in members),
            **ratios,
        }

    return table_by([row for row in rows if math.isfinite(row["voxels"])], ("group",), figures)


def values_for_people(values: pd.DataFrame) -> tuple[list[str], Rows]:
    """Header and rows of `value_table`."""
    titles = {(tissue, name): title for tissue, name, title in quantities()}
    rows: Rows = []
    for row in records(values):
        name = str(row["map"])
        is_known = math.isfinite(row["low"])
        inside = ("yes" if row["is_inside"] else "no") + (" (imposed)" if row["is_imposed"] else "")
        rows.append(
            [
                titles[row["tissue"], name],
                f"{row['field_strength']:g} T",
                str(row["n_sessions"]),
                mean_and_sd(row["median"], row["sd"], name),
                f"{number(row['low'], name)} to {number(row['high'], name)}" if is_known else "none known",
                inside if is_known else "-",
                str(row["source"]).split(". doi:")[0] or "-",
            ]
        )
    return ["quantity", "field", "n", "median ± sd", "interval", "inside", "source"], rows


def pairs_for_people(pairs: pd.DataFrame) -> tuple[list[str], Rows]:
    """Header and rows of `visit_pairs`, one row per pair, of the first `MAX_PAIRS_LISTED`."""
    columns = [(tissue, name, f"{tissue} {MAP_FORMATS[name][0]}") for name in MAP_FORMATS for tissue in WHITE_FIRST]
    found: dict[tuple[str, ...], dict[tuple[str, str], float]] = {}
    for row in records(pairs):
        days = "-" if math.isnan(row["days"]) else f"{row['days']:.0f}"
        key = (str(row["first"]), str(row["later"]), days, str(row["pair"]))
        found.setdefault(key, {})[row["tissue"], row["map"]] = float(row["difference"])
    rows = [
        [*key, *(percent(differences.get((tissue, name), math.nan)) for tissue, name, _ in columns)]
        for key, differences in list(found.items())[:MAX_PAIRS_LISTED]
    ]
    return ["first", "later", "days", "pair", *(title for *_, title in columns)], rows


def label_groups(table: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """The same table with short labels for groups."""
    return table.assign(group=table["group"].map(lambda name: labels[str(name)])) if "group" in table else table
