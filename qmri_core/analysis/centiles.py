"""Where a person's value lies among people of the same age and sex in the same group: within a cohort, no norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from qmri_core.analysis.design import independent_columns

FEWEST_PEOPLE = 20
"""People of known age and sex, at least; with fewer nothing is said."""
ENOUGH_FOR_SPLINES = 60
"""People from which age has a cubic spline of four knots at quantiles; with fewer a line."""
CENTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_NO_OTHERS = 1 - 1e-9
"""Leverage of a person without whom the model has no value for their group."""


class TooFewPeopleError(ValueError):
    """Too few people of known age and sex to say where another one lies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """Regressors of sessions, and which of them the model is fitted on: the first of each person."""

    rows: pd.DataFrame
    regressors: NDArray[np.float64]
    logs: NDArray[np.float64]
    is_first: NDArray[np.bool_]


def scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Where each session lies among the other people of the cohort, whoever it is of left out.

    Logs of values follow a spline of age, sex and the group, fitted on the first session of each person; what is left
    is normal with one standard deviation. ``z`` is what is left of a session over the standard error of its prediction
    from everybody else, by Student's t, as a normal deviate.

    Parameters
    ----------
    frame
        One row per session of one region and map, with the columns ``session``, ``value``, ``person``, ``label``,
        ``age``, ``sex``, ``day`` and ``deviation`` (of the measurement, in the unit of the value).

    Returns
    -------
    DataFrame
        By session: ``value``, ``expected``, ``centile``, ``z``, ``z_deviation`` (of the measurement alone; NaN where
        not known), ``n_people``. NaN where the group has nobody else.

    Raises
    ------
    TooFewPeopleError
        If fewer than `FEWEST_PEOPLE` people are of known age and sex.
    """
    model = _model_of(frame)
    residual, freedom, spread = _left_out(model)
    t = np.where(np.isfinite(residual), residual, np.nan)
    centile = stats.t.cdf(t, freedom)
    rows = model.rows
    expected = model.logs - residual * spread
    own = (rows["deviation"] / rows["value"]).to_numpy(dtype=np.float64)
    return pd.DataFrame(
        {
            "session": rows["session"],
            "value": rows["value"],
            "expected": np.exp(expected),
            "centile": centile,
            "z": normal_deviate(t, freedom),
            "z_deviation": own / spread,
            "n_people": rows["person"].nunique(),
        }
    )


def normal_deviate(t: NDArray[np.float64], freedom: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Normal deviates of the same tail as Student's t; far out too, where the centile is 1."""
    tail = stats.norm.isf(stats.t.sf(np.abs(t), freedom))
    return np.asarray(np.sign(t) * tail)


