"""Contrast and pulse-sequence family of a series, decided by its numbers.

Names never say what a series is. That a name says scout or angiography counts only against a gradient echo whose
numbers fit those as well as a T1w image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from qmri_core.series.acquisition import Contrast, PulseSequence, SeriesHeader
from qmri_core.series.remarks import Remark
from qmri_core.tissues import NOMINAL


class SkipReason(StrEnum):
    """Why a series is not taken as T1w, T2w or FLAIR."""

    LOCALIZER = "localizer"
    DERIVED = "derived"
    PHASE = "phase"
    FIELD_MAP = "field_map"
    EPI = "epi"
    DIFFUSION = "diffusion"
    MOSAIC = "mosaic"
    MR_SPECTROSCOPY = "mr_spectroscopy"
    NOT_IMAGE = "not_image"
    NOT_MR = "not_mr"
    UNDECODABLE = "undecodable"
    CONTRAST_UNKNOWN = "contrast_unknown"
    INCOMPLETE = "incomplete"
    DUPLICATE = "duplicate"
    OTHER_VISIT = "other_visit"
    NO_PARAMETERS = "no_parameters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the series beside this one, and header values that are not kept, say about it."""

    diffusion: bool = False
    angiography: bool = False
    contrast_agent: bool = False
    field_map: bool = False
    named_localizer: bool = False
    named_angiography: bool = False
    named_calibration: bool = False
    named_flair: bool = False
    named_agent: bool = False
    named_native: bool = False
    """The last six: words of a name, or a note on an agent, which only weigh where numbers leave something open."""
    odd_inversion_time: bool = False
    """Inversion times are written, none of which can be one."""
    lossy: bool = False
    """Compressed with loss."""
    processed: bool = False
    """Changed after the scanner had made it: a secondary capture, made days later, or slices between those acquired."""
    unscaled: bool = False
    """Without the vendor's factor that makes values of its series comparable (Philips)."""
    converted: bool = False
    """An archive's conversion of classic images to one object."""
    combined: bool = False
    """Made of several echoes that lie beside it."""
    acquired: float | None = None
    """Seconds from the first acquisition of the session to this one, or from midnight; differences count alone."""
    n_strays: int = 0
    """Single images of another kind under the same series identifier, which are left out."""
    n_missing: int = 0
    """Images that the header's own count shows to be missing."""
    n_cut: int = 0
    """Files that end within their pixels."""
    in_cut_archive: bool = False
    """It lies in an archive that cannot be read to its end."""
    rounding: float = 0.0
    """Millimetres to which positions are rounded, where that makes the steps between slices uneven."""
    n_orientations: int = 1
    """Slice orientations under the same series identifier."""
    n_echoes: int = 1
    """Echo times of one acquisition, this one included."""
    n_inversion_times: int = 1
    """Inversion times with otherwise equal parameters in the session, this one included."""
    n_flip_angles: int = 1
    """Flip angles with otherwise equal parameters in the session, this one included."""
    n_sibling_echoes: int = 1
    """Echo times with otherwise equal parameters in the session, in series of their own, this one included."""
    n_volumes: int = 1
    """Repeated volumes of the same acquisition under the same series identifier."""
    has_phase: bool = False
    """A phase image of the same acquisition exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a series is taken for: a contrast and family, or a reason to leave it out.

    ``reason`` is None exactly for series to be ingested. ``contrast`` may be given beside a reason (a duplicate T1w is
    still a T1w). ``assumed`` is True where the contrast was stated by a user, or by a BIDS name alone. ``place`` is
    that among the equal series of a contrast: 0 of the one taken, 1 and more of its repeats in the order of preference,
    None of all others. ``doubts`` are what to know of a series that is taken all the same.
    """

    contrast: Contrast | None
    sequence: PulseSequence | None
    reason: SkipReason | None
    explanation: str
    assumed: bool = False
    place: int | None = None
    doubts: tuple[Remark, ...] = ()


MIN_SLICES = 3
"""Fewer slices are no volume."""

_PHASE = frozenset({"P", "PHASE", "R", "REAL", "I", "IMAGINARY"})
_DERIVED = frozenset(
    {
        "DERIVED", "MPR", "MIP", "MINIP", "PROJECTION", "REFORMATTED", "SUBTRACTION", "SUBTRACT", "UNI", "DIVISION",
        "T1 MAP", "T2 MAP", "MAP", "ADC", "FA", "TRACEW", "CSA MPR", "SCREEN SAVE", "RESAMPLED",
    }
)  # fmt: skip
_REFORMATTED = frozenset({"DERIVED", "MPR", "REFORMATTED", "RESAMPLED", "CSA MPR"})
"""Of these, codes of images that still have a contrast: who names one in BIDS has chosen it."""
_NO_ANATOMY = frozenset({"PERFUSION", "ASL", "TIME_OF_FLIGHT", "TOF", "ANGIO", "SWI", "FLOW_ENCODED", "FMRI"})
_CHEMICAL_SHIFT = frozenset({"FAT", "OPP_PHASE"})

