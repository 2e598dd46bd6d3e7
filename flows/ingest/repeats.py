"""Of equal series of a contrast a worker takes the one that looks best, and the next one where that cannot be used."""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qmri_core.preprocessing.alignment import AlignmentError
from qmri_core.preprocessing.brain_mask import BrainMaskError, brain_mask
from qmri_core.preprocessing.checks import ImageMismatchError
from qmri_core.preprocessing.repeats import Look, look_at, order_of, why_better
from qmri_core.preprocessing.session import FieldOfViewError, Preprocessed, preprocess
from qmri_core.preprocessing.tissue import TissueError
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.series.remarks import Remark, RemarkKind
from storage.source.discovery import read_volume
from storage.source.series import ReadError, Series

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qmri_core.series.geometry import Grid, Volume

UNUSABLE = (AlignmentError, BrainMaskError, FieldOfViewError, ImageMismatchError, TissueError)
"""Errors of preprocessing that another repeat may not have."""
MOST_TRIES = 6
"""Combinations of repeats that are tried before a session fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """One of the equal series of a contrast.

    ``place`` is that among them by their headers, 0 the preferred one; ``is_judged`` whether its looks may decide.
    """

    place: int
    number: int
    volume: Volume = field(repr=False)
    is_judged: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """The series of a contrast that was taken, by its place, and why where it is not the one that headers prefer."""

    place: int
    why: str = ""


def read_repeats(
    series: Mapping[Contrast, Sequence[tuple[Series, bool]]],
) -> tuple[dict[Contrast, list[Repeat]], list[Remark]]:
    """Volumes of all equal series, and what could not be read.

    Raises
    ------
    ReadError
        If none of a contrast can be read: that of the preferred one.
    """
    repeats: dict[Contrast, list[Repeat]] = {}
    remarks: list[Remark] = []
    for contrast, equal in series.items():
        errors: list[ReadError] = []
        found: list[Repeat] = []
        for place, (one, is_judged) in enumerate(equal):
            try:
                found.append(Repeat(place=place, number=one.number, volume=read_volume(one), is_judged=is_judged))
            except ReadError as error:
                errors.append(error)
                remarks.append(_unusable(contrast, one.number, "cannot be read"))
        if not found:
            raise errors[0]
        repeats[contrast] = found
    return repeats, remarks


def by_looks(repeats: Mapping[Contrast, list[Repeat]]) -> tuple[dict[Contrast, list[Repeat]], dict[Contrast, Pick]]:
    """Repeats of each contrast, the one that looks best first, and what is picked.

    Nothing is judged without rivals, and nothing is put before the preferred one that may not be judged.
    """
    picks = {
        contrast: Pick(place=equal[0].place, why="the other one cannot be read" if equal[0].place else "")
        for contrast, equal in repeats.items()
    }
    if all(len(equal) == 1 for equal in repeats.values()):
        return dict(repeats), picks
    t1w, mask = _masked(repeats[Contrast.T1W])
    ordered: dict[Contrast, list[Repeat]] = {}
    for contrast, equal in repeats.items():
        looks: list[Look | None] = [None] * len(equal)
        if equal[0].is_judged and sum(one.is_judged for one in equal) > 1 and mask is not None:
            looks = [look_at(one.volume, t1w, mask) if one.is_judged else None for one in equal]
        order = order_of(looks)
        ordered[contrast] = [equal[place] for place in order]
        if order[0]:
            picks[contrast] = Pick(place=equal[order[0]].place, why=why_better(looks[order[0]], looks[0]))
    return ordered, picks


def _masked(equal: Sequence[Repeat]) -> tuple[Volume, NDArray[np.uint8] | None]:
    """The first T1w in which a brain is found, and its mask; None for the mask where there is none."""
    for one in equal:
        try:
            return one.volume, brain_mask(one.volume)
        except BrainMaskError:
            continue
    return equal[0].volume, None


def first_usable(
    repeats: Mapping[Contrast, list[Repeat]],
    picks: Mapping[Contrast, Pick],
    grid: Grid,
    acquisitions: Mapping[Contrast, Acquisition],
) -> tuple[Preprocessed, dict[Contrast, Pick], list[Remark]]:
    """Preprocess the repeats that look best; where that fails, or a T1w looks like one after an agent, the next ones.

    If all T1w look so, the best one is used, with its remark.

    Raises
    ------
    FieldOfViewError, AlignmentError, BrainMaskError, ImageMismatchError, TissueError
        That of the first combination, if none of `MOST_TRIES` can be used.
    """
    places = itertools.product(*(range(len(equal)) for equal in repeats.values()))
    tries = sorted(places, key=lambda chosen: (sum(chosen), chosen))[:MOST_TRIES]
    t1w = list(repeats).index(Contrast.T1W)
    errors: list[ValueError] = []
    enhanced: dict[int, tuple[Preprocessed, tuple[int, ...]]] = {}
    for chosen in tries:
        if chosen[t1w] in enhanced:
            continue
        taken = {contrast: repeats[contrast][place] for contrast, place in zip(repeats, chosen, strict=True)}
        try:
            result = preprocess({contrast: one.volume for contrast, one in taken.items()}, grid, acquisitions)
        except UNUSABLE as error:
            errors.append(error)
            continue
        if not is_enhanced(result):
            return result, *_picked(repeats, picks, chosen, enhanced)
        enhanced[chosen[t1w]] = result, chosen
    if enhanced:
        result, chosen = next(iter(enhanced.values()))
        return result, *_picked(repeats, picks, chosen, ())
    raise errors[0]


def is_enhanced(result: Preprocessed) -> bool:
    """Whether the T1w looks like one after a contrast agent."""
    return any(remark.kind is RemarkKind.AGENT for remark in result.remarks)


def _picked(
    repeats: Mapping[Contrast, list[Repeat]],
    picks: Mapping[Contrast, Pick],
    chosen: Sequence[int],
    enhanced: Container[int],
) -> tuple[dict[Contrast, Pick], list[Remark]]:
    """What is taken, and why where it is not the first; ``enhanced`` are the places of T1w that look so."""
    final, remarks = dict(picks), []
    for contrast, place in zip(repeats, chosen, strict=True):
        if not place:
            continue
        number = repeats[contrast][0].number
        if contrast is Contrast.T1W and 0 in enhanced:
            why = f"series {number} looks like one after a contrast agent"
        else:
            remarks.append(_unusable(contrast, number, "could not be aligned or segmented"))
            why = f"series {number} could not be aligned or segmented"
        final[contrast] = Pick(place=repeats[contrast][place].place, why=why)
    return final, remarks


def _unusable(contrast: Contrast, number: int, what: str) -> Remark:
    return Remark(kind=RemarkKind.UNUSABLE_REPEAT, text=f"{contrast}: series {number} {what}; a repeat of it was taken")
