"""Dates and ages that can be true; what stands in for them is unknown, never a number."""

from __future__ import annotations

import datetime

EARLIEST = datetime.date(1980, 1, 1).toordinal()
"""Ordinal of the first date that a head can have been imaged on by MR, to the year."""

STAND_INS = frozenset(datetime.date(year, 1, 1).toordinal() for year in (1980, 2000))
"""Ordinals of dates from `EARLIEST` on that tools write where they remove one."""

FIRST_BIRTH = datetime.date(1900, 1, 2).toordinal()
"""Ordinal of the first date that is taken for a day of birth: 1900-01-01 stands in for none."""

OLDEST = 120
"""Years; nobody in an archive of MR images is older."""

TOP = 90
"""Years; who is older is stored as of this age, since so few are that it may tell who it is."""

CAPPED = 89
"""Years from which tools write one age for all who are older."""

_YEAR = 365.2425

NO_NUMBER = -1
"""Stands for a stated age of zero, which many tools write for none."""


def is_new_year(ordinal: int) -> bool:
    """Whether a date is a 1 January, which tools write for what they know by the year alone."""
    day = datetime.date.fromordinal(ordinal)
    return (day.month, day.day) == (1, 1)


def sound_date(date: int | None) -> int | None:
    """A date that an examination can have whatever the day of birth."""
    return visit_date(date, None, datetime.date.today().toordinal())[0]


def visit_date(date: int | None, birth: int | None, today: int) -> tuple[int | None, str]:
    """Ordinal of a date that a visit can have, and why it cannot.

    Parameters
    ----------
    date, birth
        Ordinals as the header states them.
    today
        Ordinal; one day more is allowed, for other time zones.

    Returns
    -------
    tuple
        The date, None if it is not known; and the reason in words, empty if the date stands or none is stated.
    """
    if date is None:
        return None, ""
    if date < EARLIEST or date in STAND_INS:
        return None, "the date of the examination is one that stands in for none"
    if date > today + 1:
        return None, "the date of the examination is in the future"
    if birth is not None and birth >= FIRST_BIRTH and date <= birth:
        where = "the day of birth" if date == birth else "before the day of birth"
        return None, f"the date of the examination is {where}"
    return date, ""


def known_age(stated: int | None, birth: int | None, date: int | None) -> tuple[int | None, str]:
    """Whole years at an examination, `TOP` and above as that.

    Parameters
    ----------
    stated
        Whole years as the header states them, `NO_NUMBER` for zero.
    birth, date
        Ordinals of the day of birth as stated, and of the examination if it is known.

    Returns
    -------
    tuple
        The age, None if it is not known; and the reason in words, empty if the age stands or nothing is stated of it.
    """
    if birth is not None and birth < FIRST_BIRTH:
        birth = None
    if birth is not None and date is not None and date <= birth:
        return None, "the day of birth is not before the examination"
    computed = None if birth is None or date is None else int((date - birth) / _YEAR)
    if computed is not None and computed > OLDEST:
        return None, "the age by the day of birth is one that nobody has"
    if stated is None:
        return (None if computed is None else min(computed, TOP)), ""
    if stated == NO_NUMBER:
        return (0, "") if computed == 0 else (None, "the stated age is zero, and the day of birth does not say so")
    if stated > OLDEST:
        return None, "the stated age is one that nobody has"
    if computed is not None and abs(computed - stated) > 1 and min(computed, stated) < CAPPED:
        return None, f"the stated age and that by the day of birth differ by {abs(computed - stated)} years"
    return min(stated, TOP), ""
