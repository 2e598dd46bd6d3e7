"""What the series of one session say against each other, before one of each contrast is chosen.

Numbers of one series alone leave open whether an agent was given before it, whether its fluid is suppressed, whether it
covers the head, and whether it is a calibration scan. The series beside it, their order in time, and words of names
answer some of that; the explanation says which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from qmri_core.series.acquisition import Contrast, PulseSequence, SeriesHeader
from qmri_core.series.classification import Context, Decision, SkipReason
from qmri_core.series.remarks import Remark, RemarkKind

HEAD = 100.0
"""Millimetres: slices that reach less far are no whole brain, whose height is 120 mm and more."""

BESIDE = 1.3
"""Times its extent that another series covers along the same axis, where slices that do not reach over a `HEAD` are a
part of what was acquired."""

WIDER = 1.15
"""The same where the header's count says too that `MANY_MISSING` of the images are missing."""

MANY_MISSING = 0.1
"""Share of a series' images."""

LONG_CYCLE = 6.0
"""Seconds: repetition times of T2w images are mostly below, those of FLAIR images above."""

CYCLES = 1.4
"""Ratio of the repetition times of two T2w-like series from which the longer may be that of a FLAIR image."""

COARSE = 8.0
"""Voxels of a gradient echo over the smallest of the session's T2w and FLAIR images, in volume if 3D and in the plane
if 2D: larger ones are those of calibration scans and field maps. Checked against no list."""

FINE = 1.9
"""Millimetres in the plane: with smaller voxels a gradient echo is none of these scans."""

SAME_SIZE = 0.02
"""Of a spacing: voxels that differ by less are those of one protocol."""

LATER = 1.0
"""Seconds between the beginnings of two acquisitions, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What is looked at of one series of a session; ``affine`` as nested tuples, ``content`` a digest of the pixels."""

    decision: Decision
    header: SeriesHeader
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    number: int
    affine: tuple[tuple[float, ...], ...] = ()
    content: str = ""
    context: Context = field(default_factory=Context)


def weighed(candidates: Sequence[Candidate]) -> list[Decision]:
    """Decisions on all series of one session, with what the others say against them; see the module.

    Parameters
    ----------
    candidates
        All series of the session, whatever their decision.

    Returns
    -------
    list of Decision
        In the order of ``candidates``. What a user states stays as it is.
    """
    decisions = [candidate.decision for candidate in candidates]
    for objection in (_agent, _fluid, _calibration, _part):
        open_ = [i for i, one in enumerate(decisions) if one.reason is None and not one.assumed]
        changed = {i: objection(candidates[i], [c for j, c in enumerate(candidates) if j != i]) for i in open_}
        for i, change in changed.items():
            if isinstance(change, Remark):
                decisions[i] = replace(decisions[i], doubts=(*decisions[i].doubts, change))
            elif change is not None:
                decisions[i] = replace(decisions[i], reason=change[0], explanation=change[1])
        candidates = [replace(one, decision=decision) for one, decision in zip(candidates, decisions, strict=True)]
    return decisions


Objection = tuple[SkipReason, str] | Remark | None


def _agent(one: Candidate, others: Sequence[Candidate]) -> Objection:
    """Whether a contrast agent was given before a series."""
    says = not _is_everywhere([one, *others]) and _names_agent(one)
    if one.decision.contrast is not Contrast.T1W:
        text = f"{one.decision.contrast}: the name of series {one.number}, or a note, says contrast agent"
        return Remark(kind=RemarkKind.AGENT, text=text) if says else None
    if says:
        return SkipReason.CONTRAST_UNKNOWN, "after a contrast agent, as its name or a note says"
    before = [other for other in others if _is_before(other, one)]
    given = next((other for other in before if _has_agent(other)), None)
    if given is not None and not one.context.named_native:
        return SkipReason.CONTRAST_UNKNOWN, f"acquired after series {given.number}, which has a contrast agent"
    named = [] if _is_everywhere([one, *others]) else [other for other in before if _names_agent(other)]
    twin = next((other for other in named if is_repeat(other, one)), None)
    if twin is not None and not one.context.named_native:
        text = f"acquired after series {twin.number} of equal numbers, whose name or a note says contrast agent"
        return SkipReason.CONTRAST_UNKNOWN, text
    if given is not None or named:
        number = (given or named[0]).number
        text = f"T1w: series {one.number} was acquired after series {number}, which speaks of a contrast agent"
        return Remark(kind=RemarkKind.AGENT, text=text)
    if one.context.named_agent and one.context.named_native:
        text = f"T1w: the name of series {one.number} speaks of times before and after a contrast agent"
        return Remark(kind=RemarkKind.AGENT, text=text)
    return None


def _names_agent(one: Candidate) -> bool:
    return one.context.named_agent and not one.context.named_native


def _has_agent(one: Candidate) -> bool:
    kinds = set(one.header.image_type)
    return one.context.contrast_agent or ("PERFUSION" in kinds and "ASL" not in kinds)


def _is_everywhere(candidates: Sequence[Candidate]) -> bool:
    """Whether all series have the word in their names: then it speaks of the examination."""
    acquired = [one for one in candidates if one.header.repetition_time is not None]
    return len(acquired) > 2 and all(one.context.named_agent for one in acquired)


def _is_before(one: Candidate, other: Candidate) -> bool:
    a, b = one.context.acquired, other.context.acquired
    return a is not None and b is not None and a + LATER <= b


