"""Options that several commands share, and what every command does around its work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from distributed import Client

    from flows.settings import Settings
    from flows.tables.summary import RunSummary
    from storage.source.origin import Server, Source
    from storage.store.cohort import Cohort
    from storage.store.lifecycle.copies import Kind

SourceText = Annotated[
    str,
    typer.Argument(
        envvar="QMRI_SOURCE",
        help="Folder with DICOM files (also in zip and tar archives) or a BIDS tree; or a server: "
        "dicomweb+https://host/path or dimse://AE@host:port.",
        show_default=False,
    ),
]
Store = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="QMRI_STORE",
        help="Location of the cohort's store: a folder, s3://, gs:// or az://.",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="Most worker processes; default: QMRI_WORKERS, else as many as cores and memory allow."
    ),
]
Assume = Annotated[
    Path | None,
    typer.Option(
        "--assume",
        envvar="QMRI_ASSUME",
        help="YAML file that states what headers do not say, or changes the signal model of a group.",
    ),
]
Anchors = Annotated[
    Path | None,
    typer.Option(
        "--anchors",
        exists=True,
        dir_okay=False,
        help="Table of measured values: group or person, tissue, quantity, value [s], error [s], method, method_error.",
    ),
]
Clinics = Annotated[
    Path | None,
    typer.Option(
        "--clinics",
        exists=True,
        dir_okay=False,
        help="Table of who sends people: person or scanner, clinic; without it each scanner is a clinic.",
    ),
]
Transfer = Annotated[
    bool,
    typer.Option(
        "--magnetization-transfer/--no-magnetization-transfer",
        envvar="QMRI_MAGNETIZATION_TRANSFER",
        help="Expect magnetization transfer between the slices of echo trains; not in simulations without it.",
    ),
]
BySoftware = Annotated[
    bool,
    typer.Option(
        "--by-software",
        envvar="QMRI_BY_SOFTWARE",
        help="Count another software version as another scanner, and so as another group.",
    ),
]
QuietFor = Annotated[
    float,
    typer.Option(
        "--quiet-for",
        min=0,
        envvar="QMRI_QUIET_FOR",
        metavar="MINUTES",
        help="Leave sessions whose files have changed within so many minutes for a later run: they may still arrive.",
    ),
]
RoomCheck = Annotated[
    bool,
    typer.Option(
        "--room-check/--no-room-check",
        envvar="QMRI_ROOM_CHECK",
        help="Begin only if the disk of the store has room for what the run may take.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write to; made if it is not there.", show_default=False)]
CheckpointFile = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        envvar="QMRI_CHECKPOINT",
        help="File of network weights (.safetensors); default: those promoted in the store, else the shipped.",
    ),
]


def settings_or_usage_error(**values: object) -> Settings:
    """Read the settings, with the command's options in place of the environment; what is wrong there is wrong usage."""
    from flows.settings import SettingsError, read_settings

    try:
        return read_settings(**values)
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from None


def source_or_usage_error(text: str) -> Source:
    """Return the source that a command names, with the settings of servers; what is wrong there is wrong usage."""
    from flows.settings import SettingsError

    try:
        return settings_or_usage_error(source=text).require_source()
    except SettingsError as error:
        raise typer.BadParameter(str(error).removeprefix("QMRI_SOURCE: ")) from None


def destination_or_usage_error(text: str) -> Server:
    """Return the server that objects are to be stored on; what is wrong there is wrong usage."""
    from storage.source.origin import Server, SourceError, destination_of

    try:
        server = destination_of(text, settings_or_usage_error().limits)
    except SourceError as error:
        raise typer.BadParameter(str(error)) from None
    if not isinstance(server, Server):
        raise typer.BadParameter(
            "--to takes the address of a server (dicomweb+https://host/path, dimse://AE@host:port); a folder: --out"
        )
    return server


@contextmanager
def cluster(workers: int | None) -> Iterator[Client]:
    """Client of the cluster that the settings and the command's ``--workers`` ask for; starts when it is first used."""
    from flows.cluster.clusters import client_on_demand
    from flows.cluster.session_log import session_log

    settings = settings_or_usage_error(workers=workers)
    with session_log(settings.log), client_on_demand(settings) as client:
        yield client


def finish(summary: RunSummary) -> None:
    """Print the summary and end the command with its exit status."""
    typer.echo(summary.text())
    if summary.exit_status:
        raise typer.Exit(summary.exit_status)


def note_copy_or_warn(cohort: Cohort, kind: Kind, sessions: Iterable[str]) -> None:
    """Leave a record of an export or a report in the store; where that cannot be, say so: the copy itself is whole."""
    from storage.store.lifecycle.copies import note_copy
    from storage.store.repository import StoreError

    try:
        note_copy(cohort, kind, sessions)
    except StoreError as error:
        typer.echo(f"the store has no record of this copy, so `qmri forget` will not name it: {error}", err=True)
