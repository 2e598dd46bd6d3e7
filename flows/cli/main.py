"""The command ``qmri``. Commands import what they need when they run, so that ``qmri --help`` is fast."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Annotated, NoReturn

import typer

from flows.cli import physics, pipeline, store
from flows.errors import explain

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


def _print_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:  # noqa: ARG001
    typer.echo(f"qmri: {explain(error)}", err=True)


if __name__ == "__main__":
    main()
