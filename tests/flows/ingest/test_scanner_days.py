"""Days of scanners: whole, since the scanner's first session, the same at every run, and no date is in the store."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest
import zarr

from flows.deployed.run import ingest_options
from flows.ingest.first_plan import FirstPlan
from flows.ingest.scanner_days import ScannerDays, count_days
from flows.settings import read_settings
from storage.exports.zarr import export_zarr
from storage.store.cohort import Cohort
from storage.store.lifecycle.forget import forget
from storage.store.repository import writing
from storage.store.scanner_days import ORIGINS, begin_counting, origins_of
from storage.store.schema import Status
from tests.flows.tiny_cohort import make_store

KEY, OTHER_KEY = bytes(32), bytes(range(32))
FIRST = datetime.date(2021, 3, 4).toordinal()
NAMES = [f"ses-{number:012x}" for number in range(5)]
"""In turn on two scanners."""


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort.open(make_store(tmp_path))


def dates_of(cohort: Cohort, **days: int) -> dict[str, tuple[str, int]]:
    """Dates by the number of the session."""
    names = {NAMES[int(number[1:])]: FIRST + day for number, day in days.items()}
    return {name: (cohort.slots[name].group, date) for name, date in names.items()}


def days_in(cohort: Cohort) -> dict[str, float]:
    rows = cohort.refreshed().values_of(["scanner_day"])
    return {NAMES.index(name): day for name, day in zip(rows["session"], rows["scanner_day"], strict=True)}


def test_days_count_from_the_first_session_of_each_scanner_and_stay(cohort: Cohort) -> None:
    assert np.isnan(list(days_in(cohort).values())).all()  # as it is without the setting
    dates = dates_of(cohort, s0=10, s1=3, s2=400, s3=3)
    days, snapshot = count_days(cohort, KEY, dates)
    assert snapshot == cohort.refreshed().snapshot
    expected = {0: 0, 1: 0, 2: 390, 3: 0, 4: np.nan}
    assert days_in(cohort) == pytest.approx(expected, nan_ok=True)
    again, nothing = count_days(cohort.refreshed(), KEY, dates)
    assert (again, nothing) == (days, None)
    assert cohort.refreshed().snapshot == snapshot
    # what comes later and is older counts backwards; what the source has no more stays
    count_days(cohort.refreshed(), KEY, dates_of(cohort, s4=-20, s2=400))
    assert days_in(cohort) == pytest.approx(expected | {4: -30})


def test_a_corrected_date_corrects_its_day_alone(cohort: Cohort) -> None:
    count_days(cohort, KEY, dates_of(cohort, s0=10, s2=400))
    count_days(cohort.refreshed(), KEY, dates_of(cohort, s0=10, s2=401))
    assert {name: day for name, day in days_in(cohort).items() if day == day} == {0: 0, 2: 391}


def test_what_is_ingested_gets_the_day_of_its_scanner() -> None:
    plan = FirstPlan(session="ses-1", person="sub-1", status=Status.COMPLETE, reason=None, input_digest="", group="a/b",
                     groups=(), content="", numbers={}, reaches={}, date=FIRST + 7, overrides=())  # fmt: skip
    assert FirstPlan.from_bytes(plan.to_bytes()) == plan
    assert str(FIRST + 7) not in repr(plan)
    assert ScannerDays(origins={"a": FIRST}).of(plan) == {"scanner_day": 7.0}
    assert ScannerDays(origins={"c": FIRST}).of(plan) == ScannerDays().of(plan) == {}


@pytest.mark.parametrize(("stated", "is_on"), [({}, False), ({"keep_days": "true"}, True)])
def test_it_is_the_sites_decision(tmp_path: Path, stated: dict[str, str], is_on: bool) -> None:
    settings = read_settings(source=str(tmp_path), key_file=tmp_path / "key", **stated)
    assert ingest_options(settings)["scanner_days"] is is_on


def test_forgetting_the_first_session_keeps_the_days_of_others_and_the_last_one_ends_the_count(cohort: Cohort) -> None:
    count_days(cohort, KEY, dates_of(cohort, s0=0, s1=0, s2=50, s3=60, s4=70))
    forget(cohort.location, NAMES[0], key=KEY)
    assert days_in(Cohort.open(cohort.location)) == {1: 0, 2: 50, 3: 60, 4: 70}
    for number in (1, 3):
        forget(cohort.location, NAMES[number], key=KEY)
    left = Cohort.open(cohort.location)
    assert set(origins_of(left.root, KEY)) == {left.slots[NAMES[2]].group.partition("/")[0]}


def test_the_store_holds_no_date_without_the_key(tmp_path: Path) -> None:
    location = make_store(tmp_path)
    firsts = {"scanner-a": FIRST, "scanner-b": FIRST}
    with writing(location) as repository:
        begin_counting(repository, KEY, firsts)
        begin_counting(repository, KEY, {"scanner-a": FIRST - 9})  # it counts already
    root = Cohort.open(location).root
    assert origins_of(root, KEY) == firsts
    assert not set(origins_of(root, OTHER_KEY).values()) & set(range(FIRST - 40_000, FIRST + 40_000))
    stated = root.attrs[ORIGINS]
    assert isinstance(stated, dict)
    assert stated["scanner-a"] != stated["scanner-b"]  # equal dates look unlike
    export_zarr(Cohort.open(location), tmp_path / "out")
    assert ORIGINS not in zarr.open_group(tmp_path / "out", mode="r").attrs
