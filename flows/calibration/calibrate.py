"""Calibrate groups from what the store says of their sessions; versions are kept, the newest is current."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import icechunk
import pandas as pd
import xarray as xr

from flows.calibration.groups import SiteTables, levels_of, sessions_of_groups
from flows.calibration.odd_sessions import suspects_of
from flows.progress import Progress, quiet
from flows.settings import read_settings
from flows.tables.text import records
from qmri_core.calibration.groups import calibrated, cohort_spreads
from qmri_core.calibration.hidden_parameters import Hidden
from qmri_core.calibration.levels import GroupLevel
from qmri_core.calibration.scales import ScaleCalibration, calibrated_acquisitions, is_calibrated_by
from qmri_core.series.acquisition import Acquisition, Contrast
from storage.store.acquisitions import acquisitions_of
from storage.store.cohort import Cohort, latest
from storage.store.tables import write_table

_COLUMNS = ("group", "contrast", "version", "reference", "hidden", "level")
_NO_TABLES = SiteTables()
SCALE_NUMBERS = tuple(name for name in ScaleCalibration.__dataclass_fields__ if name not in _COLUMNS)


def calibrate(
    store: Cohort | str,
    *,
    again: bool = False,
    tables: SiteTables = _NO_TABLES,
    has_transfer: bool | None = None,
    progress: Progress = quiet,
) -> str | None:
    """Make the first calibration of every group that has none; with ``again`` a new version of all.

    Groups of a field strength without population values, and groups without a usable session, stay without one.
    ``tables`` are those that the site has written; they hold for this calibration alone. ``has_transfer``: whether
    slices saturate each other by magnetization transfer; ``None`` for what the settings say.

    Returns
    -------
    str or None
        The new snapshot; None if there was nothing to do.

    Raises
    ------
    flows.calibration.site_tables.SiteTableError
        If a table cannot be used.
    """
    cohort = latest(store)
    if not _due(read_calibrations(cohort), cohort, again):
        return None
    with cohort.writing() as repository:
        cohort = cohort.refreshed()  # another process may have been faster
        table = read_calibrations(cohort)
        due = _due(table, cohort, again)
        if not due:
            return None
        is_on = read_settings().magnetization_transfer if has_transfer is None else has_transfer
        rows = _new_versions(table, cohort, due, tables, progress, is_on)
        return write_versions(repository, cohort, rows, message=f"Calibrate {len(due)} groups", run="calibrate")


def _due(table: pd.DataFrame, cohort: Cohort, again: bool) -> list[str]:
    """Groups that can be calibrated and have no calibration; with ``again`` all that can be."""
    lacking = set(cohort.catalogue["group"]) - {""} - (set() if again else set(table["group"]))
    if not lacking:  # as in most nights: no value of a session is read
        return []
    stored = cohort.sessions
    usable = sessions_of_groups(stored[stored["group"].isin(lacking)])
    return sorted(group for group, one in usable.items() if is_calibrated_by(one.signals, one.acquisitions))


def _new_versions(
    table: pd.DataFrame, cohort: Cohort, due: Sequence[str], tables: SiteTables, progress: Progress, is_on: bool
) -> list[dict[str, object]]:
    """Rows of the next version of each group in ``due``, from all sessions; ``is_on``: transfer."""
    current = table.groupby("group")["version"].max().to_dict()
    progress(0, len(due), "calibrate")
    known = sessions_of_groups(cohort.sessions, suspects_of(cohort.catalogue))
    spreads = cohort_spreads(known)
    order, levels = levels_of(known, spreads, tables, cohort.labels, has_transfer=is_on)
    rows: list[dict[str, object]] = []
    for done, group in enumerate(due, start=1):
        one, at = known[group], order.index(group)
        level = kept(levels.groups[at])
        scales = calibrated(one, spreads, level=level, hidden=levels.hidden[at])
        reference = one.population.describe(is_anchored=tables.anchors is not None, has_transfer=is_on)
        rows += version_rows(group, int(current.get(group, 0)) + 1, scales, reference)
        progress(done, len(due), "calibrate")
    return rows


def version_rows(
    group: str, version: int, scales: Mapping[Contrast, ScaleCalibration], reference: str
) -> list[dict[str, object]]:
    """Rows of one version of a group's calibration, one per contrast; ``reference`` says what it rests on."""
    rows: list[dict[str, object]] = []
    for contrast, scale in scales.items():
        start = {"group": group, "contrast": str(contrast), "version": version, "reference": reference}
        level = "" if scale.level is None else json.dumps(asdict(scale.level))
        texts = {"hidden": json.dumps([asdict(parameter) for parameter in scale.hidden]), "level": level}
        rows.append({**start, **asdict(scale), **texts})
    return rows


