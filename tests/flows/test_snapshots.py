"""Every result of a run names the snapshot that readers get, not that of a commit on the way there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import icechunk
import pytest
from distributed import Client

from flows import night
from flows.cluster.clusters import dask_client
from flows.maps import infer as inference
from flows.progress import quiet
from flows.settings import Settings
from flows.statistics.aggregate import aggregate
from flows.tables.summary import RunSummary
from storage.store.cohort import Cohort, writing
from storage.store.lifecycle import nights
from storage.store.tables import change
from tests.flows.tiny_cohort import make_store

NOBODY = cast(Client, None)


def write(repository: icechunk.Repository, value: str) -> str:
    return change(repository, lambda root: root.attrs.update({"note": value}), value, {})


def commit(location: str | Path, value: str) -> str:
    with writing(location, create=True) as repository:
        return write(repository, value)


@pytest.fixture
def store(tmp_path: Path) -> str:
    commit(tmp_path / "store", "first")
    return str(tmp_path / "store")


@pytest.mark.parametrize("is_disturbed", [False, True])
def test_the_night_names_what_it_has_tagged(store: str, monkeypatch: pytest.MonkeyPatch, *, is_disturbed: bool) -> None:
    """Inference is not its last commit; and another run may commit once more before the tag is made."""
    monkeypatch.setattr(night, "ingest", lambda *_, **__: RunSummary(found=0))
    monkeypatch.setattr(night, "infer", lambda *_, **__: RunSummary(found=0, snapshot=commit(store, "maps")))
    monkeypatch.setattr(night, "aggregate", lambda *_, **__: commit(store, "statistics"))
    if is_disturbed:
        tag = nights.tag
        monkeypatch.setattr(
            nights, "tag", lambda repository, name: (write(repository, "other"), tag(repository, name))[1]
        )
    result, _ = night.reprocess(Path("in"), store, key=b"", client=NOBODY)
    readers = Cohort.open(store)
    assert result.tag is not None
    assert result.snapshot == result.summary.snapshot == readers.snapshot == Cohort.open(store, at=result.tag).snapshot
    assert readers.snapshot in result.text()


def test_a_night_without_anything_new_names_none(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ingest", "infer"):
        monkeypatch.setattr(night, name, lambda *_, **__: RunSummary(found=0))
    monkeypatch.setattr(night, "aggregate", lambda *_, **__: None)
    result, _ = night.reprocess(Path("in"), store, key=b"", client=NOBODY)
    assert (result.snapshot, result.summary.snapshot, result.tag) == (None, None, None)


def test_an_inference_that_has_only_calibrated_names_the_calibration(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "calibrate", lambda *_, **__: commit(store, "calibration"))
    summary = inference.infer(store, client=NOBODY, progress=quiet)
    assert summary.snapshot == Cohort.open(store).snapshot
    assert "nothing was written" not in summary.text()


def test_an_aggregation_names_its_commit_and_none_where_there_is_none(tmp_path: Path) -> None:
    location = make_store(tmp_path)
    with dask_client(Settings.model_construct(workers=1), processes=False) as client:
        results: list[Any] = [aggregate(location, client=cast(Client, client)) for _ in range(2)]
    assert [result.snapshot for result in results] == [Cohort.open(location).snapshot, None]
