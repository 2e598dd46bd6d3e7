"""Full disks, stores that vanish, and writers and readers at the same time; run as a script, this file is a writer."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zarr

from storage.store.cohort import (
    Cohort,
    StoreError,
    begin_append,
    begin_update,
    commit,
    history,
    open_cohort,
    open_repository,
    write_arrays,
    writing,
)
from storage.store.lifecycle.verify import verify
from storage.store.locations import StorageFaultError
from storage.store.slots import find_slots
from storage.store.tables import read_rows
from tests.storage.cohorts import images, infer, ingest, placement, row

ROOT = Path(__file__).parents[3]
N_WAVES = 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(path)]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode:
        pytest.skip("a small file system cannot be mounted here; only root may")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_ends_the_run_and_leaves_the_store(small_disk: Path) -> None:
    location = small_disk / "store"
    done: list[str] = []
    with pytest.raises(StorageFaultError, match="disk of the store is full"):
        fill(location, done)
    assert len(done) > 1
    assert set(Cohort.open(location).slots) == set(done)  # readable all the time
    assert verify(Cohort.open(location)) == []
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    ingest(location, [placement(f"ses-{len(done)}")])
    assert len(Cohort.open(location).slots) == len(done) + 1
    assert verify(Cohort.open(location)) == []


def test_a_write_that_is_cut_short_by_a_quota_ends_the_run_and_leaves_the_store(tmp_path: Path) -> None:
    location = tmp_path / "store"
    ingest(location, [placement("ses-1")])
    last = history(open_repository(location))[0].id
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # bytes per file: a chunk is larger
    try:
        with pytest.raises(StorageFaultError, match="disk of the store is full"):
            ingest(location, [placement("ses-2")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert history(open_repository(location))[0].id == last
    assert verify(Cohort.open(location)) == []
    ingest(location, [placement("ses-2")])
    assert set(Cohort.open(location).slots) == {"ses-1", "ses-2"}


def fill(location: Path, done: list[str]) -> None:
    for n in range(100):
        ingest(location, [placement(f"ses-{n}")])
        done.append(f"ses-{n}")


@pytest.mark.parametrize("moment", ["before the worker writes", "before the commit"])
def test_a_store_that_is_deleted_under_a_run_is_an_error_and_can_be_made_again(tmp_path: Path, moment: str) -> None:
    location = tmp_path / "store"
    ingest(location, [placement("ses-1")])
    with pytest.raises(StorageFaultError):
        delete_under_a_run(location, moment)
    with pytest.raises(StoreError):
        open_cohort(location)
    shutil.rmtree(location, ignore_errors=True)
    ingest(location, [placement("ses-1")])
    assert verify(Cohort.open(location)) == []


def delete_under_a_run(location: Path, moment: str) -> None:
    with writing(location) as repository:
        wave = begin_append(repository, [placement("ses-2")])
        if moment == "before the commit":
            write_arrays(wave.fork, wave.slots["ses-2"], images("ses-2"))
        shutil.rmtree(location)
        write_arrays(wave.fork, wave.slots["ses-2"], images("ses-2"))
        commit(repository, wave, [wave.fork], values={}, rows=[row("ses-2")], message="m", metadata={})


def write(location: str, name: str) -> None:
    """Ingest waves of two sessions in two groups, or make maps of the two that are there."""
    if name == "maps":
        for _ in range(N_WAVES):
            infer(location, ["ses-a", "ses-b"])
        return
    for n in range(N_WAVES):
        ingest(location, [placement(f"ses-{name}{n}x"), placement(f"ses-{name}{n}y", "scanner-b/protocol-2")])


def assert_whole(root: zarr.Group) -> int:
    """Sessions of a wave are there together, and catalogue and groups agree."""
    rows = read_rows(root)
    stored = set(find_slots(root))
    assert stored == set(rows["session"].tolist())
    waves = {name[:-1] for name in stored if name[-1] in "xy"}
    assert {name for name in stored if name[-1] in "xy"} == {wave + end for wave in waves for end in "xy"}
    return len(stored)


def write_together(location: Path | str) -> None:
    """Two processes that ingest and one that infers; this process reads meanwhile."""
    ingest(location, [placement("ses-a"), placement("ses-b", "scanner-b/protocol-2")])
    writers = [
        subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(location), name], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for name in ("one", "two", "maps")
    ]
    seen = [0]
    while any(writer.poll() is None for writer in writers):
        session = open_repository(location).readonly_session("main")
        seen.append(assert_whole(zarr.open_group(session.store, mode="r")))
        assert seen[-1] >= seen[-2]
    for writer in writers:
        _, said = writer.communicate(timeout=10)
        assert writer.returncode == 0, said
        assert not {line for line in said.splitlines() if "another process" not in line}
    repository = open_repository(location)
    for snapshot in history(repository)[:-1]:
        root = zarr.open_group(repository.readonly_session(snapshot_id=snapshot.id).store, mode="r")
        assert_whole(root)
    assert len(history(repository)) == 2 + 3 * N_WAVES
    names = {f"ses-{name}{n}{end}" for name in ("one", "two") for n in range(N_WAVES) for end in "xy"}
    assert set(Cohort.open(location).slots) == names | {"ses-a", "ses-b"}
    assert verify(Cohort.open(location)) == []
    with writing(location) as opened:
        begin_update(opened, sorted(names))


@pytest.mark.walk
def test_writers_and_readers_at_the_same_time_lose_and_see_nothing_half(tmp_path: Path) -> None:
    write_together(tmp_path / "store")


@pytest.mark.soak
def test_writers_and_readers_of_an_object_store_lose_and_see_nothing_half(s3: Callable[[], str]) -> None:
    """A minute: without a lock, whoever comes second is rebased."""
    write_together(s3())


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2])
