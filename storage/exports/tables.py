"""Tables of a cohort for other tools: Parquet and CSV, with units, descriptions, a data dictionary and a datasheet."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from storage.exports.crate import write_crate
from storage.exports.datasheet import datasheet, model_card
from storage.exports.folder import new_folder
from storage.store.cohort import Cohort
from storage.store.decisions.effect import judge
from storage.store.opened.values import STATISTICS, counting, long_table, session_values
from storage.store.repository import snapshot_of
from storage.store.schema import PER_SESSION

if TYPE_CHECKING:
    import pyarrow

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
    from pyarrow import csv as csv_of_arrow
    from pyarrow import parquet

    plain = csv_of_arrow.WriteOptions(quoting_style="needed", quoting_header="needed")
    tables = tables_of(cohort)
    columns = columns_of(tables)
    snapshot = snapshot_of(cohort.repository, cohort.snapshot)
    about = {"snapshot": cohort.snapshot, "qmri-cohort": version("qmri-cohort")}
    with new_folder(out) as folder:
        for name, table in tables.items():
            content = _arrow(table, [column for column in columns if column.table == name], about)
            parquet.write_table(content, folder / f"{name}.parquet")
            csv_of_arrow.write_csv(content, folder / f"{name}.csv", plain)
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


def _arrow(table: pd.DataFrame, columns: list[Column], about: Mapping[str, str]) -> pyarrow.Table:
    """A table with units and descriptions in the metadata of its columns."""
    import pyarrow

    arrays, fields = [], []
    for column in columns:
        values = table[column.name]
        array = _texts(values) if column.type == "text" else pyarrow.array(values, from_pandas=True)
        metadata = {"unit": column.unit, "description": column.description}
        arrays.append(array)
        fields.append(pyarrow.field(column.name, array.type, metadata=metadata))
    return pyarrow.Table.from_arrays(
        arrays, schema=pyarrow.schema(fields, metadata={b"qmri": json.dumps(about).encode()})
    )


def _texts(values: pd.Series[Any]) -> pyarrow.Array:
    """Texts, of which there are few in many rows."""
    import pyarrow

    codes, found = pd.factorize(values.to_numpy(dtype=object), use_na_sentinel=False)
    return pyarrow.DictionaryArray.from_arrays(codes, [str(text) for text in found]).cast(pyarrow.string())


def _write_dictionary(path: Path, columns: list[Column]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["table", "column", "type", "unit", "description"])
        writer.writerows([one.table, one.name, one.type, one.unit, one.description] for one in columns)
