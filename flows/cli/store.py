"""Commands about a store: its state, its history, what is to stay of it, and copies for other tools."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Assume, BySoftware, Out, Store
from flows.progress import reporting

if TYPE_CHECKING:
    from storage.store.cohort import Cohort

At = Annotated[str | None, typer.Option("--at", help="Tag, snapshot id or time; default: now.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (status, calibration, verify, history, rollback, compact, forget, migrate):
        app.command()(command)
    app.command("export-zarr")(export_zarr)
    app.command("export-bids")(export_bids)


def status(store: Store) -> None:
    """Count the sessions by group and state; tell what is stale and why, the last runs, and the size."""
    from flows.maps.staleness import stale_sessions
    from flows.tables.text import labels_of, text_table
    from storage.store.cohort import Cohort
    from storage.store.repository import iterate_history

    cohort = Cohort.open(store)
    rows = cohort.catalogue
    labels = labels_of(rows["group"], cohort.labels)
    counts = Counter(zip(rows["group"], rows["status"], rows["reason"], strict=True))
    lines = [
        (labels.get(group, "-"), state, reason or "-", count)
        for (group, state, reason), count in sorted(counts.items())
    ]
    typer.echo(text_table(["group", "status", "reason", "sessions"], lines))
    typer.echo()
    for group, label in labels.items():
        typer.echo(f"{label} = {group}")
    stale = Counter(stale_sessions(cohort).values())
    for why, count in sorted(stale.items()):
        typer.echo(f"stale: {count} sessions: {why}")
    typer.echo(f"{len(rows)} sessions, {sum(stale.values())} stale, {_size(cohort)}")
    typer.echo()
    typer.echo("last runs:")
    for _, snapshot in zip(range(LAST_RUNS), iterate_history(cohort.repository), strict=False):
        typer.echo(f"  {snapshot.time:%Y-%m-%d %H:%M:%S} UTC  {snapshot.id}  {snapshot.message}")


LAST_RUNS = 5


def calibration(
    store: Store, out: Annotated[Path | None, typer.Option("--out", help="CSV file to write the table to.")] = None
) -> None:
    """Show the intensity scales of every group and what headers hide: what each rests on, how far data moved it."""
    from flows.maps.calibration_tables import calibration_table, hidden_table, people_table, unlikely_sessions
    from flows.tables.text import labels_of, records, text_table
    from storage.store.cohort import Cohort

    cohort = Cohort.open(store)
    table = calibration_table(cohort)
    if out is not None:
        table.to_csv(out, index=False)
    if table.empty:
        typer.echo("no group is calibrated yet; qmri ingest and qmri infer calibrate")
        return
    labels = labels_of(table["group"], cohort.labels)
    header = ["group", "contrast", "version", "n", "scale", "reference", "spread", "common", "determined", "sessions"]
    lines = [
        [
            labels[row["group"]],
            row["contrast"],
            str(row["version"]),
            str(row["n_sessions"]),
            f"{row['scale']:.4g}",
            f"{row['reference_signal']:.4f}",
            f"{row['spread']:.1%}",
            f"{row['common_spread']:.1%}",
            f"{row['determined']:.0%}",
            f"{row['session_low'] - 1:+.1%} to {row['session_high'] - 1:+.1%}",
        ]
        for row in records(table)
    ]
    typer.echo(text_table(header, lines))
    typer.echo()
    lines = [
        [
            labels[row["group"]],
            f"{row['tissue']} {row['quantity'].upper()}",
            f"{row['determined']:.0%}",
            f"{row['session_low']:+.1%} to {row['session_high']:+.1%}",
        ]
        for row in records(people_table(cohort))
    ]
    typer.echo(text_table(["group", "people", "determined", "sessions"], lines))
    typer.echo()
    lines = [
        [
            labels[row["group"]],
            row["contrast"],
            row["name"].replace("_", " "),
            f"{row['header']:.4g}",
            f"{row['value']:.4g}",
            f"{row['prior_sd']:.2g}",
            f"{row['sd']:.2g}",
            f"{row['effect']:+.1%}",
        ]
        for row in records(hidden_table(cohort))
    ]
    typer.echo(text_table(["group", "contrast", "hidden", "imputed", "value", "prior sd", "sd", "GM/WM"], lines))
    typer.echo()
    for group, label in labels.items():
        typer.echo(f"{label} = {group}")
    for reference in sorted(set(table["reference"])):
        typer.echo(f"rests on: {reference}")
    typer.echo(
        "scale: image units per unit of PD and signal; reference: the model's signal of the population's white matter. "
        "spread: of the scale between sessions, of one series and common to all, from the whole cohort and the group; "
        "determined: share of the scale's variance that a session's white matter, grey matter and CSF determine; "
        "sessions: over the group's"
    )
    typer.echo(
        "hidden: parameters that headers do not say, as imputed and as all groups' contrast of grey to white matter "
        "tells, with standard deviations before and after; GM/WM: what the move does to that contrast"
    )
    typer.echo(
        "people: how far the sessions' people are from the group's mean in the maps; determined: share of the variance "
        "between people that the signals determine, beside the scales"
    )
    for row in records(unlikely_sessions(cohort)):
        typer.echo(
            f"{row['session']} ({labels[row['group']]}): the signals of its tissues are nobody's; it counts for "
            "nothing and has the scales of its group. Look at its alignment and its tissues (qmri report)"
        )


def verify(
    store: Store,
    source: Annotated[
        Path | None, typer.Option("--source", help="Read this source again, and compare its digests too.")
    ] = None,
    assume: Assume = None,
    by_software: BySoftware = False,
) -> None:
    """Read everything that is stored and compare it with what was written."""
    from storage.store.cohort import Cohort
    from storage.store.verify import verify as run

    cohort = Cohort.open(store)
    with reporting("verify") as progress:
        problems = [(one.session, one.variable, one.message) for one in run(cohort, progress=progress)]
    if source is not None:
        from flows.cli.options import settings_or_usage_error
        from flows.ingest.source_plans import source_problems
        from storage.pseudonyms import load_key

        key = load_key(settings_or_usage_error().key_file)
        with reporting("read the source") as progress:
            problems += source_problems(
                source, cohort, key=key, assume=assume, by_software=by_software, progress=progress
            )
    for session, variable, message in problems:
        typer.echo(f"{session or '-'}  {variable or '-'}  {message}")
    typer.echo(f"{len(problems)} problems found" if problems else "everything is as it was written")
    if problems:
        raise typer.Exit(1)


def history(
    store: Store,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most commits to list.")] = 30,
) -> None:
    """List the commits, newest first, with their tags; each can be opened again."""
    from storage.store.cohort import Cohort
    from storage.store.repository import iterate_history, tags

    repository = Cohort.open(store).repository
    names: dict[str, list[str]] = {}
    for name, snapshot_id in tags(repository).items():
        names.setdefault(snapshot_id, []).append(name)
    for _, snapshot in zip(range(limit), iterate_history(repository), strict=False):
        named = f"  [{', '.join(names.pop(snapshot.id))}]" if snapshot.id in names else ""
        facts = ", ".join(f"{key}={value}" for key, value in sorted(snapshot.metadata.items()))
        typer.echo(f"{snapshot.time:%Y-%m-%d %H:%M:%S} UTC  {snapshot.id}  {snapshot.message}  ({facts}){named}")
    for snapshot_id, others in names.items():
        typer.echo(f"{'':23}  {snapshot_id}  [{', '.join(others)}] (not among the above)")


def rollback(
    tag: Annotated[str, typer.Argument(help="Tag, snapshot id or time of the state to go back to.")], store: Store
) -> None:
    """Make an earlier state the current one; the present one stays under a tag."""
    from storage.store.lifecycle import rollback as run

    snapshot, saved = run(store, tag)
    typer.echo(f"rolled back to {tag}; snapshot {snapshot}. What was current until now is tagged {saved}")


def compact(
    store: Store,
    keep_days: Annotated[
        float, typer.Option("--keep-days", min=0, help="Commits younger than this, and tagged ones, stay.")
    ] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
) -> None:
    """Let old commits end that have no tag, and delete what nothing needs any more."""
    from storage.store.lifecycle import compact as run

    done = run(store, keep_days=keep_days, dry_run=dry_run)
    would = "would end" if dry_run else "ended"
    typer.echo(
        f"{done.snapshots} commits {would}; {done.objects} objects, {done.bytes / 1e6:.1f} MB "
        f"{'can be deleted already' if dry_run else 'deleted'}"
    )


def forget(
    session: Annotated[str, typer.Argument(help="Pseudonym of the session.")], store: Store, yes: Yes = False
) -> None:
    """Remove a session from the store and from its history, for ever."""
    from flows.cli.options import settings_or_usage_error
    from storage.pseudonyms import load_key
    from storage.store.forget import forget as run
    from storage.store.forget import holding

    found = holding(store, session)
    typer.echo(f"{session} will be removed; all earlier commits end, and cannot be opened or rolled back to any more")
    if found.tags:
        typer.echo(f"these tags end too, because they hold it: {', '.join(found.tags)}")
    if not yes:
        typer.confirm("Go on?", abort=True)
    run(store, session, key=load_key(settings_or_usage_error().key_file))
    typer.echo(f"{session} is forgotten, and will not be ingested again; group statistics change with `qmri aggregate`")


def migrate(store: Store) -> None:
    """Bring a store that an older version wrote up to date."""
    from storage.store.lifecycle import migrate as run

    before, after = run(store)
    typer.echo(f"schema {before} -> {after}" if before != after else f"schema {after} is up to date")


def export_zarr(store: Store, out: Out, at: At = None) -> None:
    """Write the cohort as a plain Zarr (version 3) hierarchy for tools that know no Icechunk."""
    from storage.exports.zarr import export_zarr as run
    from storage.store.cohort import Cohort

    with reporting("export") as progress:
        count = run(Cohort.open(store, at=at), out, progress=progress)
    typer.echo(f"{count} objects in {out}")


def export_bids(store: Store, out: Out, at: At = None) -> None:
    """Write the maps as a BIDS derivatives dataset."""
    from storage.exports.bids import export_bids as run
    from storage.store.cohort import Cohort

    with reporting("export") as progress:
        count = run(Cohort.open(store, at=at), out, progress=progress)
    typer.echo(f"maps of {count} sessions in {out}")


def _size(cohort: Cohort) -> str:
    from storage.store.locations import local_path

    folder = local_path(cohort.location)
    if folder is None:
        return f"{cohort.repository.total_chunks_storage() / 1e6:.1f} MB of chunks"
    return f"{sum(entry.stat().st_size for entry in Path(folder).rglob('*') if entry.is_file()) / 1e6:.1f} MB"
