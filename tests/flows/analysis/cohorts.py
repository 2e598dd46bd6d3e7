"""Values of a simulated cohort as `flows.analysis.values.values_table` has them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tests.qmri_core.analysis.people import people

QUANTITIES = {("WM", "T1map"): 0.3, ("GM", "T1map"): 0.8, ("WM", "T2map"): 0.9, ("GM", "T2map"): 0.7}
"""Share that signals determine of each."""


def values(
    rng: np.random.Generator, effects: dict[tuple[str, str], float] | None = None, **options: int
) -> pd.DataFrame:
    """One row per session, region and map, of the same people; ``effects`` of patients by region and map."""
    state = rng.bit_generator.state
    tables = []
    for (region, name), determined in QUANTITIES.items():
        same = np.random.default_rng()
        same.bit_generator.state = state  # the same people, of the same age and group
        table = people(same, effect=0.0, **options)
        # own values: independent between quantities
        person = pd.Series(0.04 * rng.standard_normal(table["person"].nunique()), index=table["person"].unique())
        logs = table["person"].map(person) + 0.02 * rng.standard_normal(len(table))
        logs += np.log1p((effects or {}).get((region, name), 0.0)) * (table["factor"] == "patient")
        extra = {"region": region, "map": name, "determined": determined, "deviation": 0.02}
        tables.append(table.assign(value=np.exp(logs), **extra))
    result = pd.concat(tables, ignore_index=True).rename(columns={"group": "label"})
    visit = result.groupby(["person", "region", "map"]).cumcount()
    result["day"] = 365.0 * visit
    return result.assign(session=result["person"] + "-" + visit.astype(str), scanner=result["label"])
