"""Flow and deployment ``aggregate-cohort``."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task

from flows.deployed.publish import publish_report, report_folder
from flows.deployed.run import RESUMED, Explained, run_settings, working
from flows.settings import Settings

NAME = "aggregate-cohort"


@task(name="aggregate-sessions", **RESUMED)
def aggregate_sessions(chosen: Settings, name: str = NAME) -> Path | None:
    """Bring the statistics up to date, publish the tables, write the report where there is a folder for it."""
    from flows.report.build import write_report
    from flows.statistics.aggregate import aggregate
    from storage.store.cohort import Cohort

    folder = report_folder(chosen)
    with working(name, chosen) as (client, progress):
        cohort = Cohort.open(chosen.require_store())
        result = aggregate(cohort, client=client, out=folder, progress=progress)
        page = None if folder is None else write_report(cohort, folder, aggregate=result)
    publish_report(name, result, page, chosen.report_url)
    return page


@flow(name=NAME)
def aggregate_cohort(store: str | None = None, report: Path | None = None) -> Path | None:
    """Compute tissue statistics and the variation between groups; write the tables and the report.

    Parameters
    ----------
    store, report
        Default: ``QMRI_STORE`` and ``QMRI_REPORT`` of the worker's environment; without a folder for the report it
        stands beside a local store. ``QMRI_REPORT_URL`` makes its link.
    """
    with Explained():
        chosen = run_settings(store=store, report=report)
    return aggregate_sessions(chosen)
