"""Decisions from a page: told first, then a commit like those of `qmri qc`; the statistics follow, and go back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.browser.view import View
from storage.store.cohort import Cohort
from storage.store.lifecycle.upkeep import rollback
from tests.flows.browser.client import Visitor
from tests.flows.browser.cohorts import Planted


@pytest.fixture
def store(planted: Planted, tmp_path: Path) -> str:
    return str(shutil.copytree(planted.store, tmp_path / "store"))


def mean_of(store: str, label: str) -> float:
    """Mean over sessions of white-matter T1 of a group, in seconds, as the overview has it."""
    view = View(Cohort.open(store))
    table = view.tables.groups
    key = next(key for key, name in view.labels.items() if name == label)
    chosen = table[(table["group"] == key) & (table["tissue"] == "WM") & (table["map"] == "T1map")]
    return float(chosen["mean_of_medians"].iloc[0])


def test_a_rejection_is_told_made_counted_undone_and_rolled_back(planted: Planted, store: str) -> None:
    client, bad = Visitor(store, can_decide=True), planted.bad[0]
    start = client.snapshot()
    table = client.table()
    label = table["groups"][table["group"][table["session"].index(bad)]]["label"]
    before = mean_of(store, label)
    asked = {"subjects": [bad], "verdict": "reject", "rater": "r7", "grounds": ["values"], "scope": "maps"}
    told = client.post("decisions/preview", asked).json()
    assert told == {"decisions": 1, "change": "1 sessions count no more", "snapshot": start}
    assert client.snapshot() == start  # nothing was written
    made = client.post("decisions", asked).json()
    assert made["snapshot"] == client.snapshot() != start
    members = [k for k, group in enumerate(table["group"]) if table["groups"][group]["label"] == label]
    white = [table["values"]["WM_T1map_median"][k] for k in members if table["session"][k] != bad]
    known = [value for value in white if value is not None]
    assert mean_of(store, label) == pytest.approx(sum(known) / len(known) / 1000, rel=1e-4)
    assert mean_of(store, label) < before
    assert client.table()["left_out"][table["session"].index(bad)] == "rejected"
    assert client.get(f"at/{start}/table.json").json()["left_out"][table["session"].index(bad)] == ""
    [decision] = Cohort.open(store).decisions
    assert (decision.verdict, decision.rater, decision.grounds, decision.subject) == ("reject", "r7", ("values",), bad)
    undo = client.post("decisions", {"subjects": [bad], "verdict": "undo", "rater": "r7"}).json()
    assert undo["change"] == "1 sessions count again"
    assert mean_of(store, label) == pytest.approx(before, rel=1e-12)
    rollback(store, made["snapshot"])
    assert mean_of(store, label) < before
    rollback(store, start)
    assert mean_of(store, label) == pytest.approx(before, rel=1e-12)


def test_two_raters_disagree_in_sight(planted: Planted, store: str) -> None:
    client, bad = Visitor(store, can_decide=True), planted.bad[4]
    assert f"{bad}</a></th><td>failed: closure</td><td>accept or reject" in client.get().text
    client.post("decisions", {"subjects": [bad], "verdict": "accept", "rater": "r1"})
    client.post("decisions", {"subjects": [bad], "verdict": "reject", "rater": "r2", "grounds": ["motion"]})
    text = client.get().text
    assert "yes, raters disagree" in text
    assert "r1 accept" in text
    assert "Of 1 subjects that more than one rater has decided on, raters agree on 0." in text


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"subjects": ["ses-000000000000"], "verdict": "reject", "rater": "Dr Meier"}, "the code of a rater"),
        ({"subjects": ["ses-000000000000"], "verdict": "delete", "rater": "r1"}, "verdict"),
        ({"subjects": ["Meier^Anna"], "verdict": "reject", "rater": "r1"}, "no such session or group"),
        ({"subjects": [], "verdict": "reject", "rater": "r1"}, "subjects"),
        ({"subjects": ["ses-000000000000"], "verdict": "reject", "rater": "r1", "note": "Meier"}, "note"),
        ({"subjects": ["ses-000000000000"], "verdict": "reject", "rater": "r1", "grounds": ["Meier"]}, "grounds"),
        ({"subjects": ["ses-000000000000"], "verdict": "undo", "rater": "r1"}, "no decision there to undo"),
        ([], "cannot be read"),
    ],
)
def test_what_is_no_decision_is_refused_and_not_repeated(planted: Planted, asked: object, said: str) -> None:
    client = Visitor(planted.store, can_decide=True)
    start = client.snapshot()
    for path in ("decisions/preview", "decisions"):
        answer = client.post(path, asked)
        assert answer.status_code == 400
        assert said in answer.json()["error"]
        assert "Meier" not in answer.text
    assert client.snapshot() == start


def test_a_form_of_another_page_cannot_decide(planted: Planted) -> None:
    client = Visitor(planted.store, can_decide=True)
    asked = {"subjects": ["ses-000000000000"], "verdict": "reject", "rater": "r1"}
    for headers in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        assert client.ask("POST", client.base + "decisions", headers=headers, content=asked).status_code == 403
