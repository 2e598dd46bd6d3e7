"""Which sessions a training sees: divided by person, and by group where there are enough."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from flows.training.images import HELD_OUT_SHARE, LEAST_GROUPS, split

VISITS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)), min_size=1, max_size=60)


def rank(name: str) -> float:
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32


def cohort(visits: list[tuple[int, int]]) -> dict[str, dict[str, str]]:
    return {f"s{k}": {"session": f"s{k}", "person": f"p{p}", "group": f"g{g}"} for k, (p, g) in enumerate(visits)}


@given(VISITS)
def test_nobody_is_both_trained_on_and_held_out(visits: list[tuple[int, int]]) -> None:
    stored = cohort(visits)
    found = split(list(stored.values()))
    train, held_out = ({stored[name]["person"] for name in names} for names in (found.train, found.held_out))
    assert not train & held_out
    if len({row["person"] for row in stored.values()}) > 1:
        assert held_out


@given(VISITS)
def test_groups_are_held_out_where_there_are_enough(visits: list[tuple[int, int]]) -> None:
    stored = cohort(visits)
    found = split(list(stored.values()))
    groups = {row["group"] for row in stored.values()}
    aside = {group for group in groups if rank(group) < HELD_OUT_SHARE} | {min(groups, key=rank)}
    trained = {stored[name]["group"] for name in found.train}
    assert not (trained & aside) or len(groups) < LEAST_GROUPS


@given(VISITS, st.integers(100, 200))
def test_a_new_session_moves_nobody_into_training(visits: list[tuple[int, int]], newcomer: int) -> None:
    before = cohort(visits)
    after = before | {"new": {"session": "new", "person": f"p{newcomer}", "group": "g0"}}
    held_out = {p for row in before.values() if rank(p := row["person"]) < HELD_OUT_SHARE}
    trained = {after[name]["person"] for name in split(list(after.values())).train}
    assert not trained & held_out


def test_one_person_alone_is_not_divided() -> None:
    found = split([{"session": "a", "person": "p", "group": "g"}, {"session": "b", "person": "p", "group": "h"}])
    assert (found.train, found.held_out) == (("a", "b"), ())
