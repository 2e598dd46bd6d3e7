"""How far a run has come: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

_INTERVAL = 10.0
"""Seconds between two lines where the output is no terminal."""


class Progress(Protocol):
    """What a long-running function calls to say how far it is."""

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """``done`` of ``total`` (0: not known); ``text`` says what is being done, without paths and identities."""


def quiet(done: int, total: int, text: str = "") -> None:
    """Progress that nobody sees."""


def part_of(progress: Progress, before: int, whole: int) -> Progress:
    """Progress of one part of a longer run: ``before`` of ``whole`` were done when the part began."""

    def shifted(done: int, total: int, text: str = "") -> None:  # noqa: ARG001 - the part's own total
        progress(before + done, whole, text)

    return shifted


@contextmanager
def reporting(title: str, *, stream: TextIO | None = None, interval: float = _INTERVAL) -> Iterator[Progress]:
    """Show progress of what runs inside: a bar where ``stream`` (default: stderr) is a terminal, else lines.

    In a log the first call, every ``interval`` seconds, each change of ``text`` and the last call give a line.
    """
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        with _bar(title, stream) as progress:
            yield progress
    else:
        yield _Lines(title, stream, interval)


@contextmanager
def _bar(title: str, stream: TextIO) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[title]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with RichProgress(*columns, console=Console(file=stream), transient=True) as bars:
        task = bars.add_task("", total=None, title=title)

        def progress(done: int, total: int, text: str = "") -> None:
            bars.update(task, completed=done, total=total or None, description=text)

        yield progress


class _Lines:
    def __init__(self, title: str, stream: TextIO, interval: float) -> None:
        self._title, self._stream, self._interval = title, stream, interval
        self._start = time.monotonic()
        self._last = -float("inf")
        self._shown: tuple[int, int, str] | None = None
        self._text: str | None = None

    def __call__(self, done: int, total: int, text: str = "") -> None:
        state = (done, total, text)
        now = time.monotonic()
        is_due = now - self._last >= self._interval or text != self._text or (total > 0 and done >= total)
        if not is_due or state == self._shown:
            return
        self._last, self._text, self._shown = now, text, state
        count = f"{done}/{total}" if total else f"{done}"
        parts = (f"{self._title}: {count}", text, f"{now - self._start:.0f} s")
        print(", ".join(part for part in parts if part), file=self._stream, flush=True)
