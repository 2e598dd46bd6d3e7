"""``qmri protocol``: what a set of acquisition parameters can determine, and how well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from qmri_core.calibration.population import FieldStrengthError
from qmri_core.calibration.session_model import expected_slopes
from qmri_core.physics.header import acquisition_from_header
from qmri_core.physics.information import condition_number, cramer_rao_bound, jacobian, scale_gain
from qmri_core.series.acquisition import Acquisition, AcquisitionError, Contrast, PulseSequence, SeriesHeader

TISSUES: Mapping[str, tuple[float, float, float]] = {
    "white matter": (0.85, 0.070, 0.70),
    "cortical grey": (1.35, 0.095, 0.83),
    "putamen": (1.25, 0.078, 0.80),
    "lesion": (1.40, 0.150, 0.85),
    "fluid": (4.30, 2.000, 1.00),
}
"""T1 and T2 in seconds and proton density at 3 T, for which the table is printed."""

PRIOR_DEVIATIONS = (0.15, 0.20, 0.05)
"""Relative standard deviations of T1, T2, PD within a tissue, for the bound with prior knowledge."""

LISTED_SPREADS = (0.005, 0.03, 0.10)
"""Of the scales of series between sessions, for which the table of slopes is printed."""

_SEQUENCES: Mapping[str, PulseSequence] = {
    "se": PulseSequence.SPIN_ECHO,
    "tse": PulseSequence.TURBO_SPIN_ECHO,
    "spgr": PulseSequence.SPOILED_GRADIENT_ECHO,
    "mprage": PulseSequence.MPRAGE,
    "flair": PulseSequence.INVERSION_RECOVERY_TSE,
    "dir": PulseSequence.INVERSION_RECOVERY_TSE,
    "space": PulseSequence.VARIABLE_FLIP_TSE,
    **{str(sequence): sequence for sequence in PulseSequence},
}
_TIME, _ANGLE, _NUMBER = 1e-3, math.pi / 180, 1.0
_HEADER = {
    "TR": ("repetition_time", _TIME),
    "TE": ("echo_time", _TIME),
    "TI": ("inversion_time", _TIME),
    "FA": ("flip_angle", _ANGLE),
    "ETL": ("echo_train_length", _NUMBER),
}
_OVERRIDES = {
    "CYCLE": ("repetition_time", _TIME),
    "TI2": ("second_inversion_time", _TIME),
    "RFA": ("refocusing_angle", _ANGLE),
    "ESP": ("echo_spacing", _TIME),
    "CENTRE": ("centre_index", _NUMBER),
    "READOUTS": ("echo_train_length", _NUMBER),
    "T2PREP": ("t2_preparation_time", _TIME),
    "EFF": ("inversion_efficiency", _NUMBER),
    "RFF": ("refocusing_factor", _NUMBER),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueRow:
    """What a protocol can determine in one voxel of one tissue; deviations relative, order T1, T2, PD."""

    tissue: str
    condition: float
    alone: tuple[float, float, float]
    with_prior: tuple[float, float, float]
    scale_gain: float
    """Largest relative error of T1, T2 or PD per relative error of one series' scale; NaN unless three series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolReport:
    """Interpreted series and one row per tissue."""

    acquisitions: tuple[Acquisition, ...]
    rows: tuple[TissueRow, ...]
    snr: float
    slopes: Mapping[float, Mapping[tuple[str, str], float]]
    """By the spread of the scales, `session_model.expected_slopes`; empty where no population is known."""

    def __str__(self) -> str:
        """Text for the terminal."""
        lines = ["Parameters as the signal models take them (m measured, d derived, a assumed):"]
        lines += [f"  {describe(acquisition)}" for acquisition in self.acquisitions]
        lines += [
            "",
            f"Smallest standard deviation per voxel at white-matter SNR {self.snr:g}, percent of T1 / T2 / PD:",
            f"  {'tissue':<14} {'images alone':>22} {'with prior 15/20/5 %':>22} {'condition':>10} {'scale gain':>11}",
        ]
        for row in self.rows:
            gain = "-" if math.isnan(row.scale_gain) else f"{row.scale_gain:.1f}"
            condition = "-" if math.isnan(row.condition) else f"{row.condition:.0f}"
            lines.append(
                f"  {row.tissue:<14} {_percent(row.alone):>22} {_percent(row.with_prior):>22}"
                f" {condition:>10} {gain:>11}"
            )
        lines += [
            "",
            "condition: relative change of the maps per relative change of the images, worst direction.",
            "scale gain: percent error of the worst map per percent error of one series' intensity scale; it does not",
            "average out over a region. Where the bound with prior is near the prior, the images add little there.",
        ]
        if self.slopes:
            names = {"WM": "white", "GM": "grey"}
            header = "".join(
                f"{f'{names[tissue]} {quantity.upper()}':>10}" for tissue, quantity in self.slopes[LISTED_SPREADS[0]]
            )
            lines += [
                "",
                "Share of the differences between people that a session shows at best:",
                f"  {'scales':<14}{header}",
            ]
            for spread, slopes in self.slopes.items():
                values = "".join(f"{value:>10.2f}" for value in slopes.values())
                lines.append(f"  {f'within {spread:.1%}':<14}{values}")
        return "\n".join(lines)


