"""How long nights stay: tags of old ones end together and with them what nothing else needs; people's tags stay."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.store.cohort import Cohort, commit, history, writing
from storage.store.lifecycle import nights, upkeep
from storage.store.lifecycle.nights import keep_nights, tag_night
from storage.store.repository import StoreError, tag
from tests.storage.cohorts import ingest, placement


def day(age: float) -> str:
    return f"nightly-{datetime.now(UTC) - timedelta(days=age):%Y-%m-%d}"


def store_with(folder: Path, names: Sequence[str]) -> Cohort:
    """A store with a commit for each tag, oldest first."""
    ingest(folder / "store", [placement("ses-1")])
    for number, name in enumerate(names):
        with writing(folder / "store") as repository:
            row = {"session": "ses-1", "explanation": str(number)}
            commit(repository, None, [], values={}, rows=[row], message=f"night {number}")
            tag(repository, name)
    return Cohort.open(folder / "store")


def tags(cohort: Cohort) -> set[str]:
    return set(cohort.repository.list_tags())


def test_nights_that_are_too_old_end_together_and_their_states_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [day(40), f"{day(40)}.2", day(35), "paper", day(31), day(29), day(0)]
    cohort = store_with(tmp_path, names)
    monkeypatch.setattr(upkeep, "timedelta", lambda days: timedelta(days=days - 30))  # all commits are of now
    before = len(history(cohort.repository))
    done = keep_nights(cohort, 30)
    assert done is not None
    assert tags(cohort) == {"paper", day(29), day(0)}
    assert done.snapshots == before - 3
    assert done.objects > 0
    assert Cohort.open(cohort.location, at="paper").rows_of(["ses-1"])["ses-1"]["explanation"] == "3"
    assert keep_nights(cohort, 30) is None


def test_nothing_ends_before_a_week_of_nights_is_too_old(tmp_path: Path) -> None:
    """Since it takes a look at every object of the store."""
    cohort = store_with(tmp_path, [day(36), day(31), day(1)])
    assert keep_nights(cohort, 30) is None
    assert len(tags(cohort)) == 3
    assert keep_nights(cohort, 28) is not None
    assert tags(cohort) == {day(1)}


@pytest.mark.parametrize("names", [[], ["paper"], [day(400)]], ids=["none", "of people", "the last"])
def test_without_old_nights_or_with_one_alone_nothing_ends(tmp_path: Path, names: list[str]) -> None:
    cohort = store_with(tmp_path, names)
    assert keep_nights(cohort, 30) is None
    assert tags(cohort) == set(names)


def test_less_than_a_day_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="give 1 or more"):
        keep_nights(store_with(tmp_path, []), 0.5)


def test_a_second_night_of_a_day_has_a_name_of_its_own(tmp_path: Path) -> None:
    cohort = store_with(tmp_path, [])
    with_fixed = {tag_night(cohort)[1] for _ in range(3)}
    assert len(with_fixed) == 3
    assert all(nights.night_of(name) for name in with_fixed)
