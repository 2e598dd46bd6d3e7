"""Decisions in real stores: a commit each, append-only, gone with the session, told by verify, left out of exports."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from storage.exports.bids import export_bids
from storage.exports.zarr import export_zarr
from storage.store.cohort import Cohort, commit, history, open_cohort, tag, write_table, writing
from storage.store.decisions.codes import Decision, DecisionError, Ground, Scope, Subject, Verdict
from storage.store.decisions.effect import LeftOut, judge
from storage.store.decisions.files import read_file, write_decisions
from storage.store.decisions.ledger import append_decisions
from storage.store.decisions.making import change_of, decide, decisions_on
from storage.store.lifecycle.forget import forget
from storage.store.lifecycle.upkeep import rollback
from storage.store.lifecycle.verify import verify
from storage.store.repository import StoreError, open_repository
from tests.storage.cohorts import GROUP, infer, ingest, placement, row
from tests.storage.residues import holds

KEY = bytes(range(32))
NAMES = ("ses-1", "ses-2", "ses-3")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sessions with maps and one that failed; the maps of the third have failed for closure."""
    location = tmp_path_factory.mktemp("decisions") / "store"
    ingest(location, [placement("ses-1"), placement("ses-2"), placement("ses-3", "scanner-b/protocol-2")])
    infer(location, NAMES)
    rows = [row("ses-3", "failed", reason="closure"), row("ses-x", "failed", reason="read_error")]
    table = xr.Dataset({"session": ("row", list(NAMES)), "median": ("row", [0.7, 0.8, 0.9])})
    with writing(location) as repository:
        commit(repository, None, [], values={}, rows=rows, message="failures")
        write_table(repository, "statistics", table, message="Aggregate")
    return location


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "store"))


def say(store: Path, verdict: Verdict, *subjects: str, rater: str = "r1", scope: Scope | None = None) -> None:
    cohort = Cohort.open(store)
    grounds = [Ground.MOTION]
    decide(cohort, decisions_on(cohort, subjects, verdict, rater=rater, grounds=grounds, scope=scope))


def test_a_decision_is_a_commit_that_rollback_takes_back(store: Path) -> None:
    before = Cohort.open(store)
    say(store, Verdict.ACCEPT, "ses-3")
    say(store, Verdict.REJECT, "ses-1", rater="r2")
    first, second = (entry.message for entry in history(open_repository(store))[1::-1])
    assert (first, second) == ("Decide: accept 1", "Decide: reject 1")
    after = Cohort.open(store)
    assert [(one.subject, one.verdict, one.rater) for one in after.decisions] == [
        ("ses-3", Verdict.ACCEPT, "r1"),
        ("ses-1", Verdict.REJECT, "r2"),
    ]
    assert after.decisions[0].checkpoint_digest == "c0ffee"
    assert judge(after).left_out == {"ses-1": LeftOut.REJECTED}
    assert judge(after).accepted == {"ses-3"}
    assert after.catalogue.equals(before.catalogue)  # no status changes
    assert verify(after) == []
    assert before.decisions == ()  # the snapshot of then
    rollback(store, before.snapshot)
    assert Cohort.open(store).decisions == ()
    assert judge(Cohort.open(store)).left_out == {"ses-3": LeftOut.CLOSURE}


def test_rows_are_only_ever_appended(store: Path) -> None:
    seen: list[tuple[Decision, ...]] = []
    for verdict, rater in ((Verdict.REJECT, "r1"), (Verdict.UNSURE, "r2"), (Verdict.UNDO, "r2"), (Verdict.UNDO, "r1")):
        say(store, verdict, "ses-1", rater=rater)
        seen.append(Cohort.open(store).decisions)
    assert [len(rows) for rows in seen] == [1, 2, 3, 4]
    assert all(seen[-1][: len(rows)] == rows for rows in seen)
    with pytest.raises(DecisionError, match="no decision there to undo"):
        say(store, Verdict.UNDO, "ses-1")


def test_new_maps_open_a_decision_on_maps_and_not_one_on_images(store: Path) -> None:
    say(store, Verdict.REJECT, "ses-1")
    say(store, Verdict.REJECT, "ses-2", scope=Scope.IMAGES)
    with writing(store) as repository:
        rows = [{"session": name, "checkpoint_digest": "other"} for name in ("ses-1", "ses-2")]
        commit(repository, None, [], values={}, rows=rows, message="Infer")
    cohort = Cohort.open(store)
    assert set(judge(cohort).left_out) == {"ses-2", "ses-3"}
    opened = judge(cohort).standings[Subject.SESSION, "ses-1", Scope.MAPS]
    assert opened.changed == ("checkpoint_digest",)