# Nominal T1, T2 and PD order the tissues of a sequence, and that order is the contrast.
_WHITE, _GREY, _CSF = NOMINAL["WM"], NOMINAL["GM"], NOMINAL["CSF"]
_EDGE_T1 = 1.08  # white over grey matter, at least, in a T1w image
_EDGE_T2 = 1.10  # CSF over grey and grey over white matter, at least, in a T2w image
_CSF_NULL = 0.15  # largest |Mz| of CSF at excitation, relative to equilibrium, that counts as nulled
_CSF_EARLY = -0.25  # the same on the side of short TI: an imperfect inversion and a cold fluid recover sooner


def classify(
    header: SeriesHeader,
    *,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    context: Context | None = None,
    problem: SkipReason | None = None,
    contrast: Contrast | None = None,
    named: Contrast | None = None,
    sequence: PulseSequence | None = None,
) -> Decision:
    """Decide what a series is.

    Parameters
    ----------
    header
        Values of the header, SI units.
    shape, spacing
        Voxels and millimetres in the order x, y, z of the stored volume; zeros if there is none.
    context
        What neighbouring series say; None if nothing is known.
    problem
        A defect found while the volume was put together, or another kind of object.
    contrast, sequence
        Stated by a user; trusted above the numbers, but not above a defect.
    named
        Contrast by a BIDS name; trusted where the numbers do not say what the series is.

    Returns
    -------
    Decision
        Deterministic in its arguments; ``explanation`` holds numbers and codes only.
    """
    context = context or Context()
    if problem not in {None, SkipReason.INCOMPLETE, SkipReason.DUPLICATE}:
        return _skip(problem, _PROBLEM_TEXT.get(problem, f"known to be {problem} before its numbers were read"))
    if contrast is not None:
        found = _stated(header, contrast, sequence)
    elif named is not None:
        found = _named(header, context, spacing, named)
    else:
        excluded = _excluded(header, context)
        if excluded is not None:
            return excluded
        found = _contrast(header, context, spacing)
    if problem is not None:
        if found.reason is SkipReason.NO_PARAMETERS and found.contrast is None:
            return found
        return replace(found, reason=problem, explanation=_PROBLEM_TEXT[problem])
    if min(shape) < MIN_SLICES or min(spacing) <= 0:
        return replace(found, reason=SkipReason.INCOMPLETE, explanation=f"{min(shape)} slices are no volume")
    return found


_PROBLEM_TEXT = {
    SkipReason.NOT_MR: "not a magnetic resonance object",
    SkipReason.UNDECODABLE: "its pixels are encoded in a way that no decoder here reads",
    SkipReason.NOT_IMAGE: "an object without pixels of an image",
    SkipReason.MR_SPECTROSCOPY: "magnetic resonance spectroscopy",
    SkipReason.INCOMPLETE: "slices are missing, doubled, unevenly spaced or without position",
    SkipReason.DUPLICATE: "another copy of the same instances is taken",
}


def _skip(reason: SkipReason, explanation: str) -> Decision:
    return Decision(contrast=None, sequence=None, reason=reason, explanation=explanation)


