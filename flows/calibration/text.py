"""Tables of a store's current calibrations as people read them, with what their columns mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from flows.calibration.tables import (
    hidden_table,
    levels_table,
    odd_sessions,
    people_table,
    unlikely_sessions,
)
from flows.tables.text import Rows, labels_of, records, text_table
from storage.store.cohort import Cohort

CALIBRATION_NOTES = (
    "scale: image units per unit of PD and signal; reference: the model's signal of the population's white matter. "
    "spread: of the scale between sessions, of one series and common to all, from the whole cohort and the group; "
    "determined: share of the scale's variance that a session's white matter, grey matter and CSF determine; "
    "sessions: over the group's",
    "hidden: parameters that headers do not say, as imputed and as all groups' contrast of grey to white matter "
    "tells, with standard deviations before and after; GM/WM: what the move does to that contrast",
    "level: what the people of a group are taken for on average, beside the population; from ages: what their ages "
    "make of it; measured: share of what clinics differ by that people in several groups and contrasts tell, the rest "
    "is imposed; clinics: that send its people, by the table of --clinics, else its scanner; bridging: people who are "
    "in other groups too; connected: groups with the same number are compared by them. All groups share the error of "
    "the population's values, 5 % (T1) and 6 % (T2), as methods differ",
    "people: how far the sessions' people are from the group's mean in the maps; determined: share of the variance "
    "between people that the signals determine, beside the scales",
)
"""Of the columns of the tables."""


def calibration_lines(cohort: Cohort, table: pd.DataFrame) -> Iterator[str]:
    """Say what the current calibrations rest on; ``table`` is that of `calibration_table`."""
    if table.empty:
        yield "no group is calibrated yet; qmri ingest and qmri infer calibrate"
        return
    labels = labels_of(table["group"], cohort.labels)
    for header, rows in (
        _scales(table, labels),
        levels_rows(cohort, labels),
        _people(people_table(cohort), labels),
        _hidden(hidden_table(cohort), labels),
    ):
        yield text_table(header, rows) + "\n"
    yield from (f"{label} = {group}" for group, label in labels.items())
    yield from (f"rests on: {reference}" for reference in sorted(set(table["reference"])))
    yield from CALIBRATION_NOTES
    for row in records(odd_sessions(cohort)):
        yield (
            f"{row['session']} ({labels[row['group']]}): {row['part']} has {row['factor']:.3g} times the scale of the "
            "group, told by its own signals alone; it counts for nothing there. Look for a factor that was lost"
        )
    for row in records(unlikely_sessions(cohort)):
        yield (
            f"{row['session']} ({labels[row['group']]}): the signals of its tissues are nobody's; it counts for "
            "nothing and has the scales of its group. Look at its alignment and its tissues (qmri report)"
        )


def _scales(table: pd.DataFrame, labels: Mapping[str, str]) -> tuple[list[str], Rows]:
    header = ["group", "contrast", "version", "n", "scale", "reference", "spread", "common", "determined", "sessions"]
    return header, [
        [
            labels[row["group"]],
            row["contrast"],
            str(row["version"]),
            _of_all(row["n_sessions"], row["n_left_out"]),
            f"{row['scale']:.4g}",
            f"{row['reference_signal']:.4f}",
            f"{row['spread']:.1%}",
            f"{row['common_spread']:.1%}",
            f"{row['determined']:.0%}",
            f"{row['session_low'] - 1:+.1%} to {row['session_high'] - 1:+.1%}",
        ]
        for row in records(table)
    ]


def _of_all(n: int, left_out: int) -> str:
    return f"{n} of {n + left_out}" if left_out else str(n)


def levels_rows(cohort: Cohort, labels: Mapping[str, str]) -> tuple[list[str], Rows]:
    """`levels_table` as people read it: header and rows."""
    table = levels_table(cohort)
    return ["group", "level", "beside population", "from ages", "sd", "measured", "clinics", "bridging", "connected"], [
        [
            labels[row["group"]],
            f"{row['tissue']} {row['quantity'].upper()}",
            f"{row['level']:+.1%}",
            f"{row['from_ages']:+.1%}",
            f"{row['sd']:.1%}",
            f"{row['measured']:.0%}",
            str(row["n_clinics"]),
            str(row["n_bridging"]),
            str(row["component"] + 1),
        ]
        for row in records(table)
    ]


def _people(table: pd.DataFrame, labels: Mapping[str, str]) -> tuple[list[str], Rows]:
    return ["group", "people", "determined", "sessions"], [
        [
            labels[row["group"]],
            f"{row['tissue']} {row['quantity'].upper()}",
            f"{row['determined']:.0%}",
            f"{row['session_low']:+.1%} to {row['session_high']:+.1%}",
        ]
        for row in records(table)
    ]


def _hidden(table: pd.DataFrame, labels: Mapping[str, str]) -> tuple[list[str], Rows]:
    return ["group", "contrast", "hidden", "imputed", "value", "prior sd", "sd", "GM/WM"], [
        [
            labels[row["group"]],
            row["contrast"],
            row["name"].replace("_", " "),
            f"{row['header']:.4g}",
            f"{row['value']:.4g}",
            f"{row['prior_sd']:.2g}",
            f"{row['sd']:.2g}",
            f"{row['effect']:+.1%}",
        ]
        for row in records(table)
    ]
