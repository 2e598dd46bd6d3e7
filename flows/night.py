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
from storage.store.lifecycle.nights import tag_night
from storage.store.repository import StoreError

if TYPE_CHECKING:
    from distributed import Client


QUIET_FOR = 900.0
"""Seconds for which the files of a session must not have changed, in a deployment's night. A choice, not measured: a
transfer that stalls for longer costs no more than that its session is made again when it has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reprocessed:
    """Result of a night run.

    ``summary`` is of all sessions in the store. ``snapshot``, which is that of ``summary`` too, and ``tag`` name the
    state that readers get, statistics included; None where nothing was to be done.
    """

    ingested: RunSummary
    summary: RunSummary
    snapshot: str | None
    tag: str | None

    def text(self) -> str:
        """Say in a line what came of it."""
        if self.snapshot is None:
            return f"nothing new: {self.summary.found} sessions are as they were, nothing was written{self._arriving()}"
        taken, made = (
            self.ingested.found - self.ingested.unchanged - self.ingested.arriving,
            self.summary.found - self.summary.unchanged,
        )
        text = f"{taken} sessions ingested, maps of {made} inferred; snapshot {self.snapshot}, tag {self.tag}"
        return text + self._arriving()

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
    checkpoint: Path | None = None,
    index: Path | None = None,
    out: Path | None = None,
    progress: Progress = quiet,
) -> tuple[Reprocessed, AggregateResult]:
    """Bring store and statistics up to date with the source and the promoted checkpoint.

    New groups get their first calibration; existing calibrations stay as they are. What has changed is tagged
    ``nightly-YYYY-MM-DD`` (UTC), a second change of the same day ``nightly-YYYY-MM-DD.2``, and so on. Where nothing has
    changed nothing is written, and ``client`` is not used.

    Parameters
    ----------
    assume, by_software, quiet_for, checkpoint
        As those of `ingest` and `infer`.
    index
        File of the user that keeps what was read of the source: what has not changed is not read again.
    out
        Folder for the tables as CSV; optional.

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
        index=index,
        client=client,
        progress=progress,
    )
    cohort = Cohort.open(store)
    summary = infer(cohort, checkpoint=checkpoint, client=client, progress=progress)
    tables = aggregate(cohort, client=client, out=out, progress=progress)
    if cohort.refreshed().snapshot == before:
        return Reprocessed(ingested=ingested, summary=summary, snapshot=None, tag=None), tables
    snapshot, name = tag_night(cohort)
    summary = replace(summary, snapshot=snapshot)
    return Reprocessed(ingested=ingested, summary=summary, snapshot=snapshot, tag=name), tables


def _last_snapshot(store: str) -> str | None:
    try:
        return Cohort.open(store).snapshot
    except StoreError:  # none yet; another obstacle is told by ingest
        return None
