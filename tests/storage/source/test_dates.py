"""Dates and ages that cannot be true."""

from __future__ import annotations

import datetime

import pytest

from storage.source.dates import NO_NUMBER, known_age, visit_date

TODAY = datetime.date(2024, 6, 1).toordinal()


def day(text: str) -> int:
    return datetime.date.fromisoformat(text).toordinal()


BORN = day("1950-03-04")
VISIT = day("2020-03-05")


@pytest.mark.parametrize(
    ("date", "birth", "known", "doubt"),
    [
        (VISIT, BORN, VISIT, ""),
        (VISIT, None, VISIT, ""),
        (None, BORN, None, ""),
        (TODAY + 1, BORN, TODAY + 1, ""),  # a day ahead by its time zone
        (TODAY + 2, BORN, None, "future"),
        (day("1900-01-01"), None, None, "stands in"),
        (day("1979-12-31"), None, None, "stands in"),
        (day("2000-01-01"), None, None, "stands in"),
        (day("2001-01-01"), None, day("2001-01-01"), ""),
        (VISIT, VISIT, None, "the day of birth"),
        (VISIT, VISIT + 40, None, "before the day of birth"),
        (VISIT, day("1900-01-01"), VISIT, ""),
    ],
)
def test_a_date_that_no_visit_can_have_is_not_known(
    date: int | None, birth: int | None, known: int | None, doubt: str
) -> None:
    found, why = visit_date(date, birth, TODAY)
    assert found == known
    assert (doubt in why) if doubt else not why


@pytest.mark.parametrize(
    ("stated", "birth", "date", "age", "doubt"),
    [
        (70, BORN, VISIT, 70, ""),
        (69, BORN, VISIT, 69, ""),  # rounded, or stated before the birthday
        (None, BORN, VISIT, 70, ""),
        (70, None, None, 70, ""),
        (None, None, VISIT, None, ""),
        (45, BORN, VISIT, None, "differ by 25 years"),
        (72, BORN, VISIT, None, "differ by 2 years"),
        (999, BORN, VISIT, None, "nobody has"),
        (121, None, None, None, "nobody has"),
        (120, None, None, 90, ""),
        (90, day("1923-05-01"), VISIT, 90, ""),  # 96, and the tool writes 90 for all who are older
        (NO_NUMBER, None, VISIT, None, "zero"),
        (NO_NUMBER, BORN, VISIT, None, "zero"),
        (NO_NUMBER, VISIT - 100, VISIT, 0, ""),
        (0, None, VISIT, 0, ""),  # six months, say
        (45, VISIT, VISIT, None, "not before"),
        (None, VISIT + 9, VISIT, None, "not before"),
        (45, day("1900-01-01"), VISIT, 45, ""),  # the day of birth stands in for none
        (None, day("1900-01-01"), VISIT, None, ""),
        (None, day("1900-01-02"), day("2021-01-01"), 90, ""),
        (None, day("1900-01-02"), day("2023-01-01"), None, "nobody has"),
        (45, BORN, None, 45, ""),
    ],
)
def test_an_age_that_contradicts_itself_is_not_known(
    stated: int | None, birth: int | None, date: int | None, age: int | None, doubt: str
) -> None:
    found, why = known_age(stated, birth, date)
    assert found == age
    assert (doubt in why) if doubt else not why
