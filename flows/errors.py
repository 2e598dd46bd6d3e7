"""What people read of an error, and whose error it is."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Sequence
from functools import partial
from traceback import walk_tb
from types import FrameType, TracebackType
from typing import NoReturn

import typer

OWN_PACKAGES = {"qmri_core", "storage", "flows"}


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
    *_, (frame, number) = walk_tb(error.__traceback__)
    # what is raised without a frame of its own, such as by int("a text"), was not written here
    line = linecache.getline(frame.f_code.co_filename, number)
    return is_ours(frame) and line.lstrip().startswith("raise ")


def is_ours(frame: FrameType) -> bool:
    """Whether a line of a traceback is of this project, by its module: folders of libraries may have the same names."""
    module = frame.f_globals.get("__package__") or frame.f_globals.get("__name__", "")  # a module may run as a script
    return str(module).split(".")[0] in OWN_PACKAGES


def run_application(application: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line; an error that nothing has caught is one line, and status 1."""
    sys.excepthook = partial(_print_error, name)
    command = typer.main.get_command(application)
    command(args=None if arguments is None else list(arguments), prog_name=name)
    raise SystemExit(0)


def run_command(function: Callable[..., None], name: str) -> NoReturn:
    """Run one function as a command line of its own, as ``python -m`` does it."""
    application = typer.Typer(add_completion=False, rich_markup_mode=None)
    application.command()(function)
    run_application(application, name)


def show_tracebacks() -> None:
    """Show the traceback of an error in place of one line."""
    sys.excepthook = sys.__excepthook__


def _print_error(
    name: str,
    kind: type[BaseException],  # noqa: ARG001 - signature of the hook
    error: BaseException,
    traceback: TracebackType | None,  # noqa: ARG001
) -> None:
    typer.echo(f"{name}: {explain(error)}", err=True)
