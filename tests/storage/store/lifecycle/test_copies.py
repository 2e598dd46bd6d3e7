"""Records of copies: what they hold, that they change nothing of the cohort, and that forgetting reaches them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import zarr

from storage.store.cohort import Cohort, StoreError, open_repository
from storage.store.lifecycle.copies import BRANCH, copies_of, note_copy
from storage.store.lifecycle.forget import forget, holding
from storage.store.lifecycle.upkeep import compact
from storage.store.repository import history
from tests.storage.cohorts import ingest, placement
from tests.storage.residues import holds

KEY = bytes(32)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    ingest(tmp_path / "store", [placement("ses-gone"), placement("ses-2")])
    return tmp_path / "store"


def test_a_record_says_what_when_and_who_and_the_cohort_stays_as_it_was(store: Path) -> None:
    cohort, before = Cohort.open(store), history(open_repository(store))
    assert copies_of(open_repository(store)) == []
    begun = datetime.now(UTC)
    note_copy(cohort, "export-bids", ["ses-2"])
    note_copy(cohort, "report", ["ses-2", "ses-gone"])
    first, second = copies_of(open_repository(store))
    assert (first.kind, first.snapshot, first.sessions) == ("export-bids", cohort.snapshot, {"ses-2"})
    assert (second.kind, second.sessions) == ("report", {"ses-2", "ses-gone"})
    assert begun <= first.time <= second.time <= datetime.now(UTC)
    assert Cohort.open(store) == cohort
    assert history(open_repository(store)) == before
    root = zarr.open_group(open_repository(store).readonly_session(BRANCH).store, mode="r")
    assert list(root) == []
    records = root.attrs["copies"]
    assert isinstance(records, list)
    assert {tuple(record) for record in records} == {("kind", "snapshot", "time", "sessions")}  # nothing of a place


def test_forgetting_names_the_copies_and_nothing_of_the_session_stays_in_the_records(store: Path) -> None:
    cohort = Cohort.open(store)
    note_copy(cohort, "export-bids", ["ses-2"])
    note_copy(cohort, "report", ["ses-2", "ses-gone"])
    assert [copy.kind for copy in holding(store, "ses-gone").copies] == ["report"]
    assert holds(store, b"ses-gone") > 0
    cohort.repository.lookup_snapshot(cohort.snapshot)  # remembered from here on
    assert [copy.kind for copy in forget(store, "ses-gone", key=KEY).copies] == ["report"]
    assert holds(store, b"ses-gone") == 0
    assert [(copy.kind, set(copy.sessions)) for copy in copies_of(open_repository(store))] == [
        ("export-bids", {"ses-2"}),
        ("report", {"ses-2"}),
    ]
    with pytest.raises(StoreError):  # a copy of a state that has ended would bring its name back
        note_copy(cohort, "report", ["ses-gone"])
    assert holds(store, b"ses-gone") == 0
    assert holding(store, "ses-gone").copies == ()


def test_compacting_keeps_the_records(store: Path) -> None:
    note_copy(Cohort.open(store), "export-zarr", ["ses-2"])
    note_copy(Cohort.open(store), "export-zarr", ["ses-2"])
    compact(store, keep_days=0)
    assert [copy.kind for copy in copies_of(open_repository(store))] == ["export-zarr", "export-zarr"]
