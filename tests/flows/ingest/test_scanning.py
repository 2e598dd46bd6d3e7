"""Scans on workers: a file that kills a worker is unreadable, a mistake of our code or a lost cluster ends the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import KilledWorker

from flows.cluster.dispatch import ClusterError
from flows.ingest import scanning
from flows.ingest.scanning import scan_on_workers
from storage.source.scans import Scan, ScanTask, scan_files
from tests.storage.slices import voxels, write_series

KEY = bytes(32)


def task(folder: Path) -> ScanTask:
    write_series(folder, voxels(3))
    return ScanTask(paths=tuple(str(path) for path in sorted(folder.iterdir())), root=str(folder), key=KEY)


def scans_where(monkeypatch: pytest.MonkeyPatch, work: ScanTask, bad: str, error: BaseException) -> list[Scan]:
    """What is scanned by workers on which batches with the file ``bad`` end with an error."""

    def run(_: object, function: Any, items: Iterable[ScanTask], **__: object) -> Iterator[tuple[ScanTask, Any]]:
        for item in items:
            yield item, error if bad in item.paths else function(item)

    monkeypatch.setattr("flows.cluster.driver.run_bounded", run)
    monkeypatch.setattr(scanning, "BATCHES_HERE", 0)
    client: Any = None
    return [scan for scans in scan_on_workers(client, [work]) for scan in scans]


def test_a_file_that_kills_its_worker_is_unreadable_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = task(tmp_path)
    killed = KilledWorker("scan", None, 3)
    scans = scans_where(monkeypatch, work, work.paths[1], killed)
    assert [dict(scan.other) for scan in scans] == [{}, {"unreadable": 1}, {}]


@pytest.mark.parametrize("error", [TypeError("x"), AttributeError("x"), KeyError("x"), ClusterError("no workers")])
def test_a_mistake_or_a_lost_cluster_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    work = task(tmp_path)
    with pytest.raises(type(error)) as caught:
        scans_where(monkeypatch, work, work.paths[1], error)
    assert caught.value is error


def test_a_small_source_needs_no_workers(tmp_path: Path) -> None:
    client: Any = None
    work = task(tmp_path)
    (scans,) = scan_on_workers(client, [work])
    assert scans == scan_files(work)
