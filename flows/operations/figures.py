"""Figures of a cohort for machines that watch it: the same as JSON and as text for Prometheus."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily

from flows.maps.staleness import stale_sessions
from flows.settings import SettingsError
from flows.tables.stages import stages_of
from storage.pseudonyms import key_path
from storage.store.cohort import Cohort
from storage.store.decisions.effect import judge
from storage.store.locations import local_path
from storage.store.schema import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What can be counted in a store without reading an image; groups by label.

    ``last`` is the time of the last commit or, where a run without anything new came later and was noted, of that run.
    ``size`` is in bytes, ``free`` those of its disk; None where the store is not on a disk of this machine.
    ``seconds`` is the mean duration of ingest per session of a group, ``stages`` that of each run's stages, by group,
    run and stage; marks are by group and kind.
    """

    snapshot: str
    last: datetime
    sessions: Mapping[tuple[str, str, str], int]
    stale: int
    unsettled: int
    left_out: Mapping[str, int]
    size: int
    free: int | None
    seconds: Mapping[str, float]
    stages: Mapping[tuple[str, str, str], float]
    marks: Mapping[tuple[str, str], int]

    def age(self, now: datetime | None = None) -> timedelta:
        """Time since something was last done."""
        return (now or datetime.now(UTC)) - self.last

    def as_json(self) -> dict[str, Any]:
        """The figures as JSON holds them; times in UTC, bytes, seconds."""
        return {
            "snapshot": self.snapshot,
            "last": self.last.isoformat(),
            "age_seconds": round(self.age().total_seconds()),
            "sessions": [
                {"group": group, "status": status, "reason": reason, "sessions": count}
                for (group, status, reason), count in sorted(self.sessions.items())
            ],
            "stale": self.stale,
            "unsettled_failures": self.unsettled,
            "left_out": dict(self.left_out),
            "bytes": self.size,
            "free_bytes": self.free,
            "ingest_seconds": dict(self.seconds),
            "stage_seconds": [
                {"group": group, "run": run, "stage": stage, "seconds": mean}
                for (group, run, stage), mean in sorted(self.stages.items())
            ],
            "marks": [
                {"group": group, "mark": mark, "sessions": count} for (group, mark), count in sorted(self.marks.items())
            ],
        }

    def as_prometheus(self) -> str:
        """The figures as a text file that Prometheus, or its node exporter, reads."""
        registry = CollectorRegistry()
        registry.register(_Collected(self))
        return generate_latest(registry).decode()


@dataclass(frozen=True, slots=True, eq=False)
class _Collected:
    figures: Figures

    def collect(self) -> Iterator[GaugeMetricFamily]:
        one = self.figures
        yield _gauge("sessions", "Sessions", ("group", "status", "reason"), one.sessions)
        yield _gauge("marked_sessions", "Sessions with a quality mark", ("group", "mark"), one.marks)
        yield _gauge("left_out_sessions", "Sessions that count for nothing", ("why",), one.left_out)
        yield _gauge("ingest_seconds", "Mean duration of ingest of a session", ("group",), one.seconds)
        yield _gauge("stage_seconds", "Mean seconds of a stage per session", ("group", "run", "stage"), one.stages)
        plain = {
            "stale_sessions": ("Sessions that the next run does again", one.stale),
            "unsettled_failures": ("Failed sessions on which nobody has decided", one.unsettled),
            "last_timestamp_seconds": ("Time of the last commit or run", one.last.timestamp()),
            "store_bytes": ("Size of the store", one.size),
            "disk_free_bytes": ("Free space on the disk of the store", one.free),
        }
        for name, (text, value) in plain.items():
            if value is not None:
                yield GaugeMetricFamily(f"qmri_{name}", text, value=value)


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """Figures of a store as it is whenever they are asked for."""

    store: str
    key_file: Path | None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from _Collected(told_figures(Cohort.open(self.store), self.key_file)).collect()


def serve_figures(store: str, key_file: Path | None, *, host: str, port: int) -> Thread:
    """Answer ``GET /metrics`` with the figures of a store as it then is; the thread that does so.

    Raises
    ------
    StoreError
        If there is no store.
    OSError
        If the port is taken.
    """
    registry = CollectorRegistry()
    registry.register(_Asked(store, key_file))  # asks once
    _, thread = start_http_server(port, addr=host, registry=registry)
    return thread


