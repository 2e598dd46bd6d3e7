"""What a visit is when identifiers lie: sessions, people and days of invented units."""

from __future__ import annotations

import datetime
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack

import numpy as np
import pytest

from qmri_core.series.acquisition import Contrast
from qmri_core.series.remarks import RemarkKind
from storage.source.visits.identity import Met, Unit
from storage.source.visits.parting import Held, other_device
from storage.source.visits.rule import Visits, Who

KEY = bytes(range(32))
DAY = datetime.date(2020, 3, 5).toordinal()
NOON = 43_200.0
T1W, T2W, FLAIR = Contrast.T1W, Contrast.T2W, Contrast.FLAIR
ALL = (T1W, T2W, FLAIR)
OPEN = ExitStack()


class Archive:
    """Units, and which contrasts the files of each hold."""

    def __init__(self) -> None:
        self.units: list[Met] = []
        self._held: dict[str, tuple[Contrast, ...]] = {}
        self._places: dict[str, float] = {}

    def add(
        self,
        patient: str,
        study: str,
        *held: Contrast,
        clock: float | None = NOON,
        minutes: float = 10.0,
        place: float = 0.0,
        **changes: object,
    ) -> str:
        """Add a unit; returns the pseudonym that its session has if nothing contradicts it."""
        number = len(self.units)
        unit = Unit(
            digest=f"u{number:04}", session=f"ses-{patient}-{study}", person=f"sub-{patient or study}", label=patient,
            standing="number" if patient else "", study=study, date=DAY, day=DAY, doubt="", maker="Siemens",
            model="prisma", serial="4711", field=3.0, frame=f"frame-{study}", sex="F", birth=None, age=None,
            is_image=True,
        )._replace(**changes)  # type: ignore[arg-type]  # fmt: skip
        last = None if clock is None else clock + 60 * minutes
        self.units.append(Met(unit, clock, last, 3))
        self._held[unit.digest] = held
        self._places[unit.digest] = place
        return unit.session

    def holding(self, units: Mapping[str, int]) -> Held:
        assert set(units.values()) <= {3}
        return {c: np.full(3, self._places[one]) for one in units for c in self._held[one]}

    def found(self, seed: int | None = None) -> Visits:
        units = list(self.units)
        if seed is not None:
            random.Random(seed).shuffle(units)  # noqa: S311
        visits = Visits(units, key=KEY, holding=self.holding)
        OPEN.callback(visits.close)
        return visits


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    OPEN.close()


def contents(visits: Visits) -> dict[str, list[str]]:
    return {session: list(visits.units(session)) for session in visits.sessions}


def kinds(who: Who) -> set[str]:
    return {str(remark.kind) for remark in who.remarks}


def all_of(visits: Visits) -> list[Who]:
    return [visits.who(session) for session in visits.sessions]


def test_an_untroubled_archive_keeps_its_pseudonyms_and_says_nothing() -> None:
    archive = Archive()
    names = [
        archive.add("anna", "s1", *ALL),
        archive.add("anna", "s2", *ALL, date=DAY + 40, day=DAY + 40),
        archive.add("anna", "s3", *ALL, clock=NOON + 9000, date=DAY + 40, day=DAY + 40),  # again, the same afternoon
        archive.add("bert", "s4", T1W, T2W, sex="M"),
        archive.add("bert", "s5", clock=NOON + 900, sex="M"),  # a spine, say, without a contrast
    ]
    archive.add("bert", "s4", frame="moved", clock=NOON + 300, sex="M")  # another frame of reference in one study
    visits = archive.found()
    assert visits.sessions == sorted(names)
    assert [visits.who(name).person for name in names] == ["sub-anna"] * 3 + ["sub-bert"] * 2
    assert [visits.who(name).day for name in names] == [0, 40, 40, 0, 0]
    assert not any(who.remarks for who in all_of(visits))


@pytest.mark.parametrize("frames", ["one frame", "frames renewed", "no frames"])
def test_a_study_identifier_per_series_is_one_visit(frames: str) -> None:
    archive = Archive()
    for number, held in enumerate([(), (T1W,), (T2W,), (FLAIR,), ()]):
        frame = {"one frame": "f", "frames renewed": f"f{number}", "no frames": ""}[frames]
        archive.add("anna", f"s{number}", *held, frame=frame, clock=NOON + 600 * number)
    visits = archive.found()
    (session,) = visits.sessions
    assert session == "ses-anna-s1"  # the first that holds a contrast
    assert list(visits.units(session)) == [f"u{number:04}" for number in range(5)]
    assert kinds(visits.who(session)) == {"visit_joined"}
    assert "5 study identifiers" in visits.who(session).remarks[0].text


