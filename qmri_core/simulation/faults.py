"""Kinds of broken sessions, each with the outcome that it must have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from qmri_core.series.acquisition import Contrast


class Fault(StrEnum):
    """What is wrong with a session of the design ``faults``; see `EXPECTATIONS`."""

    INTACT = "intact"
    MISSING_SLICE = "missing-slice"
    MISSING_SLICE_OF_T1W = "missing-slice-of-t1w"
    DOUBLED_SLICES = "doubled-slices"
    DUPLICATE_FILES = "duplicate-files"
    SERIES_SENT_TWICE = "series-sent-twice"
    TRUNCATED_FILE = "truncated-file"
    TRUNCATED_HEADER = "truncated-header"
    MERGED_SERIES = "merged-series"
    SHARED_INSTANCE_UID = "shared-instance-uid"
    UNEVEN_SPACING = "uneven-spacing"
    NO_FLAIR = "no-flair"
    NO_T1W = "no-t1w"
    CONTRAST_AGENT_ONLY = "contrast-agent-only"
    CONTRAST_AGENT_TOO = "contrast-agent-too"
    SEVEN_TESLA = "seven-tesla"
    FIELD_OF_VIEW = "field-of-view"
    NO_NUMBERS = "no-numbers"
    GROSS_MOTION = "gross-motion"
    PHANTOM = "phantom"
    NO_IMAGES = "no-images"
    SECONDARY_CAPTURE_ONLY = "secondary-capture-only"
    SEVERAL_CANDIDATES = "several-candidates"
    CORRUPTED_PIXELS = "corrupted-pixels"
    MIXED_ORIENTATION = "mixed-orientation"
    MIXED_MATRIX = "mixed-matrix"
    NO_POSITIONS = "no-positions"
    EMPTY_IMAGE = "empty-image"
    ANONYMISED = "anonymised"
    FOREIGN_FILES = "foreign-files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What must become of a session.

    ``status`` and ``reason`` are those of the catalogue after ingest, ``reason`` empty for a complete session;
    ``contrast`` and ``series_reason`` name the series concerned and why it is not taken (empty: a series of that
    contrast is taken all the same); ``has_maps`` says whether inference may give it maps.
    """

    status: str
    reason: str = ""
    contrast: Contrast | None = None
    series_reason: str = ""
    has_maps: bool = True
    text: str


def _complete(text: str, contrast: Contrast | None = None, *, has_maps: bool = True) -> Expectation:
    return Expectation(status="complete", contrast=contrast, has_maps=has_maps, text=text)


def _without(contrast: Contrast, series_reason: str, text: str) -> Expectation:
    """One series is not usable: the session lives on without it, unless that is the T1w."""
    is_t1w = contrast is Contrast.T1W
    return Expectation(
        status="skipped" if is_t1w else "partial",
        reason="missing_contrast",
        contrast=contrast,
        series_reason=series_reason,
        has_maps=not is_t1w,
        text=text,
    )


def _lost(status: str, reason: str, text: str, contrast: Contrast | None = None, why: str = "") -> Expectation:
    return Expectation(status=status, reason=reason, contrast=contrast, series_reason=why, has_maps=False, text=text)


_T1W, _T2W, _FLAIR = Contrast

EXPECTATIONS: Mapping[Fault, Expectation] = {
    Fault.INTACT: _complete("nothing is wrong"),
    Fault.MISSING_SLICE: _without(_T2W, "incomplete", "a slice in the middle of the T2w was never sent"),
    Fault.MISSING_SLICE_OF_T1W: _without(_T1W, "incomplete", "a slice in the middle of the T1w was never sent"),
    Fault.DOUBLED_SLICES: _without(
        _FLAIR, "incomplete", "three positions of the FLAIR are filled twice by different instances of other pixels"
    ),
    Fault.DUPLICATE_FILES: _complete("every file of the T2w lies there twice, byte for byte, under another name", _T2W),
    Fault.SERIES_SENT_TWICE: _complete("the FLAIR was sent again by an archive that gives new identifiers", _FLAIR),
    Fault.TRUNCATED_FILE: _lost(
        "failed", "read_error", "the pixels of one file of the FLAIR end in the middle", _FLAIR
    ),
    Fault.TRUNCATED_HEADER: _without(_FLAIR, "incomplete", "one file of the FLAIR ends within its header"),
    Fault.MERGED_SERIES: _complete("T1w and T2w carry the same series identifier and number", _T2W),
    Fault.SHARED_INSTANCE_UID: _complete("all files of the T2w carry the same instance identifier", _T2W),
    Fault.UNEVEN_SPACING: _without(_T2W, "incomplete", "the upper half of the T2w lies a third of a gap too high"),
    Fault.NO_FLAIR: Expectation(status="partial", reason="missing_contrast", text="no FLAIR was acquired"),
    Fault.NO_T1W: _lost("skipped", "missing_contrast", "no T1w was acquired"),
    Fault.CONTRAST_AGENT_ONLY: _without(_T1W, "contrast_unknown", "the only T1w follows a contrast agent"),
    Fault.CONTRAST_AGENT_TOO: _complete("a second T1w follows a contrast agent; the first is taken", _T1W),
    Fault.SEVEN_TESLA: _complete("acquired at 7 T: images are kept, there are no maps", has_maps=False),
    Fault.FIELD_OF_VIEW: _lost("failed", "field_of_view", "the T2w ends in the middle of the brain", _T2W),
    Fault.NO_NUMBERS: _lost("skipped", "no_parameters", "an export has removed all acquisition numbers"),
    Fault.GROSS_MOTION: _complete("the head is turned by 14 degrees and moved by 20 mm before the FLAIR", _FLAIR),
    Fault.PHANTOM: _lost("failed", "brain_mask", "a bottle of water instead of a head"),
    Fault.NO_IMAGES: _lost("skipped", "missing_contrast", "reports and raw data only"),
    Fault.SECONDARY_CAPTURE_ONLY: _lost("skipped", "missing_contrast", "screenshots only"),
    Fault.SEVERAL_CANDIDATES: _complete("two T1w: one of thick slices, acquired later, and one that is better", _T1W),
    Fault.CORRUPTED_PIXELS: _lost(
        "failed", "read_error", "the compressed pixels of one file of the FLAIR are garbage", _FLAIR
    ),
    Fault.MIXED_ORIENTATION: _without(_T2W, "incomplete", "every other slice of the T2w is turned by ten degrees"),
    Fault.MIXED_MATRIX: _without(_T2W, "incomplete", "one slice of the T2w has another matrix"),
    Fault.NO_POSITIONS: _without(_FLAIR, "incomplete", "an export has removed all positions from the FLAIR"),
    Fault.EMPTY_IMAGE: _lost("failed", "alignment", "all pixels of the FLAIR are zero", _FLAIR),
    Fault.ANONYMISED: _complete("patient, manufacturer, institution and dates are removed"),
    Fault.FOREIGN_FILES: _complete("texts, empty files and a DICOMDIR lie among the images"),
}
