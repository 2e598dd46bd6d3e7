"""Where a cohort lies: opening the repository, its snapshots, and the lock of the one writer."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import icechunk
import zarr
from filelock import FileLock, Timeout

from storage.schema import SCHEMA_VERSION, create_root

MAIN = "main"
STAGING = "staging"
LOCK_FILE = "writer.lock"
_NEW = ".new"
_UNFINISHED = {LOCK_FILE, _NEW, "config.yaml", "manifests", "overwritten", "snapshots", "transactions"}
"""What the making of a store can leave behind when it is cut short; no chunks and no references yet."""

_log = logging.getLogger(__name__)


class StoreError(ValueError):
    """A location holds no cohort that can be used this way, or what was to be written does not fit it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One committed state of the cohort."""

    id: str
    time: datetime
    message: str
    metadata: dict[str, Any]


def open_repository(location: str | Path) -> icechunk.Repository:
    """Open an existing cohort for reading.

    Raises
    ------
    StoreError
        If there is no cohort, or it was written by a newer version.
    """
    path = _path(location)
    if not path.exists():
        raise StoreError(f"{location}: no such folder; was the store's path mistyped, or `qmri ingest` not run yet?")
    if not path.is_dir():
        raise StoreError(f"{location}: is a file, not the folder of a cohort store")
    try:
        if not icechunk.Repository.exists(_storage(path)):
            raise StoreError(f"{location}: is not a cohort store; give the folder that `qmri ingest --store` wrote")
        repository = icechunk.Repository.open(_storage(path))
        _check_version(repository, location)
    except (OSError, icechunk.IcechunkError) as error:
        raise StoreError(f"{location}: the store cannot be read ({_first_line(error)})") from error
    return repository


@contextmanager
def writing(
    location: str | Path, *, create: bool = False, on_wait: Callable[[str], None] | None = None
) -> Iterator[icechunk.Repository]:
    """Hold the store's only writer's lock and yield its repository; a stale staging branch is dropped.

    Parameters
    ----------
    location
        Local path of the store.
    create
        Make the store if the folder is missing or empty.
    on_wait
        Called with a message when another process holds the lock; without it the message is logged.

    Raises
    ------
    StoreError
        If there is no store and ``create`` is false, the folder is something else, or it cannot be written.
    """
    path = _path(location)
    if create:
        _make_folder(path, location)
    elif not path.is_dir() or not icechunk.Repository.exists(_storage(path)):
        open_repository(location)  # raises with the reason
    lock = FileLock(path / LOCK_FILE)
    try:
        _acquire(lock, location, on_wait)
    except OSError as error:
        raise StoreError(f"{location}: cannot be written ({error.strerror}); check the folder's permissions") from error
    try:
        yield _open_for_writing(path, location)
    finally:
        lock.release()


def drop_staging(repository: icechunk.Repository) -> bool:
    """Drop the branch of a wave that was never committed; True if there was one."""
    if STAGING not in repository.list_branches():
        return False
    repository.delete_branch(STAGING)
    return True


def readable_session(repository: icechunk.Repository, at: str | datetime | None = None) -> icechunk.Session:
    """Read-only session of the last commit, or of the snapshot id, tag or time ``at``."""
    if at is None:
        return repository.readonly_session(MAIN)
    return repository.readonly_session(snapshot_id=snapshot_of(repository, at).id)


def snapshot_of(repository: icechunk.Repository, at: str | datetime) -> Snapshot:
    """Find the committed state that ``at`` names: a tag, a snapshot id, or a time (ISO 8601; UTC if it has no zone).

    Raises
    ------
    StoreError
        If there is none; a time before the first commit included.
    """
    snapshots = history(repository)
    if isinstance(at, str):
        wanted = repository.lookup_tag(at) if at in repository.list_tags() else at
        found = [snapshot for snapshot in snapshots if snapshot.id == wanted]
        if found:
            return found[0]
        try:
            at = datetime.fromisoformat(at)
        except ValueError:
            raise StoreError(f"{at!r} is neither a snapshot id, a tag nor an ISO time of this store") from None
    moment = at if at.tzinfo else at.replace(tzinfo=UTC)
    for snapshot in snapshots:
        if snapshot.time <= moment:
            return snapshot
    raise StoreError(f"no commit at or before {moment.isoformat()}; the first is of {snapshots[-1].time.isoformat()}")


def history(repository: icechunk.Repository) -> list[Snapshot]:
    """All committed states, newest first; the insides of waves and the empty beginning are left out."""
    return [
        Snapshot(id=info.id, time=info.written_at, message=info.message, metadata=dict(info.metadata))
        for info in repository.ancestry(branch=MAIN)
        if info.parent_id is not None and not info.metadata.get(STAGING)
    ]


def tag(repository: icechunk.Repository, name: str) -> None:
    """Name the last commit, so that it can be opened again with ``at=name``.

    Raises
    ------
    StoreError
        If the name is taken.
    """
    try:
        repository.create_tag(name, repository.lookup_branch(MAIN))
    except icechunk.IcechunkError as error:
        raise StoreError(f"the tag {name!r} cannot be made ({_first_line(error)}); is it taken?") from error


def _path(location: str | Path) -> Path:
    if isinstance(location, str) and "://" in location:
        raise StoreError(f"{location.split('://')[0]}:// locations are not supported yet; give a local path")
    return Path(location)


def _storage(path: Path) -> icechunk.Storage:
    # one committer at a time is what the file lock is for; icechunk would warn of it at every opening
    icechunk.set_logs_filter(os.environ.get("ICECHUNK_LOG", "error"))
    return icechunk.local_filesystem_storage(str(path))


def _make_folder(path: Path, location: str | Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        foreign = {entry.name for entry in path.iterdir()} - _UNFINISHED
    except OSError as error:
        raise StoreError(f"{location}: the store's folder cannot be made ({error.strerror})") from error
    if foreign and not icechunk.Repository.exists(_storage(path)):
        raise StoreError(f"{location}: holds {len(foreign)} files that are no store; give a new or empty folder")


def _acquire(lock: FileLock, location: str | Path, on_wait: Callable[[str], None] | None) -> None:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        message = f"{location}: another process writes to this store; waiting until it has finished"
        if on_wait is None:
            _log.warning(message)
        else:
            on_wait(message)
        try:
            lock.acquire()
        except RuntimeError as error:
            raise StoreError(f"{location}: this thread writes to the store already; leave that block first") from error


def _open_for_writing(path: Path, location: str | Path) -> icechunk.Repository:
    try:
        if not icechunk.Repository.exists(_storage(path)):
            _create(path)
        repository = icechunk.Repository.open(_storage(path))
        _check_version(repository, location)
        drop_staging(repository)
    except (OSError, icechunk.IcechunkError) as error:
        raise StoreError(f"{location}: the store cannot be opened for writing ({_first_line(error)})") from error
    return repository


def _create(path: Path) -> None:
    """Make the repository aside and move it in, references last, so that a store is there as a whole or not at all."""
    for name in _UNFINISHED - {LOCK_FILE}:
        leftover = path / name
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
    repository = icechunk.Repository.create(_storage(path / _NEW))
    session = repository.writable_session(MAIN)
    create_root(session.store)
    session.commit("Create the cohort", metadata={"schema_version": SCHEMA_VERSION})
    for entry in sorted((path / _NEW).iterdir(), key=lambda entry: entry.name == "refs"):
        entry.rename(path / entry.name)
    (path / _NEW).rmdir()


def _check_version(repository: icechunk.Repository, location: str | Path) -> None:
    try:
        version = zarr.open_group(repository.readonly_session(MAIN).store, mode="r", zarr_format=3).attrs.get(
            "schema_version"
        )
    except FileNotFoundError:
        version = None
    if not isinstance(version, int):
        raise StoreError(f"{location}: an Icechunk repository, but not a cohort store: it states no schema version")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{location}: written with schema version {version}, this program knows up to {SCHEMA_VERSION}; "
            "install a newer qmri-cohort"
        )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