def _fluid(one: Candidate, others: Sequence[Candidate]) -> Objection:
    """Whether a series of T2w numbers may be a FLAIR image whose inversion time is not written."""
    cycle = one.header.repetition_time or 0.0
    if one.decision.contrast is not Contrast.T2W or cycle < LONG_CYCLE:
        return None
    text = f"TR {cycle * 1000:g} ms without a usable inversion time"
    if one.context.odd_inversion_time:
        return SkipReason.CONTRAST_UNKNOWN, f"{text}, though there are inversion times: it may be a FLAIR"
    if one.context.named_flair:
        return SkipReason.CONTRAST_UNKNOWN, f"{text}, and named FLAIR"
    taken = [other for other in others if other.decision.reason is None]
    cycles = [other.header.repetition_time or 0.0 for other in taken if other.decision.contrast is Contrast.FLAIR]
    if cycles and not any(abs(known - cycle) <= 0.2 * cycle for known in cycles):
        return None  # the FLAIR of the session is known, and its cycle is another one
    rivals = [other for other in taken if other.decision.contrast is Contrast.T2W]
    shorter = next((other for other in rivals if (other.header.repetition_time or cycle) * CYCLES <= cycle), None)
    if shorter is not None:
        return SkipReason.CONTRAST_UNKNOWN, f"{text} beside series {shorter.number}, a T2w: it may be a FLAIR"
    return None


def _calibration(one: Candidate, others: Sequence[Candidate]) -> Objection:
    """Whether a gradient echo of T1w numbers is far coarser than what else was acquired."""
    gradient = one.decision.sequence in {PulseSequence.SPOILED_GRADIENT_ECHO, PulseSequence.MPRAGE}
    if not gradient or one.decision.contrast is not Contrast.T1W or max(one.spacing[:2]) < FINE:
        return None
    used = [other for other in others if other.decision.contrast in {Contrast.T2W, Contrast.FLAIR} and _reach(other)]
    axes = 2 if one.header.mr_acquisition_type == "2D" else 3
    sizes = [math.prod(other.spacing[:axes]) for other in used]
    own = math.prod(one.spacing[:axes])
    if not sizes or own <= COARSE * min(sizes):
        return None
    unit = "mm2" if axes == 2 else "mm3"
    text = f"gradient echo with voxels of {own:.3g} {unit} beside {min(sizes):.3g} {unit}: a calibration or field map"
    return SkipReason.LOCALIZER, text


def _part(one: Candidate, others: Sequence[Candidate]) -> Objection:
    """Whether the slices are but a part of those that were acquired."""
    reach = _reach(one)
    missing = one.context.n_missing
    text = f"its {one.shape[2]} slices cover {reach:.0f} mm"
    is_thin = missing >= MANY_MISSING * (missing + one.shape[2])
    if reach < HEAD or is_thin:
        beside = WIDER if is_thin else BESIDE
        axis = max(range(3), key=lambda a: abs(one.affine[a][2])) if one.affine else None
        wider = (other for other in others if axis is not None and _reach(other) >= HEAD)
        whole = next((other for other in wider if _along(other, axis or 0) >= max(HEAD, beside * reach)), None)
        if whole is not None:
            return (
                SkipReason.INCOMPLETE,
                f"{text}, where series {whole.number} covers {_along(whole, axis or 0):.0f} mm",
            )
        if missing and reach < HEAD:
            return SkipReason.INCOMPLETE, f"{text}, and {missing} images are missing by the header's count"
    if missing:
        text = f"{one.decision.contrast}: {missing} images of series {one.number} are missing by the header's count"
        return Remark(kind=RemarkKind.MISSING, text=text)
    return None


def _reach(one: Candidate) -> float:
    """Millimetres that the slices of an anatomical volume cover; 0 of all else."""
    return one.shape[2] * one.spacing[2] if one.decision.contrast is not None else 0.0


def _along(one: Candidate, axis: int) -> float:
    """Millimetres that a volume covers along an axis of the room."""
    return sum(abs(step) * size for step, size in zip(one.affine[axis], one.shape, strict=False)) if one.affine else 0.0


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


def is_clock_true(candidates: Sequence[Candidate]) -> bool:
    """Whether times tell acquisitions apart: no two series of different cycles began in one second."""
    cycles: dict[int, set[float]] = {}
    for one in candidates:
        if one.context.acquired is not None and one.header.repetition_time is not None:
            cycles.setdefault(round(one.context.acquired), set()).add(round(one.header.repetition_time, 2))
    return len(cycles) > 1 and all(len(several) == 1 for several in cycles.values())


def is_same_acquisition(one: Candidate, other: Candidate, *, clock: bool) -> bool:
    """Whether two series were made of the same echoes: another reconstruction, or another copy.

    Parameters
    ----------
    one, other
        Series of one contrast.
    clock
        Whether the session's times tell acquisitions apart; see `is_clock_true`.
    """
    if one.content and one.content == other.content:
        return True
    a, b = one.context.acquired, other.context.acquired
    times = ("repetition_time", "inversion_time", "flip_angle")
    if not all(_close(getattr(one.header, name), getattr(other.header, name), 0.01) for name in times):
        return False
    if clock and a is not None and b is not None:
        return abs(a - b) < LATER
    return (
        bool(one.affine)
        and one.shape == other.shape
        and set(one.header.image_type) != set(other.header.image_type)
        and all(
            abs(x - y) < 1e-3 for r, s in zip(one.affine, other.affine, strict=True) for x, y in zip(r, s, strict=True)
        )
    )


def _close(a: float | None, b: float | None, relative: float) -> bool:
    return a is b if a is None or b is None else abs(a - b) <= relative * max(abs(a), abs(b))
