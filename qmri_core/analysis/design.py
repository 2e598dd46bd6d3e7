"""What a comparison is made of: the table of regressors, and the reasons why a question cannot be answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FEWEST_PEOPLE = 3
"""People of a level, at least."""
MOST_EXPLAINED = 0.9
"""Share of a factor's variance that the other columns explain, at most: a variance inflation of 10."""

_TOLD = 1e-9
"""Share of a column's length that others leave of it, below which they tell it."""


class ConfoundedError(ValueError):
    """A question that these data cannot answer, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Regressors of a comparison.

    ``frame``: rows that are complete, of ``value``, ``person``, ``group``, factor and covariates; ``places``: of them
    before. ``regressors``: a column of ones, the factor's, the covariates', and one for each group but the first.
    ``terms``: the factor's columns by what each is about: a level beside the reference, or a unit. ``explained``: the
    largest share of a term's variance that the other columns explain.
    """

    frame: pd.DataFrame
    places: NDArray[np.intp]
    regressors: pd.DataFrame
    terms: dict[str, str]
    reference: str
    explained: float


def design_of(
    frame: pd.DataFrame,
    factor: str,
    covariates: Sequence[str] = (),
    *,
    within_groups: bool = True,
    reference: str | None = None,
) -> Design:
    """Regressors of a factor beside covariates and, unless it is ``within_groups`` no more, groups.

    Parameters
    ----------
    frame
        One row per session, with the columns ``value``, ``person``, ``group``, factor and covariates. Rows that lack
        one are left out. Numbers are taken as such, by unit; everything else in levels.
    reference
        Level beside which the others stand; default: the most frequent one.

    Raises
    ------
    ConfoundedError
        If a level has too few people, or groups or covariates tell the factor.
    """
    names = list(dict.fromkeys(["value", "person", "group", factor, *covariates]))
    rows = frame[names].replace("", np.nan).assign(person=frame["person"], group=frame["group"])
    is_known = rows[["value", factor, *covariates]].notna().all(axis=1).to_numpy()
    rows = rows[is_known].reset_index(drop=True)
    levels, terms = _factor_columns(rows, factor, reference)
    ones = pd.DataFrame({"one": 1.0}, index=rows.index)
    others = pd.concat([ones, *(_covariate_columns(rows, name) for name in covariates)], axis=1)
    if within_groups:
        groups = _dummies(rows["group"], "group", drop=str(rows["group"].mode().iloc[0]))
        _check_groups(levels, groups, terms)
        others = pd.concat([others, groups], axis=1)
    explained = max(_explained(levels[column], others) for column in levels)
    if explained > MOST_EXPLAINED:
        what = " and ".join([*(["the groups"] if within_groups else []), *covariates])
        raise ConfoundedError(
            f"{factor} is confounded: {what} explain {explained:.0%} of it, so that its effect cannot be told from "
            "theirs; leave a covariate out, or take people in whom they differ"
        )
    regressors = pd.concat([ones, levels, others.drop(columns="one")], axis=1)
    if np.linalg.matrix_rank(regressors.to_numpy()) < regressors.shape[1]:
        regressors = _independent(regressors, [*terms])
    if len(rows) <= regressors.shape[1] + 1:
        raise ConfoundedError(f"{len(rows)} sessions are too few for {regressors.shape[1]} terms; use fewer covariates")
    chosen = "" if _is_number(rows[factor]) else _reference(rows[factor], reference)
    return Design(
        frame=rows,
        places=np.flatnonzero(is_known),
        regressors=regressors,
        terms=terms,
        reference=chosen,
        explained=explained,
    )


