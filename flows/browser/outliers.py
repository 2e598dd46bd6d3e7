"""Sessions that are unlike their group: how far, by what, and in one sentence why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flows.browser.figure_list import Figure
from flows.browser.figures import Figures
from flows.tables.text import records
from qmri_core.series.remarks import kinds_of

SHOWN = 3.5
"""Robust deviations from which a figure is named (Iglewicz and Hoaglin 1993: modified z-scores above 3.5)."""
PER_MARK = 3.5
"""Deviations as which a mark, a contradiction in closure, or a scale or signal that is nobody's counts: as one figure
that is just named. Chosen, so that what was found by a check of its own is never below what is merely far off."""
TO_SIGMA = 1.4826
"""Of a normal distribution: standard deviation over median absolute deviation."""
SMALLEST = 1e-3
"""Smallest deviation that counts as one, relative to the median: figures that are all but equal have no outliers."""
POOLED_WEIGHT = 10.0
"""Sessions as which the deviation within all groups counts beside a group's own: few say little."""
NAMED = 3
"""Figures that a sentence names at most."""

_TELLING = {
    "scale_odd": "a scale is none of its group's",
    "signals_unlikely": "its signals are nobody's",
    "outside_model": "the model does not hold for it",
    "widened": "its stated deviations had to be widened",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    """A session, how far it is from its group, and why."""

    session: str
    label: str
    score: float
    distance: float
    sentence: str
    figures: tuple[str, ...] = ()


def distances(data: Figures) -> pd.DataFrame:
    """Robust deviations of every session from the median of its group, by figure; NaN where not known.

    The deviation is the root of the mean of two squares: the group's own median absolute one, weighted by its sessions
    that count, and that of all groups about their medians, weighted as `POOLED_WEIGHT` sessions. Sessions that do not
    count are compared with those that do.
    """
    names = [figure.name for figure in data.figures]
    rows = data.rows
    values = rows[names].astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = pd.DataFrame({name: _compared(values[name]) for name in names}, index=rows.index)
    is_counting = rows["counts"] if rows["counts"].any() else ~rows["counts"]
    counting = logs[is_counting.astype(bool)].reindex(logs.index)
    medians = counting.groupby(rows["group"]).transform("median")
    off = logs - medians
    counted_off = (counting - medians).abs()
    pooled = TO_SIGMA * counted_off.median()
    own = TO_SIGMA * counted_off.groupby(rows["group"]).transform("median")
    sizes = counting.groupby(rows["group"]).transform("count")
    variance = (sizes * own.fillna(0.0) ** 2 + POOLED_WEIGHT * pooled**2) / (sizes + POOLED_WEIGHT)
    scale: pd.DataFrame = (variance**0.5).clip(lower=SMALLEST)
    return off / scale


def outliers(data: Figures) -> list[Outlier]:
    """All stored sessions, the farthest first."""
    far = distances(data)
    values = far.to_numpy()
    titles = list(data.figures)
    result = []
    for place, row in enumerate(records(data.rows)):
        deviations = np.nan_to_num(values[place])
        order = np.argsort(-np.abs(deviations))
        named = [k for k in order[:NAMED] if abs(deviations[k]) >= SHOWN]
        found = evidence(row)
        distance = float(np.abs(deviations).max(initial=0.0))
        result.append(
            Outlier(
                session=str(row["session"]),
                label=str(row["label"]),
                score=round(distance + PER_MARK * len(found), 2),
                distance=round(distance, 2),
                sentence=_sentence(row, [(titles[k], float(deviations[k])) for k in named], found),
                figures=tuple(titles[k].name for k in named),
            )
        )
    return sorted(result, key=lambda one: (-one.score, one.session))


def evidence(row: dict[str, object]) -> list[str]:
    """What checks of their own have found of a session, beside its figures."""
    found = [f"marked {mark.replace('_', ' ')}" for mark in str(row["quality_marks"]).split(",") if mark]
    if row["status"] == "failed":
        found.append(f"failed: {str(row['reason']).replace('_', ' ')}")
    kinds = kinds_of([str(row["remarks"])])
    return [*found, *(words for kind, words in _TELLING.items() if kind in kinds)]


def _compared(values: pd.Series[float]) -> pd.Series[float]:
    """Logs of figures that are positive, since these differ by factors; others by their own mean size."""
    known = values.dropna()
    if len(known) and (known > 0).all():
        return pd.Series(np.log(values.to_numpy()), index=values.index)
    size = float(known.abs().mean()) if len(known) else 1.0
    return values / (size or 1.0)


def _sentence(row: dict[str, object], far: Sequence[tuple[Figure, float]], found: Sequence[str]) -> str:
    parts = [
        f"{figure.title} {_number(row[figure.name])}{' ' + figure.unit if figure.unit else ''} is {abs(off):.1f} "
        f"robust deviations {'above' if off > 0 else 'below'} its group"
        for figure, off in far
    ]
    text = "; ".join([*found, *parts])
    return (text[:1].upper() + text[1:] if text else "Nothing is far from its group") + "."


def _number(value: object) -> str:
    return f"{float(str(value)):.4g}"
