"""Flow and deployment ``aggregate-cohort``."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task

from flows.deployed.publish import publish_report, report_folder
from flows.deployed.run import RESUMED, Explained, run_settings, working
from flows.selection import EVERYTHING, Selection
from flows.settings import Settings

AGGREGATE_COHORT = "aggregate-cohort"


@task(name="aggregate-sessions", **RESUMED)
def aggregate_sessions(settings: Settings, only: Selection, name: str = AGGREGATE_COHORT) -> Path | None:
    """Bring the statistics up to date, publish the tables, write the report where there is a folder for it."""
    from flows.report.build import write_report
    from flows.statistics.aggregate import aggregate
    from storage.store.cohort import Cohort

    folder = report_folder(settings)
    with working(name, settings) as (client, progress):
        cohort = Cohort.open(settings.require_store())
        result = aggregate(cohort, client=client, out=folder, selection=only, progress=progress)
        page = None if folder is None else write_report(cohort, folder, aggregate=result)
    publish_report(name, result, page, settings.report_url)
    return page


@flow(name=AGGREGATE_COHORT)
def aggregate_cohort(store: str | None = None, report: Path | None = None, only: Selection = EVERYTHING) -> Path | None:
    """Compute tissue statistics and the variation between groups; write the tables and the report.

    Parameters
    ----------
    store, report
        Default: ``QMRI_STORE`` and ``QMRI_REPORT`` of the worker's environment; without a folder for the report it
        stands beside a local store. ``QMRI_REPORT_URL`` makes its link.
    only
        Sessions whose statistics are taken; default: all.
    """
    with Explained():
        settings = run_settings(store=store, report=report)
    return aggregate_sessions(settings, only)
