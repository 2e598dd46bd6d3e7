"""The command ``qmri``. Commands import what they need when they run, so that ``qmri --help`` is fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from flows.cli import (
    analysis,
    browser,
    decisions,
    exports,
    key,
    operations,
    physics,
    pipeline,
    pool,
    simulation,
    store,
    weights,
)
from flows.errors import run_application, show_tracebacks

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
        show_tracebacks()


simulation.add_to(app)
pipeline.add_to(app)
physics.add_to(app)
store.add_to(app)
weights.add_to(app)
key.add_to(app)
operations.add_to(app)
exports.add_to(app)
pool.add_to(app)
decisions.add_to(app)
analysis.add_to(app)
browser.add_to(app)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; the exit status is 0, 1 (the run failed), 2 (wrong usage) or 3 (sessions failed)."""
    run_application(app, "qmri", arguments)


if __name__ == "__main__":
    main()
