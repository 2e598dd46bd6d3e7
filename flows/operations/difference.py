"""What differs between two states of a cohort: sessions, and the values that moved with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from flows.statistics.aggregate import read_statistics
from flows.tables.text import number, records, text_table

if TYPE_CHECKING:
    from storage.store.cohort import Cohort

WHY = {
    "input_digest": "their input changed",
    "preprocessing_version": "another preprocessing",
    "calibration_version": "another calibration",
    "checkpoint_digest": "another checkpoint",
    "group": "another group",
    "status": "another status",
    "reason": "another reason",
}
"""Columns of the catalogue by which sessions are compared, and what to say where one differs."""
MOST_NAMED = 20


def changed_sessions(before: Cohort, after: Cohort) -> tuple[list[str], list[str], dict[str, tuple[str, ...]]]:
    """Sessions that are new, that are gone, and of the others what of `WHY` differs."""
    old, new = (cohort.catalogue.set_index("session")[list(WHY)].astype(str) for cohort in (before, after))
    both = sorted(set(old.index) & set(new.index))
    differs = old.loc[both] != new.loc[both]
    changed = {str(session): tuple(differs.columns[row]) for session, row in zip(both, differs.to_numpy(), strict=True)}
    return (
        sorted(set(new.index) - set(old.index)),
        sorted(set(old.index) - set(new.index)),
        {session: names for session, names in changed.items() if names},
    )


def moved_values(before: Cohort, after: Cohort) -> pd.DataFrame:
    """Medians of tissues in sessions that both states have statistics of: group, tissue, map, n, before, after.

    ``largest`` is the largest change of one session, as a share of what it was.
    """
    keys = ["session", "tissue", "map"]
    old, new = (read_statistics(cohort)[[*keys, "group", "median"]] for cohort in (before, after))
    both = old.merge(new, on=keys, suffixes=("_before", "_after")).astype(
        {"median_before": float, "median_after": float}
    )
    both["share"] = (both["median_after"] / both["median_before"] - 1).abs()
    return both.groupby(["group_after", "tissue", "map"], as_index=False).agg(
        n=("session", "size"),
        before=("median_before", "mean"),
        after=("median_after", "mean"),
        largest=("share", "max"),
    )


def difference_lines(before: Cohort, after: Cohort) -> Iterator[str]:
    """Both for people: which sessions, why, and the values that moved."""
    new, gone, changed = changed_sessions(before, after)
    yield f"{len(new)} sessions new, {len(gone)} gone, {len(changed)} changed"
    for what, names in (("new", new), ("gone", gone), ("changed", list(changed))):
        if names:
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            yield f"  {what}: {', '.join(names[:MOST_NAMED])}{more}"
    counts = Counter(name for names in changed.values() for name in names)
    yield from (f"  {counts[name]} sessions: {why}" for name, why in WHY.items() if counts[name])
    moved = moved_values(before, after)
    moved = moved[moved["largest"] > 0]
    if moved.empty:
        yield "no value has moved"
        return
    labels = after.labels
    yield text_table(
        ["group", "tissue", "map", "sessions", "mean before", "mean after", "largest change"],
        [
            [
                labels.get(str(row["group_after"]), str(row["group_after"])),
                row["tissue"],
                row["map"],
                row["n"],
                number(row["before"], row["map"]),
                number(row["after"], row["map"]),
                f"{100 * row['largest']:.2f} %",
            ]
            for row in records(moved)
        ],
    )
