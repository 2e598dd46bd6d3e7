"""Simulated values of people in groups of different protocols, with planted effects."""

from __future__ import annotations

import numpy as np
import pandas as pd

BETWEEN, WITHIN = 0.04, 0.02
"""Standard deviations of logs between people, and between visits of one."""
PER_YEAR = 0.001


def people(
    rng: np.random.Generator,
    *,
    n_people: int = 60,
    n_groups: int = 3,
    visits: int = 1,
    effect: float = 0.0,
    sex_effect: float = 0.02,
    within: float = WITHIN,
) -> pd.DataFrame:
    """One row per session: value, person, group, factor (patient or control), age and sex.

    Half of the people are patients, whose values are ``1 + effect`` times those of others, whatever their group.
    """
    number = np.arange(n_people)
    table = pd.DataFrame(
        {
            "person": [f"sub-{k}" for k in number],
            "group": [f"group-{k}" for k in number % n_groups],
            "factor": rng.permutation(np.where(number % 2 == 0, "patient", "control")),
            "age": rng.uniform(20, 80, n_people),
            "sex": rng.choice(["F", "M"], n_people),
        }
    )
    levels = 0.1 * rng.standard_normal(n_groups)
    logs = (
        levels[number % n_groups]
        + BETWEEN * rng.standard_normal(n_people)
        + PER_YEAR * (table["age"] - 50)
        + sex_effect * (table["sex"] == "F")
        + np.log1p(effect) * (table["factor"] == "patient")
    )
    table["value"] = logs
    rows = pd.concat([table] * visits, ignore_index=True)
    return rows.assign(value=np.exp(rows["value"] + within * rng.standard_normal(len(rows))))
