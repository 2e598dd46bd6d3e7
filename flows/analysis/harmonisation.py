"""`qmri harmonisation` and `qmri power`: what repeats say of the measurement, and ComBat beside what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd

from flows.analysis.values import Asked, quantity_order, values_table
from flows.tables.text import MAP_FORMATS, Rows, marked, percent, records
from qmri_core.analysis.harmonisation import SMALLEST_GROUP, combat, is_possible, planted_effects, variation_between
from qmri_core.analysis.power import people_needed
from qmri_core.analysis.repeats import COVERAGE, icc_2_1, limits_of_agreement, variance_components
from qmri_core.calibration.reliability import TELLS_APART, shown_share
from storage.store.cohort import Cohort
from storage.store.repository import StoreError

FEWEST_SHARED = 3
"""People that two groups share, at least, to be compared."""
NOTES = (
    "shares of variance of people with repeats, given age and sex: between people, scanners with their protocols, "
    "visits, and the rest; without two scans at one visit, visits are part of the rest; without people on several "
    "scanners, scanners are not told (a dash)",
    "repeatability, reproducibility: within what 95 % of differences between two scans of a person stay, on one "
    "scanner and on two",
    "ICC: (2,1), absolute agreement; bias and limits (Bland and Altman): of the second group beside the first",
    "people are measured on scales that calibration sets by group: what is imposed there is no agreement of scanners "
    "(`qmri calibration`, levels)",
)
COMBAT_NOTES = (
    "ComBat takes what groups differ by, whoever their people are: where an effect leans on groups it takes a part of "
    "the effect, unless it is told of it; recovered: share of a planted effect that is found, by people drawn anew "
    "each time (leaning: four of five in one half of the groups, one of five in the other)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Harmonisation:
    """Tables by region and map.

    ``components``: fields of `qmri_core.analysis.repeats.Components`, ``share_`` of each part, repeatability and
    reproducibility, determined. ``agreement``: a row per pair of groups that share people. ``between``: standard
    deviation between groups ``as_stored`` and after ``combat``. ``planted``:
    `qmri_core.analysis.harmonisation.planted_effects`. Empty where a cohort has nothing to tell it from; ``lacking``
    says what.
    """

    components: pd.DataFrame
    agreement: pd.DataFrame
    between: pd.DataFrame = field(default_factory=pd.DataFrame)
    planted: pd.DataFrame = field(default_factory=pd.DataFrame)
    lacking: tuple[str, ...] = ()


def harmonise(cohort: Cohort, *, asked: Asked | None = None, effect: float = 0.05) -> Harmonisation:
    """Take variance components, agreement of groups, and ComBat beside what is stored.

    Raises
    ------
    StoreError
        If no session has values.
    """
    return harmonise_table(values_table(cohort, asked or Asked()), effect=effect)


def harmonise_table(values: pd.DataFrame, *, effect: float = 0.05) -> Harmonisation:
    """The same from `flows.analysis.values.values_table`."""
    components: list[dict[str, object]] = []
    agreement: list[dict[str, object]] = []
    for (region, name), members in values.groupby(["region", "map"], sort=False):
        if members["value"].nunique() < 2:
            continue
        keys: dict[str, object] = {"region": region, "map": name}
        found = variance_components(members)
        if found.n_sessions and found.n_people >= FEWEST_SHARED:
            shares = {f"share_{part}": share for part, share in found.shares().items()}
            coefficients = {name: getattr(found, name) for name in ("repeatability", "reproducibility")}
            determined = float(members["determined"].mean())
            components.append({**keys, **asdict(found), **shares, **coefficients, "determined": determined})
        agreement += ({**keys, **row} for row in _agreement(members))
    between, planted, why = _combat(values, effect)
    lacking = [] if components else ["fewer than three people were scanned twice: nothing tells how scans repeat"]
    lacking += [] if agreement else ["no two groups share three people: nothing tells whether scanners agree"]
    return Harmonisation(
        components=_ordered(components),
        agreement=_ordered(agreement),
        between=between,
        planted=planted,
        lacking=(*lacking, *why),
    )


def _ordered(rows: list[dict[str, object]]) -> pd.DataFrame:
    return quantity_order(pd.DataFrame(rows)) if rows else pd.DataFrame()


def _agreement(members: pd.DataFrame) -> list[dict[str, object]]:
    """Pairs of groups that share people: ICC, bias and limits of logs of people's means over visits."""
    logs = members.assign(log=np.log(members["value"]))
    table = logs.pivot_table(index="person", columns="label", values="log", aggfunc="mean")
    rows: list[dict[str, object]] = []
    is_there = table.notna().to_numpy(dtype=np.intp)
    is_shared = is_there.T @ is_there >= FEWEST_SHARED
    for one, other in combinations(range(len(table.columns)), 2):
        if not is_shared[one, other]:
            continue
        first, second = table.columns[one], table.columns[other]
        pair = table[[first, second]].dropna()
        icc, limits = icc_2_1(pair), limits_of_agreement(pair[first], pair[second])
        relative = {name: float(np.expm1(value)) for name, value in asdict(limits).items() if name != "n"}
        rows.append(
            {
                "first": first,
                "second": second,
                "people": len(pair),
                "icc": icc.icc,
                "icc_low": icc.low,
                "icc_high": icc.high,
            }
            | relative
        )
    return rows


