"""Commands that write copies of a store for other tools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import (
    Assume,
    Out,
    Store,
    destination_or_usage_error,
    note_copy_or_warn,
    settings_or_usage_error,
    source_or_usage_error,
)
from flows.progress import reporting
from storage.exports.dicom.form import Form

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
Accepted = Annotated[
    bool,
    typer.Option("--accepted", help="Only sessions that a person has accepted, by themselves or with their group."),
]
Zeros = Annotated[
    bool, typer.Option("--zeros", help="Write 0, not NaN, where nothing is computed, as outside of the brain.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("export-zarr")(export_zarr)
    app.command("export-bids")(export_bids)
    app.command("export-dicom")(export_dicom)


def export_zarr(store: Store, out: Out, at: At = None) -> None:
    """Write the cohort as a plain Zarr (version 3) hierarchy for tools that know no Icechunk."""
    from flows.tables.summary import left_out_text
    from storage.exports.zarr import export_zarr
    from storage.store.cohort import Cohort
    from storage.store.decisions.effect import judge

    with reporting("export") as progress:
        cohort = Cohort.open(store, at=at)
        count = export_zarr(cohort, out, progress=progress)
    note_copy_or_warn(cohort, "export-zarr", cohort.catalogue["session"])
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
    accepted: Accepted = False,
    zeros: Zeros = False,
) -> None:
    """Write the maps as a BIDS derivatives dataset; an export that was cut short goes on."""
    from storage.exports.bids import export_bids
    from storage.exports.selection import Selection
    from storage.store.cohort import Cohort

    cohort = Cohort.open(store, at=at)
    selection = Selection(sessions=session or (), groups=group or (), accepted=accepted, images=images, zeros=zeros)
    with reporting("export") as progress:
        exported = export_bids(cohort, out, selection, progress=progress)
    note_copy_or_warn(cohort, "export-bids", exported.chosen)
    typer.echo(f"maps of {exported.sessions} sessions in {out}")
    _tell_left_out(exported.left_out)


def export_dicom(
    store: Store,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to; made if it is not there.", show_default=False)
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Server to store on: dicomweb+https://host/path (STOW-RS) or dimse://AE@host:port (C-STORE).",
            show_default=False,
        ),
    ] = None,
    at: At = None,
    session: Sessions = None,
    group: Groups = None,
    accepted: Accepted = False,
    form: Annotated[
        Form, typer.Option("--as", help="Parametric Maps, or MR images with a rescale for viewers that know none.")
    ] = Form.PARAMETRIC_MAP,
    zeros: Zeros = False,
    linkage: Annotated[
        Path | None,
        typer.Option(
            "--linkage",
            exists=True,
            dir_okay=False,
            help="Linkage table of ingest; with --source, objects are of the people and studies of the images.",
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="The source that was ingested; needs --linkage.", show_default=False)
    ] = None,
    assume: Assume = None,
) -> None:
    """Write the maps as DICOM objects to a folder or a server: a series per map and per uncertainty.

    Under pseudonyms; with --linkage and --source of the same person, study and frame of reference as the images, on
    which they then lie. An export that was cut short goes on, and a server is sent nothing that it has.
    """
    from flows.exporting import Originals, export_maps, exported_lines
    from storage.exports.selection import Selection
    from storage.store.cohort import Cohort

    destination = out if to is None else destination_or_usage_error(to)
    if destination is None or (out is not None and to is not None):
        raise typer.BadParameter("give a folder (--out) or a server (--to)")
    if (linkage is None) != (source is None):
        raise typer.BadParameter("--linkage and --source go together: both say whose the maps are")
    selection = Selection(sessions=session or (), groups=group or (), accepted=accepted, zeros=zeros)
    originals = None
    if linkage is not None and source is not None:
        key_file = settings_or_usage_error().key_file
        originals = Originals(linkage=linkage, source=source_or_usage_error(source), key_file=key_file, assume=assume)
    cohort = Cohort.open(store, at=at)
    with reporting("export") as progress:
        done = export_maps(cohort, destination, selection, form=form, originals=originals, progress=progress)
    note_copy_or_warn(cohort, "export-dicom", done.chosen)
    for line in exported_lines(done, to or str(out)):
        typer.echo(line)


def _tell_left_out(left_out: Mapping[str, int]) -> None:
    for why, count in left_out.items():
        typer.echo(f"left out: {count} sessions: {why}")
