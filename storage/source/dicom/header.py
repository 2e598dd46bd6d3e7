"""Values of a DICOM header in SI units: coded words and numbers from allow-lists, nothing else."""

from __future__ import annotations

import datetime
import math
import re
from typing import Any

from pydicom.dataset import Dataset

from qmri_core.series.acquisition import SeriesHeader
from storage.source.dates import NO_NUMBER
from storage.source.dicom.elements import (
    all_numbers,
    first_number,
    first_value,
    first_words,
    get_code,
    get_number,
    get_text,
    get_words,
    private_creators,
    private_number,
    private_words,
    transfer_syntax,
)
from storage.source.dicom.names import traits_of_names
from storage.source.dicom.scale import PHILIPS_SCALE


def words_of(text: str) -> frozenset[str]:
    """Words of a text."""
    return frozenset(text.split())


_IMAGE_TYPES = words_of(
    "ORIGINAL DERIVED PRIMARY SECONDARY OTHER M P R I MAGNITUDE PHASE REAL IMAGINARY MIXED NONE ND NORM DIS2D "
    "DIS3D FIL FM MFSPLIT MOSAIC VFRAME MPR MIP MINIP PROJECTION REFORMATTED SUBTRACTION SUBTRACT RESAMPLED "
    "UNI DIVISION LOCALIZER SCOUT DIFFUSION ADC FA TRACEW PERFUSION ASL TOF TIME_OF_FLIGHT SWI FLOW_ENCODED "
    "FMRI CSAPARALLEL T1 T2 T2_STAR PROTON_DENSITY FLUID_ATTENUATED STIR M_SE M_FFE M_IR P_SE P_FFE P_IR R_SE "
    "R_FFE R_IR I_SE I_FFE I_IR SE FFE IR SPECTROSCOPY WATER FAT IN_PHASE OPP_PHASE PCA M_PCA P_PCA DIXON ANGIO "
    "MOCO RMS SOS MEAN COMBINED"
) | {"PROJECTION IMAGE", "PHASE MAP", "T1 MAP", "T2 MAP", "CSA MPR", "SCREEN SAVE", "MEAN_DIFFUSION"}
_SYNONYMS = {
    "W": "WATER", "F": "FAT", "IP": "IN_PHASE", "OP": "OPP_PHASE", "OUT_PHASE": "OPP_PHASE", "PJN": "PROJECTION",
    "PROJECTION IMAGE": "PROJECTION", "PHASE MAP": "PHASE", "PHASE CONTRAST M": "FLOW_ENCODED", "PCA": "FLOW_ENCODED",
    "M_PCA": "FLOW_ENCODED", "P_PCA": "PHASE", "VELOCITY MAP": "PHASE", "VELOCITY": "PHASE", "ISOTROPIC": "TRACEW",
    "TRACE": "TRACEW", "EADC": "ADC", "DADC": "ADC", "ADC_UNSPECIFIED": "ADC", "EXP": "ADC", "SUB": "SUBTRACTION",
    "SUBTRACTED": "SUBTRACTION", "OPPOSED_PHASE": "OPP_PHASE", "INPHASE": "IN_PHASE", "MRA": "ANGIO",
    "PERFUSION_ASL": "ASL", "SURVEY": "LOCALIZER", "SURV": "LOCALIZER",
}  # fmt: skip
_MAPS = words_of("MAP B0 B1 RCBV RCBF CBF CBV MTT TTP TMAX PBP KTRANS TTEST STDDEV R2 R2_STAR T0 QSM")
_COMPONENTS = {"MAGNITUDE": "M", "PHASE": "PHASE", "REAL": "REAL", "IMAGINARY": "IMAGINARY"}
_PARTS = {"P_": "PHASE", "R_": "REAL", "I_": "IMAGINARY"}
_SEQUENCES = frozenset({"SE", "IR", "GR", "EP", "RM"})
_VARIANTS = frozenset({"SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "NONE"})
_OPTIONS = words_of(
    "PER RG CG PPG FC PFF PFP SP FS CT SAT1 SAT2 OTHER NONE IR_GEMS EDR_GEMS FAST_GEMS SEQ_GEMS TRF_GEMS "
    "SS_GEMS ACC_GEMS FILTERED_GEMS FSA_GEMS FSI_GEMS FSS_GEMS T2FLAIR_GEMS T1FLAIR_GEMS VASCTOF_GEMS MP_GEMS "
    "WE EPI_GEMS DIFF_GEMS"
)

_MANUFACTURERS = (
    ("siemens", "Siemens"), ("philips", "Philips"), ("ge medical", "GE"), ("ge healthcare", "GE"), ("general el", "GE"),
    ("canon", "Canon"), ("toshiba", "Canon"), ("uih", "UIH"), ("united imaging", "UIH"), ("hitachi", "Hitachi"),
    ("fujifilm", "Hitachi"),
)  # fmt: skip
_MODELS = (
    ("Philips", r"achieva|ingenia|intera|gyroscan|panorama|elition|ambition"),
    ("Siemens", r"magnetom|trio|skyra|prisma|avanto|aera|verio|symphony|sonata|espree|allegra|vida|sola|lumina|terra"),
    ("GE", r"signa|discovery|optima|genesis"),
    ("UIH", r"^umr"),
    ("Canon", r"vantage|galan|orian|excelart"),
    ("Hitachi", r"echelon|oasis|airis"),
)
# Gadolinium agents; the header field is free text, so that a mere note in it must not count.
_AGENTS = re.compile(
    r"gad|gd-|gbca|omniscan|magnevist|magne[gv]ita|dotarem|dotagraf|dotagita|prohance|multihance|clariscan|cyclolux|"
    r"elucirem|vueway|eovist|primovist|artirem|ferumoxytol|feraheme|[1-9]\d*\s*ml\b|mmol"
)
# What says that one was given without naming it, unless a word denies it; tools also write ANONYMIZED there.
_SOME_AGENT = re.compile(
    r"\b(y|yes|ja|oui|s[i\u00ed]|true|given|km|[ck]ontrast\w*|mdc|medium|agent|i\.?v|bolus|inject\w*)\b|[1-9]"
)
_NO_AGENT = re.compile(
    r"\b(no|non|none|not|nein|kein\w*|nil|null|without|w/o|ohne|sans|sin|senza|nativ\w*|unenhanced|unknown|false)\b|n/a"
)
_TOF_SEQUENCE = re.compile(r"fl[23]d\d*r_t\d|^\*?tof", re.IGNORECASE)
# Sequence names of Siemens for echo trains with an inversion: *tir2d1_16fs, *spcir_242ns.
_INVERSION_SEQUENCE = re.compile(r"^\*?(t?ir[23b_]|spc3?d?ir)", re.IGNORECASE)

LONGEST_INVERSION = 20_000.0
"""Milliseconds; a longer inversion time is no number that a scanner meant (exporters write 1.8e308 for none)."""

LARGEST_TRANSMIT_FIELD = 20.0
"""Microtesla; a larger root mean square over an acquisition is no number that a scanner meant."""

PHILIPS = "Philips Imaging DD 001"
"""Creator of the Philips block of group 2001."""


def header_values(sources: tuple[Dataset, ...], image_type: tuple[str, ...], top: Dataset) -> SeriesHeader:
    """Allow-listed values in SI units, the first source that has one counting."""
    manufacturer = manufacturer_of(get_text(top, "Manufacturer"), get_text(top, "ManufacturerModelName"))
    options = _coded(first_words(sources, "ScanOptions"), _OPTIONS)
    codes = _coded(first_words(sources, "ScanningSequence"), _SEQUENCES) or _pulse_codes(sources)
    if "EP" not in codes and (_is_echo_planar(sources, top) or "EPI_GEMS" in options):
        codes = (*codes, "EP")
    if "IR" not in codes and _is_inverted(sources):
        codes = (*codes, "IR")
    inversion = _seconds(next(iter(inversion_times(sources)), None))
    if inversion is None and manufacturer == "Philips":
        inversion = _seconds(private_number(top, 0x2001, PHILIPS, 0x1B))  # prepulse delay
    angle = first_number(sources, "FlipAngle")
    lengths = [first_number(sources, name) for name in ("EchoTrainLength", "RFEchoTrainLength")]
    length = max((int(value) for value in lengths if value), default=None)
    transmit = first_number(sources, "B1rms")
    kind = get_text(top, "MRAcquisitionType").upper() or str(first_value(sources, "MRAcquisitionType") or "")
    return SeriesHeader(
        manufacturer=manufacturer,
        model=slug(get_text(top, "ManufacturerModelName")),
        magnetic_field_strength=field_strength(
            get_number(top, "MagneticFieldStrength"), get_number(top, "ImagingFrequency")
        ),
        mr_acquisition_type=kind if kind in {"2D", "3D"} else "",
        scanning_sequence=codes,
        sequence_variant=_coded(first_words(sources, "SequenceVariant"), _VARIANTS),
        scan_options=options,
        image_type=image_type,
        repetition_time=_seconds(first_number(sources, "RepetitionTime")),
        echo_time=_seconds(first_number(sources, "EffectiveEchoTime") or first_number(sources, "EchoTime")),
        inversion_time=inversion,
        flip_angle=math.radians(angle) if angle is not None and 0 < angle <= 180 else None,
        echo_train_length=length if length is not None and 0 < length <= 10_000 else None,
        b1_rms=transmit * 1e-6 if transmit is not None and 0 < transmit <= LARGEST_TRANSMIT_FIELD else None,
    )


def _is_inverted(sources: tuple[Dataset, ...]) -> bool:
    names = (first_value(sources, "SequenceName"), first_value(sources, "PulseSequenceName"))
    return first_value(sources, "InversionRecovery") == "YES" or any(
        isinstance(name, str) and _INVERSION_SEQUENCE.search(name) for name in names
    )


def inversion_times(sources: tuple[Dataset, ...]) -> list[float]:
    """Inversion times in milliseconds that a scanner may have meant, the first one counting."""
    given = [*all_numbers(sources, "InversionTimes"), *all_numbers(sources, "InversionTime")]
    return [value for value in given if 0 < value <= LONGEST_INVERSION]


def _has_odd_inversion_time(sources: tuple[Dataset, ...]) -> bool:
    """Whether there are inversion times, none of which can be one."""
    given = [*all_numbers(sources, "InversionTimes"), *all_numbers(sources, "InversionTime")]
    return any(value != 0 for value in given) and not inversion_times(sources)


def _pulse_codes(sources: tuple[Dataset, ...]) -> tuple[str, ...]:
    pulse = first_value(sources, "EchoPulseSequence")
    return {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}.get(str(pulse), ())


def _is_echo_planar(sources: tuple[Dataset, ...], top: Dataset) -> bool:
    """Philips codes an echo-planar readout as SE or GR, and tells it by the EPI factor."""
    if first_value(sources, "EchoPlanarPulseSequence") == "YES":
        return True
    techniques = (private_words(top, 0x2001, PHILIPS, 0x20), first_words(sources, "PulseSequenceName"))
    if any("EPI" in word for words in techniques for word in words):
        return True
    return (private_number(top, 0x2001, PHILIPS, 0x13) or 0) >= 5 and first_value(sources, "MRAcquisitionType") != "3D"


def image_type_of(words: tuple[str, ...], component: str) -> tuple[str, ...]:
    """Known codes only, with the complex part spelled out and vendors' synonyms made one."""
    result = [code for code in (_code(word) for word in words) if code]
    if component in _COMPONENTS:
        result = [word for word in result if word not in {"P", "R", "I"}]
        result.append(_COMPONENTS[component])
    result += [_PARTS[word[:2]] for word in words if word[:2] in _PARTS and word in _IMAGE_TYPES]
    return tuple(dict.fromkeys(result))


def _code(word: str) -> str:
    if word in _SYNONYMS:
        return _SYNONYMS[word]
    if word in _IMAGE_TYPES:
        return "" if word == "NONE" else word
    parts = set(re.split(r"[^A-Z0-9]+", word))
    if parts & _MAPS or word in _MAPS:
        return "MAP"
    if word.startswith(("MIP", "MPR")):
        return word[:3]
    return next((code for code in ("ADC", "TRACEW", "ASL", "TOF", "PROJECTION", "SUBTRACTION") if code in parts), "")


def traits_of(top: Dataset) -> frozenset[str]:
    """Facts of a file for classification that are not kept; see `storage.source.dicom.frames.Frame`."""
    found = set(traits_of_frame((top,)))
    if _diffusion_weighting(top) > 0:
        found.add("diffusion")
    found |= traits_of_names(get_text(top, "SeriesDescription"), get_text(top, "ProtocolName"))
    lossy = get_text(top, "LossyImageCompression")
    if lossy == "01" or (not lossy and transfer_syntax(top) in _LOSSY):
        found.add("lossy")
    if get_text(top, "ConversionType") or get_text(top, "Modality") not in {"MR", ""}:
        found.add("processed")  # a secondary capture, or another kind of object in the guise of an MR image
    return frozenset(found)


_LOSSY = frozenset(f"1.2.840.10008.1.2.4.{node}" for node in ("50", "51", "81", "91"))


def traits_of_frame(sources: tuple[Dataset, ...]) -> frozenset[str]:
    """Those of them that the frames of one file may differ in."""
    found = set()
    name = str(first_value(sources, "SequenceName") or "")
    if _TOF_SEQUENCE.search(name):
        found.add("angiography")
    if re.match(r"\*?fm[23]d", name):
        found.add("field_map")
    if (first_number(sources, "DiffusionBValue") or 0) > 0:
        found.add("diffusion")
    if first_value(sources, "AngioFlag") == "Y":
        found.add("angiography")
    given = (first_number(sources, "ContrastBolusVolume") or 0) + (first_number(sources, "ContrastBolusTotalDose") or 0)
    notes = [str(first_value(sources, f"ContrastBolus{what}") or "") for what in ("Agent", "Ingredient")]
    if given > 0 or any(map(names_agent, notes)):
        found.add("contrast_agent")
    elif any(map(notes_agent, notes)):
        found.add("named_agent")
    if _has_odd_inversion_time(sources):
        found.add("odd_inversion_time")
    return frozenset(found)


def traits_of_scale(top: Dataset, nested: Dataset | None = None) -> frozenset[str]:
    """``unscaled``, for a Philips file without the factor that makes series comparable; ``nested`` is of one frame."""
    if manufacturer_of(get_text(top, "Manufacturer"), get_text(top, "ManufacturerModelName")) != "Philips":
        return frozenset()
    if any(private_number(source, 0x2005, PHILIPS_SCALE, 0x0E) for source in (top, nested) if source is not None):
        return frozenset()
    # of a block other than the first the element is not read: it is taken to be there
    return frozenset() if PHILIPS_SCALE in private_creators(top, 0x2005)[1:] else frozenset({"unscaled"})


def traits_of_rescale(top: Dataset) -> frozenset[str]:
    """``rescaled`` or ``plain``: whether a classic file says how its values are scaled, or nothing."""
    slope, intercept = get_number(top, "RescaleSlope"), get_number(top, "RescaleIntercept")
    if not slope:
        return frozenset({"plain"})
    return frozenset({"rescaled"}) if (slope, intercept or 0.0) != (1.0, 0.0) else frozenset()


_COMPLEX = {1: "PHASE", 2: "REAL", 3: "IMAGINARY"}


def complex_component(top: Dataset) -> str:
    """Part of a complex image that a classic file holds, by GE's own field; empty for the magnitude or if not said."""
    return _COMPLEX.get(int(private_number(top, 0x0043, "GEMS_PARM_01", 0x2F) or 0), "")


def _diffusion_weighting(top: Dataset) -> float:
    """Largest b-value in s/mm2 that a vendor's field gives."""
    values = [
        private_number(top, 0x0019, "SIEMENS MR HEADER", 0x0C),
        private_number(top, 0x2001, PHILIPS, 0x03),
        private_number(top, 0x0065, "Image Private Header", 0x09),
    ]
    gems = private_number(top, 0x0043, "GEMS_PARM_01", 0x39)
    if gems is not None:
        values.append(gems % 100_000 if gems > 1e6 else gems)  # newer software adds 1e9
    return max((value for value in values if value is not None and 0 < value < 1e5), default=0.0)


def names_agent(text: str) -> bool:
    """Whether a free text about a contrast agent names one."""
    return _AGENTS.search(text.lower()) is not None


def notes_agent(text: str) -> bool:
    """Whether a free text about a contrast agent says that one was given without naming it: evidence, no proof."""
    lower = text.lower()
    return _SOME_AGENT.search(lower) is not None and _NO_AGENT.search(lower) is None


def manufacturer_of(name: str, model: str) -> str:
    """Coded manufacturer, from the model where the name is missing or unknown; empty if neither is known."""
    lower = name.lower()
    if lower in {"ge", "gems"}:
        return "GE"
    for part, manufacturer in _MANUFACTURERS:
        if part in lower:
            return manufacturer
    return next((maker for maker, pattern in _MODELS if re.search(pattern, model.lower())), "")


def slug(text: str) -> str:
    """Lower-case letters, digits and single hyphens, at most 32."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:32].strip("-")


_STRENGTHS = (0.5, 0.55, 0.6, 0.7, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 4.7, 5.0, 7.0, 9.4, 10.5, 11.7)
"""Tesla of scanners for heads, from 0.5 T: those that a number in another unit may mean. Checked against no list."""

_PROTON_MHZ = 42.577
"""Larmor frequency of hydrogen in MHz per tesla."""


def field_strength(value: float | None, frequency: float | None = None) -> float | None:
    """Field strength in tesla of a header's number, which in old files may be in gauss or millitesla.

    Up to 12 it is tesla. A larger number is the strength of a scanner in millitesla or in gauss; where it may be
    either (7,000), the imaging frequency of hydrogen decides.

    Parameters
    ----------
    value
        What the header says.
    frequency
        Imaging frequency in MHz.

    Returns
    -------
    float or None
        Tesla; None if the number is not positive, means no scanner, or may mean two.
    """
    if value is None or value <= 0:
        return None
    if value <= 12.0:
        return value
    candidates = (value * 1e-3, value * 1e-4)
    if frequency is not None and frequency > 0:
        expected = frequency / _PROTON_MHZ
        meant = [strength for strength in candidates if abs(strength - expected) <= 0.05 * expected]
    else:
        meant = [strength for strength in candidates if _is_of_a_scanner(strength)]
    return meant[0] if len(meant) == 1 else None


def _is_of_a_scanner(strength: float) -> bool:
    """Whether a scanner is sold with this strength; what it has is up to 4.5 % less, as 2.87 T of 3 T."""
    return any(0.955 * sold <= strength <= 1.01 * sold for sold in _STRENGTHS)


def stated_age_of(header: Dataset) -> int | None:
    """Whole years as stated, `NO_NUMBER` for zero; None if nothing is stated. A number alone is one of years."""
    match = re.fullmatch(r"(\d{1,3})\s*([YMWD]?)", get_text(header, "PatientAge").upper())
    if match is None:
        return None
    number = int(match[1])
    return number // {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[match[2]] if number else NO_NUMBER


def date_of(header: Dataset, keyword: str) -> int | None:
    """Ordinal of a date; None if it is absent or none."""
    text = get_code(header, keyword).replace(".", "").replace("-", "")
    try:
        return datetime.date(int(text[:4]), int(text[4:6]), int(text[6:8])).toordinal()
    except ValueError:
        return None


def clock_of(header: Dataset, *keywords: str) -> float:
    """Seconds since midnight of the first of the keywords that is there; 0 if none is."""
    for keyword in keywords:
        text = get_text(header, keyword).replace(":", "")
        if re.fullmatch(r"\d{6}(\.\d*)?", text):
            return int(text[:2]) * 3600.0 + int(text[2:4]) * 60.0 + float(text[4:])
    return 0.0


def sex_of(header: Dataset) -> str:
    """``M``, ``F``, ``O`` or empty."""
    sex = get_text(header, "PatientSex").upper()
    return sex if sex in {"M", "F", "O"} else ""


def software_of(header: Dataset) -> str:
    """Text of the software version; only its keyed digest is kept."""
    return "\\".join(get_words(header, "SoftwareVersions"))


def _seconds(milliseconds: float | None) -> float | None:
    return milliseconds / 1000 if milliseconds is not None and milliseconds > 0 else None


def _coded(words: tuple[str, ...], known: frozenset[str]) -> tuple[str, ...]:
    return tuple(word for word in words if word in known and word != "NONE")


def code_words(value: Any) -> tuple[str, ...]:  # noqa: ANN401 - a value of a JSON sidecar
    """Image type codes of a list of words, as from a BIDS sidecar."""
    words = value if isinstance(value, list | tuple) else ()
    return image_type_of(tuple(str(word).strip().upper() for word in words), "")
