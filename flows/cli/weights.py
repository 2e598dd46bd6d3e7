"""Commands about the weights of the network: which there are, what others would change, which one inference uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.options import Store, Workers, cluster
from flows.progress import reporting

weights = typer.Typer(no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        help="Start of a digest that `list` shows, `shipped`, a file (.safetensors), or, to compare, `promoted`.",
        show_default=False,
    ),
]
PROMOTED = "promoted"
AGAIN = "maps of other weights are stale now; `qmri infer` and `qmri aggregate`, or the next night, make them again"


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (list_, compare, promote, back):
        weights.command("list" if command is list_ else None)(command)
    app.add_typer(weights, name="weights", help="List, compare and promote the weights that make maps, and step back.")


def list_(store: Store) -> None:
    """List the checkpoints of the package and the store: which is promoted, and how many sessions' maps are of each."""
    from flows.maps.weights import SHIPPED, named_weights
    from flows.tables.text import text_table
    from storage.store.cohort import Cohort

    cohort = Cohort.open(store)
    shipped = named_weights(cohort, SHIPPED)
    maps = Counter(cohort.catalogue["checkpoint_digest"].astype(str))
    of_shipped = sum(maps.pop(digest, 0) for digest in {shipped.digest, *shipped.recorded})
    rows = [[SHIPPED, "" if cohort.promoted else PROMOTED, of_shipped, "", ""]]
    for digest, record in cohort.registered.items():
        state = PROMOTED if digest == cohort.promoted else ""
        losses = [_loss(record, name) for name in ("score", "score_before")]
        rows.append([digest[:12], state, maps.pop(digest, 0), *losses])
    rows += [[digest[:12], "not here", count, "", ""] for digest, count in sorted(maps.items()) if digest]
    typer.echo(text_table(["checkpoint", "", "sessions", "loss", "loss of the one before"], rows))


def _loss(record: Mapping[str, Any], name: str) -> str:
    """Held-out loss that a training has recorded; empty where it has none."""
    loss = (record.get(name) or {}).get("nll")
    return f"{loss:.3f}" if isinstance(loss, float) else ""


def compare(
    before: Name,
    after: Name,
    store: Store,
    per_group: Annotated[
        int, typer.Option("--per-group", min=1, help="Sessions of each group to compare at most.")
    ] = 5,
    workers: Workers = None,
) -> None:
    """Infer some of the store's sessions with two checkpoints, and tell what moves, by how much, and whether it holds.

    Nothing is written.
    """
    from flows.maps.comparison import compare_weights
    from flows.maps.weights import named_weights
    from storage.store.cohort import Cohort

    cohort = Cohort.open(store)
    both = [named_weights(cohort, name) for name in (before, after)]
    with cluster(workers) as client, reporting("compare") as progress:
        found = compare_weights(cohort, *both, client=client, per_group=per_group, progress=progress)
    for line in found.lines(cohort.labels):
        typer.echo(line)


def promote(name: Name, store: Store) -> None:
    """Make a checkpoint the one that inference uses; a file is kept in the store first."""
    from flows.maps.weights import chosen_weights, registered_digest
    from storage.store.checkpoints import promote, register
    from storage.store.cohort import Cohort

    cohort = Cohort.open(store)
    if Path(name).is_file():
        digest = chosen_weights(cohort, Path(name)).digest
        register(store, Path(name).read_bytes(), record={}, promote=True, digest=digest)
    else:
        digest = registered_digest(cohort, name)
        promote(store, digest)
    typer.echo(f"{digest[:12] or 'the shipped checkpoint'} is promoted; {AGAIN}")


def back(store: Store) -> None:
    """Step back to the checkpoint that was promoted before; its maps are made again."""
    from storage.store.checkpoints import step_back

    typer.echo(f"{step_back(store)[:12] or 'the shipped checkpoint'} is promoted again; {AGAIN}")
