"""Names of BIDS files: person, session, entities and suffix, and what they say of an image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from qmri_core.series.acquisition import Contrast
from qmri_core.series.classification import SkipReason
from storage.source.dicom.header import words_of

_IMAGE = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_PERSON = re.compile(r"sub-[A-Za-z0-9+]+")
_ENTITY = re.compile(r"([A-Za-z0-9]+)-([A-Za-z0-9+]+)")

CONTRASTS: Mapping[str, Contrast] = {
    **{contrast.value: contrast for contrast in Contrast},
    "inplaneT1": Contrast.T1W,
    "inplaneT2": Contrast.T2W,
}
"""What an image of a suffix is, if its numbers do not say otherwise."""

_SUFFIXES: Mapping[str, SkipReason] = {
    "bold": SkipReason.EPI, "sbref": SkipReason.EPI, "epi": SkipReason.EPI, "asl": SkipReason.EPI,
    "m0scan": SkipReason.EPI, "cbv": SkipReason.EPI, "dwi": SkipReason.DIFFUSION, "phase": SkipReason.PHASE,
    "phase1": SkipReason.PHASE, "phase2": SkipReason.PHASE, "phasediff": SkipReason.PHASE,
    "fieldmap": SkipReason.FIELD_MAP, "magnitude": SkipReason.FIELD_MAP, "magnitude1": SkipReason.FIELD_MAP,
    "magnitude2": SkipReason.FIELD_MAP, "TB1AFI": SkipReason.FIELD_MAP, "TB1DAM": SkipReason.FIELD_MAP,
    "TB1EPI": SkipReason.FIELD_MAP, "TB1RFM": SkipReason.FIELD_MAP, "TB1SRGE": SkipReason.FIELD_MAP,
    "TB1TFL": SkipReason.FIELD_MAP, "RB1COR": SkipReason.FIELD_MAP,
    **dict.fromkeys(
        words_of(
            "dseg mask probseg defacemask UNIT1 T1map T2map T2starmap R1map R2map R2starmap PDmap PDT2map MTRmap MTsat "
            "MTVmap MWFmap Chimap S0map M0map TB1map RB1map T1rho ADC"
        ), SkipReason.DERIVED
    ),
    **dict.fromkeys(
        words_of("T2star T2starw MTw MTR MTS MPM MP2RAGE MEGRE MESE VFA IRT1 PDT2 PDw PD SWI angio"),
        SkipReason.CONTRAST_UNKNOWN,
    ),
}  # fmt: skip
"""Suffixes that make an image none of the contrasts; the last are weighted by something else, of a set, or two in one.
"""

_AGENT = re.compile(
    r"gad(?!get)|gd$|^gd|gbca|postcontrast|postgd|t1ce?$|^ce[0-9]*$|^post(inj\w*|con\w*|km|c)?$|km$", re.IGNORECASE
)
"""Labels of ``acq`` by which a T1w is named as one after a contrast agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BidsName:
    """A name as BIDS has it: ``sub-01_ses-a_run-1_T1w``."""

    person: str
    session: str
    suffix: str
    entities: Mapping[str, str] = field(default_factory=dict)
    """All entities by their keys, person and session included."""


def is_nifti(name: str) -> bool:
    """Whether a file name is that of a NIfTI volume."""
    return _IMAGE.search(name) is not None


def stem_of(name: str) -> str:
    """Name of a NIfTI file without what ends it."""
    return _IMAGE.sub("", name)


def parse(stem: str) -> BidsName | None:
    """Read a name without its ending; None if it is none of BIDS."""
    *parts, suffix = stem.split("_")
    if not parts or not _PERSON.fullmatch(parts[0]) or not suffix.isalnum():
        return None
    entities = {match[1]: match[2] for part in parts if (match := _ENTITY.fullmatch(part))}
    session = f"ses-{entities['ses']}" if "ses" in entities else ""
    return BidsName(person=parts[0], session=session, suffix=suffix, entities=entities)


def has_agent(name: BidsName) -> bool:
    """Whether the name says that a contrast agent was given."""
    return "ce" in name.entities or _AGENT.search(name.entities.get("acq", "")) is not None


def other_kind(relative: str, name: BidsName | None, stem: str) -> tuple[SkipReason, str] | None:
    """Why a name makes a file no image of a contrast, if it does."""
    if "derivatives" in PurePosixPath(relative).parts or re.search(r"_(desc|label|space)-", stem):
        return SkipReason.DERIVED, "a file of the BIDS kind derived"
    if name is None:
        return None
    if before := [part for part in stem.split("_")[:-1] if part in CONTRASTS]:
        return SkipReason.DERIVED, f"made from an image of the BIDS kind {before[0]}"
    if name.entities.get("part") in {"phase", "real", "imag"}:
        return SkipReason.PHASE, f"a file of the BIDS kind part-{name.entities['part']}"
    if "inv" in name.entities:
        return SkipReason.CONTRAST_UNKNOWN, "one of several inversion times by its BIDS name"
    if name.suffix in _SUFFIXES:
        return _SUFFIXES[name.suffix], f"a file of the BIDS kind {name.suffix}"
    return None


def labels(relative: str, name: BidsName | None) -> tuple[str, str]:
    """Person and session: from BIDS entities, else the folder that holds the file and its parent."""
    if name is not None:
        return name.person, name.session
    folder = PurePosixPath(relative).parent
    person = folder.parent if folder.parent.as_posix() != "." else folder
    return person.as_posix(), folder.as_posix()
