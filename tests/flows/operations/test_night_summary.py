"""What a night says: what it did since the last one, why what failed has failed, and what is left for a person."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr

from flows.night import Reprocessed
from flows.operations.night_summary import failure_rows, night_text
from flows.tables.summary import Failure, RunSummary
from storage.store.cohort import Cohort, commit, writing
from storage.store.lifecycle.nights import night_before, night_of
from storage.store.repository import tag
from storage.store.schema import MEANINGS, Reason
from storage.store.tables import write_table
from tests.flows.tiny_cohort import make_store, statistics

FAILED, FIRST, SECOND = "ses-ffffffffffff", "ses-000000000000", "ses-000000000001"
WHY = "the series T2w | FLAIR cannot be read"
SETTLED = "ses-eeeeeeeeeeee"


def summary(*failures: Failure, **more: object) -> RunSummary:
    return RunSummary(found=8, complete=7 - len(failures), skipped=1, failed=len(failures), failures=failures, **more)  # type: ignore[arg-type]


def after(store: str, night: str | None, *failures: Failure, **more: object) -> str:
    result = Reprocessed(
        ingested=summary(*failures, **more), summary=summary(*failures), snapshot=night and "S", tag=night
    )
    return night_text(store, result)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Two nights: in the second a value moved by a tenth, a session failed, a session is new."""
    location = make_store(tmp_path)
    table = statistics().sessions.assign(made_with="x")
    for number, night in enumerate(("nightly-2026-11-29", "nightly-2026-11-29.2")):
        with writing(location) as repository:
            if number:
                is_moved = (table["session"] == FIRST) & (table["map"] == "T1map") & (table["tissue"] == "WM")
                table.loc[is_moved, "median"] *= 1.1
                rows = [
                    {"session": FIRST, "checkpoint_digest": "b", "stages": '{"ingest":{"read":1.5,"write":30.0}}'},
                    {"session": SECOND, "status": "failed", "reason": "closure"},
                    {"session": FAILED, "explanation": WHY},
                    {"session": SETTLED, "status": "skipped", "reason": "incomplete"},
                ]
                commit(repository, None, [], values={}, rows=rows, message="second")
            data = xr.Dataset({name: ("row", table[name].to_numpy()) for name in table.columns})
            write_table(repository, "statistics", data, message="statistics", metadata={})
            tag(repository, night)
    return location


def test_the_second_night_tells_what_is_new_and_what_moved_since_the_first(store: str) -> None:
    open_one, settled = Failure(FAILED, "read_error", "read"), Failure(SECOND, "closure", "closure", "acknowledge")
    told = after(store, "nightly-2026-11-29.2", settled, open_one, unmatched=(0,), small_groups={"Prisma-1": 3})
    cohort = Cohort.open(store)
    escaped = r"\|"
    first, second = (cohort.labels[cohort.slots[name].group] for name in (FIRST, SECOND))
    for line in (
        "8 sessions: 5 complete, 0 partial, 1 skipped, 2 failed",
        f"- 1 new: {SETTLED}",
        f"- 2 changed (1 another checkpoint, 1 another status, 1 another reason): {FIRST}, {SECOND}",
        f"| {first} | 3 | 3 | 0 | 0 | WM T1map: 10.00 % |",
        f"| {second} | 2 | 2 | 0 | 1 | - |",
        f"| {FAILED} | read_error | read | {WHY.replace('|', escaped)} | {MEANINGS[Reason.READ_ERROR]} |  |",
        f"| {FIRST} | {first} | 31.5 | ingest write 30.0 |",
        "- 1 failed sessions on which nobody has decided",
        "- entry 1 of the assume file matched no series",
        "- Prisma-1: 3 sessions; its calibration rests on few people",
    ):
        assert line in told, line
    assert told.index(f"| {FAILED} |") < told.index(f"| {SECOND} |")  # what is settled stands last
    assert "GB free, room for about" in told
    assert f"| {SECOND} | {second} |" not in told  # nobody knows what it took
    assert "stale after the night" in told


def test_a_night_without_anything_new_reads_little_and_says_what_is_left(store: str) -> None:
    quiet = after(store, None)
    assert "nothing new" in quiet
    assert quiet.endswith("## What a person must do\n\nNothing.")
    assert "Since the last night" not in quiet
    assert "Slowest" not in quiet
    still = after(store, None, Failure(FAILED, "read_error", "read"))
    assert WHY.replace("|", "\\|") in still
    assert "qmri qc acknowledge" in still


def test_the_first_night_has_none_to_be_compared_with(store: str) -> None:
    told = after(store, "nightly-2026-11-29")
    assert "Since the last night" not in told
    assert FIRST in told.partition("## Slowest sessions")[2]


def test_a_failure_is_told_with_its_sentence_and_what_to_do(store: str) -> None:
    (row,) = failure_rows(store, [Failure(FAILED, "read_error", "read", "exclude")])
    assert (row["explanation"], row["what to do"], row["decided"]) == (WHY, MEANINGS[Reason.READ_ERROR], "excluded")
    assert list(failure_rows(str(Path(store) / "nothing"), [])) == []  # no store is opened for it


@pytest.mark.parametrize(
    ("name", "night"),
    [
        ("nightly-2026-11-29", ("2026-11-29", 1)),
        ("nightly-2026-11-29.12", ("2026-11-29", 12)),
        ("nightly-2026-11-29.0", None),
        ("before-rollback-20261129T010203Z", None),
        ("my-nightly-2026-11-29", None),
    ],
)
def test_tags_of_nights_are_told_from_those_of_people(name: str, night: tuple[str, int] | None) -> None:
    assert night_of(name) == night


def test_nights_come_in_the_order_of_days_and_of_numbers_within_a_day(store: str) -> None:
    with writing(store) as repository:
        for name in ("nightly-2026-11-30", "nightly-2026-11-29.10", "nightly-2026-11-29.9", "paper"):
            tag(repository, name)
        assert night_before(repository, "nightly-2026-11-30") == "nightly-2026-11-29.10"
        assert night_before(repository, "nightly-2026-11-29.10") == "nightly-2026-11-29.9"
        assert night_before(repository, "nightly-2026-11-29") is None
