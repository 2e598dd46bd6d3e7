"""`qmri browse`: the pages in which a cohort is looked at, served on this machine alone."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import Store

PORT = 8717


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(browse)


def browse(
    store: Store,
    at: Annotated[str | None, typer.Option("--at", help="Tag, snapshot id or ISO time; default: the last one.")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 for any that is free.")] = PORT,
    qc: Annotated[bool, typer.Option("--qc", help="Take decisions too; without it nothing is written.")] = False,
    rater: Annotated[
        str, typer.Option("--rater", envvar="QMRI_RATER", help="Code of who decides, offered by the pages.")
    ] = "",
) -> None:
    """Look at a cohort in a web browser: groups, outliers, drift, every session, failures; Ctrl-C ends it.

    The address has a token, and answers on this machine alone.
    """
    from flows.browser import libraries
    from flows.browser.serving import serve
    from storage.store.cohort import Cohort
    from storage.store.decisions.codes import RATER

    if qc and at is not None:
        raise typer.BadParameter("--qc decides on the last snapshot: leave out --at")
    if rater and not RATER.fullmatch(rater):
        raise typer.BadParameter("--rater is r and up to three digits, such as r7; no names")
    libraries.check()
    cohort = Cohort.open(store, at=at)
    serve(cohort, is_pinned=at is not None, can_decide=qc, rater=rater, port=port, say=typer.echo)
