"""Series as they are written on a console, and what a protocol determines as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from qmri_core.physics.header import acquisition_from_header
from qmri_core.series.acquisition import Acquisition, AcquisitionError, Contrast, PulseSequence, SeriesHeader

if TYPE_CHECKING:
    from qmri_core.evaluation.protocol_advice import ProtocolReport

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


def protocol_of(series: Mapping[Contrast, str], *, manufacturer: str, field_strength: float) -> tuple[Acquisition, ...]:
    """Acquisitions of a protocol from the text of its series, read by `parse_series`; an empty text is no series.

    Raises
    ------
    AcquisitionError
        As `parse_series`.
    """
    return tuple(
        parse_series(text, contrast=contrast, manufacturer=manufacturer, field_strength=field_strength)
        for contrast, text in series.items()
        if text.strip()
    )


def report_text(report: ProtocolReport) -> str:
    """A report of `qmri_core.evaluation.protocol_advice.advise` for the terminal."""
    lines = ["Parameters as the signal models take them (m measured, d derived, a assumed):"]
    lines += [f"  {describe(acquisition)}" for acquisition in report.acquisitions]
    lines += [
        "",
        f"Smallest standard deviation per voxel of tissues at {report.field_strength:g} T, percent of T1 / T2 / PD, "
        f"at white-matter SNR {report.snr:g}:",
        f"  {'tissue':<14} {'images alone':>22} {'with prior 15/20/5 %':>22} {'condition':>10} {'scale gain':>11}",
    ]
    for row in report.rows:
        gain = "-" if math.isnan(row.scale_gain) else f"{row.scale_gain:.1f}"
        condition = "-" if math.isnan(row.condition) else f"{row.condition:.0f}"
        lines.append(
            f"  {row.tissue:<14} {_percent(row.alone):>22} {_percent(row.with_prior):>22} {condition:>10} {gain:>11}"
        )
    lines += [
        "",
        "condition: relative change of the maps per relative change of the images, worst direction.",
        "scale gain: percent error of the worst map per percent error of one series' intensity scale; it does not",
        "average out over a region. Where the bound with prior is near the prior, the images add little there.",
    ]
    if "lesion" not in {row.tissue for row in report.rows}:
        lines.append(f"Of nuclei and lesions no values are known at {report.field_strength:g} T.")
    names = {"WM": "white", "GM": "grey"}
    levels = next(iter(report.slopes.values()))
    header = "".join(f"{f'{names[tissue]} {quantity.upper()}':>10}" for tissue, quantity in levels)
    lines += ["", "Share of the differences between people that a session shows at best:", f"  {'scales':<14}{header}"]
    for spread, slopes in report.slopes.items():
        values = "".join(f"{value:>10.2f}" for value in slopes.values())
        lines.append(f"  {f'within {spread:.1%}':<14}{values}")
    return "\n".join(lines)


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


def _percent(values: tuple[float, float, float]) -> str:
    return " / ".join("-" if math.isinf(value) else f"{100 * value:.3g}" for value in values)
