"""The index under several runs at once, and where it cannot be used: every run accounts for all files of the source."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from storage.source import index, scans
from storage.source.discovery import Scanned, Series, discover, in_turn, scan_source
from storage.source.scans import Scan, ScanTask
from tests.storage.slices import STUDY, voxels, write_series

KEY = b"a key for tests, of thirty-two b"


def tree(folder: Path, n_sessions: int = 3) -> Path:
    for number in range(n_sessions):
        write_series(
            folder / str(number), voxels(seed=number), PatientID=f"P{number}", StudyInstanceUID=f"{STUDY}.{number}"
        )
    return folder


def all_series(scanned: Scanned) -> list[Series]:
    return [series for session in scanned.sessions for series in scanned.session(session)[0]]


def found(source: Path, kept: Path | None, runner: Any = in_turn) -> tuple[int, dict[str, int], list[Series]]:
    with scan_source(source, key=KEY, index=kept, runner=runner) as scanned:
        return scanned.n_files, dict(scanned.unreadable), all_series(scanned)


def one_by_one(tasks: Iterable[ScanTask]) -> Iterator[list[Scan]]:
    for task in tasks:
        for path in task.paths:
            yield scans.scan_files(ScanTask(paths=(path,), root=task.root, key=task.key))


def pausing(at: int, meanwhile: Callable[[], None]) -> Any:
    """A runner of scans that does something else after ``at`` files."""

    def run(tasks: Iterable[ScanTask]) -> Iterator[list[Scan]]:
        for number, found in enumerate(one_by_one(tasks)):
            if number == at:
                meanwhile()
            yield found

    return run


@pytest.fixture(autouse=True)
def _kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_KEEP_EVERY", 0.0)


@pytest.mark.parametrize("at", [0, 7, 14])
def test_a_run_that_was_overtaken_loses_nothing(tmp_path: Path, at: int) -> None:
    source, kept = tree(tmp_path / "in"), tmp_path / "index"
    expected = found(source, None)
    others: list[Any] = []
    assert found(source, kept, pausing(at, lambda: others.append(found(source, kept)))) == expected
    assert others == [expected]
    assert found(source, kept, pausing(0, pytest.fail)) == expected  # all is known


@pytest.mark.parametrize("at", [0, 7])
def test_what_one_run_does_not_meet_the_other_one_keeps(tmp_path: Path, at: int) -> None:
    """Two sessions are moved away after the slow run has met them; the fast one must not forget them for it."""
    source, kept = tree(tmp_path / "in"), tmp_path / "index"
    expected = found(source, kept)
    others: list[Any] = []

    def meanwhile() -> None:
        (source / "0").rename(tmp_path / "0")
        (source / "1").rename(tmp_path / "1")
        others.append(found(source, kept))

    (source / "x").write_bytes(bytes(200))
    for number in range(at):
        (source / f"x{number}").write_bytes(bytes(200))
    n_files, unreadable, series = found(source, kept, pausing(at, meanwhile))
    assert (n_files, unreadable, series) == (16 + at, {"not_image": 1 + at}, expected[2])
    assert (others[0][0], len(others[0][2])) == (6 + at, 1)


def test_a_file_that_changes_between_two_runs_counts_for_each_as_it_was_met(tmp_path: Path) -> None:
    source, kept = tree(tmp_path / "in", 1), tmp_path / "index"
    first = found(source, kept)
    write_series(source / "0", voxels(seed=9), PatientID="P0", StudyInstanceUID=f"{STUDY}.0", FlipAngle="11")
    second = found(source, kept)
    assert second == found(source, None)
    assert second[2][0].digest != first[2][0].digest
    assert len(second[2]) == 1


@pytest.mark.parametrize("kind", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_lock_is_waited_for(tmp_path: Path, kind: str) -> None:
    source, kept = tree(tmp_path / "in"), tmp_path / "index"
    expected = found(source, kept)
    before = kept.stat().st_ino
    other = sqlite3.connect(kept, isolation_level=None, check_same_thread=False)
    other.execute(f"BEGIN {kind}")
    timer = threading.Timer(0.5, lambda: other.execute("COMMIT"))
    timer.start()
    began = time.monotonic()
    assert found(source, kept, pausing(0, pytest.fail)) == expected
    assert time.monotonic() - began > 0.4
    timer.join()
    other.close()
    assert kept.stat().st_ino == before


def test_a_lock_that_is_never_given_back_costs_the_index_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source, kept = tree(tmp_path / "in"), tmp_path / "index"
    expected = found(source, kept)
    content = kept.read_bytes()
    monkeypatch.setattr(index, "WAIT", 0.1)
    other = sqlite3.connect(kept, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert found(source, kept) == expected
    other.close()
    assert "cannot be used (database is locked)" in caplog.text
    assert str(tmp_path) not in caplog.text
    assert kept.read_bytes() == content


def emptied(kept: Path) -> None:
    with sqlite3.connect(kept) as database:
        database.execute("DELETE FROM record WHERE rowid = 3")
    database.close()


def without_a_file(kept: Path) -> None:
    with sqlite3.connect(kept) as database:
        database.execute("DELETE FROM record WHERE file = 3")
        database.execute("DELETE FROM file WHERE id = 3")
    database.close()


def torn(kept: Path) -> None:
    content = bytearray(kept.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    kept.write_bytes(content)


@pytest.mark.parametrize("damage", [emptied, torn, without_a_file, lambda kept: kept.write_bytes(b"no database" * 99)])
def test_a_damaged_index_costs_time_alone(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    source, kept = tree(tmp_path / "in"), tmp_path / "index"
    expected = found(source, kept)
    damage(kept)
    assert found(source, kept) == expected
    assert found(source, kept) == expected
    assert found(source, kept, pausing(0, pytest.fail)) == expected


def test_rows_that_go_while_a_run_rests_on_them_end_it(tmp_path: Path) -> None:
    source, kept = tree(tmp_path / "in"), tmp_path / "index"
    with scan_source(source, key=KEY, index=kept) as scanned:
        emptied(kept)
        with pytest.raises(index.IndexUnusableError, match="run again"):
            all_series(scanned)


def below_a_file(kept: Path) -> Path:
    kept.write_bytes(b"")
    return kept / "index"


def in_a_folder_of_its_name(kept: Path) -> Path:
    kept.mkdir()
    return kept


@pytest.mark.parametrize("place", [below_a_file, in_a_folder_of_its_name])
def test_an_index_that_cannot_be_made_is_done_without(
    tmp_path: Path, place: Callable[[Path], Path], caplog: pytest.LogCaptureFixture
) -> None:
    source = tree(tmp_path / "in")
    assert found(source, place(tmp_path / "index")) == found(source, None)
    assert "the index of headers cannot be used" in caplog.text


@pytest.mark.parametrize("pages", [8, 12])
def test_a_full_disk_of_the_index_costs_the_index_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, pages: int
) -> None:
    source, kept = tree(tmp_path / "in"), tmp_path / "index"
    prepare = index._prepare

    def with_little_room(database: sqlite3.Connection, mark: str) -> None:
        prepare(database, mark)
        if database.execute("PRAGMA database_list").fetchone()[2]:
            database.execute(f"PRAGMA max_page_count = {pages}")

    monkeypatch.setattr(index, "_prepare", with_little_room)
    assert found(source, kept) == found(source, None)
    assert "cannot be used (its disk, or that of temporary files, is full)" in caplog.text


def test_an_index_that_a_running_scan_uses_may_be_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As a run of another version does, which makes its own."""
    source, kept = tree(tmp_path / "in"), tmp_path / "index"
    expected = found(source, None)
    others: list[Any] = []

    def meanwhile() -> None:
        if not others:  # the scan begins anew without the index
            index.remove_index(kept)
            others.append(found(source, kept))

    assert found(source, kept, pausing(7, meanwhile)) == expected
    assert others == [expected]
    assert "the index of headers cannot be used" in caplog.text
    assert found(source, kept, pausing(0, pytest.fail)) == expected


