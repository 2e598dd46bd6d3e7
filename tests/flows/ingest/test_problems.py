"""What has to be decided before ingest, and in which order."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from flows.ingest.problems import FILE_REASONS, SMALL_GROUP, problems
from qmri_core.series.classification import SkipReason
from qmri_core.series.remarks import MEANINGS, RemarkKind
from storage.store.schema import Reason, Status

NOTHING: dict[str, Any] = {"sessions": {}, "series": {}, "remarks": {}, "groups": {}, "files": {}, "n_unmatched": 0}


def test_a_source_without_problems_has_none() -> None:
    right = {"sessions": {("complete", ""): 9}, "series": {"localizer": 9}, "files": {"not_image": 3}}
    assert list(problems(**{**NOTHING, **right, "groups": {"a/b": SMALL_GROUP}})) == []


def test_what_loses_sessions_comes_first_and_what_weakens_them_last() -> None:
    found = problems(
        sessions=Counter({(s, r): 2 for s in ("partial", "skipped") for r in ("missing_contrast", "no_parameters")}),
        series={"incomplete": 3},
        remarks=dict.fromkeys(RemarkKind, 4),
        groups={"a/b": 1, "a/c": 2},
        files={"unreadable": 5},
        n_unmatched=1,
    )
    names = [(problem.of, problem.name, problem.count) for problem in found]
    assert names == [
        ("session", "skipped, no_parameters", 2),
        ("session", "skipped, missing_contrast", 2),
        ("session", "partial, no_parameters", 2),
        ("session", "partial, missing_contrast", 2),
        ("entry", "unmatched", 1),
        *(("session", str(kind), 4) for kind in RemarkKind),
        ("series", "incomplete", 3),
        ("file", "unreadable", 5),
        ("group", "small", 2),
    ]


@pytest.mark.parametrize("status", [Status.SKIPPED, Status.PARTIAL])
@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_told_in_one_plain_line(status: Status, reason: Reason) -> None:
    (problem,) = problems(**{**NOTHING, "sessions": {(str(status), str(reason)): 1}})
    assert problem.line().startswith(f"1 session {status}, {reason}: ")
    assert "\n" not in problem.line()
    assert "``" not in problem.line()


def test_every_remark_says_what_to_do() -> None:
    for problem in problems(**{**NOTHING, "remarks": dict.fromkeys(RemarkKind, 2)}):
        _, advice = MEANINGS[RemarkKind(problem.name)]
        assert problem.line().startswith(f"2 sessions {problem.name}: ")
        assert advice[1:] in problem.text


def test_files_and_series_are_counted() -> None:
    found = problems(**{**NOTHING, "files": dict.fromkeys(FILE_REASONS, 1), "series": {SkipReason.NO_PARAMETERS: 2}})
    assert [problem.line().split(":")[0] for problem in found] == [
        "2 series no_parameters",
        *(
            f"1 {next((of for of in ('folder', 'session') if of in reason), 'file')} {reason}"
            for reason in FILE_REASONS
        ),
    ]
