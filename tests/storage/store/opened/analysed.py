"""A store of a few people with values of tissues, as `qmri aggregate` leaves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from qmri_core.tissues import MAPS, TISSUES
from storage.store.opened.values import STATISTICS
from storage.store.repository import writing
from storage.store.tables import write_table
from storage.store.waves import begin_append, begin_update, commit, write_arrays
from tests.storage.cohorts import GROUP, images, maps, placement, row

OTHER = "scanner-b/protocol-1_2.0x2.0x3.0mm"
PEOPLE = {
    "ses-1": {"person": "sub-1", "age": 30.0, "sex": "F", "day": 0.0, "group": GROUP},
    "ses-2": {"person": "sub-1", "age": 31.0, "sex": "F", "day": 365.0, "group": OTHER},
    "ses-3": {"person": "sub-2", "age": 65.0, "sex": "F", "day": 0.0, "group": GROUP},
    "ses-4": {"person": "sub-3", "age": 70.0, "sex": "M", "day": 0.0, "group": OTHER},
    "ses-5": {"person": "sub-4", "age": float("nan"), "sex": "", "day": 0.0, "group": OTHER},
}
"""The last one has no maps."""


def value_of(session: str, tissue: str, name: str) -> float:
    return 1.0 + int(session[-1]) / 10 + TISSUES[tissue] + 10 * MAPS.index(name)


def make_store(location: Path) -> Path:
    with writing(location, create=True) as repository:
        wave = begin_append(repository, [placement(name, str(of["group"])) for name, of in PEOPLE.items()])
        forks = [write_arrays(wave.session.fork(), wave.slots[name], images(name)) for name in PEOPLE]
        values = {name: {"age": of["age"], "sex": of["sex"], "day": of["day"]} for name, of in PEOPLE.items()}
        rows = [row(name, person=of["person"]) for name, of in PEOPLE.items()]
        commit(repository, wave, forks, values=values, rows=rows, message="Ingest", metadata={})
    mapped = list(PEOPLE)[:-1]
    with writing(location) as repository:
        update = begin_update(repository, mapped)
        forks = [write_arrays(update.session.fork(), slot, maps(name)) for name, slot in update.slots.items()]
        rows = [row(name, checkpoint_digest="c0ffee") for name in update.slots]
        commit(repository, update, forks, values={}, rows=rows, message="Infer", metadata={})
    keys = [(session, tissue, name) for session in mapped for name in MAPS for tissue in TISSUES]
    columns: dict[str, list[object]] = {
        "session": [key[0] for key in keys],
        "group": [str(PEOPLE[key[0]]["group"]) for key in keys],
        "tissue": [key[1] for key in keys],
        "map": [key[2] for key in keys],
        **{name: [value_of(*key) for key in keys] for name in STATISTICS},
        "made_with": ["x"] * len(keys),
        "determined": [0.25 if key[1:] == ("WM", "T1map") else float("nan") for key in keys],
        "deviation": [0.5 if key[1:] == ("WM", "T1map") else float("nan") for key in keys],
    }
    with writing(location) as repository:
        data = {name: ("row", np.asarray(values)) for name, values in columns.items()}
        write_table(repository, "statistics", xr.Dataset(data), message="Aggregate")
    return location