def run_protocol(
    *,
    t1w: str = "mprage TR=2300 TE=2.98 TI=900 FA=9",
    t2w: str = "tse TR=6000 TE=100 FA=150 ETL=18",
    flair: str = "flair TR=9000 TE=81 TI=2500 FA=150 ETL=16",
    manufacturer: str = "Siemens",
    field_strength: float = 3.0,
    snr: float = 50.0,
    transmit_scale: float = 1.0,
) -> ProtocolReport:
    """Tabulate what the images of a protocol determine.

    Parameters
    ----------
    t1w, t2w, flair
        Series as `parse_series` reads them; an empty text leaves the contrast out.
    manufacturer
        Decides what the numbers mean, as in its headers.
    field_strength
        Tesla.
    snr
        Signal over noise of white matter, the same in each image.
    transmit_scale
        Actual over nominal angle.

    Raises
    ------
    AcquisitionError
        If a series cannot be understood or evaluated.
    ValueError
        If there is no series, or the signal-to-noise ratio is not positive.
    """
    if not snr > 0:
        raise ValueError(f"snr {snr:g} is not positive")
    texts = {Contrast.T1W: t1w, Contrast.T2W: t2w, Contrast.FLAIR: flair}
    acquisitions = tuple(
        parse_series(text, contrast=contrast, manufacturer=manufacturer, field_strength=field_strength)
        for contrast, text in texts.items()
        if text.strip()
    )
    if not acquisitions:
        raise ValueError("no series given; a protocol needs at least one")
    values = torch.tensor(list(TISSUES.values()), dtype=torch.float64)
    signals, derivatives = jacobian(
        acquisitions, values[:, 2], values[:, 0], values[:, 1], transmit_scale=transmit_scale
    )
    noise = signals[0].abs() / snr
    alone = cramer_rao_bound(derivatives, noise)
    with_prior = cramer_rao_bound(derivatives, noise, prior_deviation=PRIOR_DEVIATIONS)
    condition = gain = torch.full((len(TISSUES),), math.nan)
    if len(acquisitions) == len(texts):
        condition = condition_number(signals, derivatives)
        gain = scale_gain(signals, derivatives).abs().amax((-1, -2))
    rows = tuple(
        TissueRow(
            tissue=tissue,
            condition=float(condition[index]),
            alone=_triple(alone[index]),
            with_prior=_triple(with_prior[index]),
            scale_gain=float(gain[index]),
        )
        for index, tissue in enumerate(TISSUES)
    )
    try:
        of = {acquisition.contrast: acquisition for acquisition in acquisitions}
        slopes = {spread: expected_slopes(of, spread) for spread in LISTED_SPREADS}
    except FieldStrengthError:
        slopes = {}
    return ProtocolReport(acquisitions=acquisitions, rows=rows, snr=snr, slopes=slopes)


