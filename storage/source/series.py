"""One acquired image volume as discovery finds it, and the errors of reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from qmri_core.series.acquisition import Contrast, PulseSequence, SeriesHeader
from qmri_core.series.choice import choose
from qmri_core.series.classification import Context, Decision, SkipReason, classify
from qmri_core.series.evidence import Candidate
from qmri_core.series.remarks import Remark
from storage.source.origin import Server

Matrix = tuple[tuple[float, float, float, float], ...]
"""A 4 x 4 affine as nested tuples: hashable and cheap to pickle."""

NO_AFFINE: Matrix = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))


Scale = tuple[float, float, float | None]
"""Slope, intercept and, where a file has it, Philips' scale slope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What was noted of the files and slices of a DICOM series, so that decoding need not parse their headers again."""

    notes: tuple[bytes, ...] = field(repr=False)
    """Of each file, see `storage.source.dicom.layout`; empty for one that is to be parsed."""
    scales: tuple[Scale | None, ...] = field(repr=False)
    """Of each slice; None for one that is to be parsed."""
    positions: tuple[tuple[float, ...] | None, ...] = field(repr=False)
    """Of each slice, as its header says."""
    orientation: tuple[float, ...]
    """Of the first slice."""
    pixel_spacing: tuple[float, ...]
    """Of the first slice."""


class ReadError(ValueError):
    """The pixels of a series cannot be turned into a volume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One volume of the source; holds pseudonyms and technical values, and paths that its text form leaves out.

    ``shape`` is in the order x, y, z (columns, rows, slices), ``affine`` maps that index to RAS millimetres; both are
    zero and the identity where ``problem`` says that there is no volume. ``digest`` changes whenever the files or what
    is assumed about them change. ``contrast`` and ``sequence`` are set only where an assume file states them, ``named``
    where a BIDS name does, which counts for less than numbers. ``day`` counts from the person's first session in the
    source, None if it is not known. ``date`` is the ordinal of the session's date, of DICOM alone: in BIDS it may be
    shifted for each person. ``age`` is in whole years, 90 and above as 90.
    """

    session: str
    person: str
    device: str
    number: int
    header: SeriesHeader
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: Matrix
    n_instances: int
    digest: str
    kind: Literal["dicom", "nifti"]
    paths: tuple[str, ...] = field(repr=False)
    frames: tuple[tuple[int, int], ...] = field(repr=False)
    """For each slice in the order of z: index into ``paths`` and frame in that file."""
    known: Known | None = field(default=None, repr=False)
    """What decoding needs of the headers of a DICOM series; None if its files are to be parsed."""
    content: str = field(default="", repr=False)
    """Digest of the pixels alone: the same for a copy whose identifiers were rewritten."""
    problem: SkipReason | None = None
    explanation: str = ""
    """What the problem is, or why numbers are missing, in numbers."""
    contrast: Contrast | None = None
    named: Contrast | None = None
    sequence: PulseSequence | None = None
    context: Context = field(default_factory=Context)
    sex: str = ""
    age: int | None = None
    day: int | None = None
    date: int | None = field(default=None, repr=False)
    remarks: tuple[Remark, ...] = ()
    server: Server | None = field(default=None, repr=False)
    """Where its files are to be retrieved from; then ``paths`` name study, series and instance."""
    changed: float = field(default=0.0, repr=False)
    """When a server was seen to have changed it, in seconds since 1970; 0 where it is older, and of files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkageRow:
    """Identity of a session, for the linkage table only."""

    session: str
    patient_id: str = field(repr=False)
    study_instance_uid: str = field(repr=False)
    path: str = field(repr=False)


def decide(series: Series) -> Decision:
    """Decision on one series by its own numbers; `qmri_core.series.grouping.choose` then picks one per contrast."""
    decision = classify(
        series.header,
        shape=series.shape,
        spacing=series.spacing,
        context=series.context,
        problem=series.problem,
        contrast=series.contrast,
        named=series.named,
        sequence=series.sequence,
    )
    if series.explanation and decision.reason in {series.problem, SkipReason.NO_PARAMETERS}:
        return Decision(
            contrast=decision.contrast,
            sequence=decision.sequence,
            reason=decision.reason,
            explanation=series.explanation,
            assumed=decision.assumed,
        )
    return decision


def decide_session(members: Sequence[Series]) -> tuple[Decision, ...]:
    """Decisions on all series of one session, at most one of them taken per contrast; in the order given."""
    return choose(
        [
            Candidate(
                decision=decide(one),
                header=one.header,
                shape=one.shape,
                spacing=one.spacing,
                number=one.number,
                affine=one.affine,
                content=one.content,
                context=one.context,
            )
            for one in members
        ]
    )
