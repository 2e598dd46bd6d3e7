"""Which studies a server has: all of them where that takes few requests, else the new ones, and all once a week.

A server tells no time at which a study was stored. What is known is the state of each study when it was last listed,
and the newest date among them: the mark. Studies from some days before the mark on are listed at every run, since they
may still arrive; a study is read again when what the list says of it has changed, and is gone when a list that should
hold it does not.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from storage.source.server.archive import Archive, Study

OVERLAP = 30
"""Days before the mark from which on studies are listed at every run."""
SMALL = 20_000
"""Studies up to which all are listed at every run: twenty requests."""
ALL_EVERY = 7
"""Days after which all studies are listed anew, where they are more."""

Known = tuple[str, int | None, int | None, float]
"""Stamp, date and number of objects of a study, and when it was seen to have changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The studies of a server by identifier, and the day on which all were last listed, as an ordinal."""

    studies: Mapping[str, Known] = field(default_factory=dict, repr=False)
    all_on: int = 0

    def packed(self) -> bytes:
        """The listing for an index to keep."""
        return json.dumps({"all_on": self.all_on, "studies": self.studies}).encode()

    @classmethod
    def unpacked(cls, kept: bytes) -> Listing:
        """The listing that was kept; an empty one if there is none."""
        if not kept:
            return cls()
        found = json.loads(kept)
        studies = {uid: (stamp, date, n, since) for uid, (stamp, date, n, since) in found["studies"].items()}
        return cls(studies=studies, all_on=found["all_on"])


def list_studies(archive: Archive, filters: Mapping[str, str], before: Listing) -> Listing:
    """List the studies of a server as they are now.

    Parameters
    ----------
    filters
        What is asked for, see `storage.source.origin.FILTERS`.
    before
        What was listed last.

    Raises
    ------
    ServerError
        If the server does not tell.
    """
    today = datetime.date.today().toordinal()
    since = _window(before, today)
    found: dict[str, Known] = {}
    for study in archive.studies(filters if since is None else _from(filters, since)):
        found[study.uid] = _seen(study, before.studies.get(study.uid), today)
    if since is None:
        return Listing(studies=found, all_on=today)
    older = {uid: known for uid, known in before.studies.items() if known[1] is not None and known[1] < since}
    return Listing(studies=older | found, all_on=before.all_on)


def _window(before: Listing, today: int) -> int | None:
    """First day from which on studies are listed; None for all."""
    dates = [date for _, date, _, _ in before.studies.values() if date is not None and date <= today]
    if len(before.studies) <= SMALL or today - before.all_on >= ALL_EVERY or not dates:
        return None
    return max(dates) - OVERLAP


def _from(filters: Mapping[str, str], since: int) -> dict[str, str]:
    """The filters with no study before a day."""
    first, _, last = filters.get("StudyDate", "-").partition("-")
    if first and not last and "-" not in filters.get("StudyDate", ""):
        return dict(filters)  # one day
    day = datetime.date.fromordinal(since).strftime("%Y%m%d")
    return {**filters, "StudyDate": f"{max(first, day)}-{last}"}


def _seen(study: Study, before: Known | None, today: int) -> Known:
    stamp = study.stamp
    if study.n_instances is None and (study.date is None or study.date > today - OVERLAP):
        stamp = f"{stamp} {today}"  # the server does not say how much there is: what is recent is looked at every day
    if before is not None and before[0] == stamp:
        return before
    is_old = before is None and study.date is not None and study.date < today
    return stamp, study.date, study.n_instances, 0.0 if is_old else time.time()
