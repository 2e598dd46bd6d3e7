"""Which studies are asked for, and which count as changed, against a list of what the server holds."""

from __future__ import annotations

import datetime
import fnmatch
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from storage.source.server import listing
from storage.source.server.archive import Header, Member, Study
from storage.source.server.listing import Listing, list_studies


def today() -> int:
    """Asked for by each test: a run may last past midnight."""
    return datetime.date.today().toordinal()


@dataclass
class Held:
    """An archive in memory, which chooses by date alone."""

    held: dict[str, Study]
    asked: list[str] = field(default_factory=list)

    def studies(self, filters: Mapping[str, str]) -> Iterator[Study]:
        self.asked.append(filters.get("StudyDate", ""))
        first = filters.get("StudyDate", "").partition("-")[0]
        for study in self.held.values():
            day = "" if study.date is None else datetime.date.fromordinal(study.date).strftime("%Y%m%d")
            if day >= first:
                yield study

    def members(self, study: str) -> Sequence[Member]:
        raise NotImplementedError(study)

    def headers(self, study: str, series: str, *, one: bool = False) -> Sequence[Header]:
        raise NotImplementedError(study, series, one)

    def retrieve(self, study: str, series: str, wanted: Mapping[str, Path]) -> None:
        raise NotImplementedError(study, series, wanted)


def held(**ages: int) -> Held:
    return Held({uid: Study(uid=uid, stamp="a", date=today() - age, n_instances=3) for uid, age in ages.items()})


def test_what_is_kept_is_what_was_listed() -> None:
    first = list_studies(held(old=900, new=0), {}, Listing())
    assert Listing.unpacked(first.packed()) == first
    assert Listing.unpacked(b"") == Listing()


def test_few_studies_are_listed_each_time() -> None:
    archive = held(old=900, new=3)
    before = list_studies(archive, {}, Listing())
    del archive.held["old"]
    archive.held["new"] = replace(archive.held["new"], stamp="b")
    after = list_studies(archive, {}, before)
    assert archive.asked == ["", ""]
    assert set(after.studies) == {"new"}
    assert after.studies["new"][0] == "b"
    assert after.studies["new"][3] > time.time() - 60


def test_of_many_studies_those_before_the_overlap_are_listed_once_a_week(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "SMALL", 1)
    archive = held(old=900, older=901, new=3, newer=2)
    before = list_studies(archive, {}, Listing())
    del archive.held["older"], archive.held["new"]
    after = list_studies(archive, {"StudyDate": "20000101-"}, before)
    day = datetime.date.fromordinal(today() - 2 - listing.OVERLAP).strftime("%Y%m%d")
    assert archive.asked[1] == f"{day}-"
    assert set(after.studies) == {"old", "older", "newer"}
    week = replace(after, all_on=today() - listing.ALL_EVERY)
    assert set(list_studies(archive, {}, week).studies) == {"old", "newer"}
    assert archive.asked[2] == ""


def test_a_study_of_today_may_still_arrive_and_one_of_yesterday_has() -> None:
    found = list_studies(held(today=0, yesterday=1), {}, Listing()).studies
    assert found["today"][3] > time.time() - 60
    assert found["yesterday"][3] == 0.0


def test_a_server_that_tells_no_numbers_is_asked_for_recent_studies_each_day() -> None:
    archive = held(old=900, recent=2)
    for uid, study in list(archive.held.items()):
        archive.held[uid] = replace(study, n_instances=None)
    stamps = {uid: known[0] for uid, known in list_studies(archive, {}, Listing()).studies.items()}
    assert fnmatch.fnmatch(stamps["recent"], f"a {today()}")
    assert stamps["old"] == "a"
