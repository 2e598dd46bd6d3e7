"""The clock of this machine against the store: a commit that is older than the one before it is refused."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import icechunk

from storage.store.locations import StorageFaultError

PATIENCE = timedelta(seconds=30)
"""How far behind a clock may be to be waited for: clocks of machines that are set by a server differ by less."""
_REFUSED = re.compile(r"timestamp ordering|timestamp is invalid")
"""Of a commit that is older than its parent, and of one whose time differs from the storage's by minutes (Icechunk)."""


class ClockError(StorageFaultError):
    """The clock of this machine is wrong, or that of the one which wrote to the store before was."""


def await_commit(last: datetime, on_wait: Callable[[str], None]) -> None:
    """Return when this machine's clock is past the store's last commit.

    Parameters
    ----------
    last
        When the last commit was made, by the clock of the machine that made it.
    on_wait
        Called with a message before a wait.

    Raises
    ------
    ClockError
        If it is behind by more than `PATIENCE`.
    """
    now = _now()
    if now > last:
        return
    behind = last - now
    said = (
        f"the clock of this machine says {now:%Y-%m-%d %H:%M:%S} UTC, and the last commit of the store is of "
        f"{last:%Y-%m-%d %H:%M:%S} UTC"
    )
    if behind > PATIENCE:
        raise ClockError(
            f"{said}: the clock is behind by {timedelta(seconds=round(behind.total_seconds()))}, or that of the "
            "machine which wrote last was ahead. Nothing was written; set it right, or wait till then, and run it again"
        )
    on_wait(f"{said}; waiting {behind.total_seconds():.0f} s")
    time.sleep(behind.total_seconds() + 0.01)


def is_of_clock(error: Exception) -> bool:
    """Whether a commit was refused for its time."""
    return isinstance(error, icechunk.IcechunkError) and _REFUSED.search(str(error)) is not None


def _now() -> datetime:
    return datetime.now(UTC)
