"""Flow and deployment ``reprocess-nightly``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import State, flow, task

from flows.deployed.export_maps import export_news
from flows.deployed.publish import end_state, failed_sessions, publish_night, publish_report, report_folder
from flows.deployed.run import RESUMED, Explained, ingest_options, run_settings, working
from flows.settings import Settings
from flows.tables.summary import RunSummary

if TYPE_CHECKING:
    from flows.night import Reprocessed

REPROCESS_NIGHTLY = "reprocess-nightly"


@task(name="reprocess-sessions", **RESUMED)
def reprocess_sessions(settings: Settings) -> Reprocessed:
    """Ingest, infer and aggregate what is not current, tag the snapshot, write the report if anything has changed."""
    from flows.night import QUIET_FOR, reprocess
    from flows.operations.figures import note_run
    from flows.report.build import write_report

    store, folder = settings.require_store(), report_folder(settings)
    options = {"quiet_for": QUIET_FOR, **ingest_options(settings), "keep_days": settings.keep_nights}
    options |= {"checkpoint": settings.checkpoint, "out": folder}
    with working(REPROCESS_NIGHTLY, settings) as (client, progress):
        result, tables = reprocess(settings.require_source(), store, client=client, progress=progress, **options)
        page = None if result.snapshot is None or folder is None else write_report(store, folder, aggregate=tables)
    publish_report(REPROCESS_NIGHTLY, tables, page, settings.report_url)
    publish_night(REPROCESS_NIGHTLY, store, result)
    note_run(store, settings.key_file)
    return result


@flow(name=REPROCESS_NIGHTLY)
def reprocess_nightly(
    source: str | Path | None = None,
    store: str | None = None,
    assume: Path | None = None,
    checkpoint: Path | None = None,
    keep_nights: float | None = None,
    export_to: str | None = None,
) -> State[RunSummary]:
    """Ingest what is new, infer what is stale, aggregate, tag the snapshot; never makes a new calibration of a group.

    What is not given is ``QMRI_SOURCE``, ``QMRI_STORE``, ..., ``QMRI_EXPORT_TO`` of the worker's environment.
    """
    with Explained():
        options = {"source": source, "store": store, "assume": assume, "checkpoint": checkpoint}
        settings = run_settings(**options, keep_nights=keep_nights, export_to=export_to)
        before = failed_sessions(settings.require_store())
    result = reprocess_sessions(settings)
    text = "\n".join([result.text(), *export_news(settings, REPROCESS_NIGHTLY)])
    return end_state(REPROCESS_NIGHTLY, result.summary, before=before, text=text)
