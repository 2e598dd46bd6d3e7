"""Reading the headers of a source: on workers where there are many files, with an index that a later run uses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from distributed import KilledWorker

from flows.cluster.driver import dispatched
from storage.pseudonyms import key_path
from storage.source.origin import Source, mark_of
from storage.source.scans import Scan, ScanTask, not_scanned, scan_files

if TYPE_CHECKING:
    from distributed import Client

BATCHES_HERE = 32
"""Batches of files that are scanned without workers: some seconds."""


def index_beside(key_file: Path | None, source: Source) -> Path | None:
    """Where a user's index of a source is kept: beside the key. None where nothing can be written there."""
    folder = (key_file or key_path()).parent / "index"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return None
    return folder / f"{hashlib.sha256(mark_of(source)).hexdigest()[:16]}.sqlite"


def scan_on_workers(client: Client, tasks: Iterable[ScanTask]) -> Iterator[list[Scan]]:
    """Scan batches of files on the cluster, the first ones here: small sources need no more.

    A file that costs a worker its life counts as unreadable. Whatever else ends a scan, ends the run: it is a mistake
    of this program, or the cluster is gone, and the files are not to blame.
    """
    rest = iter(tasks)
    yield from map(scan_files, islice(rest, BATCHES_HERE))
    if (further := next(rest, None)) is None:
        return
    for task, scans in dispatched(client, scan_files, chain((further,), rest), text="discover"):
        if not isinstance(scans, BaseException):
            yield scans
            continue
        if not isinstance(scans, KilledWorker):
            raise scans
        alone = [replace(task, paths=(path,)) for path in task.paths]
        for single, result in dispatched(client, scan_files, alone, in_flight=1):
            if isinstance(result, BaseException) and not isinstance(result, KilledWorker):
                raise result
            yield [not_scanned(single.paths[0])] if isinstance(result, BaseException) else result
