"""The demo: a simulated cohort from DICOM to report, with the truth beside it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flows.browser.offline import write_pages
from flows.cluster.clusters import dask_client
from flows.evaluation.with_truth import EvaluateResult, evaluate
from flows.ingest.run import ingest
from flows.maps.infer import infer
from flows.progress import reporting
from flows.report.build import write_report
from flows.settings import Settings
from flows.simulate import simulate
from flows.statistics.aggregate import AggregateResult, aggregate
from flows.tables.summary import RunSummary
from flows.tables.text import (
    TELLS_NO_PEOPLE_APART,
    WORTHLESS_ALONE,
    evaluation_table,
    group_table,
    text_table,
    variation_table,
)
from storage.pseudonyms import load_key

if TYPE_CHECKING:
    from distributed import Client

MARKER = ".qmri-demo"
"""File that says that a folder was made by the demo, and may be cleared by it."""

Say = Callable[[str], None]


def run_demo(
    out: Path, *, sessions: int, groups: int, resolution: float, settings: Settings, say: Say, seed: int = 0
) -> RunSummary:
    """Simulate a cohort as DICOM, then ingest, infer, aggregate, evaluate and report it.

    A simulation that is complete is kept, so that a second run only does what is missing from the store.

    Parameters
    ----------
    out
        Folder for everything; the demo's own key of the pseudonyms included.
    sessions, groups, resolution, seed
        Of the simulated cohort.
    settings
        For the cluster; one client serves all stages.
    say
        Prints a line.

    Raises
    ------
    ValueError
        If ``out`` holds something that is not the demo's.
    """
    _claim(out)
    store, linkage = str(out / "store"), out / "linkage.csv"
    key = load_key(out / "key")
    stages: list[tuple[str, float]] = []
    with dask_client(settings) as client:
        with _timed("simulate", stages):
            _simulate_once(out, f"{sessions} {groups} {resolution:g} {seed}", client, say)
        with _timed("ingest", stages), reporting("ingest") as progress:
            taken = ingest(  # its heads have no magnetization transfer
                out / "input",
                store,
                key=key,
                linkage=linkage,
                has_transfer=False,
                client=client,
                progress=progress,
            )
        say(f"ingest: {taken.text()}")
        with _timed("infer", stages), reporting("infer") as progress:
            summary = infer(store, checkpoint=settings.checkpoint, client=client, progress=progress)
        say(f"infer: {summary.text()}")
        with _timed("aggregate", stages), reporting("aggregate") as progress:
            result = aggregate(store, client=client, out=out / "tables", progress=progress)
    with _timed("evaluate", stages):
        evaluation = evaluate(store, out / "truth", linkage, out=out / "tables")
    with _timed("report", stages):
        page = write_report(store, out / "report", aggregate=result, evaluation=evaluation)
    with _timed("pages", stages):
        pages = write_pages(store, out / "report")
    for line in _results(result, evaluation):
        say(line)
    say("seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in stages))
    say(f"report: {page}")
    say(f"pages that open offline: {pages.resolve().as_uri()}")
    say(f"with volumes, at the address that it prints: qmri browse --store {store}")
    return taken if taken.exit_status else summary


def _results(result: AggregateResult, evaluation: EvaluateResult) -> Iterator[str]:
    yield "\nGroups: mean of session medians ± standard deviation over sessions\n"
    yield from (f"{label} = {group}" for group, label in result.labels.items())
    yield "\n" + text_table(*group_table(result.groups, result.labels))
    yield "\nVariation between groups\n\n" + text_table(*variation_table(result.variation))
    yield "\nAgainst the truth, beside the null model\n\n" + text_table(*evaluation_table(evaluation.table))
    yield f"\n{WORTHLESS_ALONE}\n\n{TELLS_NO_PEOPLE_APART}\n"


def _claim(out: Path) -> None:
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).is_file())):
        raise ValueError(f"{out} holds something that is not the demo's; give a new folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


def _simulate_once(out: Path, design: str, client: Client, say: Say) -> None:
    """Simulate unless it was done before with the same settings; what a stopped run has left is cleared."""
    done = out / "simulated"
    if done.is_file() and done.read_text(encoding="ascii") == design:
        say("simulate: done before")
        return
    done.unlink(missing_ok=True)
    for name in ("input", "truth", "store", "tables", "report"):
        shutil.rmtree(out / name, ignore_errors=True)
    sessions, groups, resolution, seed = design.split()
    with reporting("simulate") as progress:
        simulated = simulate(
            out / "input",
            sessions=int(sessions),
            groups=int(groups),
            resolution=float(resolution),
            seed=int(seed),
            truth=out / "truth",
            client=client,
            progress=progress,
        )
    done.write_text(design, encoding="ascii")
    say(
        f"simulate: {simulated.sessions} sessions in {simulated.groups} groups on {simulated.scanners} scanners, "
        f"{simulated.files} DICOM files"
    )


@contextmanager
def _timed(name: str, stages: list[tuple[str, float]]) -> Iterator[None]:
    start = time.monotonic()
    yield
    stages.append((name, time.monotonic() - start))
