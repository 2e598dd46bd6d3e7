"""A full disk of temporary files: the message names the folder, and nothing else is taken for it."""

from __future__ import annotations

import errno
import logging
import resource
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.cluster.kinds import started_cluster
from flows.errors import explain
from flows.ingest.inspection import inspect_source
from flows.settings import Settings
from storage.source.discovery import scan_source
from storage.source.full_disk import DiskFullError, sqlite_folder, temporary_files, temporary_folder, temporary_table
from storage.source.visits.identity import Met, unit_of_labels
from storage.source.visits.rule import Visits
from tests.storage.niftis import write_visit

KEY = bytes(32)
CONNECT = sqlite3.connect


@contextmanager
def short_files(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def full_after(pages: int, where: Callable[[str], bool]) -> Callable[..., sqlite3.Connection]:
    """`sqlite3.connect` to databases that end at so many pages, at some places."""

    def connect(place: str | Path, *args: object, **options: object) -> sqlite3.Connection:
        database: sqlite3.Connection = CONNECT(place, *args, **options)  # type: ignore[call-overload]
        if where(str(place)):
            database.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        return database

    return connect


def test_tables_of_visits_on_a_full_disk_name_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    units = [Met(unit_of_labels(f"ses-{number:012d}", f"sub-{number:012d}"), None, None) for number in range(15_000)]
    with short_files(100_000), pytest.raises(DiskFullError) as caught:
        Visits(units, key=KEY, holding=lambda _: {})
    assert str(tmp_path) in explain(caught.value)
    assert "set TMPDIR" in explain(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_index_without_a_place_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_visit(tmp_path, "sub-01", "ses-01")
    monkeypatch.setattr(sqlite3, "connect", full_after(5, lambda _: True))
    with pytest.raises(DiskFullError, match="disk of temporary files"):
        scan_source(tmp_path, key=KEY)


def test_an_index_on_a_full_disk_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source, index = tmp_path / "source", tmp_path / "index.sqlite"
    write_visit(source, "sub-01", "ses-01")
    monkeypatch.setattr(sqlite3, "connect", full_after(5, bool))
    with caplog.at_level(logging.WARNING), scan_source(source, key=KEY, index=index) as scanned:
        assert len(scanned.sessions) == 1
    assert "index of headers cannot be used (its disk" in caplog.text
    assert str(tmp_path) not in caplog.text
    monkeypatch.undo()
    with scan_source(source, key=KEY, index=index) as scanned:
        assert len(scanned.sessions) == 1


def test_inspect_on_a_full_disk_ends_with_the_folder(tmp_path: Path) -> None:
    write_visit(tmp_path, "sub-01", "ses-01")
    with short_files(10), pytest.raises(DiskFullError, match=tempfile.gettempdir()), inspect_source(tmp_path, key=KEY):
        pass


def test_without_any_folder_for_temporary_files_no_cluster_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = str(tmp_path / "gone")
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [gone])
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", gone)
    with pytest.raises(DiskFullError, match=gone), started_cluster(Settings(), processes=False):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_folder_that_cannot_be_made_for_want_of_space(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, "no more")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(DiskFullError), temporary_folder("x-"):
        pass


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "no"), sqlite3.OperationalError("locked"), ValueError()]
)
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, temporary_files():
        raise error
    assert caught.value is error


def test_a_table_that_could_not_be_written_closes_without_a_second_error() -> None:
    with pytest.raises(DiskFullError), temporary_table() as table, short_files(10), temporary_files():
        print("x" * 100, file=table, flush=True)
    assert table.closed


def test_sqlite_looks_where_it_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SQLITE_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert sqlite_folder() == str(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    assert sqlite_folder() == "/var/tmp"  # noqa: S108 - before /tmp, unlike Python
