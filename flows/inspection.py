"""What ingest would do with a source, and why; nothing is decoded or written."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from qmri_core.physics.header import acquisition_from_header

from qmri_core.acquisition import AcquisitionError
from qmri_core.classification import Decision
from qmri_core.grouping import canonical_spacing, protocol_key, scanner_key
from storage.discovery import Series, decide_session, discover, load_assumptions


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedSeries:
    """One series: what it is taken for, or why it is left out. ``group`` belongs to its session; empty without one."""

    session: str
    number: int
    contrast: str
    sequence: str
    taken: bool
    reason: str
    explanation: str
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Decisions on all series of a source; ``unmatched`` counts assume entries that matched nothing."""

    series: tuple[InspectedSeries, ...]
    n_files: int
    n_other_files: int
    unmatched: tuple[int, ...]

    @property
    def n_sessions(self) -> int:
        """Sessions found."""
        return len({one.session for one in self.series})

    @property
    def group_sizes(self) -> dict[str, int]:
        """Sessions per group."""
        return dict(Counter(group for _, group in {(one.session, one.group) for one in self.series} if group))


def inspect_source(
    source: Path, *, key: bytes, assume: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Inspection:
    """Discover, classify and group a source as ingest does.

    Raises
    ------
    SourceError, AssumptionError
        If the source is missing or empty, or the assume file is wrong.
    """
    assumptions = load_assumptions(assume) if assume is not None else ()
    found = discover(source, key=key, assume=assumptions, progress=progress)
    sessions: dict[str, list[Series]] = defaultdict(list)
    for one in found.series:
        sessions[one.session].append(one)
    return Inspection(
        series=tuple(row for members in sessions.values() for row in _inspect_session(members)),
        n_files=found.n_files,
        n_other_files=sum(found.unreadable.values()),
        unmatched=found.unmatched,
    )


def _inspect_session(members: list[Series]) -> list[InspectedSeries]:
    decisions = decide_session(members)
    group, problem = _group(members, decisions)
    return [
        InspectedSeries(
            session=one.session,
            number=one.number,
            contrast=str(decision.contrast or ""),
            sequence=str(decision.sequence or ""),
            taken=decision.reason is None,
            reason=str(decision.reason or ""),
            explanation=decision.explanation if decision.reason or not problem else problem,
            group=group,
        )
        for one, decision in zip(members, decisions, strict=True)
    ]


def _group(members: list[Series], decisions: tuple[Decision, ...]) -> tuple[str, str]:
    """Group of a session, or an empty text and why there is none."""
    taken = [(one, decision) for one, decision in zip(members, decisions, strict=True) if decision.reason is None]
    acquisitions, spacings = {}, {}
    try:
        for one, decision in taken:
            if decision.contrast is not None and decision.sequence is not None:
                acquisitions[decision.contrast] = acquisition_from_header(
                    one.header, decision.contrast, decision.sequence
                )
                spacings[decision.contrast] = canonical_spacing(np.asarray(one.affine))
    except AcquisitionError as error:
        return "", str(error)
    if not acquisitions:
        return "", ""
    return f"{scanner_key(taken[0][0].header, taken[0][0].device)}/{protocol_key(acquisitions, spacings)}", ""
