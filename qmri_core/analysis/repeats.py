"""What repeated scans of the same people say of a measurement: agreement, limits, and where variance comes from."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

MOST_SESSIONS = 300
"""Sessions of which variance components are taken, at most; the model's matrices grow with their square."""
COVERAGE = 1.96 * math.sqrt(2)
"""From the standard deviation of one measurement to what 95 % of differences between two stay within."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Icc:
    """ICC(2,1): absolute agreement of one measurement each by several raters, two-way random; with its interval."""

    icc: float
    low: float
    high: float
    n_people: int
    n_raters: int


def icc_2_1(table: pd.DataFrame, confidence: float = 0.95) -> Icc:
    """Intraclass correlation of people (rows) over raters, such as scanners (columns); rows that lack one are left out.

    Shrout and Fleiss 1979, Psychol Bull 86:420, case 2; the interval of McGraw and Wong 1996, Psychol Methods 1:30. NaN
    with fewer than three people or two raters.
    """
    complete = table.dropna()
    n, k = complete.shape
    if n < 3 or k < 2:
        return Icc(icc=math.nan, low=math.nan, high=math.nan, n_people=n, n_raters=k)
    values = complete.to_numpy(dtype=np.float64)
    of_people, of_raters, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
    people = k * float(((of_people - mean) ** 2).sum()) / (n - 1)  # mean squares of two ways without repeats
    raters = n * float(((of_raters - mean) ** 2).sum()) / (k - 1)
    left = values - of_people[:, None] - of_raters + mean
    error = float((left**2).sum()) / ((n - 1) * (k - 1))
    icc = (people - error) / (people + (k - 1) * error + k * (raters - error) / n)
    a, b = k * icc / (n * (1 - icc)), 1 + k * icc * (n - 1) / (n * (1 - icc))
    freedom = (a * raters + b * error) ** 2 / ((a * raters) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1)))
    tail = 0.5 + confidence / 2
    upper, lower = stats.f.ppf(tail, n - 1, freedom), stats.f.ppf(tail, freedom, n - 1)
    rest = k * raters + (k * n - k - n) * error
    return Icc(
        icc=icc,
        low=float(n * (people - upper * error) / (upper * rest + n * people)),
        high=float(n * (lower * people - error) / (rest + n * lower * people)),
        n_people=n,
        n_raters=k,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of agreement: the mean difference, with its interval, and within what 95 % of differences lie."""

    n: int
    mean: float
    mean_low: float
    mean_high: float
    low: float
    high: float


def limits_of_agreement(first: ArrayLike, second: ArrayLike) -> Limits:
    """Bland and Altman 1986, Lancet 327:307, of ``second - first``; NaN with fewer than three pairs."""
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    differences = differences[np.isfinite(differences)]
    n = differences.size
    if n < 3:
        return Limits(n=n, **dict.fromkeys(("mean", "mean_low", "mean_high", "low", "high"), math.nan))
    mean, sd = float(differences.mean()), float(differences.std(ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return Limits(
        n=n, mean=mean, mean_low=mean - half, mean_high=mean + half, low=mean - 1.96 * sd, high=mean + 1.96 * sd
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """Standard deviations of logs between people, scanners and visits, and of the rest; NaN where nothing tells one.

    Without two scans at one visit, visits are part of the rest; without people on several scanners, nobody tells
    scanners from people. ``repeatability`` and ``reproducibility``: within what 95 % of differences between two scans
    of a person on one scanner, and on two, stay.
    """

    person: float
    scanner: float
    visit: float
    rest: float
    n_people: int
    n_sessions: int

    @property
    def repeatability(self) -> float:
        """On one scanner, at two visits."""
        return COVERAGE * math.hypot(self.rest, 0.0 if math.isnan(self.visit) else self.visit)

    @property
    def reproducibility(self) -> float:
        """On two scanners, at two visits; NaN where nobody was on two."""
        return math.hypot(self.repeatability, COVERAGE * self.scanner)

    def shares(self) -> dict[str, float]:
        """Shares of the variance, by part."""
        parts = {name: getattr(self, name) ** 2 for name in ("person", "scanner", "visit", "rest")}
        total = sum(value for value in parts.values() if not math.isnan(value))
        return {name: value / total if total > 0 else math.nan for name, value in parts.items()}


def variance_components(frame: pd.DataFrame) -> Components:
    """Of logs of values of people with repeats, given age and sex where these are known: a mixed model (REML).

    Parameters
    ----------
    frame
        One row per session, with the columns ``value``, ``person``, ``label`` (scanner), ``day``, ``age`` and ``sex``.
        Of many sessions `MOST_SESSIONS` are taken, of whole people, in the order of their pseudonyms.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM

    rows = _with_repeats(frame)
    n_people = rows["person"].nunique()
    if n_people < 3:
        return Components(
            **dict.fromkeys(("person", "scanner", "visit", "rest"), math.nan), n_people=n_people, n_sessions=len(rows)
        )
    logs = np.log(rows["value"].to_numpy(dtype=np.float64))
    unit = float(logs.std()) or 1.0
    data = rows.assign(y=(logs - logs.mean()) / unit, one=1, visit=rows["person"] + rows["day"].astype(str))
    parts = {"person": "0 + C(person)"}
    if rows.groupby("person")["label"].nunique().max() > 1:
        parts["scanner"] = "0 + C(label)"
    at_one_visit = data.groupby("visit").size()
    if at_one_visit.max() > 1 and data.groupby("person")["visit"].nunique().max() > 1:
        parts["visit"] = "0 + C(visit)"
    fixed = [name for name in ("age", "sex") if rows[name].nunique() > 1 and not rows[name].isna().any()]
    formula = "y ~ " + (" + ".join(name if name == "age" else "C(sex)" for name in fixed) or "1")
    model = MixedLM.from_formula(formula, data, groups="one", re_formula="0", vc_formula=parts)
    # it is for errors of variances alone, which nobody asks for here, and cannot be had at a variance of 0
    model.hessian = lambda _: (-np.eye(model.k_fe + model.k_re2 + model.k_vc), False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of variances at their bound of 0
        fitted = model.fit(reml=True, method=["lbfgs", "powell"])
    found = dict(zip(sorted(parts), np.asarray(fitted.vcomp, dtype=np.float64), strict=True))
    sds = {
        name: unit * math.sqrt(max(found[name], 0.0)) if name in found else math.nan
        for name in ("person", "scanner", "visit")
    }
    return Components(**sds, rest=unit * math.sqrt(float(fitted.scale)), n_people=n_people, n_sessions=len(rows))


def _with_repeats(frame: pd.DataFrame) -> pd.DataFrame:
    """Sessions of people who have several, as many whole people as `MOST_SESSIONS` allows."""
    rows = frame[frame["value"] > 0]
    rows = rows[rows.groupby("person")["value"].transform("size") > 1].sort_values(["person", "day"])
    before = rows.groupby("person").size().cumsum()
    return rows[rows["person"].isin(before[before <= MOST_SESSIONS].index)].reset_index(drop=True)
