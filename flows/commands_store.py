"""Commands about a store: status, verify, and those that are still to come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import typer

from flows.options import Store
from flows.progress import reporting

PLANNED = {
    "history": "List the snapshots of the store.",
    "rollback": "Go back to a tagged snapshot.",
    "compact": "Remove what no snapshot needs.",
    "forget": "Remove a session from the store and its history.",
    "export-bids": "Write maps as a BIDS derivatives dataset.",
    "export-zarr": "Write the cohort as a plain Zarr hierarchy.",
}
"""Commands of the contract that are not there yet."""


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(status)
    app.command()(verify)
    for name, purpose in PLANNED.items():
        anything = {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(name, help=f"{purpose} (not there yet)", context_settings=anything)(_not_there(name))


def status(store: Store) -> None:
    """Count the sessions by group, status and reason; tell the store's size and last snapshot."""
    from flows.tables import group_labels, text_table
    from storage.cohort import catalogue, history, open_repository

    rows = catalogue(store)
    labels = group_labels([group for group in rows["group"] if group])
    counts = Counter(zip(rows["group"], rows["status"], rows["reason"], strict=True))
    lines = [
        (labels.get(group, "-"), state, reason or "-", count)
        for (group, state, reason), count in sorted(counts.items())
    ]
    typer.echo(text_table(["group", "status", "reason", "sessions"], lines))
    typer.echo()
    for group, label in labels.items():
        typer.echo(f"{label} = {group}")
    last = history(open_repository(store))[0]
    typer.echo(f"{len(rows)} sessions, {_size(Path(store)) / 1e6:.1f} MB")
    typer.echo(f"last snapshot {last.id} of {last.time:%Y-%m-%d %H:%M:%S} UTC: {last.message}")


def verify(store: Store) -> None:
    """Read everything that is stored and compare it with what was written."""
    from storage.verify import verify as run

    with reporting("verify") as progress:
        problems = run(store, progress=progress)
    for problem in problems:
        typer.echo(f"{problem.session or '-'}  {problem.variable or '-'}  {problem.message}")
    typer.echo(f"{len(problems)} problems found" if problems else "everything is as it was written")
    if problems:
        raise typer.Exit(1)


def _not_there(name: str) -> Callable[[], None]:
    def command() -> None:
        typer.echo(f"qmri {name}: not there yet", err=True)
        raise typer.Exit(1)

    return command


def _size(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())
