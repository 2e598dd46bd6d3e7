"""The log of sessions: what became of each stage of each session, a line each, and nothing that names anybody."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flows.cluster.boundary import Outcome, Stage, Taken, at_boundary, seconds_of
from flows.cluster.session_log import log_outcome, session_log
from flows.settings import SettingsError, read_settings
from flows.tables.stages import stages_of, with_stages
from storage.store.schema import Reason, Status

SECRET = "/archive/Vinci/scan.dcm"  # noqa: S105 - a path that must not show
GOOD = Outcome(
    session="ses-1",
    status=Status.COMPLETE,
    explanation=SECRET,
    stages=(Taken("read", 0.5, 10_000_000), Taken("infer", 1.0, 30_000_000), Taken("infer", 0.25, 20_000_000)),
)
BAD = Outcome(
    session="ses-2",
    status=Status.FAILED,
    reason=Reason.ALIGNMENT,
    stage="infer",
    error="AlignmentError",
    explanation=SECRET,
    stages=GOOD.stages,
)
LOST = Outcome(session="ses-3", status=Status.FAILED, reason=Reason.WORKER_LOST, stage="ingest", explanation=SECRET)
TOGETHER = Outcome(session="ses-4", status=Status.COMPLETE, stages=GOOD.stages, together=("ses-4", "ses-5"))


def lines(capsys: pytest.CaptureFixture[str], form: Any, *outcomes: Outcome) -> list[str]:
    with session_log(form):
        for outcome in outcomes:
            log_outcome("infer", outcome)
    log_outcome("infer", outcomes[0])  # after the run nothing is told
    told = capsys.readouterr()
    assert told.out == ""
    assert "Vinci" not in told.err
    return told.err.splitlines()


def test_lines_for_people_say_who_what_how_long_and_where_it_failed(capsys: pytest.CaptureFixture[str]) -> None:
    told = lines(capsys, "text", GOOD, BAD, LOST, TOGETHER)
    assert [line.split(" ", 1)[1] for line in told] == [
        "infer ses-1 read 0.500 s 10 MB",
        "infer ses-1 infer 1.250 s 30 MB",
        "infer ses-2 read 0.500 s 10 MB",
        "infer ses-2 infer 1.250 s 30 MB failed: alignment",
        "infer ses-3 ingest failed: worker_lost",
        "infer ses-4 read 0.250 s 10 MB",
        "infer ses-4 infer 0.625 s 30 MB",
        "infer ses-5 read 0.250 s 10 MB",
        "infer ses-5 infer 0.625 s 30 MB",
    ]
    for line in told:
        assert datetime.now(UTC) - datetime.fromisoformat(line.split()[0]) < timedelta(minutes=5)


def test_lines_for_machines_are_json_with_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    told = [json.loads(line) for line in lines(capsys, "json", BAD, LOST)]
    assert [{key: value for key, value in one.items() if key != "time"} for one in told] == [
        {"run": "infer", "session": "ses-2", "stage": "read", "seconds": 0.5, "memory": 10_000_000, "failed": None},
        {"run": "infer", "session": "ses-2", "stage": "infer", "seconds": 1.25, "memory": 30_000_000,
         "failed": "alignment"},
        {"run": "infer", "session": "ses-3", "stage": "ingest", "seconds": None, "memory": None,
         "failed": "worker_lost"},
    ]  # fmt: skip


def test_without_the_setting_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(capsys, None, GOOD, BAD) == []
    assert read_settings().log is None
    with pytest.raises(SettingsError, match="QMRI_LOG=csv"):
        read_settings(log="csv")


def test_what_stages_took_is_kept_of_sessions_that_fail_too() -> None:
    def work(stage: Stage) -> Outcome:
        with stage("read"):
            pass
        with stage("preprocess"):
            raise ValueError(SECRET)

    failed = at_boundary("ses-1", work)
    assert failed.stage == "preprocess"
    assert list(seconds_of(failed)) == ["read", "preprocess"]
    assert all(one.memory > 10_000_000 for one in failed.stages)  # of a process that has loaded this project


def test_seconds_are_kept_by_run_and_a_new_run_takes_the_place_of_the_last() -> None:
    text = with_stages("", "ingest", {"read": 0.12345, "write": 2.0})
    text = with_stages(text, "infer", seconds_of(GOOD))
    assert stages_of(text) == {"ingest": {"read": 0.123, "write": 2.0}, "infer": {"read": 0.5, "infer": 1.25}}
    assert stages_of(with_stages(text, "infer", {"read": 1.0}))["infer"] == {"read": 1.0}
    assert with_stages("", "ingest", seconds_of(LOST)) == "{}"
    assert stages_of("") == {}
