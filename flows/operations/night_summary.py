"""What a night has to say, as Markdown: what changed, what failed and why, what a person must do. Nobody is named."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flows.maps.staleness import stale_sessions
from flows.operations.difference import WHY, changed_sessions, moved_values
from flows.tables.stages import stages_of
from flows.tables.summary import PAST, Failure, RunSummary, remark_lines, unmatched_line
from flows.tables.text import records
from storage.store.cohort import Cohort
from storage.store.lifecycle.nights import night_before
from storage.store.room import bytes_of_group, free_bytes
from storage.store.schema import MEANINGS, Reason

if TYPE_CHECKING:
    from flows.night import Reprocessed

MOST_FAILURES = 50
"""Failed sessions that the summary of a night lists; all stand in the catalogue."""
MOST_SESSIONS = 20
"""Sessions that are named in a list of new or changed ones."""
SLOWEST = 5


def failure_rows(store: Cohort | str, failures: Sequence[Failure]) -> Iterator[dict[str, str]]:
    """Failed sessions with the sentence that says why, what can be done, and what a person has decided."""
    if not failures:
        return
    cohort = store if isinstance(store, Cohort) else Cohort.open(store)
    known = cohort.rows_of([failure.session for failure in failures])
    for failure in failures:
        yield {
            "session": failure.session,
            "reason": failure.reason,
            "stage": failure.stage,
            "explanation": str(known.get(failure.session, {}).get("explanation", "")),
            "what to do": MEANINGS[Reason(failure.reason)] if failure.reason else "",
            "decided": PAST.get(failure.decided, ""),
        }


def night_text(store: str, result: Reprocessed) -> str:
    """All of a night, in sections; where nothing was new only what is left to do, for which little is read."""
    cohort = Cohort.open(store)
    parts = [f"# Night of {datetime.now(UTC):%Y-%m-%d}", result.text(), _counts(result.summary)]
    last = None if result.tag is None else night_before(cohort.repository, result.tag)
    before = None if last is None else Cohort.in_repository(cohort.repository, store, at=last)
    if before is not None:
        parts += _changes(before, cohort)
    if result.summary.failures:
        parts += ["## Failed", *_failures(cohort, result.summary.failures)]
    if result.tag is not None:
        parts += _slowest(cohort, before)
    parts += [_disk(cohort), "## What a person must do", *_to_do(cohort, result)]
    return "\n\n".join(part for part in parts if part)


def _counts(summary: RunSummary) -> str:
    return (
        f"{summary.found} sessions: {summary.complete} complete, {summary.partial} partial, {summary.skipped} skipped, "
        f"{summary.failed} failed"
    )


def _changes(before: Cohort, after: Cohort) -> Iterator[str]:
    new, gone, changed = changed_sessions(before, after)
    yield "## Since the last night"
    lines = [f"- {len(names)} {what}{_named(names)}" for what, names in (("new", new), ("gone", gone)) if names]
    if changed:
        counts = Counter(name for names in changed.values() for name in names)
        why = ", ".join(f"{counts[name]} {text}" for name, text in WHY.items() if counts[name])
        lines.append(f"- {len(changed)} changed ({why}){_named(list(changed))}")
    yield "\n".join(lines) or "No session is new or has changed."
    yield _markdown(
        ["group", "sessions before", "now", "failed before", "now", "largest change of a median"],
        _group_rows(before, after),
    )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_SESSIONS} more" if len(names) > MOST_SESSIONS else ""
    return f": {', '.join(names[:MOST_SESSIONS])}{more}"


def _group_rows(before: Cohort, after: Cohort) -> Iterator[list[str]]:
    """Of groups in which anything differs: counts, and the tissue value that moved most in one session."""
    moved = moved_values(before, after)
    largest = {str(row["group_after"]): row for row in records(moved.sort_values("largest")) if row["largest"] > 0}
    counts = [_by_group(cohort) for cohort in (before, after)]
    for group, label in after.labels.items():
        old, new = (count.get(group, (0, 0)) for count in counts)
        row = largest.get(group)
        if old != new or row is not None:
            value = "-" if row is None else f"{row['tissue']} {row['map']}: {100 * row['largest']:.2f} %"
            yield [label, str(old[0]), str(new[0]), str(old[1]), str(new[1]), value]


def _by_group(cohort: Cohort) -> dict[str, tuple[int, int]]:
    """Sessions of each group, and failed ones."""
    rows = cohort.catalogue
    both = Counter(zip(rows["group"].astype(str), rows["status"].astype(str), strict=True))
    groups = {group for group, _ in both}
    return {group: (sum(n for (of, _), n in both.items() if of == group), both[group, "failed"]) for group in groups}


def _failures(cohort: Cohort, failures: Sequence[Failure]) -> Iterator[str]:
    ordered = sorted(failures, key=lambda failure: bool(failure.decided))  # those that are open first
    rows = list(failure_rows(cohort, ordered[:MOST_FAILURES]))
    yield _markdown(list(rows[0]), [list(row.values()) for row in rows])
    if len(failures) > MOST_FAILURES:
        yield f"{len(failures) - MOST_FAILURES} more: `qmri status` counts them"


def _slowest(cohort: Cohort, before: Cohort | None) -> Iterator[str]:
    """Of the sessions that a night did, those that took longest, by what it took."""
    rows = cohort.catalogue[["session", "group", "stages"]]
    if before is not None:
        done = rows.merge(before.catalogue[["session", "stages"]], on=["session", "stages"], how="left", indicator=True)
        rows = rows[(done["_merge"] == "left_only").to_numpy()]
    took: list[tuple[float, Mapping[str, Any], tuple[float, str]]] = []
    for row in records(rows):
        stages = {f"{run} {stage}": each for run, of in stages_of(row["stages"]).items() for stage, each in of.items()}
        if stages:
            took.append((sum(stages.values()), row, max((each, name) for name, each in stages.items())))
    if not took:
        return
    took.sort(key=lambda one: one[0], reverse=True)
    yield "## Slowest sessions"
    yield _markdown(
        ["session", "group", "seconds", "of them most in"],
        [
            [row["session"], cohort.labels.get(row["group"], "-"), f"{total:.1f}", f"{most[1]} {most[0]:.1f}"]
            for total, row, most in took[:SLOWEST]
        ],
    )


def _disk(cohort: Cohort) -> str:
    """Free space of the disk of a store on this machine, and for how many sessions it is enough."""
    free = free_bytes(cohort.location)
    if free is None:
        return ""
    sizes = [bytes_of_group(group) for group in cohort.labels]
    room = f", room for about {free / max(sizes):.0f} sessions of the largest grid" if sizes else ""
    return f"Disk: {free / 1e9:.1f} GB free{room}"


def _to_do(cohort: Cohort, result: Reprocessed) -> Iterator[str]:
    ingested, summary = result.ingested, result.summary
    lines = list[str]()
    if summary.unsettled:
        lines.append(
            f"{len(summary.unsettled)} failed sessions on which nobody has decided: mend what the table says, or "
            "`qmri qc acknowledge`; `qmri show SESSION` has all of one"
        )
    lines += map(unmatched_line, ingested.unmatched)
    few = "its calibration rests on few people"
    lines += [f"{group}: {size} sessions; {few}" for group, size in ingested.small_groups.items()]
    lines += remark_lines(ingested.remarks)
    if result.tag is not None and (stale := Counter(stale_sessions(cohort).values())):
        lines += [f"{count} sessions are stale after the night ({why}): run it again" for why, count in stale.items()]
    yield "\n".join(f"- {line}" for line in lines) or "Nothing."


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; empty where it has no row. Bars, which part columns, are escaped."""
    cells = [[re.sub(r"([|<])", r"\\\1", cell) for cell in row] for row in rows]
    if not cells:
        return ""
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
