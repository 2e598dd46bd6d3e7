"""`qmri qc`: what people decide on sessions and groups, kept in the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Store
from storage.store.decisions.codes import Ground, Scope, Verdict

if TYPE_CHECKING:
    from storage.store.decisions.codes import Decision

Subjects = Annotated[
    list[str], typer.Argument(help="Pseudonyms of sessions; labels or keys of groups.", show_default=False)
]
Rater = Annotated[
    str,
    typer.Option("--rater", envvar="QMRI_RATER", help="Code of who decides: r and up to three digits.", metavar="CODE"),
]
Grounds = Annotated[list[Ground] | None, typer.Option("--reason", help="Coded reason; may be given several times.")]
OfMaps = Annotated[
    Scope,
    typer.Option("--scope", help="What is judged: maps (until they change) or images (until these change)."),
]
AnyScope = Annotated[Scope | None, typer.Option("--scope", help="Only on this scope; default: the last decision.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what would change; write nothing.")]

qc = typer.Typer(name="qc", help="Decide which sessions and groups count, and list what was decided.")


def add_to(app: typer.Typer) -> None:
    """Add the group of commands."""
    app.add_typer(qc)


@qc.command()
def accept(
    subjects: Subjects,
    store: Store,
    rater: Rater,
    reason: Grounds = None,
    scope: OfMaps = Scope.MAPS,
    dry_run: DryRun = False,
) -> None:
    """Let maps count, also those that have failed for closure; the status stays."""
    _decide(Verdict.ACCEPT, subjects, store, rater, reason, scope, dry_run)


@qc.command()
def reject(
    subjects: Subjects,
    store: Store,
    rater: Rater,
    reason: Grounds = None,
    scope: OfMaps = Scope.MAPS,
    dry_run: DryRun = False,
) -> None:
    """Leave sessions out of statistics, exports and reports, for what their maps or images show."""
    _decide(Verdict.REJECT, subjects, store, rater, reason, scope, dry_run)


@qc.command()
def unsure(
    subjects: Subjects,
    store: Store,
    rater: Rater,
    reason: Grounds = None,
    scope: OfMaps = Scope.MAPS,
    dry_run: DryRun = False,
) -> None:
    """Leave the decision to another person."""
    _decide(Verdict.UNSURE, subjects, store, rater, reason, scope, dry_run)


@qc.command()
def exclude(subjects: Subjects, store: Store, rater: Rater, reason: Grounds = None, dry_run: DryRun = False) -> None:
    """Leave sessions out of everything until it is undone; `qmri forget` is for ever."""
    _decide(Verdict.EXCLUDE, subjects, store, rater, reason, None, dry_run)


@qc.command()
def acknowledge(
    subjects: Subjects, store: Store, rater: Rater, reason: Grounds = None, dry_run: DryRun = False
) -> None:
    """Say that a failure is known: until it changes, no run ends with exit status 3 because of it."""
    _decide(Verdict.ACKNOWLEDGE, subjects, store, rater, reason, None, dry_run)


@qc.command()
def undo(
    subjects: Subjects,
    store: Store,
    rater: Rater,
    reason: Grounds = None,
    scope: AnyScope = None,
    dry_run: DryRun = False,
) -> None:
    """Take back the rater's last decision on each; what was decided stays in the table."""
    _decide(Verdict.UNDO, subjects, store, rater, reason, scope, dry_run)


@qc.command("list")
def list_decisions(
    store: Store,
    is_open: Annotated[bool, typer.Option("--open", help="Only what a person has to decide, or decide again.")] = False,
) -> None:
    """List what stands, what has to be decided, and how many sessions count for nothing and why."""
    from flows.tables.decisions import decision_table, needed_table
    from flows.tables.summary import left_out_text
    from flows.tables.text import text_table
    from storage.store.cohort import Cohort
    from storage.store.decisions.effect import judge

    cohort = Cohort.open(store)
    judgement = judge(cohort)
    if not is_open:
        typer.echo(text_table(*decision_table(judgement, cohort.labels)))
        typer.echo()
    typer.echo(text_table(*needed_table(cohort, judgement)))
    typer.echo(left_out_text(judgement.reasons(cohort.slots)) or "every session with maps counts")


@qc.command("import")
def import_decisions(
    file: Annotated[Path, typer.Argument(help="CSV file: subject, verdict, rater, and what `export` writes more.")],
    store: Store,
    dry_run: DryRun = False,
) -> None:
    """Append the decisions of a file; those that the store has already are passed over."""
    from storage.store.cohort import Cohort
    from storage.store.decisions.files import read_file

    cohort = Cohort.open(store)
    decisions, known = read_file(cohort, file)
    if known:
        typer.echo(f"{known} decisions of the file are in the store already")
    _commit(store, decisions, dry_run)


@qc.command("export")
def export_decisions(
    file: Annotated[Path, typer.Argument(help="CSV file to write; it must not be there.")], store: Store
) -> None:
    """Write all decisions, those taken back included, as a CSV file."""
    from storage.store.cohort import Cohort
    from storage.store.decisions.files import write_decisions

    typer.echo(f"{write_decisions(Cohort.open(store), file)} decisions in {file}")


def _decide(
    verdict: Verdict,
    subjects: Sequence[str],
    store: str,
    rater: str,
    reasons: Sequence[Ground] | None,
    scope: Scope | None,
    dry_run: bool,
) -> None:
    from storage.store.cohort import Cohort
    from storage.store.decisions.making import decisions_on

    decisions = decisions_on(
        Cohort.open(store), subjects, verdict, rater=rater, grounds=list(reasons or ()), scope=scope
    )
    _commit(store, decisions, dry_run)


def _commit(store: str, decisions: Sequence[Decision], dry_run: bool) -> None:
    from storage.store.cohort import Cohort
    from storage.store.decisions.making import change_of, decide

    cohort = Cohort.open(store)
    if dry_run:
        typer.echo(f"{len(decisions)} decisions would be made: {change_of(cohort, decisions).text()}")
        return
    snapshot, change = decide(cohort, decisions)
    typer.echo(f"{len(decisions)} decisions: {change.text()}")
    typer.echo(f"snapshot {snapshot}; statistics follow with `qmri aggregate`" if snapshot else "nothing was written")