def _excluded(header: SeriesHeader, context: Context) -> Decision | None:
    """Say why the series cannot be one of the three contrasts, whatever its timing."""
    kinds = set(header.image_type)
    codes = set(header.scanning_sequence)
    if {"MOSAIC", "VFRAME"} & kinds:
        return _skip(SkipReason.MOSAIC, "slices tiled into one image")
    if context.diffusion or {"DIFFUSION", "ADC", "FA", "TRACEW"} & kinds:
        return _skip(SkipReason.DIFFUSION, "diffusion weighted, or made from it")
    if "EP" in codes:
        return _skip(SkipReason.EPI, "echo-planar readout")
    if _PHASE & kinds:
        return _skip(SkipReason.PHASE, "phase, real or imaginary part")
    if {"LOCALIZER", "SCOUT"} & kinds and not _DERIVED & kinds:
        return _skip(SkipReason.LOCALIZER, "image type of a localizer")
    if _DERIVED & kinds and not (context.combined and _DERIVED & kinds == {"DERIVED"}):
        return _skip(SkipReason.DERIVED, f"image type {_codes(_DERIVED & kinds)}")
    if context.n_orientations > 1:
        return _skip(SkipReason.LOCALIZER, f"{context.n_orientations} slice orientations in one series")
    if context.field_map:
        return _skip(SkipReason.FIELD_MAP, "sequence of a field map")
    if _CHEMICAL_SHIFT & kinds:
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"chemical shift image, {_codes(_CHEMICAL_SHIFT & kinds)}")
    if context.angiography or _NO_ANATOMY & kinds or "VASCTOF_GEMS" in header.scan_options:
        return _skip(SkipReason.CONTRAST_UNKNOWN, "angiography, perfusion or susceptibility imaging")
    if context.contrast_agent:
        return _skip(SkipReason.CONTRAST_UNKNOWN, "after a contrast agent")
    return None


def _contrast(header: SeriesHeader, context: Context, spacing: tuple[float, float, float]) -> Decision:
    """Contrast and family from timing alone."""
    if header.repetition_time is None and header.echo_time is None and header.inversion_time is None:
        return _skip(SkipReason.NO_PARAMETERS, "neither TR, TE nor TI in the header")
    gradient = is_gradient_echo(header)
    if gradient and context.n_echoes > 1:
        if context.has_phase and context.n_echoes == 2:
            return _skip(SkipReason.FIELD_MAP, f"two gradient echoes with phase, {_numbers(header)}")
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"{context.n_echoes} gradient echoes, {_numbers(header)}")
    if context.n_echoes > 2:  # of two, the later is a T2w, and the earlier shows proton density
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"one of {context.n_echoes} echoes, {_numbers(header)}")
    if context.n_inversion_times > 2:
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"one of {context.n_inversion_times} inversion times")
    if context.n_volumes > 2:
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"one of {context.n_volumes} repeated volumes")
    if context.n_flip_angles > 2:
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"one of {context.n_flip_angles} flip angles, {_numbers(header)}")
    if context.n_sibling_echoes > 2:
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"one of {context.n_sibling_echoes} echoes, {_numbers(header)}")
    if gradient:
        return _gradient_echo(header, context, spacing)
    if gradient is None or header.repetition_time is None or header.echo_time is None:
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"family not determined, {_numbers(header)}")
    return _echo_train(header)


def is_gradient_echo(header: SeriesHeader) -> bool | None:
    """Whether the readout is a gradient echo; None if neither codes nor numbers say so."""
    codes = set(header.scanning_sequence)
    if "SE" in codes:
        return False
    if "GR" in codes:
        return True
    echo, angle = header.echo_time, header.flip_angle
    if echo is not None and angle is not None and echo < 0.012 and angle < math.radians(41):
        return True  # a spin echo needs two pulses before its echo, and no spin echo excites so little
    if "IR" in codes or (echo is not None and echo > 0.040):
        return False
    if angle is not None and angle >= math.radians(85) and echo is not None and echo >= 0.006:
        return False
    return None


def _gradient_echo(header: SeriesHeader, context: Context, spacing: tuple[float, float, float]) -> Decision:
    tr, echo, angle = header.repetition_time, header.echo_time, header.flip_angle
    if echo is not None and echo > 0.012:
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"gradient echo with T2* weighting, {_numbers(header)}")
    if is_mprage(header):
        ti = header.inversion_time
        if ti is not None and not 0.3 <= ti <= 1.5:
            return _skip(SkipReason.CONTRAST_UNKNOWN, f"inversion time of no T1w image, {_numbers(header)}")
        if tr is not None and tr > 3.6:
            return _skip(SkipReason.CONTRAST_UNKNOWN, f"one of two inversion contrasts, {_numbers(header)}")
        return _taken(Contrast.T1W, PulseSequence.MPRAGE, header)
    if tr is None or angle is None:
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"TR or flip angle missing, {_numbers(header)}")
    other = _no_plain_gradient_echo(header, context, spacing, tr, angle)
    if other is not None:
        return other
    white, grey, csf = (_spoiled(tissue, tr, angle) for tissue in (_WHITE, _GREY, _CSF))
    if white < _EDGE_T1 * grey or csf > 0.75 * white:
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"gradient echo without T1 weighting, {_numbers(header)}")
    return _taken(Contrast.T1W, PulseSequence.SPOILED_GRADIENT_ECHO, header)


