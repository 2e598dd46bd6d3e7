"""Commands that make a cohort of simulated people: the demo of everything, and its first step alone."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Workers, cluster, settings_or_usage_error
from flows.progress import reporting


class OutputFormat(StrEnum):
    """Formats of a simulated cohort."""

    DICOM = "dicom"
    BIDS = "bids"


_Design = Annotated[
    str,
    typer.Option(
        help="cohort, travelling-heads (the same people in each group), retest (each twice), clinics (groups whose "
        "people differ) or faults (broken)."
    ),
]
_Effects = Annotated[
    str,
    typer.Option(help="What spoils the images: default, all, none, or default with changes, such as +ringing,-noise."),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (demo, simulate):
        app.command()(command)


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the demo, made if it is not there: input, store, tables, report.")
    ] = Path("demo"),
    sessions: Annotated[int, typer.Option(min=1, help="How many sessions to simulate.")] = 12,
    groups: Annotated[int, typer.Option(min=1, help="How many scanners and protocols they come from.")] = 4,
    resolution: Annotated[float, typer.Option(min=1.0, max=5.0, help="Voxels of the simulated anatomy, in mm.")] = 2.0,
    workers: Workers = None,
) -> None:
    """Simulate a small cohort as DICOM, run everything, print the tables and write the report."""
    from flows.cli.demo import run_demo

    settings = settings_or_usage_error(workers=workers)
    summary = run_demo(out, sessions=sessions, groups=groups, resolution=resolution, settings=settings, say=typer.echo)
    if summary.exit_status:
        raise typer.Exit(summary.exit_status)


def simulate(
    out: Annotated[
        Path, typer.Argument(help="Folder for the simulated archive: a new or empty one.", show_default=False)
    ],
    sessions: Annotated[int, typer.Option(min=1, help="How many sessions, over all groups.")] = 12,
    groups: Annotated[
        int | None,
        typer.Option(min=1, help="How many scanners and protocols; default: as many as --protocols names, else 4."),
    ] = None,
    protocols: Annotated[
        str, typer.Option(help="Which protocols, of G01 to G16, such as G02,G09; default: the first ones.")
    ] = "",
    resolution: Annotated[float, typer.Option(min=0.5, max=5.0, help="Voxels of the simulated anatomy, in mm.")] = 2.0,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of everything random: the same seed gives the same bytes.")
    ] = 0,
    design: _Design = "cohort",
    effects: _Effects = "default",
    labels: Annotated[
        Path | None,
        typer.Option(help="Folder with FreeSurfer label maps (NIfTI) to use as heads; default: heads from templates."),
    ] = None,
    output_format: Annotated[
        OutputFormat, typer.Option("--format", help="Kind of files to write.")
    ] = OutputFormat.DICOM,
    truth: Annotated[
        Path | None, typer.Option(help="Folder for the true maps; default: OUT-truth, beside OUT.")
    ] = None,
    workers: Workers = None,
) -> None:
    """Simulate an archive of people whose T1, T2 and PD are known, as their scanners would write it."""
    from flows.simulate import simulate

    with cluster(workers) as client, reporting("simulate") as progress:
        summary = simulate(
            out,
            sessions=sessions,
            groups=groups,
            protocols=[name.strip() for name in protocols.split(",") if name.strip()],
            resolution=resolution,
            seed=seed,
            design=design,
            effects=effects,
            output_format=output_format.value,
            labels=labels,
            truth=truth,
            client=client,
            progress=progress,
        )
    typer.echo(
        f"{summary.sessions} sessions in {summary.groups} groups on {summary.scanners} scanners: "
        f"{summary.files} files in {summary.out}, the truth in {summary.truth}"
    )
