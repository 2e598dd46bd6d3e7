"""The log of sessions: one line for each stage of each session, for people or as JSON.

What a line holds is listed here, and is a pseudonym, a word of ours or a number: no text of an error, and no path.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from flows.cluster.boundary import Outcome, Taken
from storage.store.schema import Status

_LOG = logging.getLogger("qmri.sessions")
_LOG.propagate = False
_LOG.setLevel(logging.CRITICAL)


def log_outcome(run: str, outcome: Outcome) -> None:
    """Log what each stage took of a session, or of several that were done together, and where it failed."""
    if not _LOG.isEnabledFor(logging.INFO):
        return
    is_failed = outcome.status is Status.FAILED
    stages: list[Taken | None] = [*outcome.by_stage()]
    if is_failed and outcome.stage not in {one.stage for one in stages if one is not None}:
        stages.append(None)  # its worker died: nobody knows what it took
    for session in outcome.together or (outcome.session,):
        for one in stages:
            name = outcome.stage if one is None else one.stage
            fields = {
                "run": run,
                "session": session,
                "stage": name,
                "seconds": None if one is None else round(one.seconds, 3),
                "memory": None if one is None else one.memory,
                "failed": str(outcome.reason) if is_failed and name == outcome.stage else None,
            }
            _LOG.info("%s", name, extra={"fields": fields})


@contextmanager
def session_log(form: Literal["text", "json"] | None) -> Iterator[None]:
    """Write the log of sessions of what runs inside to the standard error; None: nowhere."""
    if form is None:
        yield
        return
    handler = _ToStandardError()
    handler.setFormatter(_Json() if form == "json" else _Text())
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        _LOG.setLevel(logging.CRITICAL)
        _LOG.removeHandler(handler)


class _ToStandardError(logging.Handler):
    """To what is the standard error then: a bar of progress moves out of the way of what is printed there."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")
        sys.stderr.flush()


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"time": _time(record), **_fields(record)})


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        one = _fields(record)
        took = "" if one["seconds"] is None else f" {one['seconds']:.3f} s {one['memory'] / 1e6:.0f} MB"
        failed = "" if one["failed"] is None else f" failed: {one['failed']}"
        return f"{_time(record)} {one['run']} {one['session']} {one['stage']}{took}{failed}"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = record.__dict__["fields"]
    return fields


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")
