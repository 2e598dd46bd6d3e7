"""Tags of nights: how they are named, which comes after which, and how long they stay."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING

from storage.store.lifecycle.upkeep import Compacted, compact
from storage.store.repository import StoreError, faults, tag

if TYPE_CHECKING:
    import icechunk

    from storage.store.cohort import Cohort

_NAME = re.compile(r"nightly-(\d{4}-\d\d-\d\d)(?:\.([1-9]\d*))?")
SLACK_DAYS = 7.0
"""Days by which the oldest night may be older than is kept: what is too old then ends, all at once. It takes a look at
all objects of the store, so it is not done every night."""


def night_of(name: str) -> tuple[str, int] | None:
    """Day of a night (UTC) and its number on that day, from its tag, so that later ones are larger; None of others."""
    match = _NAME.fullmatch(name)
    return None if match is None else (match[1], int(match[2] or 1))


def night_before(repository: icechunk.Repository, name: str) -> str | None:
    """Tag of the night before that of the tag ``name``; None where there is none any more."""
    nights = {night: other for other in repository.list_tags() if (night := night_of(other))}
    this = night_of(name)
    earlier = [night for night in nights if this is not None and night < this]
    return nights[max(earlier)] if earlier else None


def tag_night(cohort: Cohort) -> tuple[str, str]:
    """Tag the last commit ``nightly-YYYY-MM-DD``, a second one of that day ``nightly-YYYY-MM-DD.2``, and so on.

    Returns
    -------
    tuple
        Its snapshot and the tag.
    """
    day = f"nightly-{datetime.now(UTC):%Y-%m-%d}"
    with cohort.writing() as repository:
        taken = set(repository.list_tags())
        name = next(name for number in count(1) if (name := day if number == 1 else f"{day}.{number}") not in taken)
        return tag(repository, name), name


def keep_nights(cohort: Cohort, keep_days: float) -> Compacted | None:
    """Let the tags of nights that are older than ``keep_days`` end, and with them what nothing else needs.

    Done when the oldest is older by `SLACK_DAYS`; else None. The current state, the last night, and tags that people
    gave stay.
    """
    if keep_days < 1:
        raise StoreError(f"nights cannot be kept for {keep_days:g} days; give 1 or more, or nothing to keep them all")
    with faults(cohort.location):
        nights = sorted((night, name) for name in cohort.repository.list_tags() if (night := night_of(name)))
    old = [name for (day, _), name in nights[:-1] if _age(day) > keep_days]
    if not old or _age(nights[0][0][0]) <= keep_days + SLACK_DAYS:
        return None
    with cohort.writing() as repository, faults(cohort.location):
        for name in old:
            repository.delete_tag(name)
    return compact(cohort.location, keep_days=keep_days)


def _age(day: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(day).replace(tzinfo=UTC)) / timedelta(days=1)
