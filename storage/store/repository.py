"""Where a cohort lies: opening the repository, its snapshots, and the lock of the one writer."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import icechunk
import zarr
from filelock import FileLock, Timeout

from storage.store.clock import ClockError, await_commit, is_of_clock
from storage.store.formats import create_repository, open_existing
from storage.store.locations import StorageFaultError, StoreError, local_path
from storage.store.schema import SCHEMA_VERSION, create_root

__all__ = [
    "MAIN",
    "STAGING",
    "Snapshot",
    "StorageFaultError",
    "StoreError",
    "exists",
    "faults",
    "history",
    "is_state",
    "iterate_history",
    "open_repository",
    "open_waves",
    "snapshot_of",
    "stage",
    "tag",
    "tags",
    "writing",
]

MAIN = "main"
STAGING = "staging"
"""Each open wave has a branch of its own, whose name begins so and tells when it was begun."""

STALE = timedelta(days=1)
"""Age after which an open wave in an object store counts as abandoned; no wave takes that long."""

LOCK_FILE = "writer.lock"
_BRANCH = re.compile(rf"{STAGING}-(\d{{8}}T\d{{6}})-[0-9a-f]+")
_NEW = ".new"
_UNFINISHED = {LOCK_FILE, _NEW, "config.yaml", "manifests", "overwritten", "snapshots", "transactions"}
"""What the making of a store can leave behind when it is cut short; no chunks and no references yet."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One committed state of the cohort."""

    id: str
    time: datetime
    message: str
    metadata: dict[str, Any]


@contextmanager
def faults(location: str | Path | None = None) -> Iterator[None]:
    """Turn errors of the storage, and of the repository on it, into `StorageFaultError`."""
    try:
        yield
    except StoreError:
        raise
    except (OSError, icechunk.IcechunkError) as error:
        where = f"{location}: " if location is not None else ""
        if is_of_clock(error):
            raise ClockError(
                f"{where}the clock of this machine does not fit the store ({_first_line(error)}); set it right, and "
                "run it again; what is committed stays"
            ) from error
        if _is_full(error):
            raise StorageFaultError(
                f"{where}the disk of the store is full, or a quota on it; what is committed stays: free space there, "
                "and run it again"
            ) from error
        raise StorageFaultError(
            f"{where}the storage does not answer as it should ({_first_line(error)}); what is committed stays, run it "
            "again"
        ) from error


