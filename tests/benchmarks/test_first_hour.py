"""The analyst's first hour on 4,121 tiny sessions with regions: processor time of each step of its page."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from flows.analysis.compare import compare
from flows.analysis.harmonisation import harmonise
from flows.analysis.reference import reference
from flows.analysis.values import Asked
from flows.statistics.regions import COLUMNS
from qmri_core.analysis.regions import LOBES, NUCLEI
from qmri_core.tissues import MAPS
from storage.exports.tables import export_tables
from storage.store.cohort import Cohort, open_cohort, writing
from storage.store.opened.values import TEMPLATE
from storage.store.tables import write_table
from tests.benchmarks.many_sessions import write_many

N_SESSIONS, N_GROUPS = map(int, os.environ.get("HOUR", "4121,100").split(","))
LIMIT, LIMIT_OF_MILLIONS = 15.0, 30.0
"""Seconds of a processor for a step, and for one that goes through all statistics, of which there are millions."""
ASKED = ("WM", "thalamus_L")
"""Regions of the comparison; `tests/benchmarks/test_comparison.py` says what each one takes."""
REGIONS = (
    *(name if name == "brain_stem" else f"{name}_{side}" for name in NUCLEI.values() for side in "LR"),
    *(f"{lobe}_{part}_{side}" for lobe in (*LOBES, "cerebellum") for part in ("cortex", "white") for side in "LR"),
)


def add_regions(location: str) -> None:
    """Measure nothing, and write what `qmri regions` would have of every session."""
    rng, people = np.random.default_rng(6), Cohort.open(location).values_of(["person"])
    names = list(dict.fromkeys(REGIONS))
    keys = pd.MultiIndex.from_product([range(len(people)), names, MAPS], names=["place", "region", "map"])
    table = keys.to_frame(index=False)
    table["session"] = people["session"].to_numpy()[table["place"]]
    table["group"] = people["group"].to_numpy()[table["place"]]
    typical = table["map"].map({"T1map": 1.2, "T2map": 0.08, "PDmap": 0.8}).to_numpy()
    whose, what = pd.factorize(people["person"])[0][table["place"]], table.groupby(["region", "map"]).ngroup()
    between = 0.03 * rng.standard_normal((whose.max() + 1, what.max() + 1))
    value = typical * np.exp(between[whose, what] + 0.015 * rng.standard_normal(len(table)))
    for name in ("mean", "median", "mode", "q05", "q25", "q75", "q95"):
        table[name] = value
    table = table.assign(
        n=500, sd=0.02, stated_sd=0.03, overlap=0.8, stretch=0.3, placed=0.7, atlas=TEMPLATE, made_with="x"
    )
    with writing(location) as repository:
        data = {name: ("row", table[name].to_numpy()) for name in COLUMNS}
        write_table(repository, "regions", xr.Dataset(data), message="Regions", metadata={"run": "regions"})


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_each_step_of_the_first_hour_takes_seconds(tmp_path: Path) -> None:
    """Prints processor time; a minute or two to write the store, before."""
    store = write_many(tmp_path, n_sessions=N_SESSIONS, n_groups=N_GROUPS)
    add_regions(store)
    taken: dict[str, float] = {}

    def step(name: str, what: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = what()
        taken[name] = time.process_time() - began
        print(f"\n{name}: {taken[name]:.1f} s", end="", flush=True)
        return result

    cohort = step("open", lambda: open_cohort(store).qmri)
    step("repr", lambda: repr(cohort))
    step("groups", cohort.groups)
    people = step("people", cohort.people)
    step("table", cohort.table)
    grown = step("where", lambda: cohort.where("age >= 18 and sex in ['F', 'M']"))
    names = sorted(set(people["person"]))
    diagnosis = [
        "patient" if number // N_GROUPS % 2 else "control" for number in range(len(names))
    ]  # both in each group
    mine = pd.DataFrame({"person": names, "diagnosis": diagnosis})
    mine.to_csv(tmp_path / "mine.csv", index=False)
    joined = step("join", lambda: grown.join(mine).where("diagnosis == 'patient'"))
    step("wide", joined.wide)
    long = step("long, of one statistic", lambda: cohort.long("mode"))
    step("long, of all statistics", cohort.long)
    step("pairs", cohort.pairs)
    step("regions", lambda: long[long["region"] == "thalamus_L"])
    fresh = Cohort.open(store)
    asked = Asked(table=tmp_path / "mine.csv", regions=ASKED)
    step(f"compare, in {len(ASKED)} regions", lambda: compare(fresh, "diagnosis", ("age",), asked=asked))
    step("reference", lambda: reference(Cohort.open(store)))
    step("harmonisation", lambda: harmonise(Cohort.open(store)))
    step("export tables", lambda: export_tables(Cohort.open(store), tmp_path / "tables"))
    assert len(long) == len(people.index.intersection(long["session"])) * (len(set(REGIONS)) + 3) * len(MAPS)
    of_millions = {"long, of all statistics", "export tables"}
    limits = {name: LIMIT_OF_MILLIONS if name in of_millions else LIMIT for name in taken}
    assert {name: seconds for name, seconds in taken.items() if seconds > limits[name]} == {}
