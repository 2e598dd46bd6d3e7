"""What a comparison of thousands of sessions takes, for each region and map."""

from __future__ import annotations

import os
import time

import numpy as np
import pandas as pd
import pytest

from flows.analysis.compare import compare_table
from tests.qmri_core.analysis.people import people

N_SESSIONS, N_GROUPS, N_QUANTITIES = map(int, os.environ.get("COMPARISON", "4121,100,6").split(","))
LIMIT = 3.0
"""Seconds of a processor for a region and map."""


@pytest.mark.bench
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("visits", [1, 2, 3])
def test_a_comparison_takes_seconds_for_each_region_and_map(visits: int) -> None:
    """Prints processor time for each of some regions, and what 138 would take."""
    n_people = -(-N_SESSIONS // visits)
    tables = [
        people(np.random.default_rng(number), n_people=n_people, n_groups=N_GROUPS, visits=visits, effect=0.02)
        .iloc[:N_SESSIONS]
        .assign(region=f"region-{number}", map="T1map", determined=0.9, deviation=0.02)
        for number in range(N_QUANTITIES)
    ]
    values = pd.concat(tables, ignore_index=True).rename(columns={"group": "label"})
    began = time.process_time()
    result = compare_table(values, "factor", ["age", "sex"], reference="control")
    each = (time.process_time() - began) / N_QUANTITIES
    print(f"\n{visits} visits: {each:.2f} s for each of {N_QUANTITIES}; 138: {138 * each:.0f} s", end="", flush=True)
    assert len(result.table) == N_QUANTITIES
    assert each < LIMIT
