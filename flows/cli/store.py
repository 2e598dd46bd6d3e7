"""Commands about a store: its state, its history, and what is to stay of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Assume, BySoftware, Store, settings_or_usage_error
from flows.progress import reporting

if TYPE_CHECKING:
    from storage.store.cohort import Cohort

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


LAST_RUNS = 5
"""Commits that `status` lists."""
TOO_OLD = 4
"""Exit status of `status --max-age` where nothing was done for longer."""


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (status, calibration, verify, history, rollback, compact, forget, migrate):
        app.command()(command)


def status(
    store: Store,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object in place of tables.")] = False,
    max_age: Annotated[
        str | None,
        typer.Option(
            "--max-age",
            metavar="AGE",
            help="Exit status 4 if nothing was done for longer, such as 26h, 90m or 2d: neither a commit, nor a whole "
            "run of this user that found nothing to do.",
        ),
    ] = None,
) -> None:
    """Count the sessions by group and status, and show what is stale and why, the last runs, and the size."""
    from flows.operations.figures import age_of, is_older
    from flows.settings import SettingsError

    try:
        limit = None if max_age is None else age_of(max_age)
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from None
    cohort = _status_as_json(store) if as_json else _status_as_tables(store)
    if limit is not None and is_older(cohort, settings_or_usage_error().key_file, limit):
        typer.echo(f"nothing was done for more than {max_age}", err=True)
        raise typer.Exit(TOO_OLD)


def _status_as_json(store: str) -> Cohort:
    from flows.operations.figures import told_figures
    from storage.store.cohort import Cohort

    cohort = Cohort.open(store)
    typer.echo(json.dumps(told_figures(cohort, settings_or_usage_error().key_file).as_json(), indent=1))
    return cohort


def _status_as_tables(store: str) -> Cohort:
    from flows.maps.staleness import stale_sessions
    from flows.operations.figures import size_of
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
    typer.echo(f"{len(rows)} sessions, {sum(stale.values())} stale, {size_of(cohort) / 1e6:.1f} MB")
    typer.echo()
    typer.echo("last runs:")
    for _, snapshot in zip(range(LAST_RUNS), iterate_history(cohort.repository), strict=False):
        typer.echo(f"  {snapshot.time:%Y-%m-%d %H:%M:%S} UTC  {snapshot.id}  {snapshot.message}")
    return cohort


def calibration(
    store: Store,
    out: Annotated[Path | None, typer.Option("--out", help="CSV file for the table of scales as well.")] = None,
) -> None:
    """Show the intensity scales of every group and what headers hide: what each rests on, how far data moved it."""
    from flows.calibration.tables import calibration_table
    from flows.calibration.text import calibration_lines
    from storage.store.cohort import Cohort

    cohort = Cohort.open(store)
    table = calibration_table(cohort)
    if out is not None:
        table.to_csv(out, index=False)
    for line in calibration_lines(cohort, table):
        typer.echo(line)


def verify(
    store: Store,
    source: Annotated[
        str | None,
        typer.Option("--source", help="The input: read it again, and compare it with what was ingested."),
    ] = None,
    assume: Assume = None,
    by_software: BySoftware = False,
) -> None:
    """Read everything that is stored, and compare it with the digests of what was written.

    Each problem is named by session and variable; exit status 1 says that there are some.
    """
    from storage.store.cohort import Cohort
    from storage.store.lifecycle.verify import verify

    cohort = Cohort.open(store)
    with reporting("verify") as progress:
        problems = [
            (problem.session, problem.variable, problem.message) for problem in verify(cohort, progress=progress)
        ]
    if source is not None:
        from flows.cli.options import source_or_usage_error
        from flows.ingest.source_plans import source_problems
        from storage.pseudonyms import load_key

        key, origin = load_key(settings_or_usage_error().key_file), source_or_usage_error(source)
        with reporting("read the source") as progress:
            problems += source_problems(
                origin, cohort, key=key, assume=assume, by_software=by_software, progress=progress
            )
    for session, variable, message in problems:
        typer.echo(f"{session or '-'}  {variable or '-'}  {message}")
    typer.echo(f"{len(problems)} problems found" if problems else "everything is as it was written")
    if problems:
        raise typer.Exit(1)


def history(
    store: Store,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many commits to list at most.")] = 30,
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
    tag: Annotated[str, typer.Argument(help="Tag, snapshot id or ISO time (UTC) of the state to go back to.")],
    store: Store,
) -> None:
    """Make an earlier state the current one; the present one stays under a tag."""
    from storage.store.lifecycle.upkeep import rollback

    snapshot, saved = rollback(store, tag)
    typer.echo(f"rolled back to {tag}; snapshot {snapshot}. What was current until now is tagged {saved}")


def compact(
    store: Store,
    keep_days: Annotated[
        float, typer.Option("--keep-days", min=0, help="Days: commits younger than this, and tagged ones, stay.")
    ] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done; do nothing.")] = False,
) -> None:
    """End old commits that have no tag, and delete what no other commit needs; the current state stays."""
    from storage.store.lifecycle.upkeep import compact

    done = compact(store, keep_days=keep_days, dry_run=dry_run)
    would = "would end" if dry_run else "ended"
    typer.echo(
        f"{done.snapshots} commits {would}; {done.objects} objects, {done.bytes / 1e6:.1f} MB "
        f"{'can be deleted already' if dry_run else 'deleted'}"
    )


def forget(
    store: Store,
    session: Annotated[
        str | None, typer.Argument(help="Pseudonym of the session, as the catalogue has it.", show_default=False)
    ] = None,
    person: Annotated[
        str | None,
        typer.Option("--person", help="In place of a session: pseudonym of a person, all of whose sessions go."),
    ] = None,
    yes: Yes = False,
) -> None:
    """Remove a session, or a person, from the store and its history, for ever; no later ingest brings them back."""
    from storage.pseudonyms import load_key
    from storage.store.lifecycle.forget import forget, forget_person, holding, holding_of_person

    if session is not None and person is None:
        name, held = session, holding(store, session)
    elif person is not None and session is None:
        name, held = person, holding_of_person(store, person)
        typer.echo(f"{len(held.sessions)} sessions of {person}: {', '.join(held.sessions) or '-'}")
    else:
        raise typer.BadParameter("give the pseudonym of a session, or of a person (--person)")
    typer.echo(f"{name} will be removed; all earlier commits end, and cannot be opened or rolled back to any more")
    if held.tags:
        typer.echo(f"these tags end too, because they hold it: {', '.join(held.tags)}")
    copies = [f"  {one.time:%Y-%m-%d %H:%M:%S} UTC  {one.kind}  snapshot {one.snapshot}" for one in held.copies]
    typer.echo("exports and reports that may hold it, to be deleted by you:" if copies else "no known copy holds it")
    for line in copies:
        typer.echo(line)
    if not yes:
        typer.confirm("Go on?", abort=True)
    key = load_key(settings_or_usage_error().key_file)
    if person is None:
        forget(store, name, key=key)
    else:
        forget_person(store, name, key=key)
    typer.echo(f"{name} is forgotten, and will not be ingested again; group statistics change with `qmri aggregate`")


def migrate(store: Store) -> None:
    """Bring a store that an older version wrote up to date."""
    from storage.store.lifecycle.upkeep import migrate

    before, after = migrate(store)
    typer.echo(f"schema {before} -> {after}" if before != after else f"schema {after} is up to date")
