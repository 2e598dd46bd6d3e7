"""Which sessions of a store an export takes, and why it leaves out the others."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storage.store.cohort import Cohort
from storage.store.decisions.codes import Verdict
from storage.store.decisions.effect import Judged, LeftOut, judge, verdict_on
from storage.store.repository import StoreError

Record = Mapping[str, Any]
"""A session as `Cohort.sessions` has it: one value per variable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What of a store is exported. Empty names: all."""

    sessions: Collection[str] = ()
    """Pseudonyms of sessions."""
    groups: Collection[str] = ()
    """Labels or keys of groups."""
    accepted: bool = False
    """Only sessions that a person has accepted, by themselves or with their group."""
    images: bool = False
    """The aligned images as well, where the export knows them."""
    zeros: bool = False
    """What is not computed, as outside of the brain, is 0, not NaN: for programs that know no NaN."""

    def content(self, cohort: Cohort, *more: object) -> str:
        """What an export of the cohort at its snapshot holds, to the byte, as an identifier."""
        asked = {**asdict(self), "sessions": sorted(self.sessions), "groups": sorted(self.groups)}
        said = json.dumps([version("qmri-cohort"), cohort.session.snapshot_id, asked, *map(str, more)])
        return hashlib.sha256(said.encode()).hexdigest()

    def filled(self, array: NDArray[np.floating]) -> NDArray[np.floating]:
        """Values of a map as they are exported."""
        return np.nan_to_num(array, nan=0.0) if self.zeros else array


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export has written, and what not."""

    sessions: int
    left_out: Mapping[str, int]
    """Number of selected sessions by the reason why they are not in it."""
    chosen: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """Sessions that were selected and count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Sessions that are selected, have maps and count, and the number of those left out, by reason."""

    records: list[Record]
    left_out: Counter[str]
    judgement: Judged

    @property
    def sessions(self) -> tuple[str, ...]:
        """Pseudonyms of those that are selected."""
        return tuple(str(record["session"]) for record in self.records)

    def obstacle(self, record: Record) -> str:
        """Why a session is not exported: a person's decision, else status and reason of the catalogue."""
        why = self.judgement.left_out.get(str(record["session"]))
        if why in {LeftOut.REJECTED, LeftOut.EXCLUDED}:
            return f"{why} by a person"
        return f"{record['status']}: {record['reason']}" if record["reason"] else "no maps yet"


def choose(cohort: Cohort, selection: Selection) -> Chosen:
    """Sessions to export; which count says `storage.store.decisions.effect.judge`.

    Raises
    ------
    StoreError
        If the selection names what the store does not have.
    """
    known = _records(_selected(cohort, cohort.sessions, selection))
    catalogue = _records(_selected(cohort, cohort.catalogue, selection))
    chosen = Chosen(records=[], left_out=Counter(), judgement=judge(cohort))
    count = [row for row in known if row["checkpoint_digest"] != "" and row["session"] not in chosen.judgement.left_out]
    for row in count:
        if selection.accepted and verdict_on(chosen.judgement, row["session"], row["group"]) is not Verdict.ACCEPT:
            chosen.left_out["not accepted by a person"] += 1
        else:
            chosen.records.append(row)
    inferred = {row["session"] for row in count}
    chosen.left_out.update(chosen.obstacle(row) for row in catalogue if row["session"] not in inferred)
    return chosen


def _records(table: pd.DataFrame) -> list[Record]:
    return [{str(k): v for k, v in row.items()} for row in table.to_dict(orient="records")]


def _selected(cohort: Cohort, table: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    keys = cohort.groups_by_name
    for kind, names, there in (
        ("session", selection.sessions, set(cohort.catalogue["session"])),
        ("group", selection.groups, set(keys)),
    ):
        if unknown := sorted(set(names) - there):
            raise StoreError(f"{unknown[0]}: the store has no such {kind}; `qmri status` and the catalogue list them")
    if selection.sessions:
        table = table[table["session"].isin(list(selection.sessions))]
    if selection.groups:
        table = table[table["group"].isin([keys[name] for name in selection.groups])]
    return table
