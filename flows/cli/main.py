"""The command ``qmri``. Commands import what they need when they run, so that ``qmri --help`` is fast."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from traceback import walk_tb
from types import TracebackType
from typing import Annotated, NoReturn

import typer

from flows.cli import physics, pipeline, store

OWN_PACKAGES = {"qmri_core", "storage", "flows"}

app = typer.Typer(
    name="qmri",
    help="Turns an archive of ordinary brain MRI into a quantitative cohort: T1, T2 and proton density.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="QMRI_DEBUG", help="Show the traceback of an error.")
    ] = False,
) -> None:
    if debug:
        sys.excepthook = sys.__excepthook__


pipeline.add_to(app)
physics.add_to(app)
store.add_to(app)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; the exit status is 0, 1 (the run failed), 2 (wrong usage) or 3 (sessions failed)."""
    sys.excepthook = _print_error
    command = typer.main.get_command(app)
    command(args=None if arguments is None else list(arguments), prog_name="qmri")
    raise SystemExit(0)


def explain(error: BaseException) -> str:
    """One line for people.

    Texts that this project has written say what is wrong without naming anything below a source. Texts of others may
    hold paths with names of patients: of those only the type is told, and a path only if the user has typed it.
    """
    if _is_own(error):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        typed = [str(name) for name in (error.filename, error.filename2) if name is not None and str(name) in sys.argv]
        return f"{', '.join(typed) or type(error).__name__}: {error.strerror}"
    return f"internal error ({type(error).__name__}); run `qmri --debug ...` or set QMRI_DEBUG=1 to see where"


def _is_own(error: BaseException) -> bool:
    """Whether this project has written the text: its own error class, or a ValueError that its own code raised."""
    if type(error).__module__.split(".")[0] in OWN_PACKAGES:
        return True
    if type(error) is not ValueError or error.__traceback__ is None:
        return False
    *_, (frame, _) = walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).split(".")[0] in OWN_PACKAGES


def _print_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:  # noqa: ARG001
    typer.echo(f"qmri: {explain(error)}", err=True)


if __name__ == "__main__":
    main()