def write_versions(
    repository: icechunk.Repository, cohort: Cohort, rows: Sequence[Mapping[str, object]], *, message: str, run: str
) -> str:
    """Add the ``rows`` of `version_rows` to those that the store has; the new snapshot.

    Raises
    ------
    storage.store.repository.StoreError
        If another process has written the table since ``cohort`` was opened.
    """
    table, made = read_calibrations(cohort), pd.DataFrame(rows)
    merged = made if table.empty else pd.concat([table, made], ignore_index=True)
    for name in ("hidden", "level"):
        merged[name] = merged[name].fillna("")
    return write_table(
        repository,
        "calibration",
        xr.Dataset({name: ("row", merged[name].to_numpy()) for name in merged.columns}),
        message=message,
        metadata={"run": run},
        since=cohort.snapshot,
    )


def kept(level: GroupLevel) -> GroupLevel:
    """To a thousandth of a percent: no more is known, and long decimals could look like somebody's number."""
    numbers = {name: getattr(level, name) for name in ("mean", "sd", "from_ages", "measured", "apart", "freedom")}
    rounded: dict[str, Any] = {name: tuple(round(one, 5) for one in values) for name, values in numbers.items()}
    return replace(level, **rounded)


def read_calibrations(cohort: Cohort) -> pd.DataFrame:
    """All versions of all groups' calibrations; one row per group, version and contrast."""
    stored = cohort.calibrations
    return pd.DataFrame(columns=[*_COLUMNS, *SCALE_NUMBERS]) if stored is None else stored


def current_calibrations(cohort: Cohort) -> dict[str, tuple[int, dict[Contrast, ScaleCalibration], str]]:
    """Version, scales by contrast, and reference of each group's current calibration."""
    versions = _versions(cohort)
    newest: dict[str, int] = {}
    for group, version in versions:
        newest[group] = max(version, newest.get(group, version))
    return {
        group: (version, _scales(rows), str(rows[0]["reference"]))
        for group, version in sorted(newest.items())
        for rows in (versions[group, version],)
    }


def all_scales(cohort: Cohort) -> dict[tuple[str, str], dict[Contrast, ScaleCalibration]]:
    """Scales by contrast of each group and version."""
    return {(group, str(version)): _scales(rows) for (group, version), rows in _versions(cohort).items()}


def _versions(cohort: Cohort) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Rows of each group's versions; the table becomes rows at once, which for one group at a time takes its time."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in records(read_calibrations(cohort)):
        found[str(row["group"]), int(row["version"])].append(row)
    return found


def acquisitions_of_maps(
    row: Mapping[str, Any], scales: Mapping[tuple[str, str], Mapping[Contrast, ScaleCalibration]]
) -> dict[Contrast, Acquisition]:
    """Acquisitions that a session's maps were made with, from its stored values and `all_scales`."""
    stated = acquisitions_of(row)
    known = scales.get((str(row["group"]), str(row["calibration_version"]).split("/")[0]))
    return stated if known is None else calibrated_acquisitions(known, stated)


def _scales(rows: Iterable[Mapping[str, Any]]) -> dict[Contrast, ScaleCalibration]:
    return {Contrast(row["contrast"]): _stored_calibration(row) for row in rows}


def _stored_calibration(row: Mapping[str, Any]) -> ScaleCalibration:
    """From a row of the table; older versions counted all sessions, not people, and took headers for complete."""
    people, left_out = row.get("n_people", math.nan), row.get("n_left_out", 0)
    hidden, level = row.get("hidden", ""), row.get("level", "")
    return ScaleCalibration(
        **{name: row[name] for name in SCALE_NUMBERS if not name.startswith("n_")},
        n_sessions=int(row["n_sessions"]),
        n_people=float(people if math.isfinite(people) else row["n_sessions"]),
        n_left_out=int(left_out) if math.isfinite(left_out) else 0,
        hidden=tuple(Hidden(**one) for one in json.loads(hidden)) if isinstance(hidden, str) and hidden else (),
        level=_stored_level(level) if isinstance(level, str) and level else None,
    )


def _stored_level(text: str) -> GroupLevel:
    """From JSON, whose lists are tuples."""
    entries: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()
    }
    return GroupLevel(**entries)