def told_figures(cohort: Cohort, key_file: Path | None) -> Figures:
    """Figures of a cohort with the size of its store and the last run that was noted."""
    return figures_of(cohort, size_of(cohort), noted_run(cohort.location, key_file))


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"qmri_{name}", text, labels=labels)
    for key, value in sorted(values.items()):
        gauge.add_metric(list(key) if isinstance(key, tuple) else [key], value)
    return gauge


def figures_of(cohort: Cohort, size: int, noted: datetime | None = None) -> Figures:
    """Figures of a cohort; ``size`` in bytes, ``noted`` the time of the last run that was noted, if any."""
    rows = cohort.catalogue
    labels = [cohort.labels.get(group, "") for group in rows["group"].astype(str)]
    judgement = judge(cohort)
    folder = local_path(cohort.location)
    failed = rows.loc[rows["status"] == Status.FAILED, "session"].astype(str)
    marks = zip(labels, rows["quality_marks"].astype(str), strict=True)
    durations = rows.assign(label=labels)[lambda table: table["duration"].notna() & (table["label"] != "")]
    return Figures(
        snapshot=cohort.snapshot,
        last=_last(cohort, noted),
        sessions=Counter(zip(labels, rows["status"].astype(str), rows["reason"].astype(str), strict=True)),
        stale=len(stale_sessions(cohort)),
        unsettled=sum(session not in judgement.settled for session in failed),
        left_out=judgement.reasons(cohort.slots),
        size=size,
        free=None if folder is None else shutil.disk_usage(folder).free,
        seconds={str(label): float(mean) for label, mean in durations.groupby("label")["duration"].mean().items()},
        stages=_mean_stages(labels, rows["stages"].astype(str)),
        marks=Counter((label, mark) for label, text in marks for mark in text.split(",") if mark),
    )


def _mean_stages(labels: Iterable[str], texts: Iterable[str]) -> dict[tuple[str, str, str], float]:
    """Mean seconds by group, run and stage, over the sessions that went through the stage and lie in a group."""
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for label, text in zip(labels, texts, strict=True):
        for run, seconds in stages_of(text).items() if label else ():
            for stage, each in seconds.items():
                found[label, run, stage].append(each)
    return {key: sum(values) / len(values) for key, values in found.items()}


def age_of(text: str) -> timedelta:
    """Time that a user writes as ``26h``, ``90m`` or ``2d``.

    Raises
    ------
    SettingsError
        If it is none.
    """
    match = re.fullmatch(r"(\d{1,6})([mhd])", text.strip())
    if match is None:
        raise SettingsError("--max-age is a number of minutes, hours or days: 90m, 26h, 2d")
    return int(match[1]) * {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}[match[2]]


def is_older(cohort: Cohort, key_file: Path | None, limit: timedelta) -> bool:
    """Whether neither a commit was made nor a run noted for longer than ``limit``."""
    return datetime.now(UTC) - _last(cohort, noted_run(cohort.location, key_file)) > limit


def _last(cohort: Cohort, noted: datetime | None) -> datetime:
    """Time of the last commit, or of the run that was noted later."""
    committed = cohort.repository.lookup_snapshot(cohort.snapshot).written_at
    return committed if noted is None else max(committed, noted)


def size_of(cohort: Cohort) -> int:
    """Bytes of a store: of all its files on a disk, of its chunks in an object store."""
    folder = local_path(cohort.location)
    return int(cohort.repository.total_chunks_storage()) if folder is None else _bytes_in(folder)


def _bytes_in(folder: Path) -> int:
    """Bytes of all files below a folder; by `os.scandir`, since a store has some hundred files per session."""
    total, folders = 0, [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    with suppress(FileNotFoundError):  # another process has just removed it
                        total += entry.stat(follow_symlinks=False).st_size
    return total


def note_of(store: str, key_file: Path | None) -> Path:
    """File whose time is that of this user's last whole run on a store: where nothing is new, nothing is committed."""
    folder = local_path(store)
    where = store if folder is None else str(folder.absolute())
    name = hashlib.sha256(where.encode(errors="surrogateescape")).hexdigest()[:16]
    return (key_file or key_path()).parent / "runs" / name


def note_run(store: str, key_file: Path | None) -> None:
    """Note that a run has ended as it should; without a place for it nothing is noted."""
    note = note_of(store, key_file)
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        note.touch(mode=0o600)


def noted_run(store: str, key_file: Path | None) -> datetime | None:
    """When the last run was noted; None where none was."""
    try:
        return datetime.fromtimestamp(note_of(store, key_file).stat().st_mtime, UTC)
    except OSError:
        return None
