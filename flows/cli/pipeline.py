"""Commands that process sessions, from simulate to evaluate, and that start a deployment."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import (
    Assume,
    BySoftware,
    Checkpoint,
    Out,
    Source,
    Store,
    Workers,
    cluster,
    finish,
    settings_or_usage_error,
)
from flows.progress import reporting
from flows.training import options


class OutputFormat(StrEnum):
    """Formats of a simulated cohort."""

    DICOM = "dicom"
    BIDS = "bids"


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module, in the order in which they are used."""
    for command in (demo, simulate, inspect, ingest, calibrate, train, infer, aggregate, report, evaluate, run):
        app.command()(command)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of the demo; made if it is not there.")] = Path("demo"),
    sessions: Annotated[int, typer.Option(min=1, help="Sessions to simulate.")] = 12,
    groups: Annotated[int, typer.Option(min=1, help="Protocol groups to simulate.")] = 4,
    resolution: Annotated[float, typer.Option(min=1.0, max=5.0, help="Millimetres of the simulated anatomy.")] = 2.0,
    workers: Workers = None,
) -> None:
    """Simulate a small cohort as DICOM, run everything, print the tables and write the report."""
    from flows.cli.demo import run_demo

    chosen = settings_or_usage_error(workers=workers)
    summary = run_demo(out, sessions=sessions, groups=groups, resolution=resolution, settings=chosen, say=typer.echo)
    if summary.exit_status:
        raise typer.Exit(summary.exit_status)


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder that becomes the input tree.", show_default=False)],
    sessions: Annotated[int, typer.Option(min=1, help="Sessions in all.")] = 12,
    groups: Annotated[
        int | None, typer.Option(min=1, help="Protocol groups; default: as many as named, else 4.")
    ] = None,
    protocols: Annotated[str, typer.Option(help="Their protocols, such as G02,G09; default: first of the table.")] = "",
    resolution: Annotated[float, typer.Option(min=0.5, max=5.0, help="Millimetres of the anatomy.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    design: Annotated[str, typer.Option(help="cohort, travelling-heads, retest or faults.")] = "cohort",
    effects: Annotated[str, typer.Option(help="all, none, or names, such as +ringing,-noise.")] = "default",
    labels: Annotated[Path | None, typer.Option(help="Folder with FreeSurfer label maps to use as heads.")] = None,
    output_format: Annotated[OutputFormat, typer.Option("--format", help="Files to write.")] = OutputFormat.DICOM,
    truth: Annotated[Path | None, typer.Option(help="Folder for the truth; default: OUT-truth.")] = None,
    workers: Workers = None,
) -> None:
    """Simulate a cohort with known truth."""
    from flows.simulate import simulate as run

    with cluster(workers) as client, reporting("simulate") as progress:
        summary = run(
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


def inspect(
    source: Source,
    assume: Assume = None,
    by_software: BySoftware = False,
    store: Annotated[
        str | None,
        typer.Option("--store", envvar="QMRI_STORE", help="Store whose labels groups have.", show_default=False),
    ] = None,
) -> None:
    """Show what ingest would do, and why: one line per series."""
    from flows.ingest.inspection import SMALL_GROUP, inspect_source, labels_to_be, series_rows, session_rows
    from flows.tables.summary import files_line, unmatched_line
    from flows.tables.text import text_table
    from storage.pseudonyms import load_key

    key = load_key(settings_or_usage_error().key_file)
    with reporting("read headers") as progress:
        found = inspect_source(source, key=key, assume=assume, by_software=by_software, progress=progress)
    labels, new = labels_to_be(found, store)
    rows = series_rows(found, labels)
    typer.echo(text_table(["session", "series", "decision", "reason", "group", "explanation"], rows))
    if incomplete := session_rows(found):
        typer.echo("\n" + text_table(["session", "would be", "reason", "explanation"], incomplete))
    typer.echo()
    for group, label in labels.items():
        size = found.group_sizes[group]
        small = ", a small group" if size < SMALL_GROUP else ""
        unsure = ", not in the store yet: the label is provisional" if group in new else ""
        typer.echo(f"{label} = {group} ({size} sessions{small}{unsure})")
    typer.echo(f"{len(rows)} series, {len(found.plans)} sessions; {files_line(found.n_files, found.other_files)}")
    for position in found.unmatched:
        typer.echo(unmatched_line(position), err=True)


def ingest(
    source: Source,
    store: Store,
    linkage: Annotated[
        Path | None, typer.Option(help="Write a CSV of pseudonyms and identities here; keep it as safe as the source.")
    ] = None,
    assume: Assume = None,
    by_software: BySoftware = False,
    workers: Workers = None,
) -> None:
    """Preprocess the sessions of SOURCE that are new or have changed into the store."""
    from flows.ingest.run import ingest as run
    from flows.ingest.scanning import index_beside
    from storage.pseudonyms import load_key

    key_file = settings_or_usage_error().key_file
    key = load_key(key_file)
    with cluster(workers) as client, reporting("ingest") as progress:
        summary = run(
            source,
            store,
            key=key,
            linkage=linkage,
            assume=assume,
            by_software=by_software,
            index=index_beside(key_file, source),
            client=client,
            progress=progress,
        )
    finish(summary)


def calibrate(store: Store) -> None:
    """Make a new version of the calibration of every group; maps made with the old one become stale."""
    from flows.maps.calibrate import calibrate as run

    with reporting("calibrate") as progress:
        snapshot = run(store, again=True, progress=progress)
    typer.echo(
        f"calibrated, snapshot {snapshot}" if snapshot else "no group can be calibrated: the store has no sessions"
    )


def train(
    store: Store,
    out: options.Out,
    steps: options.Steps = None,
    minutes: options.Minutes = None,
    batches: options.BatchesPerStep = 1,
    rate: options.Rate = None,
    seed: options.Seed = None,
    images: options.Images = None,
    promote: options.Promote = None,
) -> None:
    """Train the promoted checkpoint further on simulated heads and the store's images, and keep it in the store.

    The learning curves are drawn beside OUT. A training that was stopped goes on when it is started again.
    """
    from flows.training.train import train_in_store

    train_in_store(
        store,
        out=out,
        steps=steps,
        minutes=minutes,
        batches=batches,
        rate=rate,
        seed=seed,
        images=images,
        promote=promote,
    )


def infer(store: Store, checkpoint: Checkpoint = None, workers: Workers = None) -> None:
    """Infer T1, T2 and PD maps of every session that lacks current ones."""
    from flows.maps.infer import infer as run

    with cluster(workers) as client, reporting("infer") as progress:
        summary = run(store, checkpoint=checkpoint, client=client, progress=progress)
    finish(summary)


def aggregate(
    store: Store,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables as CSV.")] = None,
    workers: Workers = None,
) -> None:
    """Compute the statistics per tissue, session and group, and the variation between groups."""
    from flows.statistics.aggregate import aggregate as run
    from flows.tables.text import WORTHLESS_ALONE, group_table, text_table, variation_table

    with cluster(workers) as client, reporting("aggregate") as progress:
        result = run(store, client=client, out=out, progress=progress)
    for group, label in result.labels.items():
        typer.echo(f"{label} = {group}")
    typer.echo("\nMean of session medians ± standard deviation over sessions\n")
    typer.echo(text_table(*group_table(result.groups, result.labels)))
    typer.echo("\nVariation between groups\n")
    typer.echo(text_table(*variation_table(result.variation)))
    typer.echo(f"\n{WORTHLESS_ALONE}")


def report(store: Store, out: Out, workers: Workers = None) -> None:
    """Write a report of the cohort as one HTML file, with pictures, tables and failures."""
    from flows.report.build import write_report
    from flows.statistics.aggregate import aggregate as run_aggregate
    from storage.store.cohort import Cohort

    cohort = Cohort.open(store)
    with cluster(workers) as client, reporting("aggregate") as progress:
        result = run_aggregate(cohort, client=client, progress=progress)
    typer.echo(f"report: {write_report(cohort, out, aggregate=result)}")


def evaluate(
    store: Store,
    truth: Annotated[
        Path | None, typer.Option(help="Truth folder of the simulated cohort; needs --linkage.", show_default=False)
    ] = None,
    linkage: Annotated[
        Path | None, typer.Option(help="Linkage table that ingest has written; needs --truth.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables as CSV and JSON, and a picture.")] = None,
    published_recipe: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            min=0.01,
            help="Train the published recipe on the stored images for so long, and compare it with the truth too.",
        ),
    ] = None,
    workers: Workers = None,
) -> None:
    """Compare maps with the truth of a simulated cohort; without one, say what can be said of maps of real sessions.

    With --truth and --linkage: beside the null model and the voxelwise estimate. Without both: values beside the
    literature, images given back from the maps, visits of one person, and white matter that is bright on FLAIR.
    """
    from flows.tables.text import WORTHLESS_ALONE, detail_tables, evaluation_table, text_table

    if truth is None and linkage is None:
        if published_recipe is not None:
            raise typer.BadParameter("--published-recipe is compared with a truth: give --truth and --linkage too")
        _evaluate_real(store, out, workers)
        return
    if truth is None or linkage is None:
        given, lacking = ("--linkage", "--truth") if truth is None else ("--truth", "--linkage")
        raise typer.BadParameter(
            f"{given} needs {lacking}: give both for a simulated cohort, neither where no truth is known"
        )
    from flows.evaluation.with_truth import DETAILS
    from flows.evaluation.with_truth import evaluate as run

    with cluster(workers) as client, reporting("evaluate") as progress:
        result = run(
            store, truth, linkage, client=client, out=out, published_recipe=published_recipe, progress=progress
        )
    typer.echo(text_table(*evaluation_table(result.table)))
    for title, header, rows in detail_tables({name: getattr(result, name) for name in DETAILS}):
        typer.echo(f"\n{title}\n\n{text_table(header, rows)}")
    if result.note:
        typer.echo(f"\n{result.note}")
    typer.echo(f"\n{WORTHLESS_ALONE}")


