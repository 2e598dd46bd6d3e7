"""Which sessions a run is about, and that it leaves the others, and what is excluded, alone."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from distributed import Client
from pydantic import ValidationError

from flows.ingest.run import ingest
from flows.maps.infer import infer
from flows.maps.staleness import stale_sessions
from flows.selection import EVERYTHING, Selection, SelectionError, moment
from flows.statistics.aggregate import aggregate
from qmri_core import versions
from storage.pseudonyms import load_key
from storage.store.cohort import Cohort, commit, writing
from storage.store.decisions.codes import Verdict
from storage.store.decisions.making import decide, decisions_on
from storage.store.repository import iterate_history
from tests.flows.end_to_end import Processed
from tests.flows.tiny_cohort import GROUPS, make_store

SKIPPED, FAILED = "ses-aaaaaaaaaaaa", "ses-ffffffffffff"
EVEN = {f"ses-{number:012x}" for number in (0, 2, 4)}
ODD = {f"ses-{number:012x}" for number in (1, 3)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return Cohort.open(make_store(tmp_path_factory.mktemp("tiny")))


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"sessions": [FAILED]}, {FAILED}),
        ({"groups": [GROUPS[0]]}, EVEN),
        ({"groups": ["Ingenia-1"]}, ODD),
        ({"groups": list(GROUPS), "sessions": [FAILED, min(ODD)]}, {min(ODD)}),
        ({"statuses": ["failed", "skipped"]}, {FAILED, SKIPPED}),
        ({"reasons": ["read_error"]}, {FAILED}),
        ({"reasons": ["missing_contrast"], "statuses": ["failed"]}, set()),
        ({"since": moment("2999-01-01")}, {"ses-new"}),
        ({"since": moment("2001-01-01")}, {*EVEN, *ODD, FAILED, SKIPPED, "ses-new"}),
        ({"retry": True}, {*EVEN, *ODD, FAILED, SKIPPED, "ses-new"}),
        ({"sessions": ["ses-new"]}, {"ses-new"}),
    ],
)
def test_a_session_is_one_of_each_that_is_given(tiny: Cohort, asked: dict[str, Any], names: set[str]) -> None:
    assert Selection.model_validate(asked).of(tiny, ["ses-new"]).names == names


def test_what_has_changed_since_is_new_or_ended_otherwise(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    times = [snapshot.time for snapshot in iterate_history(Cohort.open(store).repository)]
    with writing(store) as repository:
        rows = [{"session": FAILED, "reason": "alignment"}, {"session": SKIPPED, "explanation": "told otherwise"}]
        commit(repository, None, [], values={}, rows=rows, message="another reason")
    assert Selection(since=times[0]).of(Cohort.open(store)).names == {FAILED}
    before_maps = times[1] + (times[0] - times[1]) / 2
    assert Selection(since=before_maps).of(Cohort.open(store)).names == {FAILED, *EVEN, *ODD} - {max(EVEN)}


@pytest.mark.parametrize("asked", [{"sessions": ["Smith^John"]}, {"groups": ["Smith^John"]}])
def test_what_is_not_there_is_an_error_that_repeats_nothing(tiny: Cohort, asked: dict[str, Any]) -> None:
    with pytest.raises(SelectionError, match="1 of the") as error:
        Selection.model_validate(asked).of(tiny)
    assert "Smith" not in str(error.value)


@pytest.mark.parametrize(
    "asked", [{"statuses": ["bad"]}, {"reasons": ["bad"]}, {"since": datetime(2026, 1, 1)}, {"x": 1}]
)
def test_what_is_no_word_of_the_store_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Selection.model_validate(asked)


def test_nothing_is_read_where_nothing_is_asked_for() -> None:
    everything = EVERYTHING.of(cast(Cohort, None))
    assert "ses-any" in everything
    assert not everything.is_again("ses-any")


def test_times_are_utc_unless_they_say_otherwise() -> None:
    assert moment("2026-11-30") == datetime(2026, 11, 30, tzinfo=UTC)
    assert moment("2026-11-30T06:00+01:00") == datetime(2026, 11, 30, 5, tzinfo=UTC)
    assert moment("2026-11-30") - moment("2026-11-29T23:00") == timedelta(hours=1)


def exclude(store: str, *subjects: str, verdict: Verdict = Verdict.EXCLUDE) -> None:
    cohort = Cohort.open(store)
    decide(cohort, decisions_on(cohort, subjects, verdict, rater="r1"))


@pytest.mark.walk
def test_runs_take_what_is_selected_and_leave_what_is_excluded(
    processed: Processed, workers: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(shutil.copytree(processed.store, tmp_path / "store"))
    first, second, third = sorted(Cohort.open(store).slots)
    key = load_key(processed.key_file)

    def messages() -> list[str]:
        return [snapshot.message for snapshot in iterate_history(Cohort.open(store).repository)]

    def taken(selection: Selection) -> tuple[int, int, int, list[str]]:
        n_before = len(messages())
        ran = ingest(processed.source, store, key=key, client=workers, selection=selection)
        return ran.found, ran.unchanged, ran.not_selected, messages()[:-n_before]

    n_all = len(Cohort.open(store).catalogue)
    only = Selection(sessions=(first,))
    assert taken(only) == (1, 1, n_all - 1, [])
    assert taken(only.model_copy(update={"retry": True})) == (1, 0, n_all - 1, ["Ingest 1 sessions"])
    assert Cohort.open(store).rows_of([first])[first]["checkpoint_digest"] == ""

    ran = infer(store, checkpoint=processed.checkpoint, client=workers, selection=Selection(sessions=(second,)))
    assert (ran.found, ran.unchanged, ran.not_selected) == (1, 1, n_all - 1)
    exclude(store, first)
    ran = infer(store, checkpoint=processed.checkpoint, client=workers)
    assert (ran.found, ran.unchanged) == (n_all, n_all)
    assert first not in stale_sessions(Cohort.open(store))
    again = Selection(sessions=(second,), retry=True)
    ran = infer(store, checkpoint=processed.checkpoint, client=workers, selection=again)
    assert (ran.found, ran.unchanged) == (1, 0)
    assert aggregate(store, client=workers, selection=again).sessions["session"].nunique() == 2
    assert messages()[0] == "Aggregate 1 sessions"

    with monkeypatch.context() as patch:
        patch.setattr(versions, "PREPROCESSING", 99)
        found, unchanged, _, done = taken(Selection(sessions=(first, third)))
        assert (found, unchanged, done[-1]) == (2, 1, "Ingest 1 sessions")
    exclude(store, first, verdict=Verdict.UNDO)
    ran = infer(store, checkpoint=processed.checkpoint, client=workers, selection=only)
    assert (ran.found, ran.unchanged) == (1, 0)