def _is_full(error: OSError | icechunk.IcechunkError) -> bool:
    """Whether the file system takes no more; Icechunk tells by the number of the system's error."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError):
        return error.errno in numbers
    return any(f"(os error {number})" in str(error) for number in numbers)


def open_repository(location: str | Path, *, outdated: bool = False) -> icechunk.Repository:
    """Open an existing cohort for reading.

    Parameters
    ----------
    location
        As in `storage.store.locations.storage_of`.
    outdated
        Accept a store that an older version wrote.

    Raises
    ------
    StoreError
        If there is no cohort, or it was written by another version, or in a format that Icechunk here cannot read.
    StorageFaultError
        If the storage does not answer.
    """
    path = local_path(location)
    if path is not None and not path.exists():
        raise StoreError(f"{location}: no such folder; was the store's path mistyped, or `qmri ingest` not run yet?")
    if path is not None and not path.is_dir():
        raise StoreError(f"{location}: is a file, not the folder of a cohort store")
    with faults(location):
        repository = open_existing(location)
        if repository is None:
            raise StoreError(f"{location}: is not a cohort store; give the place that `qmri ingest --store` wrote")
        _check_version(repository, location, outdated=outdated)
    return repository


@contextmanager
def writing(
    location: str | Path,
    *,
    create: bool = False,
    outdated: bool = False,
    on_wait: Callable[[str], None] | None = None,
    repository: icechunk.Repository | None = None,
) -> Iterator[icechunk.Repository]:
    """Yield the repository for writing; what waves that were cut short have left is dropped.

    In a local folder one process writes at a time: it holds a lock. In an object store several may; the commits of
    those that come second are rebased.

    Parameters
    ----------
    location
        As in `storage.store.locations.storage_of`.
    create
        Make the store if there is nothing yet.
    outdated
        Accept a store that an older version wrote.
    on_wait
        Called with a message when another process holds the lock, or has committed by a clock that is ahead of this
        machine's; without it the message is logged.
    repository
        The store's, where it is open already.

    Raises
    ------
    StoreError
        If there is no store and ``create`` is false, or the folder is something else.
    ClockError
        If this machine's clock is behind the last commit, which no commit can then follow.
    StorageFaultError
        If the storage cannot be written or does not answer; also where that happens inside the block.
    """
    say = on_wait or _log.warning
    path = local_path(location)
    if path is None:
        opened = _create_remote(location) if create else _opened(location, repository, outdated=outdated)
        with faults(location):
            _make_ready(opened, STALE, say)
            yield opened
        return
    if create:
        _make_folder(path, location)
    elif not path.is_dir() or (repository is None and not exists(location)):
        open_repository(location)  # raises with the reason
    lock = FileLock(path / LOCK_FILE)
    try:
        _acquire(lock, location, say)
    except OSError as error:
        raise StorageFaultError(
            f"{location}: cannot be written ({error.strerror}); check the folder's permissions"
        ) from error
    try:
        with faults(location):
            if create and open_existing(path) is None:
                _create(path)
            opened = _opened(location, repository, outdated=outdated)
            _make_ready(opened, timedelta(0), say)
            yield opened
    finally:
        lock.release()


def _opened(location: str | Path, repository: icechunk.Repository | None, *, outdated: bool) -> icechunk.Repository:
    if repository is None:
        return open_repository(location, outdated=outdated)
    with faults(location):
        _check_version(repository, location, outdated=outdated)  # another process may have changed the store since
    return repository


def stage(repository: icechunk.Repository, base: str) -> str:
    """Make the branch of a new wave at the snapshot ``base``; its name."""
    name = f"{STAGING}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    repository.create_branch(name, base)
    return name


def open_waves(repository: icechunk.Repository) -> dict[str, datetime]:
    """Branches of waves that are neither committed nor dropped, and when each was begun."""
    found = {name: _BRANCH.fullmatch(name) for name in repository.list_branches() if name.startswith(STAGING)}
    return {
        name: datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
        if match
        else datetime.min.replace(tzinfo=UTC)
        for name, match in found.items()
    }


def _drop_stale(repository: icechunk.Repository, *, older_than: timedelta) -> None:
    now = datetime.now(UTC)
    for name, begun in open_waves(repository).items():
        if not older_than or now - begun > older_than:
            repository.delete_branch(name)


def snapshot_of(repository: icechunk.Repository, at: str | datetime) -> Snapshot:
    """Find the committed state that ``at`` names: a tag, a snapshot id, or a time (ISO 8601; UTC if it has no zone).

    Raises
    ------
    StoreError
        If there is none; a time before the first commit included.
    """
    if isinstance(at, str):
        if at in repository.list_tags():
            return _snapshot(repository.lookup_snapshot(repository.lookup_tag(at)))
        try:
            at = datetime.fromisoformat(at)
        except ValueError:
            found = next((one for one in iterate_history(repository) if one.id == at), None)
            if found is None:
                raise StoreError(f"{at!r} is neither a snapshot id, a tag nor an ISO time of this store") from None
            return found
    moment = at if at.tzinfo else at.replace(tzinfo=UTC)
    first = None
    for snapshot in iterate_history(repository):
        if snapshot.time <= moment:
            return snapshot
        first = snapshot
    began = f"; the first is of {first.time.isoformat()}" if first else ""
    raise StoreError(f"no commit at or before {moment.isoformat()}{began}")


def history(repository: icechunk.Repository) -> list[Snapshot]:
    """All committed states, newest first; the insides of waves and the empty beginning are left out."""
    return list(iterate_history(repository))


def iterate_history(repository: icechunk.Repository) -> Iterator[Snapshot]:
    """Committed states, newest first, each read when it is asked for."""
    with faults():
        for info in repository.ancestry(branch=MAIN):
            if is_state(info):
                yield _snapshot(info)


def is_state(info: icechunk.SnapshotInfo) -> bool:
    """Whether a snapshot is a state that somebody committed: no inside of a wave and not the empty beginning."""
    return info.parent_id is not None and not info.metadata.get(STAGING)


def tags(repository: icechunk.Repository) -> dict[str, str]:
    """Snapshot of each tag."""
    with faults():
        return {name: repository.lookup_tag(name) for name in sorted(repository.list_tags())}


def _snapshot(info: icechunk.SnapshotInfo) -> Snapshot:
    return Snapshot(id=info.id, time=info.written_at, message=info.message, metadata=dict(info.metadata))


def tag(repository: icechunk.Repository, name: str) -> str:
    """Name the last commit, so that it can be opened again with ``at=name``.

    Returns
    -------
    str
        Its snapshot.

    Raises
    ------
    StoreError
        If the name is taken.
    """
    if name in repository.list_tags():
        raise StoreError(f"the tag {name!r} is taken; give another name")
    try:
        with faults():
            snapshot: str = repository.lookup_branch(MAIN)
            repository.create_tag(name, snapshot)
    except StorageFaultError as error:
        raise StorageFaultError(
            f"the tag {name!r} cannot be made: {error}; was it deleted before? A tag is made once"
        ) from error
    return snapshot


def exists(location: str | Path) -> bool:
    """Whether there is a store, of whatever version.

    Raises
    ------
    StoreError
        If it is in a format that Icechunk here cannot read.
    StorageFaultError
        If the storage does not answer.
    """
    path = local_path(location)
    if path is not None and not path.is_dir():
        return False
    with faults(location):
        return open_existing(location) is not None


def _make_folder(path: Path, location: str | Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        foreign = {entry.name for entry in path.iterdir()} - _UNFINISHED
    except OSError as error:
        raise StorageFaultError(f"{location}: the store's folder cannot be made ({error.strerror})") from error
    if foreign and not exists(location):
        raise StoreError(f"{location}: holds {len(foreign)} files that are no store; give a new or empty folder")


def _make_ready(repository: icechunk.Repository, stale: timedelta, say: Callable[[str], None]) -> None:
    """Drop waves that were cut short longer ago than ``stale``, and see that the clock is past the last commit."""
    _drop_stale(repository, older_than=stale)
    await_commit(repository.lookup_snapshot(repository.lookup_branch(MAIN)).written_at, say)


def _acquire(lock: FileLock, location: str | Path, on_wait: Callable[[str], None]) -> None:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        on_wait(f"{location}: another process writes to this store; waiting until it has finished")
        try:
            lock.acquire()
        except RuntimeError as error:
            raise StoreError(f"{location}: this thread writes to the store already; leave that block first") from error


def _create(path: Path) -> None:
    """Make the repository aside and move it in, references last, so that a store is there as a whole or not at all."""
    for name in _UNFINISHED - {LOCK_FILE}:
        leftover = path / name
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
    _create_first_commit(create_repository(path / _NEW))
    for entry in sorted((path / _NEW).iterdir(), key=lambda entry: entry.name == "refs"):
        entry.rename(path / entry.name)
    (path / _NEW).rmdir()


def _create_remote(location: str | Path) -> icechunk.Repository:
    """Open the store, making what there is not yet of it; others may do the same at the same time."""
    with faults(location):
        repository = open_existing(location)
        if repository is None:
            try:
                repository = create_repository(location)
            except icechunk.IcechunkError:
                repository = open_existing(location)
                if repository is None:
                    raise
        if next(iter(repository.ancestry(branch=MAIN))).parent_id is None:
            with contextlib.suppress(icechunk.ConflictError):
                _create_first_commit(repository)
        _check_version(repository, location, outdated=False)
    return repository


def _create_first_commit(repository: icechunk.Repository) -> None:
    session = repository.writable_session(MAIN)
    create_root(session.store)
    session.commit("Create the cohort", metadata={"schema_version": SCHEMA_VERSION})


def _check_version(repository: icechunk.Repository, location: str | Path, *, outdated: bool) -> None:
    try:
        root = zarr.open_group(repository.readonly_session(MAIN).store, mode="r", zarr_format=3)
        version = root.attrs.get("schema_version")
    except FileNotFoundError:
        version = None
    if not isinstance(version, int):
        raise StoreError(f"{location}: an Icechunk repository, but not a cohort store: it states no schema version")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{location}: written with schema version {version}, this program knows up to {SCHEMA_VERSION}; "
            "install a newer qmri-cohort"
        )
    if version < SCHEMA_VERSION and not outdated:
        raise StoreError(
            f"{location}: written with schema version {version}, this program works with {SCHEMA_VERSION}; bring it up "
            "to date with `qmri migrate --store ...`"
        )


def _first_line(error: Exception) -> str:
    """What an error says first; texts of the operating system without the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, FileNotFoundError):
        return "what was there is missing; was the store deleted?"
    lines = (re.sub(r"^\W*(x )?", "", line).strip() for line in str(error).splitlines())  # icechunk draws a tree
    return next((line for line in lines if line), type(error).__name__)