def _evaluate_real(store: str, out: Path | None, workers: int | None) -> None:
    from flows.evaluation.plausibility_tables import label_groups, pairs_for_people, values_for_people, weak_test
    from flows.evaluation.without_truth import evaluate_real
    from flows.tables.text import detail_tables, labels_of, text_table
    from storage.store.cohort import Cohort

    cohort = Cohort.open(store)
    with cluster(workers) as client, reporting("evaluate") as progress:
        result = evaluate_real(cohort, client=client, out=out, progress=progress)
    labels = labels_of(result.candidate_sessions["group"], cohort.labels)
    for group, label in labels.items():
        typer.echo(f"{label} = {group}")
    typer.echo(f"\nMedians of tissues beside the literature\n\n{text_table(*values_for_people(result.values))}")
    tables = {
        "resynthesis": label_groups(result.resynthesis, labels),
        "visits": result.visits,
        "candidates": label_groups(result.candidates, labels),
    }
    for title, header, rows in detail_tables(tables):
        typer.echo(f"\n{title}\n\n{text_table(header, rows)}")
    if not result.visit_pairs.empty:
        header, rows = pairs_for_people(result.visit_pairs)
        title = f"Later minus first visit relative to their mean, of the first {len(rows)} pairs"
        typer.echo(f"\n{title}\n\n{text_table(header, rows)}")
    typer.echo(f"\n{weak_test()}")


def run(
    name: Annotated[
        str, typer.Argument(help="Bare name of the deployment, such as ingest-cohort.", show_default=False)
    ],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the run has ended, and fail if it has.")] = False,
) -> None:
    """Start a deployment of the Prefect server by its bare name."""
    from flows.deployed.trigger import trigger

    state = trigger(name, wait=wait)
    typer.echo(state.text)
    if state.is_failed:
        raise typer.Exit(1)
