"""What a person, or a machine, is told of a running cohort: the figures are those of the store, and nobody is named."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
import xarray as xr
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from flows.cli.main import app
from flows.cli.store import TOO_OLD
from flows.operations.difference import changed_sessions, moved_values
from flows.operations.figures import age_of, note_of, note_run
from flows.operations.session import commits_of
from storage.pseudonyms import load_key
from storage.source.discovery import scan_source
from storage.store.cohort import Cohort, commit, writing
from storage.store.repository import iterate_history, tag
from storage.store.tables import write_table
from tests.flows.many_sessions import write_source
from tests.flows.tiny_cohort import make_store, statistics

FAILED = "ses-ffffffffffff"
FIRST, SECOND = "ses-000000000000", "ses-000000000002"


def qmri(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if status != result.exit_code and result.exception is not None:
        raise result.exception
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QMRI_KEY_FILE", str(tmp_path / "key"))
    return make_store(tmp_path)


def test_figures_are_those_of_the_store_in_both_forms(store: str, tmp_path: Path) -> None:
    cohort = Cohort.open(store)
    second = {"session": SECOND, "stages": '{"ingest":{"read":3.0}}'}  # of the same group
    first = {"session": FIRST, "quality_marks": "noise,motion", "duration": 4.0}
    first["stages"] = '{"ingest":{"read":1.0},"infer":{"write":0.25}}'
    rows = [first, second, {"session": FAILED, "duration": 9.0, "stages": '{"ingest":{"read":9.0}}'}]
    with writing(store) as repository:
        commit(repository, None, [], values={}, rows=rows, message="marks")
    told = json.loads(qmri("status", "--store", store, "--json"))
    assert qmri("metrics", "--store", store, "--out", tmp_path / "qmri.prom") == ""
    families = {one.name: one for one in text_string_to_metric_families((tmp_path / "qmri.prom").read_text())}
    catalogue = Cohort.open(store).catalogue
    by_status = Counter(catalogue["status"])

    counted: Counter[str] = Counter()
    for one in told["sessions"]:
        counted[one["status"]] += one["sessions"]
    assert counted == by_status == {"complete": 5, "skipped": 1, "failed": 1}
    of_text = {tuple(sorted(one.labels.items())): one.value for one in families["qmri_sessions"].samples}
    assert of_text == {
        tuple(sorted((name, one[name]) for name in ("group", "status", "reason"))): one["sessions"]
        for one in told["sessions"]
    }
    label = cohort.labels[cohort.slots[FIRST].group]
    assert told["marks"] == [{"group": label, "mark": mark, "sessions": 1} for mark in ("motion", "noise")]
    assert told["ingest_seconds"] == {label: 4.0}  # what has no group took its time too, but for no group
    assert {(one["group"], one["run"], one["stage"]): one["seconds"] for one in told["stage_seconds"]} == {
        (label, "ingest", "read"): 2.0,
        (label, "infer", "write"): 0.25,
    }
    assert "seconds of infer: write 0.25" in qmri("show", FIRST, "--store", store)
    assert (told["unsettled_failures"], told["snapshot"]) == (1, Cohort.open(store).snapshot)
    in_folder = sum(path.stat().st_size for path in Path(store).rglob("*") if path.is_file())
    assert told["bytes"] == in_folder == families["qmri_store_bytes"].samples[0].value
    single = {"stale_sessions": told["stale"], "unsettled_failures": 1}
    assert {name: families[f"qmri_{name}"].samples[0].value for name in single} == single
    assert told["stale"] > 0
    assert not list(tmp_path.glob(".*"))


def test_a_night_that_did_not_happen_is_told_and_one_without_anything_new_counts(store: str, tmp_path: Path) -> None:
    assert qmri("status", "--store", store, "--max-age", "1h")
    note = note_of(store, tmp_path / "key")
    note_run(store, tmp_path / "key")
    os.utime(note, (time.time() - 7200, time.time() - 7200))
    assert qmri("status", "--store", store, "--max-age", "1h")  # the last commit is younger
    (committed,) = (one.time for _, one in zip(range(1), iterate_history(Cohort.open(store).repository), strict=False))
    assert "more than 0m" in qmri("status", "--store", store, "--json", "--max-age", "0m", status=TOO_OLD)
    later = committed.timestamp() + 1000
    os.utime(note, (later, later))
    assert qmri("status", "--store", store, "--max-age", "0m")
    assert note.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("text", "hours"), [("26h", 26), ("90m", 1.5), ("2d", 48)])
def test_ages_are_read_as_they_are_written(text: str, hours: float) -> None:
    assert age_of(text) == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["26", "h", "-1h", "1 year"])
def test_what_is_no_age_is_wrong_usage(store: str, text: str) -> None:
    assert "--max-age is a number" in qmri("status", "--store", store, "--max-age", text, status=2).replace("\n", " ")


def test_a_session_is_told_with_what_to_do_and_its_commits(store: str) -> None:
    series = json.dumps([[3, "T1w", "MPRAGE"], [4, "localizer", "few slices"]])
    rows = [{"session": FAILED, "reason": "worker_lost", "series": series, "explanation": "out of memory?"}]
    with writing(store) as repository:
        other = commit(repository, None, [], values={}, rows=[{"session": FIRST, "reason": "closure"}], message="other")
        last = commit(repository, None, [], values={}, rows=rows, message="lost")
    told = qmri("show", FAILED, "--store", store)
    for words in (
        "failed: worker_lost in stage read (ReadError)",
        "out of memory?",
        "Give it more memory",
        "few slices",
    ):
        assert words in told
    cohort = Cohort.open(store)
    first = next(one for one in iterate_history(cohort.repository) if one.message == "Ingest 5 sessions")
    assert [one.id for one in commits_of(cohort, FAILED)] == [last, first.id]
    assert other not in told
    with pytest.raises(Exception, match="no such session"):
        qmri("show", "ses-x", "--store", store, status=0)


def test_two_states_differ_in_what_was_changed_between_them(store: str) -> None:
    table = statistics().sessions.assign(made_with="x")
    moved = table.copy()
    is_moved = (moved["session"] == FIRST) & (moved["map"] == "T1map") & (moved["tissue"] == "WM")
    moved.loc[is_moved, "median"] *= 1.1
    for number, frame in enumerate((table, moved)):
        with writing(store) as repository:
            rows = [] if not number else [{"session": "ses-new", "status": "skipped", "reason": "incomplete"}]
            rows += [] if not number else [{"session": FIRST, "calibration_version": "2/1", "checkpoint_digest": "b"}]
            if rows:
                commit(repository, None, [], values={}, rows=rows, message="more")
            data = xr.Dataset({name: ("row", frame[name].to_numpy()) for name in frame.columns})
            write_table(repository, "statistics", data, message="statistics", metadata={})
            tag(repository, f"state-{number}")
    before, after = (Cohort.open(store, at=f"state-{number}") for number in (0, 1))
    assert changed_sessions(before, after) == (["ses-new"], [], {FIRST: ("calibration_version", "checkpoint_digest")})
    assert changed_sessions(after, before)[:2] == ([], ["ses-new"])
    values = moved_values(before, after)
    assert values["largest"].max() == pytest.approx(0.1)
    assert (values["largest"] > 0).sum() == 1
    told = qmri("diff", "state-0", "state-1", "--store", store)
    for words in ("1 sessions new, 0 gone, 1 changed", "another calibration", "10.00 %"):
        assert words in told
    assert "no value has moved" in qmri("diff", "state-1", "state-1", "--store", store)


def test_whose_a_session_is_is_told_from_source_and_key_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_source(tmp_path / "in", n_sessions=2, n_groups=1)
    monkeypatch.setenv("QMRI_KEY_FILE", str(tmp_path / "keys" / "key"))
    with scan_source(source, key=load_key(tmp_path / "keys" / "key")) as scanned:
        for session in scanned.sessions:
            told = qmri("linkage", session, source)
            assert f"patient_id: {scanned.session(session)[1].patient_id}" in told
            assert "sub-00000" in told
    monkeypatch.setenv("QMRI_KEY_FILE", str(tmp_path / "others" / "key"))
    with pytest.raises(Exception, match="no session of the source"):
        qmri("linkage", session, source)
