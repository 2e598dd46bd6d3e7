"""What a run leaves in the log of Prefect's engine."""

from __future__ import annotations

import logging
import sys
from types import TracebackType

import pytest
from prefect.exceptions import FailedRun

from flows.deployed.publish import is_unexpected

Information = tuple[type[BaseException], BaseException, TracebackType | None]


def information(error: Exception) -> Information:
    try:
        raise error
    except type(error):
        kind, value, traceback = sys.exc_info()
        assert kind is not None
        assert value is not None
        return kind, value, traceback


@pytest.mark.parametrize(
    ("error", "is_shown"),
    [(None, True), (KeyError("x"), True), (RuntimeError("x"), True), (FailedRun("1 sessions failed"), False)],
)
def test_only_a_returned_state_of_failure_is_no_news(error: Exception | None, *, is_shown: bool) -> None:
    details = None if error is None else information(error)
    record = logging.LogRecord("prefect.engine", logging.ERROR, __file__, 1, "unexpected exception", (), details)
    assert is_unexpected(record) is is_shown
