"""Two checkpoints on a store's own sessions: the figures are those of the maps that each of them would leave there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.maps import comparison
from flows.maps.comparison import Comparison, compare_weights
from flows.maps.infer import infer
from flows.maps.weights import named_weights, registered_digest
from qmri_core.tissues import MAPS, TISSUES
from storage.store.checkpoints import promote, promoted_before, register, step_back
from storage.store.cohort import Cohort, history, open_repository
from storage.store.repository import StoreError
from storage.store.schema import Status
from tests.benchmarks.test_orchestration import Loop, in_a_loop, make_store
from tests.flows.end_to_end import other_weights
from tests.storage.cohorts import ingest, placement

CLIENT: Any = Loop()


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.cluster.driver.run_bounded", in_a_loop)
        yield


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "other.safetensors"
    path.write_bytes(other_weights())
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three calibrated sessions of one group, whose tissue is white matter alone, with maps of the shipped weights."""
    location = make_store(tmp_path_factory.mktemp("compare") / "store", 3)
    infer(location, client=CLIENT)
    return location


def medians(store: str) -> dict[tuple[str, str], float]:
    """Of white matter in the stored maps, by session and map."""
    cohort = Cohort.open(store)
    result = {}
    for name, slot in cohort.slots.items():
        stored = cohort.read(slot, [*MAPS, "tissue"])
        for of_map in MAPS:
            result[name, of_map] = float(np.nanmedian(stored[of_map][stored["tissue"] == TISSUES["WM"]]))
    return result


def test_what_moves_is_what_the_maps_of_both_in_the_store_differ_by(store: str, other: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(store)
    before, after = named_weights(cohort, "shipped"), named_weights(cohort, str(other))
    found = compare_weights(cohort, before, after, client=CLIENT)
    assert Cohort.open(store).snapshot == cohort.snapshot
    copy = str(shutil.copytree(store, tmp_path / "store"))
    infer(copy, checkpoint=other, client=CLIENT)
    is_white = found.values["tissue"] == "WM"
    assert (found.values["after"].notna() == is_white).all()
    white = found.values[is_white].set_index(["session", "map"])
    for figure, expected in (("before", medians(store)), ("after", medians(copy))):
        for key, value in expected.items():
            assert white.loc[key, figure] == pytest.approx(value, rel=3e-4), (figure, key)  # the store rounds
    moved = found.moved().set_index("map")
    assert list(moved["n"]) == [3, 3, 3]
    change = [medians(copy)[name, "T1map"] / medians(store)[name, "T1map"] - 1 for name in cohort.slots]
    assert moved.loc["T1map", "change"] == pytest.approx(np.mean(change), abs=1e-3)
    assert abs(moved.loc["T1map", "change"]) > 1e-2
    failed = Cohort.open(copy).catalogue.set_index("session")["status"] == Status.FAILED
    assert {row.session: bool(row.after) for row in found.closure.itertuples()} == failed.to_dict()


def test_of_the_same_weights_nothing_moves(store: str) -> None:
    cohort = Cohort.open(store)
    found = compare_weights(
        cohort, named_weights(cohort, "shipped"), named_weights(cohort, "promoted"), client=CLIENT, per_group=2
    )
    assert set(found.closure["session"]) == set(sorted(cohort.slots)[:2])
    assert (found.moved()["largest"] == 0).all()
    assert "2 sessions of 1 groups" in next(found.lines({}))


def test_maps_that_fail_with_the_new_weights_alone_are_named() -> None:
    row = {"session": "ses-1", "group": "g", "tissue": "WM", "map": "T1map", "before": 0.8, "after": 0.9}
    values = pd.DataFrame([row | {"sd_before": 0.2, "sd_after": 0.1}])
    closure = pd.DataFrame(
        [("ses-1", "g", "", "T1 of white matter"), ("ses-2", "g", "x", "x")],
        columns=["session", "group", "before", "after"],
    )
    told = "\n".join(Comparison(values=values, closure=closure).lines({"g": "Prisma-1"}))
    for words in ("Prisma-1", "+12.50 %", "0.50", "1 before, 2 after (of 2)", "now fails: ses-1: T1 of white matter"):
        assert words in told
    assert "now fails: ses-2" not in told


def test_nothing_to_compare_is_told(tmp_path: Path) -> None:
    ingest(tmp_path / "store", [placement("ses-1")])
    cohort = Cohort.open(tmp_path / "store")
    shipped = named_weights(cohort, "shipped")
    with pytest.raises(StoreError, match="nothing can be compared"):
        compare_weights(cohort, shipped, shipped, client=CLIENT)


def qmri(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_checkpoints_are_listed_promoted_and_stepped_back_from(store: str, other: Path, tmp_path: Path) -> None:
    copy = str(shutil.copytree(store, tmp_path / "store"))
    (row,) = [line for line in qmri("weights", "list", "--store", copy).splitlines() if line.startswith("shipped")]
    assert row.split() == ["shipped", "promoted", "3"]
    assert "stale now" in qmri("weights", "promote", other, "--store", copy)
    (first,) = Cohort.open(copy).registered
    second = register(copy, b"more", record={"score": {"nll": 0.5}, "score_before": {"nll": 0.75}}, promote=False)
    listed = qmri("weights", "list", "--store", copy).splitlines()
    (row,) = [line for line in listed if first[:12] in line]
    assert "promoted" in row
    (row,) = [line for line in listed if second[:12] in line]
    assert ("promoted" in row, "0.500" in row, "0.750" in row) == (False, True, True)
    qmri("weights", "promote", second[:6], "--store", copy)
    assert Cohort.open(copy).promoted == second
    qmri("weights", "promote", second[:6], "--store", copy)  # once more: nothing to go back to is added
    assert first[:12] in qmri("weights", "back", "--store", copy)
    assert Cohort.open(copy).promoted == first
    assert "the shipped checkpoint is promoted again" in qmri("weights", "back", "--store", copy)
    assert Cohort.open(copy).promoted == ""
    with pytest.raises(StoreError, match="no checkpoint was promoted before"):
        qmri("weights", "back", "--store", copy)


def test_a_step_back_is_a_commit_and_keeps_the_bytes(tmp_path: Path) -> None:
    ingest(tmp_path / "store", [placement("ses-1")])
    one, two = (register(tmp_path / "store", content, record={}, promote=True) for content in (b"one", b"two"))
    promote(tmp_path / "store", "")
    assert promoted_before(Cohort.open(tmp_path / "store").root) == ["", one, two]
    commits = len(history(open_repository(tmp_path / "store")))
    assert step_back(tmp_path / "store") == two
    assert len(history(open_repository(tmp_path / "store"))) == commits + 1
    assert Cohort.open(tmp_path / "store").checkpoint(one) == b"one"


@pytest.mark.parametrize("name", ["c0ffee", "", "no/such/file"])
def test_what_is_no_checkpoint_is_told_with_how_to_find_one(store: str, name: str) -> None:
    with pytest.raises(StoreError, match="weights list"):
        registered_digest(Cohort.open(store), name)


def test_a_session_that_cannot_be_read_ends_the_comparison(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise KeyError("T1w")

    monkeypatch.setattr(comparison, "read_images", fails)
    cohort = Cohort.open(store)
    shipped = named_weights(cohort, "shipped")
    with pytest.raises(StoreError, match="could not be inferred with both"):
        compare_weights(cohort, shipped, shipped, client=CLIENT)
