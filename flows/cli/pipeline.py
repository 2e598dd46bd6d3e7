"""Commands that process sessions, from inspect to evaluate, and that start a deployment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import (
    Anchors,
    Assume,
    BySoftware,
    CheckpointFile,
    Clinics,
    QuietFor,
    RoomCheck,
    SourceText,
    Store,
    Transfer,
    Workers,
    cluster,
    finish,
    note_copy_or_warn,
    settings_or_usage_error,
    source_or_usage_error,
)
from flows.cli.selecting import Groups, Reasons, Retry, Sessions, Since, Statuses, selection_or_usage_error
from flows.progress import reporting
from flows.training import options

if TYPE_CHECKING:
    from storage.source.scans import Scan, ScanTask


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module, in the order in which they are used."""
    for command in (inspect, ingest, calibrate, train, infer, aggregate, report, evaluate, run):
        app.command()(command)


def inspect(
    source: SourceText,
    assume: Assume = None,
    by_software: BySoftware = False,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            envvar="QMRI_STORE",
            help="Store that the sessions would go to: its labels of groups are shown, and what is done is not "
            "forecast again. Nothing is written.",
            show_default=False,
        ),
    ] = None,
    quiet_for: QuietFor = 0.0,
    workers: Workers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object in place of tables.")] = False,
) -> None:
    """Show what ingest would do with SOURCE, and why: series, sessions, what to decide, and what it would take.

    No image is read, and no store written. The last lines are what to decide, the gravest first, and a forecast of
    hours, memory and disk.
    """
    from flows.ingest.inspection import cohort_at, forecast_of, inspect_source, labels_to_be, shortages_here
    from flows.ingest.inspection_text import json_parts, text_parts
    from flows.ingest.rows import known_rows
    from flows.ingest.scanning import index_beside, scan_on_workers
    from storage.pseudonyms import load_key

    settings, origin = settings_or_usage_error(workers=workers), source_or_usage_error(source)
    cohort = cohort_at(store)
    known = {} if cohort is None else known_rows(cohort)

    def scan(tasks: Iterable[ScanTask]) -> Iterator[list[Scan]]:
        with cluster(workers) as client:  # workers end with the scan: nothing else here needs them, or their memory
            yield from scan_on_workers(client, tasks)

    with ExitStack() as stack:
        with reporting("read headers") as progress:
            inspection = stack.enter_context(
                inspect_source(
                    origin,
                    key=load_key(settings.key_file),
                    assume=assume,
                    by_software=by_software,
                    index=index_beside(settings.key_file, origin),
                    runner=scan,
                    progress=progress,
                    known=known,
                    quiet_for=60 * quiet_for,
                )
            )
        labels, new = labels_to_be(inspection, cohort)
        told = forecast_of(inspection, known, workers=settings.workers)
        parts = json_parts(inspection, labels, told) if as_json else text_parts(inspection, labels, new, told)
        for part in parts:
            typer.echo(part, nl=not as_json)
    for shortage in shortages_here(told, store):
        typer.echo(shortage, err=True)


def ingest(
    source: SourceText,
    store: Store,
    linkage: Annotated[
        Path | None, typer.Option(help="CSV file to write, of who is whose pseudonym; keep it as safe as the source.")
    ] = None,
    assume: Assume = None,
    by_software: BySoftware = False,
    quiet_for: QuietFor = 0.0,
    session: Sessions = None,
    group: Groups = None,
    status: Statuses = None,
    reason: Reasons = None,
    since: Since = None,
    retry: Retry = False,
    room_check: RoomCheck = True,
    workers: Workers = None,
) -> None:
    """Read SOURCE, and preprocess what is new or has changed into the store.

    It can be stopped at any time: what is stored stays, and the next run does the rest. Exit status 3 says that
    some sessions have failed; `qmri status` tells why.
    """
    from flows.ingest.run import ingest
    from flows.ingest.scanning import index_beside
    from flows.operations.figures import note_run
    from storage.pseudonyms import load_key

    selection = selection_or_usage_error(session, group, status, reason, since, retry)
    settings, origin = settings_or_usage_error(), source_or_usage_error(source)
    key_file, key = settings.key_file, load_key(settings.key_file)
    with cluster(workers) as client, reporting("ingest") as progress:
        summary = ingest(
            origin,
            store,
            key=key,
            linkage=linkage,
            assume=assume,
            by_software=by_software,
            quiet_for=60 * quiet_for,
            scanner_days=settings.keep_days,
            index=index_beside(key_file, origin),
            selection=selection,
            check_room=room_check,
            client=client,
            progress=progress,
        )
    if selection.is_everything:
        note_run(store, key_file)
    finish(summary)


def calibrate(store: Store, anchors: Anchors = None, clinics: Clinics = None, has_transfer: Transfer = True) -> None:
    """Calibrate every group anew, from the sessions it has now; maps of the old version become stale.

    Groups get their first calibration from ingest and infer. Run infer and aggregate afterwards.
    """
    from flows.calibration.calibrate import calibrate
    from flows.calibration.groups import SiteTables

    tables = SiteTables(anchors=anchors, clinics=clinics)
    with reporting("calibrate") as progress:
        snapshot = calibrate(store, again=True, tables=tables, has_transfer=has_transfer, progress=progress)
    typer.echo(
        f"calibrated, snapshot {snapshot}" if snapshot else "no group can be calibrated: the store has no sessions"
    )


