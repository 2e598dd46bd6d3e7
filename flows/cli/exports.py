"""Commands that write copies of a store for other tools."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import Out, Store
from flows.progress import reporting

At = Annotated[
    str | None,
    typer.Option("--at", help="Tag, snapshot id or ISO time (UTC) of an earlier state; default: the current one."),
]
Sessions = Annotated[
    list[str] | None, typer.Option("--session", help="Pseudonym of a session; may be repeated; default: all.")
]
Groups = Annotated[
    list[str] | None, typer.Option("--group", help="Label or key of a group; may be repeated; default: all.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("export-zarr")(export_zarr)
    app.command("export-bids")(export_bids)


def export_zarr(store: Store, out: Out, at: At = None) -> None:
    """Write the cohort as a plain Zarr (version 3) hierarchy for tools that know no Icechunk."""
    from flows.tables.summary import left_out_text
    from storage.exports.zarr import export_zarr
    from storage.store.cohort import Cohort
    from storage.store.decisions.effect import judge

    with reporting("export") as progress:
        cohort = Cohort.open(store, at=at)
        count = export_zarr(cohort, out, progress=progress)
    typer.echo(f"{count} objects in {out}")
    if text := left_out_text(judge(cohort).reasons(cohort.slots)):
        typer.echo(text)


def export_bids(
    store: Store,
    out: Out,
    at: At = None,
    session: Sessions = None,
    group: Groups = None,
    images: Annotated[bool, typer.Option("--images", help="The aligned images as well.")] = False,
    zeros: Annotated[
        bool, typer.Option("--zeros", help="Write 0, not NaN, where nothing is computed, as outside of the brain.")
    ] = False,
) -> None:
    """Write the maps as a BIDS derivatives dataset; an export that was cut short goes on."""
    from storage.exports.bids import Selection, export_bids
    from storage.store.cohort import Cohort

    selection = Selection(sessions=session or (), groups=group or (), images=images, zeros=zeros)
    with reporting("export") as progress:
        exported = export_bids(Cohort.open(store, at=at), out, selection, progress=progress)
    typer.echo(f"maps of {exported.sessions} sessions in {out}")
    for why, count in exported.left_out.items():
        typer.echo(f"left out: {count} sessions: {why}")