def test_a_group_is_named_by_its_label(store: Path) -> None:
    label = Cohort.open(store).labels[GROUP]
    say(store, Verdict.EXCLUDE, label)
    assert set(judge(Cohort.open(store)).left_out) == {"ses-1", "ses-2", "ses-3"}
    say(store, Verdict.UNDO, label)
    assert set(judge(Cohort.open(store)).left_out) == {"ses-3"}


def test_what_cannot_be_decided_is_refused_and_not_repeated(store: Path) -> None:
    cohort = Cohort.open(store)
    with pytest.raises(DecisionError) as error:
        decisions_on(cohort, ["Anna Smith"], Verdict.REJECT, rater="r1")
    assert "Smith" not in str(error.value)
    with pytest.raises(DecisionError, match="nothing to acknowledge"):
        decisions_on(cohort, ["ses-1"], Verdict.ACKNOWLEDGE, rater="r1")
    with pytest.raises(DecisionError, match="no maps to accept"):
        decisions_on(cohort, ["ses-x"], Verdict.ACCEPT, rater="r1")
    foreign = Decision(kind=Subject.SESSION, subject="Smith", scope=Scope.MAPS, verdict=Verdict.REJECT, rater="r1")
    with writing(store) as repository, pytest.raises(DecisionError):
        append_decisions(repository, [foreign])
    assert Cohort.open(store).snapshot == cohort.snapshot


def test_an_acknowledged_failure_is_open_again_when_it_is_another(store: Path) -> None:
    cohort = Cohort.open(store)
    made = decisions_on(cohort, ["ses-x"], Verdict.ACKNOWLEDGE, rater="r1")
    assert change_of(cohort, made).text() == "1 sessions that failed are settled"
    decide(cohort, made)
    assert judge(Cohort.open(store)).settled == {"ses-x": Verdict.ACKNOWLEDGE}
    with writing(store) as repository:
        rows = [row("ses-x", "failed", reason="worker_lost")]
        commit(repository, None, [], values={}, rows=rows, message="Ingest")
    assert judge(Cohort.open(store)).settled == {}


def test_forgetting_takes_a_sessions_decisions_out_of_every_byte(store: Path) -> None:
    say(store, Verdict.REJECT, "ses-1", "ses-2")
    say(store, Verdict.UNDO, "ses-2")
    assert holds(store, b"ses-2") > 0
    forget(store, "ses-2", key=KEY)
    cohort = Cohort.open(store)
    assert [one.subject for one in cohort.decisions] == ["ses-1"]
    assert holds(store, b"ses-2") == 0
    assert verify(cohort) == []
    forget(store, "ses-1", key=KEY)
    assert Cohort.open(store).decisions == ()


@pytest.mark.parametrize("column", ["rater", "verdict"])
def test_verify_finds_what_is_no_code(store: Path, column: str) -> None:
    say(store, Verdict.REJECT, "ses-1")
    with writing(store) as repository:
        session = repository.writable_session("main")
        array = zarr.open_group(session.store, mode="a")[f"decisions/{column}"]
        array[...] = np.asarray(["Anna"], dtype=object)  # type: ignore[index]
        session.commit("edit")
    problems = verify(Cohort.open(store))
    assert [problem.variable for problem in problems] == ["decisions"]
    assert "Anna" not in problems[0].message
    with pytest.raises(StoreError, match="damaged"):
        judge(Cohort.open(store))


def test_exports_leave_out_what_does_not_count(store: Path, tmp_path: Path) -> None:
    say(store, Verdict.REJECT, "ses-1")
    cohort = Cohort.open(store)
    exported = export_bids(cohort, tmp_path / "bids")
    assert exported.sessions == 1
    assert exported.left_out == {"failed: closure": 1, "failed: read_error": 1, "rejected by a person": 1}
    assert not list((tmp_path / "bids").rglob("*ses-1*"))
    export_zarr(cohort, tmp_path / "zarr")
    tree = xr.open_datatree(tmp_path / "zarr", engine="zarr")
    assert tree[GROUP]["session"].values.tolist() == ["ses-2"]
    with open_cohort(store) as original:
        index = original[GROUP]["session"].values.tolist().index("ses-2")
        np.testing.assert_array_equal(tree[GROUP]["T1map"].values[0], original[GROUP]["T1map"].values[index])
    rows = tree["catalogue"].to_dataset().to_dataframe().set_index("session")
    assert rows.loc["ses-1", "group"] == ""
    assert rows.loc["ses-3", ["status", "reason"]].tolist() == ["failed", "closure"]
    assert tree["statistics"]["session"].values.tolist() == ["ses-2"]
    assert tree["decisions"]["subject"].values.tolist() == ["ses-1"]
    assert "scanner-b" not in tree.children
    say(store, Verdict.ACCEPT, "ses-3")
    say(store, Verdict.UNDO, "ses-1")
    assert export_bids(Cohort.open(store), tmp_path / "all").sessions == 3


