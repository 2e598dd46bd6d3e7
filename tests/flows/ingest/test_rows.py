"""When a session that the catalogue knows is done, although the code may decide otherwise than when it was ingested."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flows.ingest.rows import is_done, row_of
from flows.ingest.session_plan import SessionPlan, plan_sessions
from qmri_core.series.acquisition import Contrast
from qmri_core.series.remarks import READ_OTHERWISE, Remark, RemarkKind
from storage.source.series import Series
from tests.flows.ingest.test_session_plan import HEADERS, series


def planned(members: list[Series]) -> SessionPlan:
    (plan,) = plan_sessions(members)
    return plan


def stored(plan: SessionPlan) -> dict[str, object]:
    """Row of a session that was ingested as planned."""
    assert plan.placement is not None
    return {**row_of(plan), "group": plan.placement.group}


def otherwise(plan: SessionPlan, numbers: dict[str, int]) -> dict[str, object]:
    """Row of a session of whose series others were taken."""
    return {**stored(plan), "series": json.dumps([[number, contrast, ""] for contrast, number in numbers.items()])}


def test_what_was_taken_is_done_and_what_would_be_taken_now_is_not() -> None:
    plan = planned([series(kind) for kind in HEADERS])
    numbers = {str(contrast): one.number for contrast, one in plan.chosen.items()}
    assert is_done(plan, stored(plan))
    assert is_done(plan, otherwise(plan, numbers))
    for contrast in numbers:
        assert not is_done(plan, otherwise(plan, numbers | {contrast: 99}))
        assert not is_done(plan, otherwise(plan, {name: n for name, n in numbers.items() if name != contrast}))


def test_a_repeat_that_was_taken_for_its_looks_is_done() -> None:
    members = [series(kind) for kind in HEADERS]
    plan = planned([*members, series(Contrast.T1W, number=9)])
    (repeat,) = plan.alternates[Contrast.T1W]
    numbers = {str(contrast): one.number for contrast, one in plan.chosen.items()} | {"T1w": repeat.number}
    assert is_done(plan, otherwise(plan, numbers))


@pytest.mark.parametrize("kind", RemarkKind)
def test_what_is_read_otherwise_is_another_input(kind: RemarkKind) -> None:
    members = [series(contrast) for contrast in HEADERS]
    before = planned(members)
    remarked = replace(members[0], remarks=(Remark(kind=kind, text="series 1"),))
    after = planned([remarked, *members[1:]])
    assert (after.input_digest != before.input_digest) == (kind in READ_OTHERWISE)
    assert is_done(after, stored(before)) == (kind not in READ_OTHERWISE)


def test_a_session_of_another_person_than_stored_is_not_done() -> None:
    """An archive that has grown may say that one identifier stands for several people."""
    plan = planned([series(kind) for kind in HEADERS])
    assert not is_done(plan, stored(plan) | {"person": "sub-other"})
