"""The night run: ingest what is new, infer what is stale, aggregate, tag what came of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.ingest.run import ingest
from flows.maps.infer import infer
from flows.progress import Progress, quiet
from flows.statistics.aggregate import AggregateResult, aggregate
from flows.tables.summary import RunSummary
from storage.source.origin import Source
from storage.store.cohort import Cohort
from storage.store.lifecycle.nights import keep_nights, tag_night
from storage.store.lifecycle.upkeep import Compacted
from storage.store.repository import StoreError
from storage.store.schema import Reason

if TYPE_CHECKING:
    from distributed import Client


QUIET_FOR = 900.0
"""Seconds for which the files of a session must not have changed, in a deployment's night. A choice, not measured: a
transfer that stalls for longer costs no more than that its session is made again when it has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reprocessed:
    """Result of a night run.

    ``summary`` is of all sessions in the store. ``snapshot``, which is that of ``summary`` too, and ``tag`` name the
    state that readers get, statistics included; None where nothing was to be done. ``ended``: what older nights have
    given back, if any have ended.
    """

    ingested: RunSummary
    summary: RunSummary
    snapshot: str | None
    tag: str | None
    ended: Compacted | None = None

    def text(self) -> str:
        """Say in a line what came of it."""
        if self.snapshot is None:
            return f"nothing new: {self.summary.found} sessions are as they were, nothing was written{self._arriving()}"
        forgotten = self.ingested.reasons.get(Reason.FORGOTTEN, 0)
        taken = self.ingested.found - self.ingested.unchanged - self.ingested.arriving - forgotten
        made = self.summary.found - self.summary.unchanged
        text = f"{taken} sessions ingested, maps of {made} inferred; snapshot {self.snapshot}, tag {self.tag}"
        return text + self._arriving() + self._ended()

    def _ended(self) -> str:
        if self.ended is None:
            return ""
        return f"; older nights have ended: {self.ended.snapshots} commits, {self.ended.bytes / 1e6:.1f} MB given back"

    def _arriving(self) -> str:
        return f"; {self.ingested.arriving} sessions are still arriving" if self.ingested.arriving else ""


def reprocess(
    source: Source,
    store: str,
    *,
    key: bytes,
    client: Client,
    assume: Path | None = None,
    by_software: bool = False,
    quiet_for: float = 0.0,
    scanner_days: bool = False,
    linkage: Path | None = None,
    checkpoint: Path | None = None,
    index: Path | None = None,
    out: Path | None = None,
    check_room: bool = True,
    keep_days: float | None = None,
    progress: Progress = quiet,
) -> tuple[Reprocessed, AggregateResult]:
    """Bring store and statistics up to date with the source and the promoted checkpoint.

    New groups get their first calibration; existing calibrations stay as they are. What has changed is tagged
    ``nightly-YYYY-MM-DD`` (UTC), a second change of the same day ``nightly-YYYY-MM-DD.2``, and so on. Where nothing has
    changed nothing is written, and ``client`` is not used.

    Parameters
    ----------
    assume, by_software, quiet_for, scanner_days, linkage, checkpoint
        As those of `ingest` and `infer`.
    index
        File of the user that keeps what was read of the source: what has not changed is not read again.
    out
        Folder for the tables as CSV; optional.
    check_room
        As that of `ingest` and `infer`.
    keep_days
        Days for which the states of nights stay (`storage.store.lifecycle.nights.keep_nights`); default: for ever. A
        night without anything new ends none.

    Raises
    ------
    SourceError, AssumptionError, CheckpointError, StoreError
        If the source, the assume file, the weights or the store cannot be used.
    """
    before = _last_snapshot(store)
    ingested = ingest(
        source,
        store,
        key=key,
        assume=assume,
        by_software=by_software,
        quiet_for=quiet_for,
        scanner_days=scanner_days,
        linkage=linkage,
        index=index,
        check_room=check_room,
        client=client,
        progress=progress,
    )
    cohort = Cohort.open(store)
    summary = infer(cohort, checkpoint=checkpoint, check_room=check_room, client=client, progress=progress)
    tables = aggregate(cohort, client=client, out=out, progress=progress)
    if cohort.refreshed().snapshot == before:
        return Reprocessed(ingested=ingested, summary=summary, snapshot=None, tag=None), tables
    snapshot, name = tag_night(cohort)
    summary = replace(summary, snapshot=snapshot)
    ended = None if keep_days is None else keep_nights(cohort, keep_days)
    return Reprocessed(ingested=ingested, summary=summary, snapshot=snapshot, tag=name, ended=ended), tables


def _last_snapshot(store: str) -> str | None:
    try:
        return Cohort.open(store).snapshot
    except StoreError:  # none yet; another obstacle is told by ingest
        return None