def _no_plain_gradient_echo(
    header: SeriesHeader, context: Context, spacing: tuple[float, float, float], tr: float, angle: float
) -> Decision | None:
    """Say what else than a T1w image an unprepared gradient echo is, if it is."""
    numbers = _numbers(header)
    if context.has_phase:
        return _skip(SkipReason.FIELD_MAP, f"gradient echo with phase, {numbers}")
    if context.n_sibling_echoes > 1:
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"one of {context.n_sibling_echoes} gradient echoes, {numbers}")
    is_quick = tr < 0.015
    flat = header.mr_acquisition_type == "2D" and tr < 0.1  # slice after slice: no multi-slice T1w image
    if context.named_localizer and (is_quick or flat):
        return _skip(SkipReason.LOCALIZER, f"quick gradient echo named a localizer, {numbers}")
    if context.named_calibration and min(spacing) >= 1.5:
        return _skip(SkipReason.LOCALIZER, f"coarse gradient echo named a calibration scan, {numbers}")
    if header.mr_acquisition_type != "2D" and tr < 0.0038 and min(spacing) >= 1.5:
        return _skip(SkipReason.LOCALIZER, f"quick and coarse gradient echo, {numbers}")
    if flat:
        reason = SkipReason.LOCALIZER if is_quick else SkipReason.CONTRAST_UNKNOWN
        return _skip(reason, f"single-slice gradient echo, {numbers}")
    steep = math.radians(34.5)
    if is_quick and (angle > steep or (set(header.sequence_variant) == {"SS"} and angle > math.radians(25))):
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"balanced gradient echo or angiography, {numbers}")
    if "MTC" in header.sequence_variant:
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"gradient echo with magnetisation transfer, {numbers}")
    if context.named_angiography or (
        header.mr_acquisition_type == "3D"
        and "FC" in header.scan_options
        and 0.015 <= tr <= 0.045
        and sorted(spacing)[1] < 0.75
    ):
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"gradient echo of an angiography, {numbers}")
    return None


def is_mprage(header: SeriesHeader) -> bool:
    """Whether a gradient echo is magnetisation prepared: inversion code, prepared variant or an inversion time."""
    prepared = "IR" in header.scanning_sequence or "MP" in header.sequence_variant or header.inversion_time is not None
    return prepared and header.mr_acquisition_type != "2D"


def _echo_train(header: SeriesHeader) -> Decision:
    """Contrast of a spin echo or an echo train from the order of tissue signals at its TR, TE and TI."""
    tr, echo, ti = header.repetition_time, header.echo_time, header.inversion_time
    assert tr is not None  # noqa: S101  # checked by the caller
    assert echo is not None  # noqa: S101
    if ti is not None and ti < 0.3 and header.scanning_sequence and "IR" not in header.scanning_sequence:
        ti = None  # of a fat-selective pulse
    if ti is None and "IR" in header.scanning_sequence:
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"inversion recovery without TI, {_numbers(header)}")
    if ti is not None:
        fluid = _recovery(_CSF, tr, ti)
        if _CSF_EARLY < fluid < _CSF_NULL and ti >= 1.4 and echo >= 0.06:
            return _taken(Contrast.FLAIR, family(header, Contrast.FLAIR), header)
        if abs(fluid) < _CSF_NULL and 0.5 <= ti < 1.4 and echo <= 0.04:
            return _taken(Contrast.T1W, PulseSequence.INVERSION_RECOVERY_TSE, header)
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"inversion recovery that is no FLAIR, {_numbers(header)}")
    effective = min(echo, 0.12)  # variable flip trains hold the signal longer than their echo time says
    white, grey, csf = (_spin_echo(tissue, tr, effective) for tissue in (_WHITE, _GREY, _CSF))
    if white >= _EDGE_T1 * grey and csf < white:
        return _taken(Contrast.T1W, family(header, Contrast.T1W), header)
    if csf >= _EDGE_T2 * grey and grey >= _EDGE_T2 * white and echo >= 0.055:
        return _taken(Contrast.T2W, family(header, Contrast.T2W), header)
    if white < grey and csf < _EDGE_T2 * grey and echo < 0.055:
        return _skip(SkipReason.CONTRAST_UNKNOWN, f"proton density, {_numbers(header)}")
    return _skip(SkipReason.CONTRAST_UNKNOWN, f"neither T1w nor T2w at {_numbers(header)}")