def test_a_study_renewed_in_mid_visit_with_the_localizer_repeated_is_one_visit() -> None:
    archive = Archive()
    archive.add("anna", "s1", T1W, T2W, clock=NOON)
    archive.add("anna", "s2", FLAIR, clock=NOON + 1800)  # after a pause, in a frame of its own
    visits = archive.found()
    assert contents(visits) == {"ses-anna-s1": ["u0000", "u0001"]}


def test_two_visits_of_one_day_on_one_scanner_stay_apart_and_incomplete_ones_say_so() -> None:
    whole = Archive()
    whole.add("anna", "s1", *ALL)
    whole.add("anna", "s2", *ALL, clock=NOON + 9000)
    assert len(whole.found().sessions) == 2
    partial = Archive()
    partial.add("anna", "s1", T1W, T2W)
    partial.add("anna", "s2", T1W, FLAIR, clock=NOON + 9000)
    visits = partial.found()
    assert len(visits.sessions) == 2
    assert [kinds(who) for who in all_of(visits)] == [{"visit_unsure"}] * 2


@pytest.mark.parametrize(
    "other",
    [{"day": DAY + 1, "date": DAY + 1}, {"serial": "4712"}, {"field": 1.5}, {"maker": "GE"}, {"label": "bert"}],
    ids=["day", "serial", "field", "maker", "patient"],
)
def test_studies_of_two_days_scanners_or_patients_are_two_visits(other: dict[str, object]) -> None:
    archive = Archive()
    archive.add("anna", "s1", T1W)
    archive.add("anna", "s2", T2W, FLAIR, clock=NOON + 900, **other)
    assert len(archive.found().sessions) == 2


def test_images_of_another_place_are_not_joined_as_one_head() -> None:
    archive = Archive()
    archive.add("anna", "s1", T1W)
    archive.add("anna", "s2", T2W, place=150.0)
    visits = archive.found()
    assert len(visits.sessions) == 2
    assert kinds(all_of(visits)[0]) == {"visit_unsure"}


@pytest.mark.parametrize("frame", ["f", ""], ids=["one frame", "no frame"])
@pytest.mark.parametrize("other", ["00anna", ""], ids=["another number", "none"])
def test_patient_numbers_that_differ_within_a_study_are_one_session_of_one_person(frame: str, other: str) -> None:
    archive = Archive()
    archive.add("anna", "s1", T1W, frame=frame)
    archive.add(other, "s1", T2W, clock=NOON + 600, frame=frame)
    archive.add("anna", "s1", FLAIR, clock=NOON + 1200, frame=frame, serial="")
    (who,) = all_of(archive.found())
    assert (who.session, who.person, kinds(who)) == ("ses-anna-s1", "sub-anna", {"patient_numbers"})


def test_a_number_counts_before_a_name_even_where_it_comes_later() -> None:
    archive = Archive()
    archive.add("name", "s1", T1W, standing="name")
    archive.add("anna", "s1", T2W, clock=NOON + 600)
    (who,) = all_of(archive.found())
    assert who.person == "sub-anna"


def test_one_study_identifier_for_all_of_an_archive_tells_patients_apart() -> None:
    archive = Archive()
    for number in range(5):
        archive.add(f"p{number}", "all", *ALL, frame=f"f{number}", clock=NOON + 3600 * number)
    archive.add("p5", "all", T1W, frame="f5", clock=NOON + 9 * 3600)
    visits = archive.found()
    assert visits.sessions == [f"ses-p{number}-all" for number in range(6)]
    assert len({who.person for who in all_of(visits)}) == 6
    assert all("visit_parted" in kinds(who) for who in all_of(visits))


def test_one_study_and_patient_identifier_for_all_tells_people_by_sex_and_birth() -> None:
    archive = Archive()
    for number in range(3):
        archive.add("same", "all", *ALL, frame=f"f{number}", sex="FMF"[number], birth=DAY - 9000 - 900 * number)
    visits = archive.found()
    assert len(visits.sessions) == len({who.person for who in all_of(visits)}) == 3
    assert "ses-same-all" in visits.sessions
    assert all({"visit_parted", "person_unsure"} <= kinds(who) for who in all_of(visits))


