"""Commands for the physics: what a protocol can determine, and other contrasts from stored maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Store

SERIES = "se, tse, spgr, mprage, flair, dir or space, then TR, TE, TI, FA, ETL as on the console (ms, degrees)"
Manufacturer = Annotated[str, typer.Option(help="Whose headers the values mean: Siemens, Philips, GE, ...")]
Field = Annotated[float, typer.Option("--field-strength", min=0.1, max=15.0, help="Field strength in tesla.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(protocol)
    app.command()(synthesize)


def protocol(
    t1w: Annotated[str, typer.Option("--t1w", help=f"T1w series: {SERIES}.")] = "mprage TR=2300 TE=2.98 TI=900 FA=9",
    t2w: Annotated[str, typer.Option("--t2w", help="T2w series; empty: none.")] = "tse TR=6000 TE=100 FA=150 ETL=18",
    flair: Annotated[
        str, typer.Option("--flair", help="FLAIR series; empty: none.")
    ] = "flair TR=9000 TE=81 TI=2500 FA=150 ETL=16",
    manufacturer: Manufacturer = "Siemens",
    field_strength: Field = 3.0,
    snr: Annotated[float, typer.Option(help="Signal of white matter over the noise, in each image.")] = 50.0,
    transmit_scale: Annotated[float, typer.Option(help="Actual flip angle over the nominal one.")] = 1.0,
) -> None:
    """Show what the images of a protocol can determine, and how well, in tissues of its field strength."""
    from flows.tables.protocol import protocol_of, report_text
    from qmri_core.evaluation.protocol_advice import advise
    from qmri_core.series.acquisition import Contrast

    series = {Contrast.T1W: t1w, Contrast.T2W: t2w, Contrast.FLAIR: flair}
    acquisitions = protocol_of(series, manufacturer=manufacturer, field_strength=field_strength)
    typer.echo(report_text(advise(acquisitions, snr=snr, transmit_scale=transmit_scale)))


def synthesize(
    session: Annotated[str, typer.Argument(help="Pseudonym of a session with maps.", show_default=False)],
    series: Annotated[str, typer.Argument(help=f"Series to make: {SERIES}.", show_default=False)],
    store: Store,
    out: Annotated[Path, typer.Option(help="NIfTI file to write, .nii or .nii.gz.", show_default=False)],
    manufacturer: Manufacturer = "",
    field_strength: Field = 3.0,
    noise: Annotated[
        float, typer.Option(min=0.0, help="Standard deviation of added noise, in units of the PD of CSF.")
    ] = 0.0,
) -> None:
    """Make the image that another series would give of a stored session, as NIfTI."""
    from flows.maps.synthesize import run_synthesize
    from flows.tables.protocol import describe

    acquisition = run_synthesize(
        store=store,
        session=session,
        series=series,
        out=out,
        manufacturer=manufacturer,
        field_strength=field_strength,
        noise=noise,
    )
    typer.echo(f"{describe(acquisition)}\nwritten to {out}")
