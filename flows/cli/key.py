"""Commands about the key of the pseudonyms: whether it is the right one, its back-up, and another one in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Assume, SourceText, settings_or_usage_error, source_or_usage_error

key = typer.Typer(no_args_is_help=True)

NewFile = Annotated[Path, typer.Argument(help="File to write; it must not be there yet.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    key.command("check")(check)
    key.command("back-up")(back_up)
    key.command("change")(change)
    key.command("rename")(rename)
    app.add_typer(key, name="key", help="Check, back up and change the key under which sessions and people are named.")


def check(
    store: Annotated[
        str | None, typer.Option("--store", help="Store whose key it must be; default: QMRI_STORE.")
    ] = None,
    back_up: Annotated[Path | None, typer.Option("--back-up", help="Back-up that must hold the same key.")] = None,
) -> None:
    """Show the mark of the key, by which keys are compared without being shown, and whether it is that of a store.

    Exit status 1 says that it is not, or that a back-up holds another one.
    """
    from storage.pseudonyms import existing_key
    from storage.store.cohort import Cohort
    from storage.store.keys import mark_of_key, require_key, stated_mark

    settings = settings_or_usage_error(store=store)
    ours = existing_key(settings.key_file)
    typer.echo(f"mark of the key: {mark_of_key(ours)}")
    if settings.store is not None:
        root = Cohort.open(settings.store).root
        require_key(root, ours)
        known = stated_mark(root)
        typer.echo(
            "it is the key of the store" if known else "the store has no mark yet: its next ingest leaves it one"
        )
    if back_up is not None:
        theirs = mark_of_key(existing_key(back_up))
        is_same = theirs == mark_of_key(ours)
        typer.echo("the back-up holds the same key" if is_same else f"the back-up holds another key: {theirs}")
        if not is_same:
            raise typer.Exit(1)


def back_up(out: NewFile) -> None:
    """Copy the key to OUT, readable by its owner alone, and read it back. Keep it as safe as the source, elsewhere."""
    from storage.pseudonyms import back_up_key
    from storage.store.keys import mark_of_key

    typer.echo(f"backed up; mark of the key: {mark_of_key(back_up_key(settings_or_usage_error().key_file, out))}")


def change(
    source: SourceText,
    store: Annotated[str, typer.Option("--store", help="Store under the key of now.", envvar="QMRI_STORE")],
    to: Annotated[str, typer.Option("--to", help="Location of a new store; it must not be there yet.")],
    new_key: Annotated[
        Path, typer.Option("--new-key", help="File of the new key; made if it is not there.", dir_okay=False)
    ],
    table: Annotated[Path, typer.Option("--table", help="CSV file to write: old names and new ones.")],
    assume: Assume = None,
) -> None:
    """Begin a new store under a new key, and write which pseudonyms become which.

    What was forgotten stays out of the new store. Afterwards ingest SOURCE into it with QMRI_KEY_FILE set to the new
    key; `qmri key rename` puts the new names into files, such as decisions.
    """
    from flows.new_key import begin_under, names_under, write_names
    from storage.pseudonyms import existing_key, load_key
    from storage.source.assume_file import Stated

    old, origin = existing_key(settings_or_usage_error().key_file), source_or_usage_error(source)
    new = load_key(new_key)
    if old == new:
        raise typer.BadParameter("--new-key holds the key of now")
    names = names_under(origin, old, new, tuple(Stated.by(assume).assumptions))
    carried, lost = begin_under(store, to, names, old, new)
    write_names(names, table)
    typer.echo(f"{len(names.sessions)} sessions and {len(names.people)} people have new names in {table.name}")
    typer.echo(f"{carried} marks of what was forgotten are carried over")
    if lost:
        typer.echo(f"{lost} are not: the source holds nothing of these names now. Should it come back, forget it again")


def rename(
    table: Annotated[Path, typer.Argument(help="Table that `qmri key change` has written.", exists=True)],
    file: Annotated[Path, typer.Argument(help="Text file with old names, such as decisions or values.", exists=True)],
    out: NewFile,
) -> None:
    """Copy FILE to OUT with new pseudonyms in place of old ones, wherever they stand in it."""
    from flows.new_key import read_names, renamed

    names, unknown = read_names(table), 0
    with file.open(encoding="utf-8", newline="") as lines, out.open("x", encoding="utf-8", newline="") as written:
        for line, missing in renamed(lines, names):
            written.write(line)
            unknown += missing
    typer.echo(f"{unknown} names are not in the table, and stand as they were" if unknown else "all names are new")
