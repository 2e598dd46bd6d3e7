"""Calibrate groups from what the store says of their sessions; versions are kept, the newest is current."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import xarray as xr

from flows.maps.odd_sessions import suspects_of
from flows.progress import Progress, quiet
from flows.tables.text import records
from qmri_core.calibration.hidden_parameters import Hidden, hidden_parameters
from qmri_core.calibration.population import ADULT, FieldStrengthError, population
from qmri_core.calibration.scales import (
    ScaleCalibration,
    Signals,
    calibrate_group,
    calibrated_acquisitions,
    group_contrast,
    is_calibrated_by,
    scale_spreads,
)
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.tissues import MEMBERS
from storage.store.acquisitions import acquisitions_of
from storage.store.cohort import Cohort, latest
from storage.store.tables import write_table

_COLUMNS = ("group", "contrast", "version", "reference", "hidden")
SCALE_NUMBERS = tuple(name for name in ScaleCalibration.__dataclass_fields__ if name not in _COLUMNS)


def calibrate(store: Cohort | str, *, again: bool = False, progress: Progress = quiet) -> str | None:
    """Make the first calibration of every group that has none; with ``again`` a new version of all.

    Groups of a field strength without population values, and groups without a usable session, stay without one.

    Returns
    -------
    str or None
        The new snapshot; None if there was nothing to do.
    """
    cohort = latest(store)
    if not _due(read_calibrations(cohort), cohort, again):
        return None
    with cohort.writing() as repository:
        cohort = cohort.refreshed()  # another process may have been faster
        table, stored = read_calibrations(cohort), cohort.sessions
        due = _due(table, cohort, again)
        if not due:
            return None
        suspects = suspects_of(cohort.catalogue)
        made = pd.DataFrame(_new_versions(table, stored, due, progress, suspects))
        merged = made if table.empty else pd.concat([table, made], ignore_index=True)
        merged["hidden"] = merged["hidden"].fillna("")
        return write_table(
            repository,
            "calibration",
            xr.Dataset({name: ("row", merged[name].to_numpy()) for name in merged.columns}),
            message=f"Calibrate {len(due)} groups",
            metadata={"run": "calibrate"},
            since=cohort.snapshot,
        )


def _due(table: pd.DataFrame, cohort: Cohort, again: bool) -> list[str]:
    """Groups that can be calibrated and have no calibration; with ``again`` all that can be."""
    lacking = set(cohort.catalogue["group"]) - {""} - (set() if again else set(table["group"]))
    if not lacking:  # as in most nights: no value of a session is read
        return []
    stored = cohort.sessions
    usable = _sessions_of_groups(stored[stored["group"].isin(lacking)])
    return sorted(group for group, one in usable.items() if is_calibrated_by(one.signals, one.acquisitions))


def _new_versions(
    table: pd.DataFrame,
    stored: pd.DataFrame,
    due: Sequence[str],
    progress: Progress,
    suspects: Collection[str] = frozenset(),
) -> list[dict[str, object]]:
    """Rows of the next version of each group in ``due``, from the sessions of all groups.

    ``suspects`` are sessions whose headers leave a scale open.
    """
    current = table.groupby("group")["version"].max().to_dict()
    progress(0, len(due), "calibrate")
    known = _sessions_of_groups(stored)
    doubts = {group: [session in suspects for session in one.sessions] for group, one in known.items()}
    cohort = scale_spreads(
        [(one.signals, one.acquisitions) for one in known.values()], suspects=[doubts[group] for group in known]
    )
    contrasts = {
        group: group_contrast(one.signals, one.acquisitions, one.people, cohort=cohort, suspects=doubts[group])
        for group, one in known.items()
    }
    usable = {group: contrast for group, contrast in contrasts.items() if contrast.people}
    hidden = dict(zip(usable, hidden_parameters(list(usable.values())), strict=True))
    rows: list[dict[str, object]] = []
    for done, group in enumerate(due, start=1):
        one = known[group]
        scales = calibrate_group(
            one.signals, one.acquisitions, cohort, people=one.people, hidden=hidden[group], suspects=doubts[group]
        )
        reference = population(_field_strength(one.acquisitions)).describe()
        for contrast, scale in scales.items():
            start = {"group": group, "contrast": str(contrast), "version": int(current.get(group, 0)) + 1}
            parameters = json.dumps([asdict(parameter) for parameter in scale.hidden])
            rows.append({**start, "reference": reference, **asdict(scale), "hidden": parameters})
        progress(done, len(due), "calibrate")
    return rows


def read_calibrations(cohort: Cohort) -> pd.DataFrame:
    """All versions of all groups' calibrations; one row per group, version and contrast."""
    stored = cohort.calibrations
    return pd.DataFrame(columns=[*_COLUMNS, *SCALE_NUMBERS]) if stored is None else stored


