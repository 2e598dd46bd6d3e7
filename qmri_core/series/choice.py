"""The choice between series of one contrast in a session."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qmri_core.series.acquisition import CONTRASTS, SeriesHeader
from qmri_core.series.classification import Decision, SkipReason

SAME_SIZE = 0.02
"""Of a spacing: voxels that differ by less are those of one protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What the choice between series of one contrast looks at."""

    decision: Decision
    header: SeriesHeader
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    number: int


def choose(candidates: Sequence[Candidate]) -> tuple[Decision, ...]:
    """Keep one series per contrast of one session; the others become duplicates that say why.

    Order of preference: covers the brain, parameters known rather than assumed, thinner in its thickest direction,
    smaller voxels, intensity-normalised, acquired later (a repeat is made because the first one failed).

    Parameters
    ----------
    candidates
        All series of one session, whatever their decision.

    Returns
    -------
    tuple of Decision
        In the order of ``candidates``; decisions that already have a reason are returned as they are.
    """
    result = [candidate.decision for candidate in candidates]
    for contrast in CONTRASTS:
        rivals = [i for i, one in enumerate(result) if one.contrast is contrast and one.reason is None]
        if not rivals:
            continue
        ranks = {i: _rank(candidates[i]) for i in rivals}
        best, *others = sorted(rivals, key=lambda i: (ranks[i], -i), reverse=True)
        if others:
            result[best] = replace(result[best], explanation=f"{result[best].explanation}; best of {len(rivals)}")
        result[best] = replace(result[best], place=0)
        repeats = [i for i in others if is_repeat(candidates[i], candidates[best])]
        for i in others:
            text = f"series {candidates[best].number} is taken: {_why(ranks[best], ranks[i])}"
            place = 1 + repeats.index(i) if i in repeats else None
            result[i] = replace(result[i], reason=SkipReason.DUPLICATE, explanation=text, place=place)
    return tuple(result)


def is_repeat(one: Candidate, other: Candidate) -> bool:
    """Whether two series were acquired with equal numbers and geometry, so that either may stand for the other."""
    a, b = one.header, other.header
    times = ("repetition_time", "echo_time", "inversion_time", "flip_angle")
    return (
        one.shape == other.shape
        and all(_close(x, y, SAME_SIZE) for x, y in zip(one.spacing, other.spacing, strict=True))
        and all(_close(getattr(a, name), getattr(b, name), 0.01) for name in times)
        and a.mr_acquisition_type == b.mr_acquisition_type
        and bool(a.assumed) == bool(b.assumed)
    )


def _close(a: float | None, b: float | None, relative: float) -> bool:
    return a is b if a is None or b is None else abs(a - b) <= relative * max(abs(a), abs(b))


_PREFERENCES = (
    "it covers the brain",
    "its parameters are not assumed",
    "its slices or voxels are thinner",
    "its voxels are smaller",
    "it is intensity-normalised",
    "it was acquired later",
)


def _rank(candidate: Candidate) -> tuple[float, ...]:
    extent = min(size * step for size, step in zip(candidate.shape, candidate.spacing, strict=True))
    return (
        float(extent >= 100.0),
        -float(len(candidate.header.assumed) > 0),
        -round(max(candidate.spacing), 1),
        -round(math.prod(candidate.spacing), 2),
        float("NORM" in candidate.header.image_type),
        float(candidate.number),
    )


def _why(best: tuple[float, ...], other: tuple[float, ...]) -> str:
    differences = (text for text, a, b in zip(_PREFERENCES, best, other, strict=True) if a != b)
    return next(differences, "both are equal, it comes first")