def _combat(values: pd.DataFrame, effect: float) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Variation between groups before and after ComBat, and what becomes of a planted effect."""
    varying = values.groupby(["region", "map"])["value"].transform("nunique") > 1
    wide = (
        values[varying & (values["value"] > 0)]
        .pivot(index="session", columns=["region", "map"], values="value")
        .dropna()
    )
    people = values.drop_duplicates("session").set_index("session").loc[wide.index]
    covariates = people[["age", "sex"]].replace({"sex": {"": np.nan}})
    covariates = covariates.loc[:, covariates.nunique() > 1]
    is_known = covariates.notna().all(axis=1)
    sizes = people.loc[is_known].groupby("label")["person"].transform("size").reindex(people.index)
    chosen = is_known & (sizes >= SMALLEST_GROUP)
    labels, covariates = people.loc[chosen, "label"], covariates[chosen]
    covariates = covariates.loc[:, covariates.nunique() > 1]
    if labels.nunique() < 2 or wide.shape[1] < 2 or not is_possible(labels, covariates):
        return pd.DataFrame(), pd.DataFrame(), ["too few sessions in too few groups, of known age and sex, for ComBat"]
    logs = pd.DataFrame(np.log(wide[chosen]))
    after = combat(logs, labels, covariates)
    between = pd.DataFrame(
        {"as_stored": variation_between(logs, labels), "combat": variation_between(after, labels)}
    ).reset_index()
    planted = planted_effects(logs, labels, people.loc[chosen, "person"], covariates, effect=effect)
    return quantity_order(between), planted, []


def harmonisation_tables(result: Harmonisation) -> list[tuple[str, list[str], Rows]]:
    """Title, header and rows of each table that is not empty."""
    tables: list[tuple[str, list[str], Rows]] = []
    if not result.components.empty:
        header = ["quantity", "people", "sessions", "person", "scanner", "visit", "rest", "repeatability"]
        header += ["reproducibility", "determined"]
        tables.append(
            ("Repeats: where variance comes from", header, [_component_row(row) for row in records(result.components)])
        )
    if not result.agreement.empty:
        header = ["quantity", "groups", "people", "ICC", "95 % interval", "bias", "95 % interval", "limits"]
        tables.append(("Agreement of groups", header, [_agreement_row(row) for row in records(result.agreement)]))
    if not result.between.empty:
        rows = [[_title(row), percent(row["as_stored"]), percent(row["combat"])] for row in records(result.between)]
        tables.append(("Standard deviation between groups", ["quantity", "as stored", "after ComBat"], rows))
    if not result.planted.empty:
        rows = [
            [row["drawn"], row["method"], percent(row["recovered"]), percent(row["scatter"])]
            for row in records(result.planted)
        ]
        tables.append(("What becomes of a planted effect", ["drawn", "method", "recovered", "scatter"], rows))
    return tables


def _title(row: Mapping[str, object]) -> str:
    return f"{row['region']} {MAP_FORMATS[str(row['map'])][0]}"


def _component_row(row: Mapping[str, float]) -> list[str]:
    is_weak = row["determined"] < TELLS_APART
    shares = [marked(percent(row[f"share_{part}"]), is_weak) for part in ("person", "scanner", "visit", "rest")]
    coefficients = [percent(row["repeatability"]), percent(row["reproducibility"]), percent(row["determined"])]
    return [_title(row), str(row["n_people"]), str(row["n_sessions"]), *shares, *coefficients]


def _agreement_row(row: Mapping[str, float]) -> list[str]:
    return [
        _title(row),
        f"{row['second']} - {row['first']}",
        str(row["people"]),
        f"{row['icc']:.2f}",
        f"{row['icc_low']:.2f} to {row['icc_high']:.2f}",
        f"{row['mean']:+.1%}",
        f"{row['mean_low']:+.1%} to {row['mean_high']:+.1%}",
        f"{row['low']:+.1%} to {row['high']:+.1%}",
    ]


def power_table(
    values: pd.DataFrame, effect: float, *, visits: int = 1, power: float = 0.8, alpha: float = 0.05
) -> pd.DataFrame:
    """People per arm by region and map: ``people``, with ``between``, ``within`` (log), ``shown`` and ``determined``.

    Variances are within groups: of people with repeats where there are such, else all of one session's is taken to be
    between people (``within`` is NaN), and more visits help nothing.

    Raises
    ------
    StoreError
        If no group has two people.
    """
    rows: list[dict[str, object]] = []
    for (region, name), members in values.groupby(["region", "map"], sort=False):
        if members["value"].nunique() < 2:
            continue
        logs = np.log(members["value"])
        first = members.assign(log=logs).sort_values("day").drop_duplicates(["label", "person"])
        groups = first.groupby("label")["log"]
        freedom = int((groups.size() - 1).clip(lower=0).sum())
        if freedom < 1:
            continue
        total = float(np.sqrt(((first["log"] - groups.transform("mean")) ** 2).sum() / freedom))
        found = variance_components(members)
        within = found.repeatability / COVERAGE
        within = min(float(within), total)  # NaN without repeats
        between = float(np.sqrt(total**2 - np.nan_to_num(within) ** 2))
        determined = float(members["determined"].mean())
        shown = float(shown_share(determined)) if np.isfinite(determined) else 1.0
        people = people_needed(
            effect,
            between=between,
            within=float(np.nan_to_num(within)),
            shown=shown,
            visits=visits,
            power=power,
            alpha=alpha,
        )
        figures = {"people": people, "between": between, "within": within, "shown": shown, "determined": determined}
        rows.append({"region": region, "map": name, **figures})
    if not rows:
        raise StoreError("no group has two people with values; nothing tells how people differ")
    return _ordered(rows)


def power_rows(table: pd.DataFrame) -> tuple[list[str], Rows]:
    """The table as people read it: header and rows."""
    rows = [
        [
            _title(row),
            "none is enough" if not np.isfinite(row["people"]) else str(int(row["people"])),
            percent(row["between"]),
            percent(row["within"]),
            percent(row["determined"]),
            percent(row["shown"]) if np.isfinite(row["determined"]) else "-",
        ]
        for row in records(table)
    ]
    return ["quantity", "people per arm", "between people", "within people", "determined", "shown"], rows
