"""`qmri qc` on a small store: what is told, what counts afterwards, and the exit status of runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from distributed import Client
from typer.testing import CliRunner, Result

from flows.cli.main import app
from flows.maps.infer import infer
from flows.report.build import write_report
from flows.statistics.aggregate import aggregate
from flows.tables.summary import SESSIONS_FAILED
from storage.store.cohort import Cohort, commit, writing
from tests.flows.end_to_end import Processed


def qmri(*arguments: object, status: int = 0) -> str:
    result: Result = CliRunner().invoke(app, ["qc", *map(str, arguments)])
    if status == 0 and result.exception is not None:
        raise result.exception
    assert (result.exit_code != 0) == (status != 0), result.output
    return result.output


@pytest.fixture
def store(processed: Processed, tmp_path: Path) -> str:
    return str(shutil.copytree(processed.store, tmp_path / "store"))


def fail(store: str, name: str) -> None:
    row = {"session": name, "status": "failed", "reason": "closure", "stage": "closure", "error": "ClosureError"}
    with writing(store) as repository:
        commit(repository, None, [], values={}, rows=[row], message="closure")


def test_what_counts_follows_decisions_and_everything_says_so(
    store: str, processed: Processed, workers: Client, tmp_path: Path
) -> None:
    first, second, _ = sorted(Cohort.open(store).slots)
    fail(store, first)

    def state() -> tuple[int, int, dict[str, int]]:
        ran = infer(store, checkpoint=processed.checkpoint, client=workers)
        result = aggregate(store, client=workers)
        assert first not in set(result.sessions["session"]) or result.accepted == 1
        return ran.exit_status, result.sessions["session"].nunique(), dict(result.left_out)

    assert state() == (SESSIONS_FAILED, 2, {"closure": 1})
    assert f"{first}" in qmri("list", "--store", store, "--open")
    options = ("--store", store, "--rater", "r1")
    told = qmri("accept", first, *options, "--reason", "looks_right", "--dry-run")
    assert "1 sessions count again, 1 sessions that failed are settled" in told
    assert state()[0] == SESSIONS_FAILED
    qmri("accept", first, *options)
    assert state() == (0, 3, {})
    assert "(accepted)" in infer(store, checkpoint=processed.checkpoint, client=workers).text()
    qmri("reject", second, *options, "--reason", "motion", "--reason", "noise")
    assert state() == (0, 2, {"rejected": 1})
    page = write_report(store, tmp_path, aggregate=aggregate(store, client=workers)).read_text()
    assert "left out: 1 rejected" in page
    assert "yes: accepted" in page
    assert "no: rejected" in page
    listed = qmri("list", "--store", store)
    assert "motion, noise" in listed
    assert "left out: 1 rejected" in listed
    qmri("undo", first, second, *options)
    assert state() == (SESSIONS_FAILED, 2, {"closure": 1})
    qmri("acknowledge", first, *options)
    assert state() == (0, 2, {"closure": 1})
    assert Cohort.open(store).catalogue.set_index("session").loc[first, "status"] == "failed"


def test_a_file_goes_out_and_in(store: str, tmp_path: Path) -> None:
    first = min(Cohort.open(store).slots)
    qmri("exclude", first, "--store", store, "--rater", "r1")
    assert "1 decisions in" in qmri("export", tmp_path / "d.csv", "--store", store)
    told = qmri("import", tmp_path / "d.csv", "--store", store)
    assert "1 decisions of the file are in the store already" in told
    assert "nothing was written" in told


@pytest.mark.parametrize(
    "arguments",
    [("accept", "Smith", "--rater", "r1"), ("accept", "ses-1", "--rater", "Smith"), ("reject", "ses-1")],
)
def test_names_are_refused(store: str, arguments: tuple[str, ...]) -> None:
    before = Cohort.open(store).snapshot
    qmri(*arguments, "--store", store, status=1)
    assert Cohort.open(store).snapshot == before
