"""ComBat beside comparisons within groups: what becomes of differences between groups, and of an effect.

ComBat is that of neuroCombat (Johnson et al. 2007, Biostatistics 8:118; Fortin et al. 2018, NeuroImage 167:104).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout

import numpy as np
import pandas as pd
from numpy.typing import NDArray

AS_STORED, WITHIN, COMBAT, COMBAT_TOLD = "as stored", "within groups", "ComBat", "ComBat, told of the effect"
SMALLEST_GROUP = 3
"""Sessions of a group, at least, for ComBat to know its variance."""
MOST_TERMS = 0.5
"""Terms of ComBat's model over sessions, at most."""


def is_possible(groups: pd.Series, covariates: pd.DataFrame) -> bool:
    """Whether ComBat can tell groups and covariates from each other, by enough sessions."""
    terms = np.column_stack(
        [
            pd.get_dummies(groups, dtype=float).to_numpy(),
            pd.get_dummies(covariates, dtype=float, drop_first=True).to_numpy(dtype=np.float64),
        ]
    )
    n, k = terms.shape
    return bool(k <= MOST_TERMS * n and np.linalg.matrix_rank(terms) == k)


def combat(logs: pd.DataFrame, groups: pd.Series, covariates: pd.DataFrame) -> pd.DataFrame:
    """Logs of values (session, quantity) without differences between groups in mean and variance, by ComBat.

    Parameters
    ----------
    groups
        Of each session; all of at least `SMALLEST_GROUP`.
    covariates
        What is to be kept, by session: numbers as such, everything else in levels; nothing missing.
    """
    from neuroCombat import neuroCombat

    numbers = [name for name in covariates if pd.api.types.is_numeric_dtype(covariates[name])]
    levels = [name for name in covariates if name not in numbers]
    table = covariates.astype(dict.fromkeys(levels, object)).assign(batch=pd.factorize(groups)[0])
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = neuroCombat(
            dat=logs.to_numpy().T, covars=table, batch_col="batch", categorical_cols=levels, continuous_cols=numbers
        )
    return pd.DataFrame(found["data"].T, index=logs.index, columns=logs.columns)


def variation_between(logs: pd.DataFrame, groups: pd.Series) -> pd.Series:
    """Standard deviation over groups (ddof 1) of the means of logs, by quantity."""
    return logs.groupby(groups.to_numpy()).mean().std(ddof=1)


def planted_effects(
    logs: pd.DataFrame,
    groups: pd.Series,
    people: pd.Series,
    covariates: pd.DataFrame,
    *,
    effect: float = 0.05,
    repetitions: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """What becomes of an effect that is added to the values of half of the people, drawn anew each time.

    Drawn whatever the group (``even``), and leaning on it (``leaning``): four of five in one half of the groups, one of
    five in the other, as where one hospital sends more patients.

    Returns
    -------
    DataFrame
        One row per way of drawing and method: ``recovered``, the share of the effect that is found, mean over
        quantities and repetitions, and its standard deviation over repetitions, ``scatter``.
    """
    rng = np.random.default_rng(seed)
    names = pd.unique(people)
    group_of = dict(zip(people, pd.factorize(groups)[0], strict=True))
    rows = []
    for drawn in ("even", "leaning"):
        found: dict[str, list[float]] = {}
        for _ in range(repetitions):
            shares = [0.5 if drawn == "even" else 0.8 if group_of[name] % 2 == 0 else 0.2 for name in names]
            is_patient = dict(zip(names, rng.random(len(names)) < np.asarray(shares), strict=True))
            patient = people.map(is_patient).to_numpy(dtype=np.float64)
            if not is_possible(groups, covariates.assign(patient=patient)):
                continue
            planted = logs.add(np.log1p(effect) * patient, axis=0)
            for method, estimate in _estimates(planted, groups, covariates, patient).items():
                found.setdefault(method, []).append(float(estimate.mean() / np.log1p(effect)))
        rows += [
            {
                "drawn": drawn,
                "method": method,
                "recovered": float(np.mean(each)),
                "scatter": float(np.std(each, ddof=1)),
            }
            for method, each in found.items()
        ]
    return pd.DataFrame(rows, columns=["drawn", "method", "recovered", "scatter"])


def _estimates(
    logs: pd.DataFrame, groups: pd.Series, covariates: pd.DataFrame, patient: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Difference of logs between patients and others by each method, by quantity."""
    told = covariates.assign(patient=np.where(patient > 0, "yes", "no"))
    dummies = pd.get_dummies(groups, dtype=float).to_numpy()[:, 1:]
    none = np.empty((len(logs), 0))
    ways: Sequence[tuple[str, Callable[[], pd.DataFrame], NDArray[np.float64]]] = (
        (AS_STORED, lambda: logs, none),
        (WITHIN, lambda: logs, dummies),
        (COMBAT, lambda: combat(logs, groups, covariates), none),
        (COMBAT_TOLD, lambda: combat(logs, groups, told), none),
    )
    fixed = pd.get_dummies(covariates, dtype=float, drop_first=True).to_numpy(dtype=np.float64)
    result = {}
    for method, values, more in ways:
        regressors = np.column_stack([np.ones(len(logs)), patient, fixed, more])
        result[method] = np.linalg.lstsq(regressors, values().to_numpy(), rcond=None)[0][1]
    return result
