"""What `qmri compare` answers: whether people differ, by how much, and whether that can be believed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flows.analysis.values import OF_SCANNERS, Asked, quantity_order, retest_deviations, values_table
from flows.progress import Progress, quiet
from flows.tables.text import MAP_FORMATS, Rows, marked, percent, records
from qmri_core.analysis.comparison import Effect, compare_values
from qmri_core.analysis.design import ConfoundedError, Design
from qmri_core.calibration.reliability import TELLS_APART, shown_share
from storage.store.cohort import Cohort

if TYPE_CHECKING:
    from distributed import Client

CORRECTIONS = {"holm": "Holm", "fdr_bh": "Benjamini and Hochberg"}
NOTES = (
    "difference: relative, with its 95 % interval, beside the covariates and within groups; standardised: over the "
    "standard deviation between sessions; p and corrected p: by {correction} over all {n_tests} tests of this question",
    "determined: share of what people differ by that the signals determine; shown: share of a true difference that the "
    "values show, so that a true one is the difference over it; if true: the standardised difference without errors of "
    "measurement. A dash: not known (PD and CSF)",
    "in parentheses: less than half is determined, so that values tell no people apart, and no difference means little",
    "measured to: standard deviation of one session's value, as calibration states it and as visits of one person in "
    "one group differ",
)
_TEXT = "regions and maps"
PERIOD, DAY = "period", "scanner_day"
"""A factor that is made of a column: whether a session was before a day of its scanner, or since."""
BEFORE, SINCE = "before", "since"
OF_SCANNERS_NOTE = (
    "{factor} is no property of people: calibration draws the means of groups together, by what nothing measures "
    "(`qmri calibration`, levels); that scanners do not differ here does not show that they agree. "
    "`qmri harmonisation` compares them by people who were scanned on several"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Answer to a question.

    ``table``: one row per region, map and level, with the fields of `qmri_core.analysis.comparison.Effect`,
    ``p_corrected``, ``determined``, ``shown``, ``standardised_if_true``, ``deviation`` and ``retest`` (relative), and
    ``n_retests``. ``refused``: reasons by region and map, of what cannot be answered. ``notes``: how to read it.
    """

    factor: str
    covariates: tuple[str, ...]
    table: pd.DataFrame
    notes: tuple[str, ...]
    refused: tuple[str, ...] = ()


def compare(
    cohort: Cohort,
    factor: str,
    covariates: Sequence[str] = ("age", "sex"),
    *,
    asked: Asked | None = None,
    reference: str | None = None,
    correction: str = "holm",
    since: float | None = None,
    client: Client | None = None,
    progress: Progress = quiet,
) -> Comparison:
    """Compare people by a factor, of the store or of the user's table, in every region and map.

    Within groups of one scanner and protocol, unless the factor is where people were scanned.

    Parameters
    ----------
    since
        Day of each scanner that parts the levels of the factor `PERIOD`.
    client
        Of the cluster on which regions and maps are compared; default: in this process, one after the other.

    Raises
    ------
    StoreError
        If a column or the table is none, or no session is left.
    ConfoundedError
        If the data can answer nothing of the question.
    """
    columns = [DAY if name == PERIOD and since is not None else name for name in (factor, *covariates)]
    names = list(dict.fromkeys(name for name in columns if name not in ("label", "scanner")))
    values = values_table(cohort, asked or Asked(), names)
    if since is not None:
        values = with_periods(values, since)
    return compare_table(
        values, factor, covariates, reference=reference, correction=correction, client=client, progress=progress
    )


def with_periods(values: pd.DataFrame, since: float) -> pd.DataFrame:
    """Values with the column `PERIOD`: `BEFORE` or `SINCE` a day of the scanner; empty where no day is kept.

    Raises
    ------
    ConfoundedError
        If no session has a day of its scanner.
    """
    days = values[DAY] if DAY in values else pd.Series(np.nan, index=values.index)
    if days.isna().all():
        raise ConfoundedError("no session has a day of its scanner: sites keep them by QMRI_KEEP_DAYS, see privacy")
    return values.assign(**{PERIOD: np.where(days.isna(), "", np.where(days >= since, SINCE, BEFORE))})


