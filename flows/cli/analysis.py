"""Commands for analysts: comparisons, repeats, centiles, and tables that travel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.exports import At
from flows.cli.options import Store

if TYPE_CHECKING:
    import pandas as pd

    from flows.analysis.values import Asked

Table = Annotated[
    Path | None,
    typer.Option(
        "--table", exists=True, dir_okay=False, help="Your own table, CSV or TSV, with a column of pseudonyms (--on)."
    ),
]
On = Annotated[str, typer.Option("--on", help="Column of --table that holds pseudonyms: person or session.")]
Where = Annotated[
    str, typer.Option("--where", help="Condition on sessions: \"age > 60 and sex == 'F'\".", show_default=False)
]
Statistic = Annotated[str, typer.Option("--statistic", help="mode, median or mean of each tissue.")]
Covariates = Annotated[str, typer.Option("--covariates", help="Columns, joined by commas; empty for none.")]
AnswerOut = Annotated[
    Path | None, typer.Option("--out", help="Folder for the table as CSV, and a picture; default: only printed.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("compare")(compare)


def compare(
    store: Store,
    factor: Annotated[
        str,
        typer.Option(
            "--factor",
            help="Column to compare by: sex, age, scanner, software, label, or one of --table.",
            show_default=False,
        ),
    ],
    covariates: Covariates = "age,sex",
    table: Table = None,
    on: On = "person",
    where: Where = "",
    reference: Annotated[
        str | None, typer.Option("--reference", help="Level beside which the others stand; default: the most frequent.")
    ] = None,
    statistic: Statistic = "mode",
    correction: Annotated[str, typer.Option("--correction", help="For the number of tests: holm or fdr_bh.")] = "holm",
    out: AnswerOut = None,
    at: At = None,
) -> None:
    """Compare people by a factor, given covariates and within groups, in every tissue and map, with the reliability."""
    from flows.analysis.compare import CORRECTIONS, compare, comparison_rows
    from flows.pictures.effects import effects_picture
    from flows.tables.text import text_table
    from qmri_core.analysis.design import ConfoundedError
    from storage.store.cohort import Cohort

    if correction not in CORRECTIONS:
        raise typer.BadParameter(f"--correction: {', '.join(CORRECTIONS)}")
    names = _names(covariates)
    cohort = Cohort.open(store, at=at)
    try:
        result = compare(
            cohort, factor, names, asked=_asked(table, on, where, statistic), reference=reference, correction=correction
        )
    except ConfoundedError as error:
        typer.echo(f"not answered: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(text_table(*comparison_rows(result)))
    typer.echo("")
    for line in (*result.refused, *result.notes):
        typer.echo(line)
    typer.echo(f"snapshot {cohort.snapshot}")
    _write(out, {"comparison": result.table}, {"comparison": effects_picture(result.table, factor)} if out else {})


def _asked(table: Path | None, on: str, where: str, statistic: str) -> Asked:
    from flows.analysis.values import Asked

    if on not in {"person", "session"}:
        raise typer.BadParameter("--on: person or session")
    if statistic not in {"mode", "median", "mean"}:
        raise typer.BadParameter("--statistic: mode, median or mean")
    return Asked(table=table, on=on, where=where, statistic=statistic)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _write(out: Path | None, tables: dict[str, pd.DataFrame], pictures: dict[str, bytes]) -> None:
    """Write what was asked for below ``out``, and say so."""
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    for name, frame in tables.items():
        frame.to_csv(out / f"{name}.csv", index=False)
    for name, content in pictures.items():
        (out / f"{name}.png").write_bytes(content)
    typer.echo(f"written: {', '.join([*(f'{name}.csv' for name in tables), *(f'{name}.png' for name in pictures)])}")
