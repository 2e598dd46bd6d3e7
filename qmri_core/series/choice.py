"""The choice between series of one contrast in a session."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from qmri_core.series.acquisition import CONTRASTS, Contrast
from qmri_core.series.classification import Decision, SkipReason
from qmri_core.series.evidence import (
    HEAD,
    Candidate,
    is_clock_true,
    is_repeat,
    is_same_acquisition,
    weighed,
)
from qmri_core.series.remarks import Remark, RemarkKind


def choose(candidates: Sequence[Candidate]) -> tuple[Decision, ...]:
    """Keep one series per contrast of one session; the others are left out with the reason why.

    First what the series say against each other counts; see `qmri_core.series.evidence`. Then the order of preference
    is that of `_PREFERENCES`: a repeat is made because the first one failed, so that the later one is taken, unless an
    agent may have been given between them. Of several reconstructions of one acquisition the most corrected is taken.

    Parameters
    ----------
    candidates
        All series of one session, whatever their decision.

    Returns
    -------
    tuple of Decision
        In the order of ``candidates``; decisions that already have a reason are returned as they are.
    """
    result = weighed(candidates)
    candidates = [replace(one, decision=decision) for one, decision in zip(candidates, result, strict=True)]
    clock = is_clock_true(candidates)
    software = _common_software(candidates)
    for contrast in CONTRASTS:
        rivals = [i for i, one in enumerate(result) if one.contrast is contrast and one.reason is None]
        if not rivals:
            continue
        ranks = _ranks({i: candidates[i] for i in rivals}, software)
        best, *others = sorted(rivals, key=lambda i: (ranks[i], -i), reverse=True)
        taken = candidates[best]
        repeats: list[int] = []
        for i in others:
            other = candidates[i]
            same = any(is_same_acquisition(other, candidates[j], clock=clock) for j in (best, *repeats))
            if is_repeat(other, taken) and not same:
                repeats.append(i)
            place = len(repeats) if i in repeats else None
            text = f"series {taken.number} is taken: {_relation(other, taken, clock)}{_why(ranks[best], ranks[i])}"
            result[i] = replace(result[i], reason=SkipReason.DUPLICATE, explanation=text, place=place)
        text = f"; best of {len(rivals)}" if others else ""
        doubts = (*result[best].doubts, *_doubts(taken, contrast))
        result[best] = replace(
            result[best], explanation=f"{result[best].explanation}{text}", place=0, doubts=tuple(doubts)
        )
    return tuple(
        replace(one, doubts=tuple(_told(one, candidate))) for one, candidate in zip(result, candidates, strict=True)
    )


def _told(decision: Decision, candidate: Candidate) -> Iterator[Remark]:
    """Doubts about a series that is taken, and inversion times that cannot be of any."""
    if decision.reason is None:
        yield from decision.doubts
    if candidate.context.odd_inversion_time and candidate.header.inversion_time is None:
        text = f"series {candidate.number} has inversion times that cannot be; they count as unknown"
        yield Remark(kind=RemarkKind.ODD_TIME, text=text)


def _relation(other: Candidate, taken: Candidate, clock: bool) -> str:
    """Say what a series is to the one taken, if they are of one acquisition."""
    if not is_same_acquisition(other, taken, clock=clock):
        return ""
    is_copy = other.context.converted or (other.content and other.content == taken.content)
    return "another copy of the same images, " if is_copy else "another reconstruction of the same acquisition, "


def _common_software(candidates: Sequence[Candidate]) -> str:
    """Version that most series of a session were made with, if there is one."""
    known = [one.header.software for one in candidates if one.header.software]
    return max(set(known), key=lambda version: (known.count(version), version), default="")


_PREFERENCES = (
    "nothing speaks of a contrast agent before it",
    "none of its files is cut short",
    "it covers the brain",
    "its parameters are not assumed",
    "it is as the scanner made it",
    "its slices or voxels are thinner",
    "its voxels are smaller",
    "it is not compressed with loss",
    "it is as it was acquired, not converted",
    "it is intensity-normalised",
    "it is corrected for distortion",
    "it is corrected for motion",
    "it is not filtered",
    "it was acquired later",
    "it was acquired earlier, and names speak of a contrast agent",
    "its series number is higher, and no time says which was acquired later",
)


def _ranks(rivals: dict[int, Candidate], software: str) -> dict[int, tuple[float, ...]]:
    """Of each rival its place in every preference, the larger the better."""
    moments = {i: one.context.acquired for i, one in rivals.items()}
    known = [moment for moment in moments.values() if moment is not None]
    is_timed = len(known) == len(rivals) and len({round(moment) for moment in known}) > 1
    is_doubtful = any(_is_doubtful(one) or one.context.named_agent for one in rivals.values())
    ranks: dict[int, tuple[float, ...]] = {}
    for i, one in rivals.items():
        moment = float(round(moments[i] or 0.0)) if is_timed else 0.0
        kinds = set(one.header.image_type)
        is_made_elsewhere = one.context.processed or (one.header.software or software) != software
        ranks[i] = (
            -float(_is_doubtful(one)),
            -float(one.context.n_cut > 0),
            float(min(size * step for size, step in zip(one.shape, one.spacing, strict=True)) >= HEAD),
            -float(len(one.header.assumed) > 0),
            -float(is_made_elsewhere),
            -round(max(one.spacing), 1),
            -round(math.prod(one.spacing), 2),
            -float(one.context.lossy),
            -float(one.context.converted),
            float("NORM" in kinds),
            2.0 * ("DIS3D" in kinds) + ("DIS2D" in kinds),
            float("MOCO" in kinds),
            -float("FIL" in kinds or "FILTERED_GEMS" in one.header.scan_options),
            0.0 if is_doubtful else moment,
            -moment if is_doubtful else 0.0,
            float(one.number),
        )
    return ranks


def _is_doubtful(one: Candidate) -> bool:
    return any(doubt.kind is RemarkKind.AGENT for doubt in one.decision.doubts)


def _why(best: tuple[float, ...], other: tuple[float, ...]) -> str:
    differences = (text for text, a, b in zip(_PREFERENCES, best, other, strict=True) if a != b)
    return next(differences, "both are equal, it comes first")


def _doubts(taken: Candidate, contrast: Contrast) -> Iterator[Remark]:
    """What to know of a series that is taken all the same."""
    which, context = f"{contrast}: series {taken.number}", taken.context
    if context.n_cut:
        text = f"{which} has {context.n_cut} files that end within their pixels, and cannot be read"
        yield Remark(kind=RemarkKind.CUT_SHORT, text=text)
    if context.in_cut_archive:
        text = f"{which} lies in an archive that cannot be read to its end, and may lack images"
        yield Remark(kind=RemarkKind.CUT_ARCHIVE, text=text)
    if context.lossy:
        yield Remark(kind=RemarkKind.LOSSY, text=f"{which} is compressed with loss, and no other copy is there")
    if context.processed:
        yield Remark(kind=RemarkKind.PROCESSED, text=f"{which} was changed after the scanner had made it")
    if context.n_strays:
        yield Remark(kind=RemarkKind.STRAY, text=f"{which} holds {context.n_strays} images of another kind, left out")
    if context.rounding:
        yield Remark(
            kind=RemarkKind.ROUNDED,
            text=f"{which} has positions rounded to {context.rounding:g} mm; slices are taken as evenly spaced",
        )
    if context.combined:
        yield Remark(kind=RemarkKind.COMBINED, text=f"{which} combines several echoes; its echo time is nominal")
