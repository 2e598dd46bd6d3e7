"""Whether everything that a run needs is there, looked at in seconds before it; nothing is made or changed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from flows.cluster.clusters import default_workers
from flows.settings import Settings, SettingsError
from storage.pseudonyms import KeyFileError, key_path, load_key
from storage.store.cohort import Cohort
from storage.store.keys import WrongKeyError, require_key
from storage.store.locations import StorageFaultError, local_path
from storage.store.repository import StoreError

SECONDS = 3.0
"""That a server or scheduler has to answer."""
LEAST_FREE = 10e9
"""Bytes below which a disk is called nearly full: some 250 sessions of 1 mm."""
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


class Mark(StrEnum):
    """What was found."""

    GOOD = "good"
    DOUBT = "look"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at, what was found, and what to do."""

    what: str
    mark: Mark
    text: str
    do: str = ""


def findings(settings: Settings) -> Iterator[Finding]:
    """All that can be looked at with these settings; what is not set and not needed is left out."""
    checks: tuple[Callable[[Settings], Finding | None], ...] = (
        _key, _source, _store, _disk, _server, _scheduler, _device, _versions,
    )  # fmt: skip
    for check in checks:
        found = check(settings)
        if found is not None:
            yield found


def _key(settings: Settings) -> Finding:
    path = settings.key_file or key_path()
    if not path.exists():
        return Finding(
            what="key", mark=Mark.DOUBT, text="there is none yet; the first ingest makes one",
            do="if the store was made with a key, restore it: another one gives every session another pseudonym",
        )  # fmt: skip
    try:
        load_key(path)
    except KeyFileError as error:
        return Finding(what="key", mark=Mark.BAD, text="it cannot be read, or is none", do=str(error))
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        return Finding(what="key", mark=Mark.BAD, text="others can read it", do=f"chmod 600 {path}")
    return Finding(what="key", mark=Mark.GOOD, text="it is there, for its owner alone")


def _source(settings: Settings) -> Finding | None:
    if settings.source is None:
        return None
    try:
        source = settings.require_source()
    except SettingsError as error:
        return Finding(what="source", mark=Mark.BAD, text="it is none", do=str(error))
    if not isinstance(source, Path):
        return Finding(what="source", mark=Mark.GOOD, text="a server; it is asked by `qmri inspect`")
    if not os.access(source, os.R_OK):
        return Finding(
            what="source", mark=Mark.BAD, text="it is not there, or may not be read",
            do="mount it, set QMRI_SOURCE, or give this user read access",
        )  # fmt: skip
    return Finding(what="source", mark=Mark.GOOD, text="it is there, and may be read")


def _store(settings: Settings) -> Finding | None:
    if settings.store is None:
        return None
    folder = local_path(settings.store)
    if folder is not None and not folder.exists():
        above = next(path for path in folder.absolute().parents if path.exists())
        if not os.access(above, os.W_OK):
            return Finding(
                what="store", mark=Mark.BAD, text="it is not there, and cannot be made", do="set QMRI_STORE, or rights"
            )
        return Finding(what="store", mark=Mark.GOOD, text="it is not there yet; the first ingest makes it")
    try:
        cohort = Cohort.open(settings.store)
        n_sessions = len(cohort.catalogue)
    except (StoreError, StorageFaultError) as error:
        return Finding(what="store", mark=Mark.BAD, text="it cannot be opened", do=str(error))
    key = settings.key_file or key_path()
    if key.exists() and (other := _other_key(cohort, key)):
        return Finding(what="store", mark=Mark.BAD, text="its sessions are named under another key", do=other)
    if folder is not None and not os.access(folder, os.W_OK):
        return Finding(what="store", mark=Mark.BAD, text="it may not be written", do="give this user write access")
    return Finding(what="store", mark=Mark.GOOD, text=f"it is there, with {n_sessions} sessions")


def _other_key(cohort: Cohort, path: Path) -> str:
    """What to do where the key is not that of the store; empty where it is, or cannot be read."""
    try:
        require_key(cohort.root, load_key(path))
    except WrongKeyError as error:
        return str(error)
    except KeyFileError:  # told already
        return ""
    return ""


def _disk(settings: Settings) -> Finding | None:
    folder = None if settings.store is None else local_path(settings.store)
    if folder is None:
        return None
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:.1f} GB free"
    if free < LEAST_FREE:
        do = "make room, or `qmri compact`; `qmri inspect --store` forecasts what a source needs"
        return Finding(what="disk", mark=Mark.DOUBT, text=text, do=do)
    return Finding(what="disk", mark=Mark.GOOD, text=text)


def _server(settings: Settings) -> Finding | None:  # noqa: ARG001 - Prefect has settings of its own
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return None
    try:
        is_well = httpx.get(f"{address.rstrip('/')}/health", timeout=SECONDS).is_success
    except (httpx.HTTPError, httpx.InvalidURL):
        is_well = False
    if is_well:
        return Finding(what="Prefect server", mark=Mark.GOOD, text="it answers")
    return Finding(
        what="Prefect server", mark=Mark.BAD, text="it does not answer", do="start it, or set PREFECT_API_URL"
    )


def _scheduler(settings: Settings) -> Finding:
    if settings.scheduler is None or "://" not in settings.scheduler:
        kind = settings.scheduler or "local"
        workers = f", {settings.workers or default_workers()} workers" if kind == "local" else ""
        return Finding(what="cluster", mark=Mark.GOOD, text=f"{kind}: it starts with a run{workers}")
    parts = urlsplit(settings.scheduler)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 8786), timeout=SECONDS):
            return Finding(what="cluster", mark=Mark.GOOD, text="its scheduler answers")
    except (OSError, ValueError):
        return Finding(what="cluster", mark=Mark.BAD, text="no scheduler answers", do="start it, or set QMRI_SCHEDULER")


def _device(settings: Settings) -> Finding:
    from qmri_core.devices import fastest

    device, _ = fastest()
    if device.type == "cuda" or settings.scheduler != "gpu":
        return Finding(what="device", mark=Mark.GOOD, text=f"{device.type} on this machine")
    return Finding(
        what="device", mark=Mark.BAD, text="QMRI_SCHEDULER=gpu, and PyTorch sees none here",
        do="look at `nvidia-smi` and at PyTorch's build, or unset QMRI_SCHEDULER",
    )  # fmt: skip


def _versions(settings: Settings) -> Finding | None:  # noqa: ARG001 - asks the installation
    if not CONSTRAINTS.is_file():
        return None
    others = [name for name, *_ in other_versions(CONSTRAINTS.read_text(encoding="utf-8"))]
    if not others:
        return Finding(what="versions", mark=Mark.GOOD, text="all are those of constraints.txt")
    return Finding(
        what="versions", mark=Mark.DOUBT, text=f"{len(others)} are not the tested ones: {', '.join(others[:5])}",
        do="pip install --constraint constraints.txt .",
    )  # fmt: skip


def other_versions(constraints: str) -> Iterator[tuple[str, str, str]]:
    """Installed packages whose version is not the tested one: name, tested, installed; markers are passed over."""
    for name, tested in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)\s*$", constraints, flags=re.MULTILINE):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if found.partition("+")[0] != tested:
            yield name, tested, found