def test_two_scanners_under_one_study_are_parted_and_what_makes_no_session_is_not_used() -> None:
    archive = Archive()
    archive.add("anna", "s1", T1W)
    archive.add("anna", "s1", T2W, FLAIR, field=1.5, serial="1", frame="other", day=DAY + 7)
    visits = archive.found()
    (who,) = all_of(visits)
    assert (who.session, who.day) == ("ses-anna-s1", 0)
    assert list(visits.units(who.session)) == ["u0000"]
    assert list(visits.units(who.session, foreign=True)) == ["u0001"]
    assert "told apart by scanner" in who.remarks[0].text


@pytest.mark.parametrize(
    "other",
    [
        {"field": 1.5},
        {"serial": "9"},
        {"maker": "GE", "serial": ""},
        {"model": "skyra", "serial": ""},
        {"day": DAY + 7},
    ],
    ids=["field", "serial", "maker", "model", "day"],
)
def test_two_whole_visits_under_one_study_are_two_sessions_of_one_person(other: dict[str, object]) -> None:
    archive = Archive()
    archive.add("anna", "s1", *ALL)
    archive.add("anna", "s1", *ALL, frame="other", clock=NOON + 9000, **other)
    visits = archive.found()
    assert len(visits.sessions) == 2
    assert "ses-anna-s1" in visits.sessions
    assert list(visits.units("ses-anna-s1")) == ["u0000"]
    assert {who.person for who in all_of(visits)} == {"sub-anna"}
    assert sorted(who.day or 0 for who in all_of(visits)) == [0, 7 if "day" in other else 0]


@pytest.mark.parametrize("frame", ["same", "other"])
def test_a_visit_across_midnight_is_one(frame: str) -> None:
    archive = Archive()
    archive.add("anna", "s1", T1W, clock=85_000.0, frame="same")
    archive.add("anna", "s1", T2W, clock=600.0, frame=frame, day=DAY + 1)
    (who,) = all_of(archive.found())
    assert (who.day, who.remarks) == (0, ())
    apart = Archive()
    apart.add("anna", "s1", *ALL, clock=NOON)
    apart.add("anna", "s1", *ALL, clock=NOON, frame="third", day=DAY + 1)
    assert len(apart.found().sessions) == 2


@pytest.mark.parametrize("patient", ["anna", ""])
def test_a_study_renewed_at_midnight_is_one_visit_by_its_frame(patient: str) -> None:
    archive = Archive()
    archive.add(patient, "s1", T1W, T2W, clock=85_000.0, frame="f")
    archive.add(patient, "s2", FLAIR, clock=600.0, frame="f", date=DAY + 1, day=DAY + 1)
    (who,) = all_of(archive.found())
    assert (who.session, who.day, kinds(who)) == (f"ses-{patient}-s1", 0, {"visit_joined"})
    assert "one frame of reference bear 2 study identifiers" in who.remarks[0].text


def test_a_study_per_series_of_nobody_is_one_visit_by_its_frame_and_no_other() -> None:
    archive = Archive()
    for person, (number, contrast) in itertools.product("ab", enumerate(ALL)):
        archive.add("", f"{person}{number}", contrast, frame=f"f{person}", clock=NOON + 60 * number)
    visits = archive.found()
    assert [len(units) for units in contents(visits).values()] == [3, 3]
    assert len({who.person for who in all_of(visits)}) == 2
    unframed = Archive()
    for number, contrast in enumerate(ALL):
        unframed.add("", f"s{number}", contrast, frame="")
    assert len(unframed.found().sessions) == 3
    shared = Archive()  # one frame for two scanners is none
    for number, contrast in enumerate(ALL):
        shared.add("", f"s{number}", contrast, frame="f", serial=str(number % 2))
    assert len(shared.found().sessions) == 3


@pytest.mark.parametrize("second", [ALL, (T1W, T2W), (T1W, FLAIR)])
def test_what_was_acquired_twice_under_two_frames_is_two_visits(second: tuple[Contrast, ...]) -> None:
    """Two people under one identifier, or one who got up between: no session mixes them."""
    archive = Archive()
    archive.add("anna", "s1", *ALL, frame="f1", clock=NOON)
    archive.add("anna", "s1", frame="f0", clock=NOON + 60)  # a localizer, say
    archive.add("anna", "s1", *second, frame="f2", clock=NOON + 7200)
    visits = archive.found()
    assert list(contents(visits).values()) in ([["u0000", "u0001"], ["u0002"]], [["u0002"], ["u0000", "u0001"]])
    assert all("told apart by frame of reference" in who.remarks[0].text for who in all_of(visits))


