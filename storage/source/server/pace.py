"""No more bytes a second than the limits of a server allow."""

from __future__ import annotations

import time


def keep_to(rate: float | None, n_bytes: int, *, since: float) -> None:
    """Wait until so many bytes ``since`` a time, of `time.monotonic`, are no more than the rate [bytes/s] allows."""
    if rate is not None:
        time.sleep(max(0.0, n_bytes / rate - (time.monotonic() - since)))