def parse_series(
    text: str, *, contrast: Contrast | None = None, manufacturer: str = "", field_strength: float = 3.0
) -> Acquisition:
    """Read a series as written on a console, for example ``flair TR=9000 TE=81 TI=2500 FA=150 ETL=16``.

    The family comes first (se, tse, spgr, mprage, flair, dir, space), then values in milliseconds and degrees. TR, TE,
    TI, FA, ETL mean what the manufacturer's headers mean by them; CYCLE (inversion to inversion), TI2 (second
    inversion to excitation), RFA (refocusing angle), ESP (echo spacing), CENTRE (echo at the centre of k-space),
    READOUTS (per inversion), T2PREP, EFF (inversion efficiency) and RFF (refocusing factor) mean what they say.

    Raises
    ------
    AcquisitionError
        If a word is not known, a number is none, or a value is missing or out of range.
    """
    words = text.split()
    if not words or words[0].lower() not in _SEQUENCES:
        raise AcquisitionError(f"{text!r} does not begin with one of {', '.join(_SEQUENCES)}")
    sequence = _SEQUENCES[words[0].lower()]
    header: dict[str, float] = {}
    overrides: dict[str, float] = {}
    for word in words[1:]:
        name, _, number = word.partition("=")
        known = _HEADER.get(name.upper()) or _OVERRIDES.get(name.upper())
        if known is None:
            raise AcquisitionError(f"{name!r} is none of {', '.join((*_HEADER, *_OVERRIDES))}")
        try:
            value = float(number)
        except ValueError:
            raise AcquisitionError(f"{word!r}: {number!r} is not a number") from None
        target = header if name.upper() in _HEADER else overrides
        target[known[0]] = value * known[1]
    length = header.get("echo_train_length")
    series = SeriesHeader(
        manufacturer=manufacturer,
        magnetic_field_strength=field_strength,
        mr_acquisition_type="3D" if sequence in (PulseSequence.MPRAGE, PulseSequence.VARIABLE_FLIP_TSE) else "2D",
        repetition_time=header.get("repetition_time"),
        echo_time=header.get("echo_time"),
        inversion_time=header.get("inversion_time"),
        flip_angle=header.get("flip_angle"),
        echo_train_length=None if length is None else round(length),
    )
    return acquisition_from_header(series, contrast or _likely_contrast(sequence, series), sequence, overrides)


def describe(acquisition: Acquisition) -> str:
    """One line of the parameters, in milliseconds and degrees, each with the first letter of its mark."""
    parts = [f"{acquisition.contrast} {acquisition.sequence}:"]
    for name, (unit, factor) in {
        "repetition_time": ("ms", 1e3),
        "echo_time": ("ms", 1e3),
        "inversion_time": ("ms", 1e3),
        "flip_angle": ("deg", 180 / math.pi),
        "refocusing_angle": ("deg", 180 / math.pi),
        "echo_spacing": ("ms", 1e3),
        "echo_train_length": ("", 1),
        "centre_index": ("", 1),
        "inversion_efficiency": ("", 1),
        "refocusing_factor": ("", 1),
        "t2_preparation_time": ("ms", 1e3),
    }.items():
        value = getattr(acquisition, name)
        if value is not None and name in dict(acquisition.marks):
            parts.append(
                f"{name.replace('_', ' ')} {value * factor:.4g}{' ' + unit if unit else ''}"
                f" ({acquisition.mark(name)[0]}),"
            )
    return " ".join(parts).rstrip(",")


def _likely_contrast(sequence: PulseSequence, header: SeriesHeader) -> Contrast:
    """Contrast that decides on typical values of a train; the signal itself does not depend on it."""
    if sequence in (PulseSequence.SPIN_ECHO, PulseSequence.SPOILED_GRADIENT_ECHO, PulseSequence.MPRAGE):
        return Contrast.T1W
    if header.inversion_time is not None:
        return Contrast.FLAIR
    return Contrast.T2W if (header.echo_time or 0.0) > 0.03 else Contrast.T1W


def _triple(values: torch.Tensor) -> tuple[float, float, float]:
    first, second, third = values.tolist()
    return first, second, third


def _percent(values: tuple[float, float, float]) -> str:
    return " / ".join("-" if math.isinf(value) else f"{100 * value:.3g}" for value in values)
