"""Put the report together: numbers from the tables and the catalogue, pictures from the store, one HTML file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from flows.calibration.text import levels_rows
from flows.pictures.volumes import Picture, StoredSession, session_picture
from flows.tables.summary import PAST, left_out_text
from flows.tables.text import (
    IMPOSED_AWAY,
    TELLS_NO_PEOPLE_APART,
    WORTHLESS_ALONE,
    Rows,
    evaluation_table,
    group_table,
    labels_of,
    number,
    quantities,
    variation_table,
)
from qmri_core.evaluation.literature import interval, literature
from storage.store.cohort import Cohort, latest
from storage.store.decisions.effect import Judged, judge
from storage.store.repository import snapshot_of

if TYPE_CHECKING:
    from flows.evaluation.with_truth import EvaluateResult
    from flows.statistics.aggregate import AggregateResult

MAX_PICTURES = 24
"""Groups shown with pictures; the largest come first."""

_MAX_LISTED = 500
"""Sessions listed by name in the table of those without maps."""


def write_report(
    store: Cohort | str, out: Path, *, aggregate: AggregateResult, evaluation: EvaluateResult | None = None
) -> Path:
    """Write ``report.html`` into ``out``: self-contained, readable without scripts and network, free of identities.

    Parameters
    ----------
    store
        The cohort, or its location.
    aggregate
        Tables of the cohort's statistics.
    evaluation
        Comparison with the truth, where it is known.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    StoreError
        If there is no store.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    cohort = latest(store)
    rows = cohort.catalogue
    judgement = judge(cohort)
    labels = labels_of(rows["group"], cohort.labels)
    environment = Environment(
        loader=PackageLoader("flows.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    pictured = _pictured(rows, labels)
    page = environment.get_template("template.html").stream(
        totals=_totals(rows),
        overview=_overview(rows, labels),
        labels=labels,
        groups=group_table(aggregate.groups, labels),
        ranges=_ranges(),
        variation=variation_table(aggregate.variation),
        worthless_alone=WORTHLESS_ALONE,
        imposed_away=IMPOSED_AWAY,
        tells_no_people_apart=TELLS_NO_PEOPLE_APART,
        evaluation=evaluation_table(evaluation.table) if evaluation is not None else None,
        literature=_literature(),
        pictures=_pictures(cohort, aggregate.sessions, pictured, labels, judgement.left_out),
        n_pictures=len(pictured),
        n_groups=len(labels),
        unfinished=_unfinished(rows, labels, judgement),
        left_out=left_out_text(aggregate.left_out),
        accepted=aggregate.accepted,
        max_listed=_MAX_LISTED,
        calibration=_calibration(cohort, labels),
        levels=levels_rows(cohort, labels),
        provenance=_provenance(cohort),
    )
    out.mkdir(parents=True, exist_ok=True)
    path = out / "report.html"
    unfinished = out / "report.html.part"
    with unfinished.open("w", encoding="utf-8") as file:  # as it is made: no picture is kept
        file.writelines(page)
    return unfinished.replace(path)


def _totals(rows: pd.DataFrame) -> list[tuple[str, int]]:
    counts = Counter(rows["status"])
    people = len(set(rows["person"]) - {""})
    states = [(state, counts[state]) for state in ("complete", "partial", "skipped", "failed")]
    return [("sessions", len(rows)), ("people", people), *states]


def _overview(rows: pd.DataFrame, labels: Mapping[str, str]) -> Rows:
    counts = Counter(zip(rows["group"], rows["status"], rows["reason"], strict=True))
    counted = [
        [labels.get(group, "-"), status, _words(reason), str(count)]
        for (group, status, reason), count in counts.items()
    ]
    place = {label: number for number, label in enumerate(labels.values())}
    return sorted(counted, key=lambda row: (place.get(row[0], len(place)), row[1:]))


def _ranges() -> list[str]:
    """Literature interval under each column of the group table."""
    intervals = [(name, interval(tissue, name)) for tissue, name, _ in quantities()]
    return [
        "by definition" if bounds is None else f"{number(bounds[0], name)} to {number(bounds[1], name)}"
        for name, bounds in intervals
    ]


def _literature() -> Rows:
    titles = {(tissue, name): title for tissue, name, title in quantities()}
    return [
        [
            titles[entry.tissue, entry.map],
            number(entry.value, entry.map),
            f"{number(entry.low, entry.map)} to {number(entry.high, entry.map)}",
            entry.method,
            f"{entry.citation}. doi:{entry.doi}" if entry.doi else entry.citation,
            f"{entry.checked}; {entry.note}" if entry.note else entry.checked,
        ]
        for entry in literature()
    ]


def _pictured(rows: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """The largest groups, in the order of the labels."""
    sizes = Counter(rows["group"])
    largest = set(sorted(labels, key=lambda group: (-sizes[group], group))[:MAX_PICTURES])
    return [group for group in labels if group in largest]


def _pictures(
    cohort: Cohort,
    sessions: pd.DataFrame,
    groups: Sequence[str],
    labels: Mapping[str, str],
    left_out: Collection[str],
) -> Iterator[tuple[str, str, str, Picture]]:
    """Label, group, session and picture of each of the groups, drawn when its turn comes."""
    white = sessions[(sessions["tissue"] == "WM") & (sessions["map"] == "T1map")]
    for group in groups:
        members = [name for name in cohort.nodes.members(group) if name not in left_out]
        if not members:
            continue
        name = _representative(members, white[white["group"] == group])
        session = StoredSession(cohort=cohort, slot=cohort.slots[name], row=cohort.rows_of([name])[name])
        yield labels[group], group, name, session_picture(session, f"{labels[group]}, session {name}")


def _representative(stored: Sequence[str], white: pd.DataFrame) -> str:
    """Session whose white-matter T1 lies in the middle of its group; without maps, the first."""
    known = white[white["session"].isin(stored)].dropna(subset=["median"]).sort_values(["median", "session"])
    return str(known["session"].iloc[(len(known) - 1) // 2]) if len(known) else min(stored)


def _unfinished(rows: pd.DataFrame, labels: Mapping[str, str], judgement: Judged) -> Rows:
    """Sessions that are not complete or do not count, failed ones first."""
    order = {"failed": 0, "skipped": 1, "partial": 2, "complete": 3}
    is_out = rows["session"].isin(list(judgement.left_out))
    unfinished = rows[(rows["status"] != "complete") | (rows["reason"] != "") | is_out]
    return sorted(
        (
            [
                row["session"],
                labels.get(row["group"], "-"),
                row["status"],
                _words(row["reason"]),
                row["stage"] or "-",
                _counts(str(row["session"]), judgement),
            ]
            for row in unfinished.to_dict("records")
        ),
        key=lambda row: (order.get(row[2], 9), row[0]),
    )


def _counts(session: str, judgement: Judged) -> str:
    """Whether a session counts, where its status or a person has something to say on it."""
    if session in judgement.left_out:
        return f"no: {judgement.left_out[session]}"
    if session in judgement.accepted:
        return "yes: accepted"
    return PAST[judgement.settled[session]] if session in judgement.settled else "-"


def _calibration(cohort: Cohort, labels: Mapping[str, str]) -> tuple[list[str], Rows] | None:
    """List the current versions: contrast, version, sessions behind it, and what the level refers to."""
    frame = cohort.calibrations
    if frame is None:
        return None
    newest = frame[frame["version"] == frame.groupby("group")["version"].transform("max")]
    columns = [name for name in ("contrast", "version", "n_sessions", "reference") if name in newest]
    cells = [
        [labels.get(str(row["group"]), "-"), *(str(row[name]) for name in columns)]
        for row in newest.sort_values("group", kind="stable").to_dict("records")
    ]
    return ["group", *(_words(name) for name in columns)], cells


def _provenance(cohort: Cohort) -> list[tuple[str, str]]:
    last, rows = snapshot_of(cohort.repository, cohort.snapshot), cohort.catalogue
    return [
        ("snapshot", f"{last.id} of {last.time:%Y-%m-%d %H:%M:%S} UTC: {last.message}"),
        ("schema version", str(cohort.root.attrs.get("schema_version", "-"))),
        ("checkpoint of the maps, by its content", _distinct(rows["checkpoint_digest"])),
        ("promoted checkpoint", cohort.promoted or "none"),
        ("calibration version", _distinct(rows["calibration_version"])),
        ("preprocessing version", _distinct(rows["preprocessing_version"])),
        ("code version of the sessions", _distinct(rows["code_version"])),
        ("code version of this report", _own_version()),
    ]


def _distinct(column: pd.Series[Any]) -> str:
    counts = Counter(value for value in column if value)
    if len(counts) == 1:
        return str(next(iter(counts)))
    return ", ".join(f"{value} ({count} sessions)" for value, count in counts.most_common()) or "none"


def _own_version() -> str:
    try:
        return version("qmri-cohort")
    except PackageNotFoundError:
        return "not installed"


def _words(reason: object) -> str:
    return str(reason).replace("_", " ") or "-"
