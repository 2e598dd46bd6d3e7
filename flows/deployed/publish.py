"""What a run shows at its end: tables and the report's link as artifacts, and a state that says what was lost."""

from __future__ import annotations

import logging
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.exceptions import FailedRun
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from flows.settings import Settings
from flows.tables.summary import RunSummary

if TYPE_CHECKING:
    from prefect import State

    from flows.night import Reprocessed
    from flows.statistics.aggregate import AggregateResult

_MAX_LISTED = 500
"""Failed sessions listed by name; all stand in the catalogue."""

_FAILED_STATE = "SessionsFailed"
"""Name of the state of a run in which sessions failed that had not before; its type is Failed, so that it pages."""

_FAILED_BEFORE_STATE = "CompletedWithFailures"
"""Name of the state of a run that found only sessions that had failed before; its type is Completed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """A store, and the sessions that had failed in it when a run began."""

    store: str
    failed: Set[str]


def failed_sessions(store: str) -> Before:
    """Sessions that the catalogue calls failed; none where there is no store."""
    from storage.store.cohort import Cohort, StoreError

    try:
        cohort = Cohort.open(store)
    except StoreError:
        return Before(store=store, failed=frozenset())
    rows = cohort.catalogue
    return Before(store=store, failed=frozenset(rows.loc[rows["status"] == "failed", "session"]))


def end_state(name: str, summary: RunSummary, *, before: Before, text: str = "") -> State[RunSummary]:
    """Publish the summary of a run, and make the state in which it ends.

    Parameters
    ----------
    name
        Of the flow.
    summary
        Of the run.
    before
        Of `failed_sessions`, when the run began.
    text
        What more there is to say.
    """
    from flows.operations.night_summary import failure_rows

    counts = {status: getattr(summary, status) for status in ("found", "complete", "partial", "skipped", "failed")}
    create_table_artifact(
        [{**counts, "unchanged": summary.unchanged, "snapshot": summary.snapshot or "-"}],
        key=f"{name}-result",
        description="Sessions by status",
    )
    create_table_artifact(
        [{"reason": reason, "sessions": count} for reason, count in sorted(summary.reasons.items())],
        key=f"{name}-reasons",
        description="Why sessions are not complete",
    )
    create_table_artifact(
        [*failure_rows(before.store, summary.failures[:_MAX_LISTED])],
        key=f"{name}-failures",
        description=f"Failed sessions, why, and what to do (at most {_MAX_LISTED} of {summary.failed})",
    )
    get_run_logger().info(summary.text())
    fresh = [failure for failure in summary.unsettled if failure.session not in before.failed]
    start = f"{text}; " if text else ""
    if fresh:
        message = f"{start}{len(fresh)} sessions failed in this run, {summary.failed} in all; everything else is stored"
        for logger in ("prefect.engine", "prefect.flow_runs"):
            logging.getLogger(logger).addFilter(is_unexpected)
        return Failed(name=_FAILED_STATE, message=message)
    if summary.unsettled:
        message = f"{start}{len(summary.unsettled)} sessions have failed before"
        return Completed(name=_FAILED_BEFORE_STATE, message=message, data=summary)
    is_new = summary.snapshot is not None
    return Completed(message=text or ("done" if is_new else "nothing to do: nothing was written"), data=summary)


def publish_night(name: str, store: str, result: Reprocessed) -> None:
    """Publish what a night has to say: what is new, what failed and why, what a person must do."""
    from flows.operations.night_summary import night_text

    create_markdown_artifact(night_text(store, result), key=f"{name}-night", description="What the night has to say")


def is_unexpected(record: logging.LogRecord) -> bool:
    """Whether a message of Prefect's engine tells something new.

    It calls a flow that has returned a failed state an unexpected exception, twice and with a traceback; what the state
    says stands in the log before.
    """
    return record.exc_info is None or not isinstance(record.exc_info[1], FailedRun)


def report_folder(settings: Settings) -> Path | None:
    """Where report and tables go: ``QMRI_REPORT``, else beside a local store, else nowhere."""
    if settings.report is not None:
        return settings.report
    store = settings.require_store()
    return None if "://" in store else Path(f"{store.rstrip('/')}-report")


def publish_report(name: str, result: AggregateResult, page: Path | None, address: str | None = None) -> None:
    """Publish the tables of groups and variation, and the report: a link below ``address``, else its path."""
    from flows.tables.text import WORTHLESS_ALONE, group_table, variation_table

    for what, (header, rows) in (
        ("groups", group_table(result.groups, result.labels)),
        ("variation", variation_table(result.variation)),
    ):
        create_table_artifact(
            [dict(zip(header, row, strict=True)) for row in rows], key=f"{name}-{what}", description=WORTHLESS_ALONE
        )
    create_markdown_artifact(
        "\n".join(f"- {label} = `{group}`" for group, label in result.labels.items()) or "no group",
        key=f"{name}-labels",
        description="Groups by label; " + (f"snapshot {result.snapshot}" if result.snapshot else "nothing was written"),
    )
    if page is not None and address is not None:
        link = f"{address.rstrip('/')}/{page.name}"
        create_link_artifact(link, key=f"{name}-report", link_text="Report of the cohort")
    elif page is not None:  # a browser opens no file:// link of a page that came from a server
        create_markdown_artifact(f"`{page}`", key=f"{name}-report", description="Report of the cohort, as a file")
