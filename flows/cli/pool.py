"""Commands for sites that share no image and solve their levels together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Anchors, Clinics, Store, Transfer

FEWEST_PEOPLE = 10
"""As `storage.exports.pool` has it, which takes long to import."""

NewFile = Annotated[Path, typer.Option("--out", help="File to write; it must not be there yet.", show_default=False)]

pool = typer.Typer(no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (key, export, solve, adopt):
        pool.command()(command)
    app.add_typer(pool, name="pool", help="Solve the levels of several sites together, without sharing an image.")


def key(
    out: Annotated[Path, typer.Argument(help="File to write; it must not be there yet.", show_default=False)],
) -> None:
    """Make the key of a study: one site makes it, and gives it to those whose people are to be known again.

    Whoever has it can test whether a person is in an export. Who only solves must not have it.
    """
    from storage.pseudonyms import make_study_key

    make_study_key(out)
    typer.echo(f"study key in {out}: give it to the sites of the study, by a safe way, and to nobody else")


def export(
    store: Store,
    out: NewFile,
    study_key: Annotated[
        Path | None,
        typer.Option(
            help="Key of the study, for people to be known again at its other sites; needs --linkage.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    linkage: Annotated[
        Path | None,
        typer.Option(
            help="Table with session and patient_id, as ingest writes it, of identifiers that sites have in common.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    anchors: Anchors = None,
    clinics: Clinics = None,
    fewest_people: Annotated[int, typer.Option(min=1, help="People that each group must have.")] = FEWEST_PEOPLE,
    without_small: Annotated[
        bool, typer.Option("--without-small", help="Leave smaller groups out, in place of refusing.")
    ] = False,
) -> None:
    """Write what levels need of the store's sessions: signals of tissues, ages, sex and acquisitions.

    It holds no image, name, date, serial number or institution. Without a study key people are known in this file only.
    """
    from flows.pool.export import export_levels
    from storage.store.cohort import Cohort

    if (study_key is None) != (linkage is None):
        raise typer.BadParameter("--study-key and --linkage go together: codes are made of identifiers under the key")
    cohort = Cohort.open(store)
    done = export_levels(
        cohort,
        out,
        study_key=study_key,
        linkage=linkage,
        anchors=anchors,
        clinics=clinics,
        fewest_people=fewest_people,
        without_small=without_small,
    )
    for group, code in done.codes.items():
        typer.echo(f"{code} = {cohort.labels.get(group, group)}")
    for group, n in done.left_out.items():
        typer.echo(f"left out: {cohort.labels.get(group, group)}, of {n} people")
    typer.echo(f"{done.n_sessions} sessions of {done.n_people} people in {out}, digest {done.digest[:12]}")
    typer.echo(
        f"{done.n_shared} people can be known again at other sites" if study_key else "people are nobody elsewhere"
    )


def solve(
    exports: Annotated[
        list[Path], typer.Argument(help="Exports of the sites.", exists=True, dir_okay=False, show_default=False)
    ],
    out: NewFile,
    has_transfer: Transfer = True,
) -> None:
    """Solve the levels of all groups of all EXPORTS, as if they lay in one store; OUT goes back to all sites."""
    from flows.pool.solve import pool_lines, solve_pool

    for line in pool_lines(solve_pool(exports, out, has_transfer=has_transfer), [path.name for path in exports]):
        typer.echo(line)
    typer.echo(f"answer in {out}; each site takes its part with `qmri pool adopt`")


def adopt(
    answer: Annotated[
        Path, typer.Argument(help="Answer that solve has written.", exists=True, dir_okay=False, show_default=False)
    ],
    store: Store,
) -> None:
    """Take the store's levels from ANSWER, as a new version of its calibration; maps of the old one become stale.

    Scales are those of the sessions that were exported. Run infer and aggregate afterwards.
    """
    from flows.pool.adopt import adopt_levels
    from storage.store.cohort import Cohort

    cohort = Cohort.open(store)
    done = adopt_levels(cohort, answer)
    for group in done.others:
        typer.echo(f"not in the answer: {cohort.labels.get(group, group)} keeps its own calibration")
    if done.n_since:
        typer.echo(f"{done.n_since} sessions came since the export; the calibration rests on those before")
    typer.echo(
        f"{len(done.groups)} groups calibrated, snapshot {done.snapshot}"
        if done.snapshot
        else "the store has the levels of this answer already"
    )
