"""When sessions fail with their group, and when they do so no longer."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from flows.maps.group_closure import changed_rows, settle_groups
from storage.store.cohort import Cohort, commit, writing
from storage.store.decisions.effect import GROUP_CLOSURE, LeftOut, judge
from tests.flows.tiny_cohort import make_store


def catalogue(*states: str) -> pd.DataFrame:
    """Sessions of one group: ok, failed by themselves, failed with their group, or without maps."""
    kinds = {
        "ok": ("complete", "", "", "c0ffee"),
        "own": ("failed", "closure", "ClosureError", "c0ffee"),
        "group": ("failed", "closure", GROUP_CLOSURE, "c0ffee"),
        "none": ("complete", "", "", ""),
        "other": ("failed", "internal_error", "KeyError", "c0ffee"),
    }
    rows = [
        {"session": f"ses-{number}", "group": "a/b", "contrasts": "T1w,T2w,FLAIR" if number else "T1w,T2w"}
        | dict(zip(("status", "reason", "error", "checkpoint_digest"), kinds[state], strict=True))
        for number, state in enumerate(states)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("states", "changed"),
    [
        (("ok", "ok", "own"), {}),
        (("own", "own", "ok"), {"ses-2": "failed"}),
        (("own", "own", "ok", "ok"), {}),
        (("own", "own"), {}),
        (("own", "own", "group"), {}),
        (("group", "group", "own", "ok"), {"ses-0": "partial", "ses-1": "complete"}),
        (("own", "own", "none", "other"), {}),
        (("own", "own", "own", "other", "none", "ok"), {"ses-5": "failed"}),
    ],
)
def test_a_group_fails_where_more_than_half_of_it_does(states: tuple[str, ...], changed: dict[str, str]) -> None:
    rows = changed_rows(catalogue(*states))
    assert {row["session"]: row["status"] for row in rows} == changed
    assert all((row["error"] == GROUP_CLOSURE) == (row["status"] == "failed") for row in rows)


def test_a_store_keeps_it_and_takes_it_back(tmp_path: Path) -> None:
    store = make_store(tmp_path, per_group=3)
    group, members = next(iter(Cohort.open(store).catalogue.query("checkpoint_digest != ''").groupby("group")))
    names = [str(name) for name in members["session"]]

    def own(names: list[str], status: str, reason: str, error: str) -> None:
        rows = [{"session": name, "status": status, "reason": reason, "error": error} for name in names]
        with writing(store) as repository:
            commit(repository, None, [], values={}, rows=rows, message="closure")

    own(names[:2], "failed", "closure", "ClosureError")
    assert settle_groups(Cohort.open(store)) is not None
    assert settle_groups(Cohort.open(store)) is None
    cohort = Cohort.open(store)
    assert {name: judge(cohort).left_out.get(name) for name in names} == dict.fromkeys(names, LeftOut.CLOSURE)
    told = cohort.catalogue.set_index("session").loc[names[2], "explanation"]
    assert told == "2 of 3 sessions of its group contradict what was put in"
    assert str(group) in set(cohort.sessions["group"])
    own(names[:1], "complete", "", "")
    settle_groups(Cohort.open(store))
    assert set(judge(Cohort.open(store)).left_out) == {names[1]}