def compare_table(
    values: pd.DataFrame,
    factor: str,
    covariates: Sequence[str] = (),
    *,
    reference: str | None = None,
    correction: str = "holm",
    client: Client | None = None,
    progress: Progress = quiet,
) -> Comparison:
    """The same from `flows.analysis.values.values_table`."""
    from statsmodels.stats.multitest import multipletests

    covariates = tuple(name for name in covariates if name != factor)
    question = partial(
        _effects, factor=factor, covariates=covariates, within_groups=factor not in OF_SCANNERS, reference=reference
    )
    quantities = [
        _Quantity(region=str(region), name=str(name), members=members)
        for (region, name), members in values.groupby(["region", "map"], sort=False)
        if members["value"].nunique() > 1  # PD of CSF is 1 by definition
    ]
    rows: list[dict[str, object]] = []
    refused: dict[str, ConfoundedError] = {}
    retests = retest_deviations(values)
    for quantity, effects in _answers(question, quantities, client, progress):
        region, name = quantity.region, quantity.name
        if isinstance(effects, ConfoundedError):
            refused[f"{region} {name}"] = effects
            continue
        own = {**_reliability(quantity.members), **records(retests.loc[[(region, name)]])[0]}
        rows += ({"region": region, "map": name, **asdict(effect), **own} for effect in effects)
    if not rows:
        raise next(iter(refused.values()), ConfoundedError("no region has values to compare"))
    table = quantity_order(pd.DataFrame(rows))
    table.insert(9, "p_corrected", multipletests(table["p"], method=correction)[1])
    table["standardised_if_true"] = table["standardised"] / np.sqrt(table["determined"])
    notes = [note.format(correction=CORRECTIONS[correction], n_tests=len(table)) for note in NOTES]
    if factor in OF_SCANNERS:
        notes.append(OF_SCANNERS_NOTE.format(factor=factor))
    reasons = tuple(f"{what}: {error}" for what, error in refused.items())
    return Comparison(factor=factor, covariates=covariates, table=table, notes=tuple(notes), refused=reasons)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Quantity:
    """One map in one region, and its rows of the table of values."""

    region: str
    name: str
    members: pd.DataFrame


def _answers(
    question: partial[list[Effect] | ConfoundedError],
    quantities: Sequence[_Quantity],
    client: Client | None,
    progress: Progress,
) -> Iterator[tuple[_Quantity, list[Effect] | ConfoundedError]]:
    if client is not None:
        from flows.cluster.driver import completed

        found = dict(completed(client, question, quantities, progress=progress, text=_TEXT))  # as they come
        yield from ((quantity, found[quantity]) for quantity in quantities)
        return
    known: dict[str, Design] = {}
    for done, quantity in enumerate(quantities, start=1):
        yield quantity, question(quantity, known=known)
        progress(done, len(quantities), _TEXT)


def _effects(
    quantity: _Quantity,
    *,
    factor: str,
    covariates: tuple[str, ...],
    within_groups: bool,
    reference: str | None,
    known: dict[str, Design] | None = None,
) -> list[Effect] | ConfoundedError:
    """Effects in one region and map, or why there are none."""
    frame = quantity.members.rename(columns={"label": "group"}).assign(label=quantity.members["label"])
    try:
        return compare_values(frame, factor, covariates, within_groups=within_groups, reference=reference, known=known)
    except ConfoundedError as error:
        return error


def _reliability(members: pd.DataFrame) -> dict[str, float]:
    determined = float(members["determined"].mean())
    return {
        "determined": determined,
        "shown": float(shown_share(determined)),
        "deviation": float((members["deviation"] / members["value"]).mean()),
    }


def comparison_rows(result: Comparison) -> tuple[list[str], Rows]:
    """The table as people read it: header and rows."""
    header = ["quantity", result.factor, "difference", "95 % interval", "standardised", "if true", "p", "corrected"]
    header += ["people", "of them", "determined", "shown", "measured to"]
    rows: Rows = []
    for row in records(result.table):
        is_weak = float(row["determined"]) < TELLS_APART
        term = f"{row['term']} - {row['reference']}" if row["reference"] else str(row["term"])
        figures = [
            _signed(row["estimate"]),
            f"{_signed(row['low'])} to {_signed(row['high'])}",
            _plain(row["standardised"]),
            _plain(row["standardised_if_true"]),
            _p(row["p"]),
            _p(row["p_corrected"]),
        ]
        rows.append(
            [
                f"{row['region']} {MAP_FORMATS[row['map']][0]}",
                term,
                *(marked(text, is_weak) for text in figures),
                str(row["n_people"]),
                str(row["n_level"]),
                percent(row["determined"]),
                percent(row["shown"]),
                " / ".join(percent(row[name]) for name in ("deviation", "retest")),
            ]
        )
    return header, rows


def _signed(value: float) -> str:
    return f"{100 * value:+.2f} %"


def _plain(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:+.2f}"


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-4 else "< 0.0001"
