"""Series whose slices reach far less than those of their group."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flows.ingest.extents import LEAST_SESSIONS
from flows.ingest.session_plan import SessionPlan, plan_sessions
from qmri_core.series.acquisition import Contrast
from qmri_core.series.remarks import RemarkKind
from storage.source.series import Series
from tests.flows.ingest.test_session_plan import series


def visit(number: int, slices: dict[Contrast, int]) -> list[Series]:
    members = [series(contrast, session=f"ses-{number}") for contrast in Contrast]
    return [
        replace(one, shape=(180, 220, slices.get(contrast, 60)))
        for one, contrast in zip(members, Contrast, strict=True)
    ]


def told(plans: list[SessionPlan]) -> dict[str, list[str]]:
    found = {plan.session: [one.text for one in plan.remarks if one.kind is RemarkKind.MISSING] for plan in plans}
    return {session: texts for session, texts in found.items() if texts}


@pytest.mark.parametrize("short", [(Contrast.T2W,), tuple(Contrast)], ids=["one series", "all of the session alike"])
def test_series_that_reach_far_less_than_their_group_are_told(short: tuple[Contrast, ...]) -> None:
    members = [one for number in range(6) for one in visit(number, dict.fromkeys(short, 40) if number == 3 else {})]
    plans = plan_sessions(members)
    assert {plan.status for plan in plans} == {"complete"}
    texts = told(plans)["ses-3"]
    assert [text.partition(":")[0] for text in texts] == sorted(str(one) for one in short)
    assert all("40 slices" in text and "cover 120 mm" in text and "180 mm and more" in text for text in texts)
    assert set(told(plans)) == {"ses-3"}


@pytest.mark.parametrize(
    ("slices", "others"), [(50, 5), (40, LEAST_SESSIONS - 2)], ids=["a few less", "too few sessions to compare"]
)
def test_what_operators_choose_is_not_told(slices: int, others: int) -> None:
    members = [one for number in range(others) for one in visit(number, {})]
    assert told(plan_sessions([*members, *visit(99, {Contrast.FLAIR: slices})])) == {}


def test_the_others_of_another_group_count_for_nothing() -> None:
    members = [one for number in range(6) for one in visit(number, {})]
    other = [replace(one, device="other") for one in visit(99, dict.fromkeys(Contrast, 40))]
    assert told(plan_sessions([*members, *other])) == {}
