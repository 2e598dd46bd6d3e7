"""The account of an ingest in the store."""

from __future__ import annotations

from pathlib import Path

from flows.tables.summary import RunSummary
from storage.store.accounts import write_account
from storage.store.cohort import history, open_cohort, open_repository
from storage.store.repository import writing


def test_an_account_is_kept_once_and_earlier_ones_stay_in_the_history(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with writing(store, create=True) as repository:
        assert "last_ingest" not in open_cohort(store).attrs
        first = RunSummary(found=2, complete=1, skipped=1, reasons={"missing_contrast": 1}, n_files=9).account()
        snapshot = write_account(repository, first)
        assert snapshot is not None
        assert write_account(repository, first) is None
        write_account(repository, RunSummary(found=3, complete=3, other_files={"not_image": 2}).account())
    account = open_cohort(store).attrs["last_ingest"]
    assert (account["found"], account["complete"], account["other_files"]) == (3, 3, {"not_image": 2})
    newest, before, *_ = history(open_repository(store))
    assert (newest.message, before.message) == ("Account of an ingest",) * 2
    assert before.metadata["found"] == 2
