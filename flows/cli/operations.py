"""Commands for who runs a cohort: one session, two states, and figures for machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import SourceText, Store

Session = Annotated[str, typer.Argument(help="Pseudonym of the session, as the catalogue has it.", show_default=False)]
State = Annotated[str, typer.Argument(help="Tag, snapshot id or ISO time (UTC) of a state.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (doctor, show, linkage, diff, metrics):
        app.command()(command)


def doctor(
    source: Annotated[
        str | None, typer.Option("--source", help="Source to look at; default: QMRI_SOURCE, if it is set.")
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", help="Store to look at; default: QMRI_STORE, if it is set.")
    ] = None,
) -> None:
    """Look whether all that a run needs is there, by the settings: key, source, store, disk, servers, versions.

    Nothing is made or changed. Exit status 1 says that a run would fail.
    """
    from flows.cli.options import settings_or_usage_error
    from flows.operations.doctor import Mark, findings

    found = list(findings(settings_or_usage_error(source=source, store=store)))
    for one in found:
        typer.echo(f"{one.mark:4}  {one.what}: {one.text}" + (f"\n      -> {one.do}" if one.do else ""))
    if any(one.mark is Mark.BAD for one in found):
        raise typer.Exit(1)


def show(session: Session, store: Store) -> None:
    """Show all that the store says of one session: state and why, series, digests, decisions, and its commits."""
    from flows.operations.session import session_lines
    from storage.store.cohort import Cohort

    for line in session_lines(Cohort.open(store), session):
        typer.echo(line)


def linkage(session: Session, source: SourceText) -> None:
    """Tell whose a session is: patient, study and folder. Needs the source and the key; nothing is written.

    What it prints identifies a person: keep it off shared terminals and out of logs.
    """
    from flows.cli.options import settings_or_usage_error, source_or_usage_error
    from flows.ingest.scanning import index_beside
    from storage.pseudonyms import load_key
    from storage.source.discovery import scan_source
    from storage.source.origin import SourceError

    key_file, origin = settings_or_usage_error().key_file, source_or_usage_error(source)
    with scan_source(origin, key=load_key(key_file), index=index_beside(key_file, origin)) as scanned:
        if session not in scanned.sessions:
            raise SourceError("no session of the source has this pseudonym under this key")
        row = scanned.session(session)[1]
    for name in ("session", "patient_id", "study_instance_uid", "path"):
        typer.echo(f"{name}: {getattr(row, name)}")


def diff(before: State, after: State, store: Store) -> None:
    """Compare two states of a store: sessions new, gone and changed and why, and the values that moved."""
    from flows.operations.difference import difference_lines
    from storage.store.cohort import Cohort

    for line in difference_lines(Cohort.open(store, at=before), Cohort.open(store, at=after)):
        typer.echo(line)


def metrics(
    store: Store,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write, whole or not at all; default: print it.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="Answer GET /metrics at this port until stopped.", metavar="N"),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to answer at, with --port.")] = "127.0.0.1",
) -> None:
    """Write the figures of a store as text for Prometheus, or answer it: each time with the store as it then is."""
    from flows.cli.options import settings_or_usage_error
    from flows.operations.figures import serve_figures, told_figures
    from qmri_core.mapping.checkpoint import write_whole
    from storage.store.cohort import Cohort

    key_file = settings_or_usage_error().key_file
    if port is not None:
        if out is not None:
            raise typer.BadParameter("--out writes a file, --port answers: give one of them")
        thread = serve_figures(store, key_file, host=host, port=port)
        typer.echo(f"http://{host}:{port}/metrics")
        thread.join()
        return
    text = told_figures(Cohort.open(store), key_file).as_prometheus()
    if out is None:
        typer.echo(text, nl=False)
        return
    write_whole(out, text.encode())