def train(
    store: Store,
    out: options.WeightsFile,
    steps: options.Steps = None,
    minutes: options.Minutes = None,
    batches: options.BatchesPerStep = 1,
    rate: options.Rate = None,
    seed: options.Seed = None,
    images: options.ImageShare = None,
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


def infer(
    store: Store,
    checkpoint: CheckpointFile = None,
    session: Sessions = None,
    group: Groups = None,
    status: Statuses = None,
    reason: Reasons = None,
    since: Since = None,
    retry: Retry = False,
    room_check: RoomCheck = True,
    workers: Workers = None,
) -> None:
    """Infer T1, T2 and PD maps of every stored session that has none, or whose maps are stale."""
    from flows.maps.infer import infer

    selection = selection_or_usage_error(session, group, status, reason, since, retry)
    with cluster(workers) as client, reporting("infer") as progress:
        summary = infer(
            store,
            checkpoint=checkpoint,
            selection=selection,
            check_room=room_check,
            client=client,
            progress=progress,
        )
    finish(summary)


def aggregate(
    store: Store,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the tables as CSV; default: they are only printed.")
    ] = None,
    session: Sessions = None,
    group: Groups = None,
    status: Statuses = None,
    reason: Reasons = None,
    since: Since = None,
    retry: Retry = False,
    workers: Workers = None,
) -> None:
    """Compute T1, T2 and PD of tissues by session and group, and how much groups differ."""
    from flows.statistics.aggregate import aggregate
    from flows.tables.summary import left_out_text
    from flows.tables.text import (
        IMPOSED_AWAY,
        TELLS_NO_PEOPLE_APART,
        WORTHLESS_ALONE,
        group_table,
        text_table,
        variation_table,
    )

    selection = selection_or_usage_error(session, group, status, reason, since, retry)
    with cluster(workers) as client, reporting("aggregate") as progress:
        result = aggregate(store, client=client, out=out, selection=selection, progress=progress)
    for key, label in result.labels.items():
        typer.echo(f"{label} = {key}")
    typer.echo("\nMean of session medians ± standard deviation over sessions\n")
    typer.echo(text_table(*group_table(result.groups, result.labels)))
    typer.echo("\nVariation between groups\n")
    typer.echo(text_table(*variation_table(result.variation)))
    typer.echo(f"\n{WORTHLESS_ALONE}\n\n{IMPOSED_AWAY}\n\n{TELLS_NO_PEOPLE_APART}")
    if result.left_out:
        typer.echo(f"\n{left_out_text(result.left_out)}")
    if result.accepted:
        typer.echo(f"{result.accepted} sessions whose maps have failed count, since they were accepted")


def report(
    store: Store,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to; made if it is not there.", show_default=False)
    ] = None,
    browser: Annotated[
        Path | None,
        typer.Option("--browser", help="Folder for the pages of `qmri browse` as files that open offline."),
    ] = None,
    workers: Workers = None,
) -> None:
    """Write OUT/report.html: the cohort's tables, pictures and failures in one file; or the pages of the browser."""
    from flows.report.build import write_report
    from flows.statistics.aggregate import aggregate
    from storage.store.cohort import Cohort

    if out is None and browser is None:
        raise typer.BadParameter("give --out for the report, --browser for the pages of the browser, or both")
    cohort = Cohort.open(store)
    if out is not None:
        with cluster(workers) as client, reporting("aggregate") as progress:
            result = aggregate(cohort, client=client, progress=progress)
        typer.echo(f"report: {write_report(cohort, out, aggregate=result)}")
    if browser is not None:
        from flows.browser.offline import write_pages

        with reporting("pages") as progress:
            typer.echo(f"pages: {write_pages(cohort, browser, progress=progress)}")
    made = cohort.refreshed()
    note_copy_or_warn(made, "report", made.catalogue["session"])


def evaluate(
    store: Store,
    truth: Annotated[
        Path | None, typer.Option(help="Truth folder of the simulated cohort; needs --linkage.", show_default=False)
    ] = None,
    linkage: Annotated[
        Path | None, typer.Option(help="Linkage table that ingest has written; needs --truth.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the tables as CSV and JSON, and a picture; default: tables are printed."),
    ] = None,
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
    from flows.evaluation.text import truth_lines
    from flows.evaluation.with_truth import evaluate

    with cluster(workers) as client, reporting("evaluate") as progress:
        result = evaluate(
            store, truth, linkage, client=client, out=out, published_recipe=published_recipe, progress=progress
        )
    for line in truth_lines(result):
        typer.echo(line)


def _evaluate_real(store: str, out: Path | None, workers: int | None) -> None:
    from flows.evaluation.text import plausibility_lines
    from flows.evaluation.without_truth import evaluate_real
    from flows.tables.text import labels_of
    from storage.store.cohort import Cohort

    cohort = Cohort.open(store)
    with cluster(workers) as client, reporting("evaluate") as progress:
        result = evaluate_real(cohort, client=client, out=out, progress=progress)
    for line in plausibility_lines(result, labels_of(result.candidate_sessions["group"], cohort.labels)):
        typer.echo(line)


def run(
    name: Annotated[
        str, typer.Argument(help="Bare name of the deployment, such as ingest-cohort.", show_default=False)
    ],
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the run has ended; exit status 1 if it has failed.")
    ] = False,
) -> None:
    """Start a deployment by its name, on the Prefect server of PREFECT_API_URL."""
    from flows.deployed.trigger import trigger

    state = trigger(name, wait=wait)
    typer.echo(state.text)
    if state.is_failed:
        raise typer.Exit(1)