@pytest.mark.parametrize("second", [(T1W,), (T2W, FLAIR), (FLAIR,), ()])
def test_a_part_again_under_another_frame_is_the_same_visit(second: tuple[Contrast, ...]) -> None:
    archive = Archive()
    archive.add("anna", "s1", T1W, T2W, frame="f1", clock=NOON)
    archive.add("anna", "s1", *second, frame="f2", clock=NOON + 1200)
    (who,) = all_of(archive.found())
    assert who.remarks == ()


@pytest.mark.parametrize("apart", [2, 9])
def test_dates_that_differ_within_one_frame_are_not_known(apart: int) -> None:
    archive = Archive()
    archive.add("anna", "s1", T1W, frame="f")
    archive.add("anna", "s1", T2W, frame="f", date=DAY + apart, day=DAY + apart)
    (who,) = all_of(archive.found())
    assert (who.day, kinds(who)) == (None, {"date_unknown"})
    assert f"{apart} days apart" in who.remarks[0].text


def test_what_a_workstation_made_stays_with_its_study_whatever_its_marks() -> None:
    archive = Archive()
    archive.add("anna", "s1", *ALL)
    archive.add("anna", "s1", maker="acme", model="pacs", serial="w", field=None, day=DAY + 3, is_image=False)
    (who,) = all_of(archive.found())
    assert who.remarks == ()


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("two sexes", ({"sex": "F"}, {"sex": "M"})),
        ("birth more than a year", ({"birth": DAY - 9000}, {"birth": DAY - 20_000})),
        ("do not fit the dates", ({"age": 30}, {"age": 71})),
        ("for all people", ({"standing": "stand-in"}, {"standing": "stand-in"})),
        ("two scanners at one time", ({}, {"serial": "9", "clock": NOON + 60, "date": DAY, "day": DAY})),
    ],
)
def test_everybody_called_alike_is_told_and_each_visit_is_a_person(
    reason: str, changes: tuple[dict[str, object], dict[str, object]]
) -> None:
    archive = Archive()
    for number, change in enumerate(changes):
        values = {"date": DAY + 30 * number, "day": DAY + 30 * number, "minutes": 30.0} | change
        archive.add("anonymous", f"s{number}", *ALL, **values)  # type: ignore[arg-type]
    visits = archive.found()
    assert visits.sessions == ["ses-anonymous-s0", "ses-anonymous-s1"]
    assert len({who.person for who in all_of(visits)}) == 2
    assert all(reason in who.remarks[0].text for who in all_of(visits))
    assert [who.day for who in all_of(visits)] == [0, 0]


def test_a_person_of_many_years_and_two_scanners_of_one_day_is_one() -> None:
    archive = Archive()
    for number in range(6):
        day = DAY + 365 * number
        archive.add("anna", f"a{number}", *ALL, date=day, day=day, age=60 + number, birth=DAY - 60 * 365 - 200)
        archive.add("anna", f"b{number}", *ALL, date=day, day=day, age=60 + number, serial="2", clock=NOON + 4000)
    assert {who.person for who in all_of(archive.found())} == {"sub-anna"}


def test_alike_people_with_a_study_per_series_are_put_together_by_their_frames() -> None:
    archive = Archive()
    for person, (number, contrast) in itertools.product("FM", enumerate(ALL)):
        archive.add("0", f"{person}{number}", contrast, standing="stand-in", sex=person, frame=f"f{person}")
    visits = archive.found()
    assert [len(units) for units in contents(visits).values()] == [3, 3]
    assert len({who.person for who in all_of(visits)}) == 2


NEW_YEAR = datetime.date(2019, 1, 1).toordinal()


@pytest.mark.parametrize(
    ("date", "people", "clocks", "known", "reason"),
    [
        (DAY, 4, (NOON, NOON + 1800, NOON + 3600, NOON + 5400), True, ""),
        (DAY, 3, (NOON, NOON + 1800, None), True, ""),
        (DAY, 2, (None, None), True, ""),
        (NEW_YEAR, 2, (NOON, NOON + 1800), False, "a 1 January"),
        (DAY, 3, (None, None, None), False, "no time of the day"),
        (DAY, 4, (None, None, None, NOON), False, "no time of the day"),
        (DAY, 3, (NOON, NOON, NOON), False, "one time of the day"),
        (DAY, 3, (NOON, NOON + 1800, NOON + 1820), False, "one scanner at one time"),
        (DAY, 3, (NOON, NOON + 1800, NOON + 1800 + 300), False, "one scanner at one time"),
    ],
    ids=[
        "a day", "a day, one time lost", "two people", "two on a 1 January", "no times", "few times", "one time",
        "two begin at once", "two overlap",
    ],
)  # fmt: skip
def test_one_date_everywhere_is_a_day_unless_something_speaks_against_it(
    date: int, people: int, clocks: tuple[float | None, ...], reason: str, *, known: bool
) -> None:
    archive = Archive()
    for number, clock in enumerate(clocks):
        archive.add(f"p{number}", f"s{number}", *ALL, date=date, day=date, clock=clock, minutes=25.0)
    found = all_of(archive.found(seed=people))
    assert [who.day for who in found] == [0 if known else None] * people
    assert all(who.is_common_date is not known for who in found)
    assert all(("date_unknown" in kinds(who)) is not known for who in found)
    assert all(reason in remark.text for who in found for remark in who.remarks)