def current_calibrations(cohort: Cohort) -> dict[str, tuple[int, dict[Contrast, ScaleCalibration], str]]:
    """Version, scales by contrast, and reference of each group's current calibration."""
    table = read_calibrations(cohort)
    result = {}
    for group, members in table.groupby("group"):
        newest = members[members["version"] == members["version"].max()]
        result[str(group)] = (int(newest["version"].max()), _scales(newest), str(newest["reference"].iloc[0]))
    return result


def all_scales(cohort: Cohort) -> dict[tuple[str, str], dict[Contrast, ScaleCalibration]]:
    """Scales by contrast of each group and version."""
    versions = read_calibrations(cohort).groupby(["group", "version"])
    return {(str(group), str(version)): _scales(members) for (group, version), members in versions}


def acquisitions_of_maps(
    row: Mapping[str, Any], scales: Mapping[tuple[str, str], Mapping[Contrast, ScaleCalibration]]
) -> dict[Contrast, Acquisition]:
    """Acquisitions that a session's maps were made with, from its stored values and `all_scales`."""
    stated = acquisitions_of(row)
    known = scales.get((str(row["group"]), str(row["calibration_version"]).split("/")[0]))
    return stated if known is None else calibrated_acquisitions(known, stated)


def _scales(rows: pd.DataFrame) -> dict[Contrast, ScaleCalibration]:
    return {Contrast(row["contrast"]): _stored_calibration(row) for row in records(rows)}


def _stored_calibration(row: Mapping[str, Any]) -> ScaleCalibration:
    """From a row of the table; older versions counted all sessions, not people, and took headers for complete."""
    people, hidden, left_out = row.get("n_people", math.nan), row.get("hidden", ""), row.get("n_left_out", 0)
    return ScaleCalibration(
        **{name: row[name] for name in SCALE_NUMBERS if not name.startswith("n_")},
        n_sessions=int(row["n_sessions"]),
        n_people=float(people if math.isfinite(people) else row["n_sessions"]),
        n_left_out=int(left_out) if math.isfinite(left_out) else 0,
        hidden=tuple(Hidden(**one) for one in json.loads(hidden)) if isinstance(hidden, str) and hidden else (),
    )


def signals_of(row: Mapping[str, Any], contrasts: Iterable[Contrast]) -> Signals:
    """Signals of a session's tissues by contrast, from its stored values."""
    return {
        contrast: {tissue: float(row[f"{contrast}_{member}_signal"]) for tissue, member in MEMBERS.items()}
        for contrast in contrasts
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """What is stored of a group's sessions, in one order: pseudonyms, signals, people; and their acquisitions."""

    sessions: Sequence[str]
    signals: Sequence[Signals]
    people: Sequence[str]
    acquisitions: Mapping[Contrast, Acquisition]


def _sessions_of_groups(stored: pd.DataFrame) -> dict[str, _Group]:
    """Groups with population values; people who are no adults count where a group has no others."""
    groups = {}
    for group, members in stored.groupby("group", sort=True):
        every = records(members.sort_values("session"))
        rows = [row for row in every if not float(row["age"]) < ADULT] or every  # an unknown age is NaN
        acquisitions = acquisitions_of(rows[0])
        try:
            population(_field_strength(acquisitions))
        except FieldStrengthError:
            continue
        groups[str(group)] = _Group(
            sessions=[str(row["session"]) for row in rows],
            signals=[signals_of(row, acquisitions) for row in rows],
            people=[str(row["person"]) for row in rows],
            acquisitions=acquisitions,
        )
    return groups


def _field_strength(acquisitions: Mapping[Contrast, Acquisition]) -> float:
    return next(iter(acquisitions.values())).field_strength