def test_nothing_is_left_where_no_session_counts(store: Path, tmp_path: Path) -> None:
    say(store, Verdict.EXCLUDE, *NAMES)
    export_zarr(Cohort.open(store), tmp_path / "zarr")
    tree = xr.open_datatree(tmp_path / "zarr", engine="zarr")
    assert tree["statistics"].sizes["row"] == 0
    assert set(tree.children) == {"catalogue", "decisions", "statistics"}


def test_a_file_of_decisions_goes_into_another_copy_once(store: Path, template: Path, tmp_path: Path) -> None:
    say(store, Verdict.REJECT, "ses-1")
    say(store, Verdict.UNDO, "ses-1")
    say(store, Verdict.ACCEPT, "ses-3", rater="r20")
    file = tmp_path / "decisions.csv"
    assert write_decisions(Cohort.open(store), file) == 3
    other = Path(shutil.copytree(template, tmp_path / "other"))
    new, known = read_file(Cohort.open(other), file)
    assert (len(new), known) == (3, 0)
    decide(Cohort.open(other), new)
    assert Cohort.open(other).decisions == Cohort.open(store).decisions
    assert read_file(Cohort.open(other), file) == ([], 3)
    with pytest.raises(DecisionError, match="cannot be written"):
        write_decisions(Cohort.open(store), file)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"subject": "ses-1", "verdict": "splendid", "rater": "r1"}, "line 2 .* verdict is none"),
        ({"subject": "Smith", "verdict": "reject", "rater": "r1"}, "line 2 .* no such session"),
        ({"subject": "ses-1", "verdict": "reject", "rater": "Smith"}, "line 2 .* no names"),
        ({"subject": "ses-1", "verdict": "reject", "rater": "r1", "grounds": "Smith"}, "line 2 .* reason is none"),
        ({"subject": "ses-1", "verdict": "reject", "rater": "r1", "checkpoint_digest": "Smith"}, "line 2 .* forms"),
        ({"subject": "ses-1", "verdict": "reject", "rater": "r1", "failure": "Smith"}, "line 2 .* reasons"),
        ({"subject": "ses-1", "verdict": "reject"}, "lacks the columns rater"),
        ({"subject": "ses-1", "verdict": "reject", "rater": "r1", "comment": "Smith"}, "columns that are none"),
    ],
)
def test_a_file_brings_no_text_in(store: Path, tmp_path: Path, line: dict[str, str], said: str) -> None:
    file = tmp_path / "decisions.csv"
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(line))
        writer.writeheader()
        writer.writerow(line)
    with pytest.raises(DecisionError, match=said) as error:
        read_file(Cohort.open(store), file)
    assert "Smith" not in str(error.value)


def test_ratings_without_digests_are_on_what_is_there_now(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "ratings.csv"
    file.write_text("subject,verdict,rater,grounds\nses-1,reject,r4,motion\n")
    (made,), _ = read_file(Cohort.open(store), file)
    assert (made.checkpoint_digest, made.scope, made.grounds) == ("c0ffee", Scope.MAPS, (Ground.MOTION,))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DecisionError, match="no CSV file in UTF-8"):
        read_file(Cohort.open(store), file)


def test_tags_of_before_keep_their_decisions(store: Path) -> None:
    say(store, Verdict.REJECT, "ses-1")
    with writing(store) as repository:
        tag(repository, "then")
    say(store, Verdict.UNDO, "ses-1")
    assert "ses-1" in judge(Cohort.open(store, at="then")).left_out
    assert "ses-1" not in judge(Cohort.open(store)).left_out


KILLED = """
import os, signal, sys
import icechunk
from storage.store.cohort import Cohort
from storage.store.decisions.codes import Verdict
from storage.store.decisions.making import decide, decisions_on

def dies(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

icechunk.Session.commit = dies  # what was to be written has been written by then
cohort = Cohort.open(sys.argv[1])
decide(cohort, decisions_on(cohort, ["ses-1"], Verdict.REJECT, rater="r1"))
"""


def test_killed_between_write_and_commit_the_store_is_as_it_was(store: Path) -> None:
    say(store, Verdict.ACCEPT, "ses-3")
    before = Cohort.open(store)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(store)],
        cwd=Path(__file__).parents[4],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])},
        check=False,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    after = Cohort.open(store)
    assert (after.snapshot, after.decisions) == (before.snapshot, before.decisions)
    assert verify(after) == []
    say(store, Verdict.REJECT, "ses-1")
    assert len(Cohort.open(store).decisions) == 2