def test_files_that_no_run_has_met_for_long_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, kept = tree(tmp_path / "in"), tmp_path / "index"
    now = time.time()
    found(source, kept)
    (source / "2").rename(tmp_path / "2")

    def rows(days: float) -> int:
        monkeypatch.setattr(index.time, "time", lambda: now + 86400 * days)
        assert found(source, kept)[0] == 10
        with sqlite3.connect(kept) as database:
            ((files, records),) = database.execute("SELECT (SELECT COUNT(*) FROM file), (SELECT COUNT(*) FROM record)")
        database.close()
        assert files == records
        return int(files)

    assert (rows(index.KEPT_DAYS - 1), rows(index.KEPT_DAYS + 1)) == (15, 10)
    assert found(source, kept, pausing(0, pytest.fail))[0] == 10


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights may be given, a disk may come back, without a change of the file."""
    source, kept = tree(tmp_path / "in", 1), tmp_path / "index"
    expected = found(source, None)

    def refuse(_: str) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(scans, "archive_kind", lambda path, _: refuse(path) if path.endswith("IM14") else "")
        assert found(source, kept)[1] == {"unreadable": 1}
    assert found(source, kept) == expected


SCAN = """
import sys, time
from pathlib import Path
from storage.source import index
from storage.source.discovery import in_turn, scan_source
index._KEEP_EVERY = 0.2
def slow(tasks):
    for number, scans in enumerate(in_turn(tasks)):
        time.sleep(float(sys.argv[3]))
        print(number, flush=True)
        yield scans
