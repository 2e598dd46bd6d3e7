"""One date for all people of an archive: that of a day, or one that stands in for none.

A folder of one day's examinations is as common as an archive whose dates were replaced by one. So the date stands
unless something else says that it cannot be the day: see `against`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from storage.source.dates import is_new_year
from storage.source.visits.parting import Device

AT_ONE_TIME = 600.0
"""Seconds that two scanners must overlap until nobody can have been in both: their clocks differ by minutes."""

AT_ONCE = 60.0
"""Seconds within which no two people's first images are made on one scanner."""

AGAIN = 0.1
"""Share of the people with several whole visits from which the date is none: on one day few are imaged anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A visit on that date: the seconds since midnight of its first and last image, None if not known."""

    person: str
    device: Device
    first: float | None
    last: float | None


def against(date: int, visits: Sequence[Visit], n_again: int) -> str:
    """Why the one date of an archive stands in for none, in words; empty if it may be a day.

    Parameters
    ----------
    date
        Ordinal.
    visits
        All visits with that date.
    n_again
        People with several visits that are sessions by themselves.
    """
    people = {visit.person for visit in visits}
    if is_new_year(date):
        return "a 1 January"
    timed = [visit for visit in visits if visit.first is not None]
    if 2 * len(timed) < len(visits):
        return "and most have no time of the day"
    if len({round(visit.first or 0.0) for visit in timed}) == 1:
        return "and one time of the day"
    if _is_crossed(timed):
        return "and two of them were in one scanner at one time"
    if n_again and n_again >= AGAIN * len(people):
        return f"and {n_again} of them have several visits on it"
    return ""


def _is_crossed(visits: Iterable[Visit]) -> bool:
    """Whether two people's images on one scanner begin at once, or were made over the same ten minutes."""
    ordered = sorted(
        visits, key=lambda visit: (repr(visit.device), visit.first or 0.0, visit.last or 0.0, visit.person)
    )
    longest: Visit | None = None
    for visit in ordered:
        if longest is None or longest.device != visit.device:
            longest = visit
            continue
        first, last, until = visit.first or 0.0, visit.last or 0.0, longest.last or 0.0
        is_at_once = first - (longest.first or 0.0) < AT_ONCE
        if longest.person != visit.person and (is_at_once or min(until, last) - first > AT_ONE_TIME):
            return True
        if until < last:
            longest = visit
    return False
