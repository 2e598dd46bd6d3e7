"""Commands for analysts: comparisons, repeats, centiles, and tables that travel."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.exports import At
from flows.cli.options import Out, Store, Workers, cluster, note_copy_or_warn

if TYPE_CHECKING:
    import pandas as pd

    from flows.analysis.values import Asked
    from storage.store.cohort import Cohort

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
Regions = Annotated[
    str,
    typer.Option(
        "--regions",
        help="Tissues and regions to look at, joined by commas: WM,thalamus_L; default: all.",
        show_default=False,
    ),
]
Covariates = Annotated[str, typer.Option("--covariates", help="Columns, joined by commas; empty for none.")]
AnswerOut = Annotated[
    Path | None, typer.Option("--out", help="Folder for the table as CSV, and a picture; default: only printed.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("compare")(compare)
    app.command("harmonisation")(harmonisation)
    app.command("power")(power)
    app.command("reference")(reference)
    app.command("export-tables")(export_tables)
    app.command("regions")(regions)


def compare(
    store: Store,
    factor: Annotated[
        str,
        typer.Option(
            "--factor",
            help="Column to compare by: sex, age, scanner, software, label, period (--since), or one of --table.",
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
    regions: Regions = "",
    correction: Annotated[str, typer.Option("--correction", help="For the number of tests: holm or fdr_bh.")] = "holm",
    since: Annotated[
        float | None,
        typer.Option("--since", help="Day of each scanner between the two of --factor period, where days are kept."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="Processes that compare, for many regions of thousands; default: this one."
        ),
    ] = None,
    out: AnswerOut = None,
    at: At = None,
) -> None:
    """Compare people by a factor, given covariates and within groups, in every tissue and map, with the reliability."""
    from flows.analysis.compare import CORRECTIONS, PERIOD, compare, comparison_rows
    from flows.pictures.effects import effects_picture
    from flows.progress import reporting
    from flows.tables.text import text_table
    from qmri_core.analysis.design import ConfoundedError
    from storage.store.cohort import Cohort

    if correction not in CORRECTIONS:
        raise typer.BadParameter(f"--correction: {', '.join(CORRECTIONS)}")
    if (factor == PERIOD) != (since is not None):
        raise typer.BadParameter("--factor period and --since go together")
    names = _names(covariates)
    cohort = Cohort.open(store, at=at)
    asked = _asked(table, on, where, statistic, regions)
    with nullcontext() if workers is None else cluster(workers) as client, reporting("compare") as progress:
        try:
            result = compare(
                cohort,
                factor,
                names,
                asked=asked,
                reference=reference,
                correction=correction,
                since=since,
                client=client,
                progress=progress,
            )
        except ConfoundedError as error:
            typer.echo(f"not answered: {error}", err=True)
            raise typer.Exit(1) from None
    typer.echo(text_table(*comparison_rows(result)))
    _notes(cohort, *result.refused, *result.notes)
    _write(out, {"comparison": result.table}, {"comparison": effects_picture(result.table, factor)} if out else {})


def harmonisation(
    store: Store,
    effect: Annotated[float, typer.Option("--effect", min=0.001, help="Planted effect, relative.")] = 0.05,
    table: Table = None,
    on: On = "person",
    where: Where = "",
    statistic: Statistic = "mode",
    regions: Regions = "",
    out: AnswerOut = None,
    at: At = None,
) -> None:
    """Say how scans repeat and scanners agree, by people with several scans; and what ComBat would do to the values."""
    from flows.analysis.harmonisation import COMBAT_NOTES, NOTES, harmonisation_tables, harmonise
    from flows.tables.text import text_table
    from storage.store.cohort import Cohort

    cohort = Cohort.open(store, at=at)
    result = harmonise(cohort, asked=_asked(table, on, where, statistic, regions), effect=effect)
    for title, header, rows in harmonisation_tables(result):
        typer.echo(f"\n{title}\n\n{text_table(header, rows)}")
    _notes(cohort, *result.lacking, *NOTES, *([] if result.between.empty else COMBAT_NOTES))
    tables = {name: getattr(result, name) for name in ("components", "agreement", "between", "planted")}
    _write(out, {name: frame for name, frame in tables.items() if not frame.empty}, {})


def power(
    store: Store,
    effect: Annotated[
        float, typer.Option("--effect", min=0.0001, help="Relative difference to be found.", show_default=False)
    ],
    visits: Annotated[int, typer.Option("--visits", min=1, help="Visits of each person, whose mean is compared.")] = 1,
    wanted: Annotated[float, typer.Option("--power", min=0.5, max=0.999, help="Share of studies that find it.")] = 0.8,
    alpha: Annotated[float, typer.Option("--alpha", min=0.0001, max=0.2, help="Level of the two-sided test.")] = 0.05,
    table: Table = None,
    on: On = "person",
    where: Where = "",
    statistic: Statistic = "mode",
    regions: Regions = "",
    out: AnswerOut = None,
    at: At = None,
) -> None:
    """Say how many people per arm find an effect, by how people of this cohort differ and how scans repeat."""
    from flows.analysis.harmonisation import power_rows, power_table
    from flows.analysis.values import values_table
    from flows.tables.text import text_table
    from storage.store.cohort import Cohort

    cohort = Cohort.open(store, at=at)
    values = values_table(cohort, _asked(table, on, where, statistic, regions))
    found = power_table(values, effect, visits=visits, power=wanted, alpha=alpha)
    typer.echo(text_table(*power_rows(found)))
    _notes(
        cohort,
        f"People of one group of a scanner with a protocol, half of them with a true difference of {effect:.1%}, "
        f"compared by a t test at {alpha:g} that finds it in {wanted:.0%} of studies. Shown: share of a true "
        "difference that values show; a dash: not known, and taken for all of it",
    )
    _write(out, {"power": found}, {})


def reference(
    store: Store,
    session: Annotated[
        str | None, typer.Option("--session", help="Pseudonym of a session, whose places are told; default: all.")
    ] = None,
    table: Table = None,
    on: On = "person",
    where: Where = "",
    statistic: Statistic = "mode",
    regions: Regions = "",
    maps: Annotated[
        bool,
        typer.Option(
            "--maps", help="Maps of z in template space too, into --out; some seconds of a core for each person."
        ),
    ] = False,
    workers: Workers = None,
    out: AnswerOut = None,
    at: At = None,
) -> None:
    """Say where sessions lie among people of their age, sex and group, within this cohort; it is no norm."""
    from flows.analysis.reference import NOTES, calibration_rows, extreme_rows, reference_table, session_rows
    from flows.analysis.values import values_table
    from flows.pictures.centiles import centiles_picture
    from flows.tables.text import text_table
    from qmri_core.analysis.centiles import TooFewPeopleError
    from storage.store.cohort import Cohort

    if maps and out is None:
        raise typer.BadParameter("--maps needs --out, a folder to write them to")
    cohort = Cohort.open(store, at=at)
    values = values_table(cohort, _asked(table, on, where, statistic, regions))
    try:
        result = reference_table(values)
        if session is None:
            typer.echo(text_table(*calibration_rows(result)))
            typer.echo(f"\nSessions more than three deviates away\n\n{text_table(*extreme_rows(result))}")
        else:
            typer.echo(text_table(*session_rows(result, session)))
        _notes(cohort, *result.lacking, *NOTES)
        _write(out, {"reference": result.table}, {"centiles": centiles_picture(values)} if out else {})
        if maps and out is not None:
            _write_maps(cohort, values, [] if session is None else [session], workers, out)
    except TooFewPeopleError as error:
        typer.echo(f"not answered: {error}", err=True)
        raise typer.Exit(1) from None


def _write_maps(cohort: Cohort, values: pd.DataFrame, sessions: list[str], workers: int | None, out: Path) -> None:
    """Write maps of z of some sessions, or of all, with a picture of each, below ``out``."""
    from flows.analysis.reference_maps import NOTES, reference_maps
    from flows.pictures.places import places_picture
    from flows.progress import reporting
    from storage.exports.template_space import write_maps

    written = []
    with (
        cluster(workers) as client,
        reporting("maps of z") as progress,
        reference_maps(cohort, values, sessions, client=client, progress=progress) as (made, left_out),
    ):
        for maps in made:
            volumes = {"z": maps.z, "zdev": maps.deviation, "people": maps.n_people}
            write_maps(out, maps.session, volumes, maps.affine)
            (out / f"{maps.session}_z.png").write_bytes(places_picture(maps.session, maps.z, maps.affine))
            written.append(maps.session)
    note_copy_or_warn(cohort, "reference-maps", written)
    typer.echo("")
    for name in left_out:
        typer.echo(f"  left out: {name}: the template cannot be brought to it")
    for line in NOTES:
        typer.echo(line)
    typer.echo(f"maps of z of {len(written)} sessions in {out}")


def export_tables(store: Store, out: Out, at: At = None) -> None:
    """Write sessions, values and groups as Parquet and CSV, with a data dictionary, datasheet and RO-Crate metadata."""
    from flows.tables.summary import left_out_text
    from storage.exports.tables import export_tables
    from storage.store.cohort import Cohort
    from storage.store.decisions.effect import judge

    cohort = Cohort.open(store, at=at)
    exported = export_tables(cohort, out)
    note_copy_or_warn(cohort, "export-tables", cohort.catalogue["session"])
    typer.echo(f"{exported.values} values of {exported.sessions} sessions in {out}")
    if text := left_out_text(judge(cohort).reasons(cohort.slots)):
        typer.echo(text)


def regions(
    store: Store,
    workers: Workers = None,
    atlas: Annotated[
        Path | None,
        typer.Option(
            "--atlas", exists=True, dir_okay=False, help="Labels of your own in MNI152 space, NIfTI; with --labels."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", exists=True, dir_okay=False, help="Names of --atlas: a table with index and name."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            exists=True,
            file_okay=False,
            help="Folder of masks drawn on exported images: sub-..._ses-SESSION_label-NAME_mask.nii.gz.",
        ),
    ] = None,
) -> None:
    """Measure nuclei and lobes of every session that counts and whose maps have changed; they join all other tables."""
    from flows.progress import reporting
    from flows.statistics.own_regions import find_masks, read_atlas
    from flows.statistics.regions import measure_regions
    from storage.store.cohort import Cohort
    from storage.store.opened.values import are_believed

    if (atlas is None) != (labels is None):
        raise typer.BadParameter("--atlas and --labels go together")
    cohort = Cohort.open(store)
    own = None if atlas is None or labels is None else read_atlas(atlas, labels)
    drawn = None if masks is None else find_masks(masks.resolve(), cohort.slots)
    with cluster(workers) as client, reporting("regions") as progress:
        result = measure_regions(cohort, client=client, atlas=own, masks=drawn, progress=progress)
    typer.echo(f"{result.measured} sessions measured, {result.unchanged} unchanged")
    for session, region in result.outside:
        typer.echo(f"  without values: {session}: {region} holds too little of its brain")
    doubtful = result.quality[~are_believed(result.quality)]
    for session, overlap, stretch in doubtful.itertuples():
        typer.echo(f"  not believed: {session}: overlap {overlap:.2f}, stretch {stretch:.2f}")
    typer.echo(f"snapshot {result.snapshot}" if result.snapshot else "nothing was written")


def _asked(table: Path | None, on: str, where: str, statistic: str, regions: str) -> Asked:
    from flows.analysis.values import Asked

    if on not in {"person", "session"}:
        raise typer.BadParameter("--on: person or session")
    if statistic not in {"mode", "median", "mean"}:
        raise typer.BadParameter("--statistic: mode, median or mean")
    return Asked(table=table, on=on, where=where, statistic=statistic, regions=tuple(_names(regions)))


def _notes(cohort: Cohort, *lines: str) -> None:
    """What to know of an answer, below it, and of which snapshot it is."""
    for line in ("", *lines, f"snapshot {cohort.snapshot}"):
        typer.echo(line)


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