def test_people_in_several_scanners_at_one_time_are_those_of_a_day() -> None:
    archive = Archive()
    for number in range(6):
        archive.add(
            f"p{number}", f"s{number}", *ALL, serial=f"s{number % 3}", clock=NOON + 1800 * (number // 3) + number
        )
    assert [who.day for who in all_of(archive.found())] == [0] * 6


@pytest.mark.parametrize(("held", "people", "known"), [(ALL, 3, False), (ALL, 12, True), ((T1W,), 3, True)])
def test_whole_visits_again_on_the_one_date_speak_against_it(
    held: tuple[Contrast, ...], people: int, *, known: bool
) -> None:
    archive = Archive()
    for number in range(people):
        archive.add(f"p{number}", f"s{number}", *ALL, clock=20_000.0 + 3600 * number)
    archive.add("p0", "again", *held, clock=20_000.0 + 3600 * people, frame="other")
    assert {who.day for who in all_of(archive.found())} == ({0} if known else {None})


def test_a_date_that_a_crowd_shares_is_no_date_and_the_others_stay() -> None:
    archive = Archive()
    for number in range(51):
        archive.add(f"p{number}", f"s{number}", *ALL, clock=None)
    archive.add("anna", "s", *ALL, date=DAY + 3, day=DAY + 3)
    days = [who.day for who in all_of(archive.found())]
    assert days.count(None) == 51
    assert days.count(0) == 1


def troubled() -> Archive:
    """Many troubles in one archive."""
    archive = Archive()
    for number, held in enumerate([(T1W,), (T2W,), (FLAIR,), ()]):
        archive.add("anna", f"s{number}", *held, frame="f", clock=NOON + 600 * number)
    archive.add("bert", "t", T1W, frame="g", sex="M")
    archive.add("00bert", "t", T2W, frame="g", sex="M", clock=NOON + 60)
    archive.add("", "t", FLAIR, frame="", sex="", maker="", model="", serial="", field=None, clock=None)
    archive.add("cara", "u", *ALL)
    archive.add("cara", "u", *ALL, field=1.5, frame="h")
    archive.add("cara", "u", field=None, frame="h", is_image=False)
    for number in range(4):
        archive.add("anon", f"v{number}", *ALL, sex="FM"[number % 2], date=DAY + number, day=DAY + number)
    return archive


def test_the_result_does_not_depend_on_the_order_of_the_files() -> None:
    def seen(visits: Visits) -> Iterable[tuple[Who, list[str]]]:
        return [(visits.who(session), list(visits.units(session))) for session in visits.sessions]

    first = list(seen(troubled().found()))
    assert len(first) == 8
    for seed in range(8):
        assert list(seen(troubled().found(seed))) == first


def test_no_remark_names_an_identity() -> None:
    texts = " ".join(remark.text for who in all_of(troubled().found()) for remark in who.remarks).lower()
    assert texts
    assert not [name for name in ("anna", "bert", "cara", "anon ", "4711", "frame-", str(DAY)) if name in texts]


def test_every_kind_of_remark_of_visits_is_made_here() -> None:
    made = {kind for who in all_of(troubled().found()) for kind in kinds(who)}
    assert made == {
        str(kind)
        for kind in (
            RemarkKind.VISIT_JOINED, RemarkKind.VISIT_PARTED, RemarkKind.PATIENT_NUMBERS, RemarkKind.PERSON_UNSURE,
        )
    }  # fmt: skip


def test_a_part_of_a_header_contradicts_nothing_by_what_it_does_not_say() -> None:
    whole = ("Siemens", "prisma", "1", 3.0)
    assert not other_device(whole, ("", "", "", None))
    assert not other_device(whole, ("Siemens", "prisma-fit", "1", 2.89))
    assert not other_device(whole, ("Siemens", "prisma", "2", 3.0), same_frame=True)
    assert other_device(whole, ("Siemens", "prisma", "1", 1.5), same_frame=True)
    assert other_device(whole, ("", "skyra", "", None))