def _named(header: SeriesHeader, context: Context, spacing: tuple[float, float, float], named: Contrast) -> Decision:
    """Trust a name where numbers are missing; where they say what a series is, they say it, and the name is wrong."""
    excluded = _excluded(header, context)
    if excluded is not None and (
        excluded.reason is not SkipReason.DERIVED or (_DERIVED - _REFORMATTED) & set(header.image_type)
    ):
        return replace(excluded, explanation=f"{excluded.explanation}, though named {named}")
    if not _is_determined(header):
        return _stated(header, named, None)
    found = _contrast(header, context, spacing)
    if found.contrast is named:
        return replace(_stated(header, named, None), assumed=False)  # what lies beside it may speak against both
    if named is Contrast.FLAIR and header.inversion_time is None and found.contrast is not Contrast.T1W:
        return Decision(
            contrast=named,
            sequence=None,
            reason=SkipReason.NO_PARAMETERS,
            explanation=f"named FLAIR, but without inversion time, {_numbers(header)}",
            assumed=True,
        )
    return replace(found, explanation=f"{found.explanation}, though named {named}")


def _is_determined(header: SeriesHeader) -> bool:
    """Whether the numbers suffice to say what a series is."""
    gradient = is_gradient_echo(header)
    if header.repetition_time is None or header.echo_time is None or gradient is None:
        return False
    return not gradient or header.flip_angle is not None or is_mprage(header)


def _stated(header: SeriesHeader, contrast: Contrast, sequence: PulseSequence | None) -> Decision:
    """Trust a stated contrast; take the family from the numbers if there are any."""
    if header.repetition_time is None or header.echo_time is None:
        return Decision(
            contrast=contrast,
            sequence=sequence,
            reason=SkipReason.NO_PARAMETERS,
            explanation="contrast stated, TR or TE unknown",
            assumed=True,
        )
    return Decision(
        contrast=contrast,
        sequence=sequence or family(header, contrast),
        reason=None,
        explanation=f"contrast stated, {_numbers(header)}",
        assumed=True,
    )


def family(header: SeriesHeader, contrast: Contrast) -> PulseSequence:
    """Most plausible pulse-sequence family of a series of known contrast."""
    three_dimensional = header.mr_acquisition_type == "3D"
    length = header.echo_train_length
    if contrast is Contrast.FLAIR:
        return PulseSequence.VARIABLE_FLIP_TSE if three_dimensional else PulseSequence.INVERSION_RECOVERY_TSE
    gradient = is_gradient_echo(header)
    if contrast is Contrast.T1W:
        if gradient or (gradient is None and three_dimensional):
            return PulseSequence.MPRAGE if is_mprage(header) else PulseSequence.SPOILED_GRADIENT_ECHO
        if header.inversion_time is not None:
            return PulseSequence.INVERSION_RECOVERY_TSE
        if not three_dimensional and (length is None or length <= 1):
            return PulseSequence.SPIN_ECHO
    if three_dimensional:
        return PulseSequence.VARIABLE_FLIP_TSE
    return PulseSequence.SPIN_ECHO if length is not None and length <= 1 else PulseSequence.TURBO_SPIN_ECHO


def _taken(contrast: Contrast, sequence: PulseSequence, header: SeriesHeader) -> Decision:
    return Decision(contrast=contrast, sequence=sequence, reason=None, explanation=f"{sequence}, {_numbers(header)}")


def _spoiled(tissue: tuple[float, float, float], tr: float, angle: float) -> float:
    t1, _, density = tissue
    recovery = math.exp(-tr / t1)
    return density * math.sin(angle) * (1 - recovery) / (1 - math.cos(angle) * recovery)


def _spin_echo(tissue: tuple[float, float, float], tr: float, echo: float) -> float:
    t1, t2, density = tissue
    return density * (1 - math.exp(-tr / t1)) * math.exp(-echo / t2)


def _recovery(tissue: tuple[float, float, float], tr: float, ti: float) -> float:
    return 1 - 2 * math.exp(-ti / tissue[0]) + math.exp(-tr / tissue[0])


def _codes(values: Iterable[str]) -> str:
    return ", ".join(sorted(values))


def _numbers(header: SeriesHeader) -> str:
    """Write the timing in the units that radiographers use."""
    parts = [header.mr_acquisition_type or "?D"]
    for name, value in (("TR", header.repetition_time), ("TE", header.echo_time), ("TI", header.inversion_time)):
        if value is not None:
            parts.append(f"{name} {round(value * 1000, 2):g} ms")
    if header.flip_angle is not None:
        parts.append(f"flip {math.degrees(header.flip_angle):.3g} deg")
    if header.echo_train_length is not None:
        parts.append(f"train {header.echo_train_length}")
    return " ".join(parts)