def _factor_columns(rows: pd.DataFrame, factor: str, reference: str | None) -> tuple[pd.DataFrame, dict[str, str]]:
    """Columns of the factor, and what each is about."""
    values = rows[factor]
    if _is_number(values):
        if values.nunique() < 2:
            raise ConfoundedError(f"{factor} has one value in all sessions that are left; there is nothing to compare")
        if rows["person"].nunique() < 2 * FEWEST_PEOPLE:
            raise ConfoundedError(f"{factor}: fewer than {2 * FEWEST_PEOPLE} people have a value of it")
        return pd.DataFrame({"factor": values.astype(float) - float(values.mean())}), {"factor": "per unit"}
    people = rows.groupby(values.astype(str))["person"].nunique()
    if len(people) < 2:
        there = f"only {people.index[0]}" if len(people) else "nothing"
        raise ConfoundedError(f"{factor}: there is {there} in the sessions that are left; there is nothing to compare")
    if (few := people[people < FEWEST_PEOPLE]).size:
        raise ConfoundedError(
            f"{factor}: {few.index[0]} has {few.iloc[0]} people, and {FEWEST_PEOPLE} are the fewest that are compared; "
            "choose levels with a condition (--where)"
        )
    columns = _dummies(values, "factor", drop=_reference(values, reference))
    return columns, {str(name): str(name).removeprefix("factor ") for name in columns}


def _reference(values: pd.Series, reference: str | None) -> str:
    counts = values.astype(str).value_counts()
    if reference is not None and reference not in counts:
        raise ConfoundedError(f"{reference} is no level of it; there are {', '.join(sorted(counts.index))}")
    most = sorted(counts[counts == counts.max()].index)[0]
    return str(most if reference is None else reference)


def _dummies(values: pd.Series, prefix: str, *, drop: str) -> pd.DataFrame:
    columns = pd.get_dummies(values.astype(str), dtype=float).drop(columns=drop)
    return columns.set_axis([f"{prefix} {name}" for name in columns], axis=1)


def _covariate_columns(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    values = rows[name]
    if _is_number(values):
        return pd.DataFrame({name: values.astype(float) - float(values.mean())})
    return _dummies(values, name, drop=str(values.astype(str).mode().iloc[0]))


def _is_number(values: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(values)) and not bool(pd.api.types.is_bool_dtype(values))


def _check_groups(levels: pd.DataFrame, groups: pd.DataFrame, terms: dict[str, str]) -> None:
    """Raise `ConfoundedError` where a level is that of whole groups."""
    with_ones = groups.assign(one=1.0)
    for column, term in terms.items():
        if _explained(levels[column], with_ones) > 1 - 1e-9:
            raise ConfoundedError(
                f"{term}: no group has people with and without it, so that a difference would be one of scanners and "
                "protocols, whose means calibration imposes; it takes people of both in one group"
            )


def _explained(column: pd.Series, others: pd.DataFrame) -> float:
    """Share of a column's variance about its mean that others, with a column of ones, explain."""
    total = float(((column - column.mean()) ** 2).sum())
    solution, *_ = np.linalg.lstsq(others.to_numpy(), column.to_numpy(), rcond=None)
    left = float(((column.to_numpy() - others.to_numpy() @ solution) ** 2).sum())
    return 1 - left / total if total > 0 else 1.0


def _independent(regressors: pd.DataFrame, first: Sequence[str]) -> pd.DataFrame:
    """Columns without those that others before them tell, those of the factor first."""
    order = ["one", *first, *(str(name) for name in regressors if name not in {"one", *first})]
    kept = independent_columns(regressors[order].to_numpy(dtype=np.float64))
    return regressors[[order[place] for place in kept]]


def independent_columns(matrix: NDArray[np.float64]) -> list[int]:
    """Places of the columns that those before them do not tell, by orthogonalising each against them."""
    basis = np.empty((matrix.shape[0], 0))
    kept: list[int] = []
    for place, column in enumerate(matrix.T):
        size = float(np.linalg.norm(column))
        rest = column / size if size > 0 else column
        for _ in range(2):  # once more takes away what rounding has left
            rest = rest - basis @ (basis.T @ rest)
        left = float(np.linalg.norm(rest))
        if left > _TOLD:
            kept.append(place)
            basis = np.column_stack([basis, rest / left])
    return kept
