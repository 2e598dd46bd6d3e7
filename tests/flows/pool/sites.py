"""Hospitals as stores of signals alone, drawn together so that some people are at several of them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qmri_core import versions
from qmri_core.calibration.session_model import observations
from qmri_core.series.acquisition import Contrast
from qmri_core.series.geometry import Grid
from qmri_core.simulation.clinics import DrawnGroup, draw_clinics
from qmri_core.tissues import MEMBERS
from storage.pseudonyms import pseudonym
from storage.store.acquisitions import acquisition_values
from storage.store.cohort import Cohort, Placement, begin_append, commit, write_arrays, writing
from tests.storage.cohorts import row

GRID = Grid(shape=(1, 2, 2), spacing=(2.0, 2.0, 3.0))
VOLUME = np.ones(GRID.shape, dtype=np.float32)
"""Nobody's images: levels rest on signals alone."""
N_SITES = 3
"""With one group each: a group costs the store a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hospital:
    """A store, its linkage table, and the identities that both rest on."""

    store: str
    linkage: Path

    @property
    def cohort(self) -> Cohort:
        return Cohort.open(self.store)


def drawn_groups() -> list[DrawnGroup]:
    """Of each site one; every other person is at two."""
    return draw_clinics(sessions=33, groups=N_SITES, seed=11, repeated=0.5)


def hospital(
    folder: Path,
    drawn: Mapping[int, DrawnGroup],
    *,
    key: bytes,
) -> Hospital:
    """A store of some of the drawn groups, whose patients have the identifiers of `patient`."""
    placements, values, rows, links = [], {}, [], []
    for number, group in drawn.items():
        place = f"siemens-prisma-3t-{number:06x}/t1w-mprage-tr2300_2.0x2.0x3.0mm-{number:04x}"
        for visit, person in enumerate(group.people):
            identity = patient(person)
            session = pseudonym(key, "session", identity, f"1.2.840.{number}.{visit}")
            scanner, protocol = place.split("/")
            placements.append(Placement(session=session, scanner=scanner, protocol=protocol, grid=GRID))
            values[session] = {
                "age": min(float(group.ages[visit]), 90.0),
                "sex": "F" if group.sexes[visit] > 0 else "M",
                "magnetic_field_strength": 3.0,
                **signals(group, visit),
            }
            rows.append(
                row(
                    session,
                    person=pseudonym(key, "person", identity),
                    contrasts="T1w,T2w,FLAIR",
                    preprocessing_version=str(versions.PREPROCESSING),
                )
            )
            links.append((session, identity, "1.2.840", f"archive/{identity}"))
    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder / "store", create=True) as repository:
        wave = begin_append(repository, placements)
        fork = wave.session.fork()
        for slot in wave.slots.values():
            fork = write_arrays(fork, slot, {**dict.fromkeys(("T1w", "T2w", "FLAIR"), VOLUME), "affine": np.eye(4)})
        commit(repository, wave, [fork], values=values, rows=rows, message=f"Ingest {len(rows)} sessions")
    with (folder / "linkage.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("session", "patient_id", "study_instance_uid", "path"), *links])
    return Hospital(store=str(folder / "store"), linkage=folder / "linkage.csv")


def patient(person: str) -> str:
    """Identifier of a drawn person in the hospital's files."""
    return f"NHS-{7_000_000 + int(person[1:])}"


def signals(group: DrawnGroup, visit: int) -> dict[str, object]:
    """Values of a session as the store has them."""
    result: dict[str, object] = {}
    for contrast in Contrast:
        result |= acquisition_values(group.acquisitions[contrast])
        result |= {f"{contrast}_{member}_signal": np.nan for member in MEMBERS.values()}
    for (contrast, tissue), log in zip(observations(group.acquisitions), group.logs[visit], strict=True):
        result[f"{contrast}_{MEMBERS[tissue]}_signal"] = float(np.exp(log))
    return result
