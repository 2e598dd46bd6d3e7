"""Checkpoints inside a store: their bytes, the promoted one, and what readers see of both."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import zarr

from storage.store.checkpoints import promote, register
from storage.store.cohort import Cohort, history, open_cohort, open_repository, writing
from storage.store.lifecycle.verify import verify
from storage.store.repository import StoreError


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with writing(tmp_path / "store", create=True):
        pass
    return tmp_path / "store"


def test_bytes_come_back_and_promotion_is_one_commit_with_them(store: Path) -> None:
    assert Cohort.open(store).promoted == ""
    assert Cohort.open(store).registered == {}
    first, second = os.urandom(70_001), bytes(1000)  # zeros are the fill value
    one = register(store, first, record={"steps": 3}, promote=False)
    assert Cohort.open(store).promoted == ""
    before = len(history(open_repository(store)))
    two = register(store, second, record={"steps": 4}, promote=True)
    assert len(history(open_repository(store))) == before + 1
    assert Cohort.open(store).promoted == two
    assert {digest: Cohort.open(store).checkpoint(digest) for digest in (one, two)} == {one: first, two: second}
    assert Cohort.open(store).registered == {one: {"steps": 3}, two: {"steps": 4}}
    promote(store, one)
    assert Cohort.open(store).promoted == one
    assert Cohort.open(store, at=history(open_repository(store))[1].id).promoted == two  # an earlier state has its own


def test_a_record_of_a_training_that_went_astray_can_be_kept(store: Path) -> None:
    digest = register(store, b"weights", record={"score": {"nll": float("nan"), "t1": float("inf")}}, promote=False)
    assert Cohort.open(store).registered[digest] == {"score": {"nll": None, "t1": None}}


def test_what_is_not_registered_cannot_be_promoted_or_read(store: Path) -> None:
    register(store, b"weights", record={}, promote=True)
    before = Cohort.open(store).promoted
    with pytest.raises(StoreError, match="holds no checkpoint 0000"):
        promote(store, "0" * 64)
    with pytest.raises(StoreError, match="holds no checkpoint 0000"):
        Cohort.open(store).checkpoint("0" * 64)
    assert Cohort.open(store).promoted == before


def test_bytes_that_have_changed_are_noticed(store: Path) -> None:
    digest = register(store, b"weights", record={}, promote=True)
    with writing(store) as repository:
        session = repository.writable_session("main")
        zarr.open_group(session.store, path="checkpoints", mode="r+")[digest][0] = 1  # type: ignore[index]
        session.commit("damage")
    with pytest.raises(StoreError, match="are not those that were written"):
        Cohort.open(store).checkpoint(digest)


def test_files_of_different_lengths_do_not_keep_the_cohort_from_opening(store: Path) -> None:
    for length in (10, 20):
        register(store, bytes(length), record={}, promote=True)
    assert sorted(open_cohort(store)["checkpoints"].sizes.values()) == [10, 20]
    assert verify(Cohort.open(store)) == []
