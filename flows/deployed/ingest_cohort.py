"""Flow and deployment ``ingest-cohort``."""

from __future__ import annotations

from pathlib import Path

from prefect import State, flow, task

from flows.deployed.publish import end_state, failed_sessions
from flows.deployed.run import RESUMED, Explained, ingest_options, run_settings, working
from flows.selection import EVERYTHING, Selection
from flows.settings import Settings
from flows.tables.summary import RunSummary

INGEST_COHORT = "ingest-cohort"


@task(name="ingest-sessions", **RESUMED)
def ingest_sessions(settings: Settings, only: Selection) -> RunSummary:
    """Preprocess what is new or has changed, and commit it."""
    from flows.ingest.run import ingest

    with working(INGEST_COHORT, settings) as (client, progress):
        return ingest(
            settings.require_source(),
            settings.require_store(),
            selection=only,
            client=client,
            progress=progress,
            **ingest_options(settings),
        )


@flow(name=INGEST_COHORT)
def ingest_cohort(
    source: str | Path | None = None,
    store: str | None = None,
    assume: Path | None = None,
    linkage: Path | None = None,
    only: Selection = EVERYTHING,
) -> State[RunSummary]:
    """Bring every session of the source that is new or has changed into the store.

    Parameters
    ----------
    source, store, assume, linkage
        Default: ``QMRI_SOURCE``, ``QMRI_STORE``, ``QMRI_ASSUME``, ``QMRI_LINKAGE`` of the worker's environment.
    only
        Which sessions; default: all.
    """
    with Explained():
        settings = run_settings(source=source, store=store, assume=assume, linkage=linkage)
        before = failed_sessions(settings.require_store())
    summary = ingest_sessions(settings, only)
    return end_state(INGEST_COHORT, summary, before=before)
