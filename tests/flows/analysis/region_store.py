"""A store of many people whose values of tissues and regions are drawn anew for each study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from storage.store.cohort import Cohort, latest
from storage.store.opened.values import MOST_STRETCH, STATISTICS, TEMPLATE
from storage.store.repository import writing
from storage.store.tables import write_table
from storage.store.waves import begin_append, commit, write_arrays
from tests.storage.cohorts import images, placement, row

GROUPS = ("scanner-a/mprage_2.0x2.0x3.0mm", "scanner-b/spinecho_2.0x2.0x3.0mm", "scanner-c/mprage-short_2.0x2.0x3.0mm")
"""Of different scanners and protocols."""
SHARES = (0.2, 0.5, 0.8)
"""Of each group that are patients."""
USUAL = {"T1map": 1.0, "T2map": 0.08}
"""Seconds."""
TISSUES, NUCLEI = ("WM", "GM"), ("thalamus_L", "putamen_L", "putamen_R")
BETWEEN, WITHIN, BETWEEN_GROUPS, PER_YEAR = 0.04, 0.02, 0.1, 0.001
"""Standard deviations of logs between people, visits and groups; change of logs per year of age."""

Quantity = tuple[str, str]
"""Region and map."""
QUANTITIES: tuple[Quantity, ...] = tuple((region, name) for name in USUAL for region in (*TISSUES, *NUCLEI))


def make_people(location: Path, rng: np.random.Generator, n_people: int) -> pd.DataFrame:
    """Store people with a session each that has maps; returns their sessions, with person, group, age and sex."""
    number = np.arange(n_people)
    people = pd.DataFrame(
        {
            "session": [f"ses-{k}" for k in number],
            "person": [f"sub-{k}" for k in number],
            "group": np.asarray(GROUPS)[number % len(GROUPS)],
            "age": rng.uniform(20, 80, n_people),
            "sex": rng.choice(["F", "M"], n_people),
        }
    )
    with writing(location, create=True) as repository:
        wave = begin_append(
            repository, [placement(*names) for names in people[["session", "group"]].itertuples(index=False)]
        )
        fork = wave.session.fork()
        for session, slot in wave.slots.items():
            fork = write_arrays(fork, slot, images(session))
        values = {each["session"]: {"age": each["age"], "sex": each["sex"]} for each in people.to_dict("records")}
        rows = [
            row(each["session"], person=each["person"], checkpoint_digest="c0ffee")
            for each in people.to_dict("records")
        ]
        commit(repository, wave, [fork], values=values, rows=rows, message="Ingest", metadata={})
    return people


def draw_patients(rng: np.random.Generator, people: pd.DataFrame) -> NDArray[np.bool_]:
    """Half of the people, but 20, 50 and 80 % of the three groups, as where one hospital sends more."""
    is_patient = np.zeros(len(people), dtype=np.bool_)
    for group, share in zip(GROUPS, SHARES, strict=True):
        members = np.flatnonzero(people["group"] == group)
        is_patient[rng.choice(members, round(share * len(members)), replace=False)] = True
    return is_patient


def draw_values(
    rng: np.random.Generator, people: pd.DataFrame, is_patient: NDArray[np.bool_], effects: Mapping[Quantity, float]
) -> pd.DataFrame:
    """Values (session, quantity) in seconds: those of patients are ``1 + effect`` times what they would be."""
    levels = BETWEEN_GROUPS * rng.standard_normal((len(GROUPS), len(QUANTITIES)))
    logs = levels[pd.factorize(people["group"])[0]]
    logs = logs + np.hypot(BETWEEN, WITHIN) * rng.standard_normal(logs.shape)
    logs += PER_YEAR * (people["age"].to_numpy()[:, None] - 50)
    logs += is_patient[:, None] * np.log1p([effects.get(quantity, 0.0) for quantity in QUANTITIES])
    usual = [USUAL[name] for _, name in QUANTITIES]
    columns = pd.MultiIndex.from_tuples(QUANTITIES, names=["region", "map"])
    return pd.DataFrame(usual * np.exp(logs), index=people["session"], columns=columns)


def store_values(
    location: Path, people: pd.DataFrame, values: pd.DataFrame, *, unbelieved: Sequence[str] = ()
) -> Cohort:
    """Leave ``/statistics`` and ``/regions`` as `qmri aggregate` and `qmri regions` do: values are the modes.

    To the sessions ``unbelieved`` the template was not fitted: their nuclei are ten times what they should be.
    """
    table = values.stack(["region", "map"], future_stack=True).rename("mode").reset_index()
    table = table.merge(people[["session", "group"]], on="session")
    for name in STATISTICS:
        table[name] = table["mode"] if name == "mode" else 2.0
    table["made_with"] = "x"
    is_tissue = table["region"].isin(TISSUES)
    regions = table[~is_tissue].copy()
    is_unfit = regions["session"].isin(unbelieved)
    regions["mode"] *= np.where(is_unfit, 10.0, 1.0)
    regions["stretch"] = np.where(is_unfit, MOST_STRETCH + 0.1, 0.3)
    regions = regions.assign(stated_sd=0.1, overlap=0.8, placed=0.7, atlas=TEMPLATE)
    tissues = table[is_tissue].rename(columns={"region": "tissue"}).assign(determined=0.8, deviation=0.02)
    with writing(location) as repository:
        for node, rows in (("statistics", tissues), ("regions", regions)):
            data = xr.Dataset({name: ("row", rows[name].to_numpy()) for name in rows.columns})
            write_table(repository, node, data, message="Measure")
    return latest(location)