with scan_source(Path(sys.argv[1]), key=bytes(32), index=Path(sys.argv[2]), runner=slow) as scanned:
    slices = sum(one.n_instances for session in scanned.sessions for one in scanned.session(session)[0])
    print("found", scanned.n_files, len(scanned.sessions), slices, flush=True)
"""


def process(source: Path, kept: Path, pause: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCAN, str(source), str(kept), str(pause)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip


def told(run: subprocess.Popen[str]) -> tuple[str, str, int]:
    out, error = run.communicate(timeout=600)
    return (out.splitlines() or [""])[-1], error, run.returncode


def at_once(source: Path, kept: Path, n_runs: int, expected: str) -> None:
    """Runs at once of which every third is slow, every fourth killed on its way, and one stopped for a time."""
    runs = [process(source, kept, (0.0, 0.0, 0.05)[number % 3]) for number in range(n_runs)]
    killed = runs[3::4]
    for run in killed:
        assert run.stdout is not None
        for _ in range(10):
            run.stdout.readline()
        run.send_signal(signal.SIGKILL)
    assert runs[0].stdout is not None
    runs[0].stdout.readline()
    os.kill(runs[0].pid, signal.SIGSTOP)
    threading.Timer(2.0, os.kill, (runs[0].pid, signal.SIGCONT)).start()
    with ThreadPoolExecutor(n_runs) as pool:
        results = list(pool.map(told, [run for run in runs if run not in killed]))
    assert results == [(expected, "", 0)] * len(results)
    for run in killed:
        assert told(run)[2] == -signal.SIGKILL
    assert told(process(source, kept, 0.0)) == (expected, "", 0)


@pytest.mark.parametrize("kill_after", [0, 2])
def test_a_killed_run_leaves_what_it_has_read(tmp_path: Path, kill_after: int) -> None:
    source, kept = tree(tmp_path / "in", 45), tmp_path / "index"
    run = process(source, kept, 0.3)
    assert run.stdout is not None
    for _ in range(kill_after + 1):
        run.stdout.readline()
    run.send_signal(signal.SIGKILL)
    run.communicate()
    expected = discover(source, key=KEY)
    with sqlite3.connect(kept) as database:
        ((n_kept,),) = database.execute("SELECT COUNT(*) FROM file")
    database.close()
    assert n_kept >= 64 * kill_after
    n_files, unreadable, series = found(source, kept)
    assert (n_files, unreadable) == (expected.n_files, dict(expected.unreadable))
    assert len(series) == len(expected.series)


@pytest.mark.soak
@pytest.mark.parametrize("n_runs", [2, 4, 8])
def test_many_runs_at_once_account_for_all_files(tmp_path: Path, n_runs: int) -> None:
    source = tree(tmp_path / "in", 1000)
    at_once(source, tmp_path / "index", n_runs, "found 5000 1000 5000")


def test_three_runs_at_once_account_for_all_files(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", 60)
    at_once(source, tmp_path / "index", 3, "found 300 60 300")
