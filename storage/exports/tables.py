"""Tables of a cohort for other tools: Parquet and CSV, with units, descriptions, a data dictionary and a datasheet."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from storage.exports.crate import write_crate
from storage.exports.datasheet import datasheet, model_card
from storage.exports.folder import new_folder
from storage.store.cohort import Cohort
from storage.store.decisions.effect import judge
from storage.store.opened.values import STATISTICS, counting, long_table, session_values
from storage.store.repository import snapshot_of
from storage.store.schema import PER_SESSION

TABLES = ("sessions", "values", "groups", "exclusions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table that travels: its type in words, CF unit (empty for texts and flags), and what it is."""

    table: str
    name: str
    type: str
    unit: str
    description: str


_SESSION = ("session", "", "pseudonym of the session")
_LABEL = ("label", "", "short name of the group: a scanner with a protocol")
_OWN: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "values": (
        _SESSION,
        _LABEL,
        ("region", "", "tissue that the value is of: WM white matter, GM grey matter, CSF cerebrospinal fluid"),
        ("map", "", "T1map, T2map or PDmap"),
        ("statistic", "", "n: voxels; mean, sd, median, quantiles q05 to q95; mode: where the values crowd"),
        ("value", "see unit", "value of the statistic"),
        ("unit", "", "unit of the value: s for T1 and T2; empty for PD, relative to CSF, and for n"),
        ("determined", "1", "share of what people differ by that the session's signals determine; empty: not known"),
        ("deviation", "see unit", "standard deviation of the measurement; empty: not known"),
    ),
    "groups": (
        _LABEL,
        ("group", "", "key of the group: scanner and protocol"),
        ("sessions", "1", "sessions that count"),
        ("people", "1", "people who are known, among them"),
    ),
    "exclusions": (
        ("status", "", "status of sessions in the catalogue"),
        ("reason", "", "why they are not complete, or what people have decided"),
        ("sessions", "1", "how many"),
        ("are_here", "", "whether they are in the tables of sessions and values"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedTables:
    """What `export_tables` has written."""

    sessions: int
    values: int


def export_tables(cohort: Cohort, out: Path) -> ExportedTables:
    """Write sessions that count, their values, groups and exclusions, as Parquet and CSV.

    Beside them ``data_dictionary.csv``, ``datasheet.md`` and RO-Crate metadata. Units and descriptions are also in the
    metadata of each Parquet column. Pseudonyms only; what counts says `storage.store.decisions.effect.judge`.

    Parameters
    ----------
    out
        Folder that is not there yet; it appears when everything is in it.

    Raises
    ------
    StoreError
        If there are no statistics, or ``out`` is there already or cannot be written.
    """
    tables = tables_of(cohort)
    columns = columns_of(tables)
    snapshot = snapshot_of(cohort.repository, cohort.snapshot)
    about = {"snapshot": cohort.snapshot, "qmri-cohort": version("qmri-cohort")}
    with new_folder(out) as folder:
        for name, table in tables.items():
            table.to_csv(folder / f"{name}.csv", index=False)
            _write_parquet(
                folder / f"{name}.parquet", table, [column for column in columns if column.table == name], about
            )
        _write_dictionary(folder / "data_dictionary.csv", columns)
        (folder / "datasheet.md").write_text(datasheet(cohort, tables, snapshot.time), encoding="utf-8")
        if card := model_card(tables["sessions"]):
            (folder / "model_card.md").write_text(card, encoding="utf-8")
        write_crate(folder, snapshot=cohort.snapshot, time=snapshot.time)
    return ExportedTables(sessions=len(tables["sessions"]), values=len(tables["values"]))


def tables_of(cohort: Cohort) -> dict[str, pd.DataFrame]:
    """The tables that travel, by name; a copy of no image."""
    counted = counting(cohort)
    sessions = session_values(cohort, [variable.name for variable in PER_SESSION])
    sessions = sessions[sessions.index.isin(counted)]
    values = long_table(cohort, sessions[["label"]], STATISTICS)
    groups = [
        {
            "label": label,
            "group": cohort.groups_by_name[str(label)],
            "sessions": len(members),
            "people": members.loc[members["person"] != "", "person"].nunique(),
        }
        for label, members in sessions.groupby("label", sort=False)
    ]
    return {
        "sessions": sessions.rename_axis("session").reset_index(),
        "values": values,
        "groups": pd.DataFrame(groups, columns=["label", "group", "sessions", "people"]),
        "exclusions": _exclusions(cohort, counted),
    }


def _exclusions(cohort: Cohort, counted: frozenset[str]) -> pd.DataFrame:
    """How many sessions are here, and not, by status and reason."""
    judgement = judge(cohort)
    rows = cohort.catalogue
    decided = rows["session"].map(lambda session: str(judgement.left_out.get(str(session), "")))
    reasons = decided.where(decided != "", rows["reason"].astype(str))
    is_here = rows["session"].isin(counted)
    no_maps = (rows["checkpoint_digest"] == "") & (reasons == "")
    table = pd.DataFrame(
        {"status": rows["status"].astype(str), "reason": reasons.where(~no_maps, "no maps yet"), "are_here": is_here}
    )
    counts = table.value_counts(sort=False).rename("sessions").reset_index()
    return counts[["status", "reason", "sessions", "are_here"]].sort_values(["status", "reason"], ignore_index=True)


def columns_of(tables: Mapping[str, pd.DataFrame]) -> list[Column]:
    """Every column of every table, with what it is."""
    of_sessions = (_SESSION, _LABEL, *((one.name, one.units, one.long_name) for one in PER_SESSION))
    known = {"sessions": of_sessions, **_OWN}
    return [
        Column(table=table, name=name, type=_type(tables[table][name]), unit=unit, description=description)
        for table in TABLES
        for name, unit, description in known[table]
    ]


def _type(values: pd.Series[Any]) -> str:
    if pd.api.types.is_bool_dtype(values):
        return "boolean"
    if pd.api.types.is_integer_dtype(values):
        return "integer"
    return "number" if pd.api.types.is_numeric_dtype(values) else "text"


def _write_parquet(path: Path, table: pd.DataFrame, columns: list[Column], about: Mapping[str, str]) -> None:
    import pyarrow
    from pyarrow import parquet

    texts = {column.name: str for column in columns if column.type == "text"}
    content = pyarrow.Table.from_pandas(table.astype(texts)[[column.name for column in columns]], preserve_index=False)
    fields = [
        content.schema.field(column.name).with_metadata({"unit": column.unit, "description": column.description})
        for column in columns
    ]
    known = content.schema.metadata or {}
    schema = pyarrow.schema(fields, metadata={**known, b"qmri": json.dumps(about).encode()})
    parquet.write_table(content.cast(schema), path)


def _write_dictionary(path: Path, columns: list[Column]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["table", "column", "type", "unit", "description"])
        writer.writerows([one.table, one.name, one.type, one.unit, one.description] for one in columns)