def age_and_sex(rows: pd.DataFrame, is_first: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Regressors of age (a spline from `ENOUGH_FOR_SPLINES` people on, else a line) and sex, shape (session, term).

    Parameters
    ----------
    rows
        One per session, with ``person``, ``age`` and ``sex``, which are all known.
    is_first
        Whether it is the first session of its person, of which the knots of the spline are taken.

    Raises
    ------
    TooFewPeopleError
        If fewer than `FEWEST_PEOPLE` people are there.
    """
    from sklearn.preprocessing import SplineTransformer

    n_people = rows["person"].nunique()
    if n_people < FEWEST_PEOPLE:
        raise TooFewPeopleError(
            f"{n_people} people of known age and sex, and {FEWEST_PEOPLE} are the fewest among which a place means much"
        )
    ages = rows[["age"]].to_numpy(dtype=np.float64)
    if n_people >= ENOUGH_FOR_SPLINES and rows.loc[is_first, "age"].nunique() >= 8:
        spline = SplineTransformer(n_knots=4, degree=3, knots="quantile", extrapolation="linear", include_bias=False)
        of_age = spline.fit(ages[is_first]).transform(ages)
    else:
        of_age = (ages - ages.mean()) / (ages.std() or 1.0)
    return np.column_stack([of_age, (rows["sex"] == "F").to_numpy(dtype=np.float64)])


def _model_of(frame: pd.DataFrame) -> _Model:
    rows = frame[(frame["value"] > 0) & frame["age"].notna() & frame["sex"].isin(["F", "M"])]
    rows = rows.sort_values(["person", "day", "session"], ignore_index=True)
    is_first = ~rows["person"].duplicated().to_numpy()
    people = age_and_sex(rows, is_first)
    groups = pd.get_dummies(rows["label"].astype(str), dtype=float).to_numpy()[:, 1:]
    regressors = np.column_stack([np.ones(len(rows)), people, groups])
    return _Model(
        rows=rows,
        regressors=regressors[:, independent_columns(regressors[is_first])],  # groups of later visits alone go
        logs=np.log(rows["value"].to_numpy(dtype=np.float64)),
        is_first=is_first,
    )


def _left_out(model: _Model) -> tuple[NDArray[np.float64], float, float]:
    """What is left of each session over its standard error, from everybody else; degrees of freedom; the spread."""
    import statsmodels.api as sm

    fitted = sm.OLS(model.logs[model.is_first], model.regressors[model.is_first]).fit()
    influence = fitted.get_influence()
    result = np.full(len(model.logs), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        inner = influence.resid_studentized_internal
        freedom = fitted.df_resid
        outer = inner * np.sqrt((freedom - 1) / np.clip(freedom - inner**2, 1e-12, None))  # everybody else's spread
        result[model.is_first] = np.where(influence.hat_matrix_diag < _NO_OTHERS, outer, np.nan)
    result[~model.is_first] = _later(model, fitted)
    return result, float(fitted.df_resid - 1), float(np.sqrt(fitted.scale))


def _later(model: _Model, fitted: Any) -> NDArray[np.float64]:  # noqa: ANN401 - statsmodels' results
    """The same of later visits, from the fit without the first one of the same person (Sherman and Morrison)."""
    regressors, later = model.regressors[model.is_first], model.regressors[~model.is_first]
    inverse = fitted.normalized_cov_params
    place = {person: number for number, person in enumerate(model.rows.loc[model.is_first, "person"])}
    own = np.asarray([place[person] for person in model.rows.loc[~model.is_first, "person"]], dtype=np.intp)
    first, residual = regressors[own], fitted.resid[own]
    with np.errstate(invalid="ignore", divide="ignore"):
        beside = 1 - ((first @ inverse) * first).sum(axis=1)
        beside[beside < 1 - _NO_OTHERS] = np.nan
        shared = ((later @ inverse) * first).sum(axis=1)
        predicted = later @ fitted.params - shared * residual / beside
        variance = (fitted.ssr - residual**2 / beside) / (fitted.df_resid - 1)
        spread = 1 + ((later @ inverse) * later).sum(axis=1) + shared**2 / beside
        return np.asarray((model.logs[~model.is_first] - predicted) / np.sqrt(variance * spread))


def curves(frame: pd.DataFrame, ages: NDArray[np.float64]) -> pd.DataFrame:
    """Centiles of values by age, for women and men of the average group.

    Parameters
    ----------
    frame
        As for `scores`.
    ages
        At which to say them; those beyond the people's are left out.

    Returns
    -------
    DataFrame
        Columns ``sex``, ``age``, and one for each of `CENTILES`.

    Raises
    ------
    TooFewPeopleError
        As `scores`.
    """
    known = frame[frame["age"].notna() & frame["sex"].isin(["F", "M"]) & (frame["value"] > 0)]
    ages = ages[(ages >= known["age"].min()) & (ages <= known["age"].max())]
    centred = np.log(known["value"]) - np.log(known["value"]).groupby(known["label"]).transform("mean")
    level = float(np.log(known["value"]).groupby(known["label"]).mean().mean())
    pooled = known.assign(value=np.exp(centred + level), label="all")
    asked = [
        {
            "session": "",
            "person": f"asked-{sex}-{age}",
            "label": "all",
            "sex": sex,
            "age": age,
            "day": 0.0,
            "value": 1.0,
        }
        for sex in ("F", "M")
        for age in ages
    ]
    model = _model_of(pd.concat([pooled, pd.DataFrame(asked).assign(deviation=np.nan)], ignore_index=True))
    return _of_model(model)


def _of_model(model: _Model) -> pd.DataFrame:
    import statsmodels.api as sm

    is_asked = model.rows["person"].str.startswith("asked-").to_numpy()
    used = model.is_first & ~is_asked
    fitted = sm.OLS(model.logs[used], model.regressors[used]).fit()
    predicted = fitted.get_prediction(model.regressors[is_asked])
    table = model.rows.loc[is_asked, ["sex", "age"]].reset_index(drop=True)
    for centile in CENTILES:
        far = stats.t.ppf(centile, fitted.df_resid)
        table[centile] = np.exp(predicted.predicted_mean + far * predicted.se_obs)
    return table.sort_values(["sex", "age"], ignore_index=True)
