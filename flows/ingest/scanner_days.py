"""Days of scanners, for sites that have opted in: from when they count, and those of what is stored already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flows.ingest.first_plan import Planned
from flows.tables.text import records
from storage.store.cohort import Cohort
from storage.store.scanner_days import begin_counting, origins_of
from storage.store.waves import commit


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannerDays:
    """From when the days of each scanner count: ordinals by the scanner's key; none where the site has not opted in."""

    origins: Mapping[str, int] = field(default_factory=dict, repr=False)

    def of(self, plan: Planned) -> dict[str, object]:
        """The per-session value of a session that is ingested; empty where it is not known."""
        origin = self.origins.get(scanner_of(plan.group))
        return {} if origin is None or plan.date is None else {"scanner_day": float(plan.date - origin)}


def count_days(cohort: Cohort, key: bytes, dates: Mapping[str, tuple[str, int]]) -> tuple[ScannerDays, str | None]:
    """Let days count of all scanners of a source, and keep those of its sessions that are stored already.

    A scanner's days count from its first session in the source that began it, for good: what is acquired before, and
    comes later, has negative ones, and nobody's days change. Nothing is written where nothing is new.

    Parameters
    ----------
    dates
        Of each session its group and the ordinal of its date.

    Returns
    -------
    tuple
        The days, and the snapshot of the commit, if there was one.
    """
    firsts: dict[str, int] = {}
    for group, date in dates.values():
        scanner = scanner_of(group)
        firsts[scanner] = min(date, firsts.get(scanner, date))
    if set(firsts) - set(origins_of(cohort.root, key)):
        with cohort.writing() as repository:
            begin_counting(repository, key, firsts)
        cohort = cohort.refreshed()
    origins = origins_of(cohort.root, key)
    values: dict[str, dict[str, object]] = {}
    for row in records(cohort.values_of(["scanner_day"])):
        session, origin = str(row["session"]), origins.get(scanner_of(str(row["group"])))
        if session in dates and origin is not None:
            day = float(dates[session][1] - origin)
            if row["scanner_day"] != day:
                values[session] = {"scanner_day": day}
    snapshot = None
    if values:
        message = f"Keep days of scanners of {len(values)} sessions"
        with cohort.writing() as repository:
            snapshot = commit(repository, None, [], values=values, rows=[], message=message, metadata={"run": "ingest"})
    return ScannerDays(origins=origins), snapshot


def scanner_of(group: str) -> str:
    """Key of the scanner of a group."""
    return group.partition("/")[0]
