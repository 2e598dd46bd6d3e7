"""Which decisions stand, against a model of its own: append-only, an undo for each rater, open after a change."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.store.decisions.codes import DIGESTS, RESTS_ON, Decision, DecisionError, Ground, Scope, Subject, Verdict
from storage.store.decisions.effect import GROUP_CLOSURE, LeftOut, judged
from storage.store.decisions.standing import standings

NOW = dict(zip(DIGESTS, ("input", "9", "weights", "1/7", "closure"), strict=True))
SESSIONS = ("ses-1", "ses-2")
RATED = (Verdict.ACCEPT, Verdict.REJECT, Verdict.UNSURE, Verdict.UNDO)


def decision(verdict: Verdict, scope: Scope = Scope.MAPS, **given: object) -> Decision:
    values = {"kind": Subject.SESSION, "subject": "ses-1", "rater": "r1", **NOW, **given}
    return Decision(verdict=verdict, scope=scope, **values)  # type: ignore[arg-type]


decisions = st.lists(
    st.builds(
        decision,
        st.sampled_from(RATED),
        st.sampled_from([Scope.MAPS, Scope.IMAGES]),
        subject=st.sampled_from(SESSIONS),
        rater=st.sampled_from(["r1", "r2"]),
    ),
    max_size=12,
)


def last_of(history: Sequence[Decision], subject: str, scope: Scope) -> Verdict | None:
    """By brackets: an undo and the decision of the same rater that it closes cancel out."""
    open_by_rater: dict[str, list[int]] = {}
    verdicts: dict[int, Verdict] = {}
    for place, entry in enumerate(history):
        if (entry.subject, entry.scope) != (subject, scope):
            continue
        mine = open_by_rater.setdefault(entry.rater, [])
        if entry.verdict is not Verdict.UNDO:
            mine.append(place)
            verdicts[place] = entry.verdict
        elif mine:
            del verdicts[mine.pop()]
    return verdicts[max(verdicts)] if verdicts else None


@given(decisions)
def test_the_last_decision_that_was_not_taken_back_stands(history: list[Decision]) -> None:
    found = standings(history, {(Subject.SESSION, name): NOW for name in SESSIONS})
    for subject in SESSIONS:
        for scope in (Scope.MAPS, Scope.IMAGES):
            standing = found.get((Subject.SESSION, subject, scope))
            assert (standing.decision.verdict if standing else None) == last_of(history, subject, scope)
            assert standing is None or not standing.changed


@given(decisions, st.integers(0, 12))
def test_appending_and_taking_back_leaves_what_was(history: list[Decision], place: int) -> None:
    now = {(Subject.SESSION, name): NOW for name in SESSIONS}
    more = decision(RATED[place % 3], rater="r3")
    assert standings([*history, more, decision(Verdict.UNDO, rater="r3")], now) == standings(history, now)


@given(st.sampled_from(sorted(Scope)), st.sampled_from(DIGESTS))
def test_a_change_opens_exactly_what_rests_on_it(scope: Scope, changed: str) -> None:
    verdict = {Scope.SESSION: Verdict.EXCLUDE, Scope.FAILURE: Verdict.ACKNOWLEDGE}.get(scope, Verdict.REJECT)
    made = decision(verdict, scope)
    now = {(Subject.SESSION, "ses-1"): {**NOW, changed: "another"}}
    (standing,) = standings([made], now).values()
    assert standing.changed == ((changed,) if changed in RESTS_ON[scope] else ())
    assert standing.is_open == (changed in RESTS_ON[scope])
    (back,) = standings([made], {(Subject.SESSION, "ses-1"): NOW}).values()  # the same weights again
    assert not back.is_open
    (gone,) = standings([made], {}).values()
    assert gone.changed == RESTS_ON[scope]


@pytest.mark.parametrize("rater", ["anna", "AB", "r", "r1234", "r1 ", "R1", ""])
def test_a_rater_has_a_code_that_holds_no_name(rater: str) -> None:
    with pytest.raises(DecisionError, match="no names") as error:
        decision(Verdict.ACCEPT, rater=rater)
    assert rater == "" or rater not in str(error.value) or rater == "r"


def test_verdicts_have_their_scopes() -> None:
    with pytest.raises(DecisionError, match="cannot be said"):
        decision(Verdict.ACKNOWLEDGE)
    with pytest.raises(DecisionError, match="session by session"):
        decision(Verdict.ACKNOWLEDGE, Scope.FAILURE, kind=Subject.GROUP)


def rows(**cells: str) -> pd.DataFrame:
    row = {**dict.fromkeys(DIGESTS, ""), **NOW, "session": "ses-1", "group": "a/b", "status": "complete"}
    row |= {"reason": "", "error": "", **cells}
    return pd.DataFrame([row])


FAILED = {"status": "failed", "reason": "closure"}


@pytest.mark.parametrize(
    ("cells", "made", "left_out", "accepted", "settled"),
    [
        ({}, [], None, False, None),
        (FAILED, [], LeftOut.CLOSURE, False, None),
        (FAILED, [(Verdict.ACCEPT, Scope.MAPS)], None, True, Verdict.ACCEPT),
        (FAILED, [(Verdict.ACCEPT, Scope.IMAGES)], LeftOut.CLOSURE, False, None),
        (FAILED, [(Verdict.ACCEPT, Scope.MAPS), (Verdict.UNSURE, Scope.MAPS)], LeftOut.CLOSURE, False, None),
        (FAILED, [(Verdict.REJECT, Scope.MAPS)], LeftOut.REJECTED, False, Verdict.REJECT),
        (FAILED, [(Verdict.ACKNOWLEDGE, Scope.FAILURE)], LeftOut.CLOSURE, False, Verdict.ACKNOWLEDGE),
        ({}, [(Verdict.REJECT, Scope.IMAGES), (Verdict.ACCEPT, Scope.MAPS)], LeftOut.REJECTED, False, None),
        ({}, [(Verdict.EXCLUDE, Scope.SESSION), (Verdict.ACCEPT, Scope.MAPS)], LeftOut.EXCLUDED, False, None),
        ({"status": "failed", "reason": "read_error"}, [], None, False, None),
    ],
)
def test_what_counts(
    cells: dict[str, str],
    made: list[tuple[Verdict, Scope]],
    left_out: LeftOut | None,
    accepted: bool,
    settled: Verdict | None,
) -> None:
    failure = "closure" if cells else ""
    result = judged(rows(**cells), [decision(verdict, scope, failure=failure) for verdict, scope in made])
    assert result.left_out.get("ses-1") is left_out
    assert ("ses-1" in result.accepted) == accepted
    assert result.settled.get("ses-1") is settled


def test_a_group_covers_its_own_failure_and_a_session_decides_for_itself() -> None:
    now = {**NOW, "input_digest": "", "failure": ""}
    of_group = {"kind": Subject.GROUP, "subject": "a/b", **now}
    accept, reject = (decision(verdict, **of_group) for verdict in (Verdict.ACCEPT, Verdict.REJECT))
    own = {**FAILED, "error": "ClosureError"}
    assert judged(rows(**own), [accept]).left_out == {"ses-1": LeftOut.CLOSURE}
    whole = rows(**FAILED, error=GROUP_CLOSURE)
    assert judged(whole, [accept]).accepted == {"ses-1"}
    assert judged(whole, [accept, decision(Verdict.REJECT)]).left_out == {"ses-1": LeftOut.REJECTED}
    assert judged(rows(), [reject]).left_out == {"ses-1": LeftOut.REJECTED}
    assert judged(rows(), [reject, decision(Verdict.ACCEPT, failure="")]).left_out == {}
    later = rows(**FAILED, error=GROUP_CLOSURE, calibration_version="2/7")
    assert judged(later, [accept]).left_out == {"ses-1": LeftOut.CLOSURE}


def test_every_ground_has_a_word_of_its_own() -> None:
    made = decision(Verdict.REJECT, grounds=(Ground.MOTION, Ground.NOISE))
    assert made.made_on == {name: NOW[name] for name in RESTS_ON[Scope.MAPS]}
