"""Which files of one study identifier are one visit, and what tells scanners apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from qmri_core.series.acquisition import CONTRASTS, Contrast
from qmri_core.series.remarks import Remark, RemarkKind
from storage.source.dates import FIRST_BIRTH
from storage.source.visits.identity import Met, Unit

MANY_NUMBERS = 12
"""Patient identifiers under one study identifier, above which the study's is taken for one that all studies bear."""

MANY_PARTS = 64
"""Visits under one study identifier that are examined for sessions; where there are more, each stays by itself."""

NIGHT = 3 * 3600.0
"""Seconds without an image within which a visit goes on across midnight."""

SAME_FIELD = 0.3
"""Tesla; field strengths that differ by more are of two scanners."""

_DAY = 86400.0

Held = Mapping[Contrast, NDArray[np.float64]]
"""The contrasts that some units would give if they were a session, and the middle of each image in RAS millimetres."""

Holding = Callable[[Mapping[str, int]], Held]
"""Tells what units would hold as a session, from their digests and numbers of files."""


@dataclass(slots=True, kw_only=True)
class Part:
    """Units of one study that are one session, and what there is to say of them."""

    members: list[Met]
    remarks: list[Remark] = field(default_factory=list)
    foreign: list[Met] = field(default_factory=list)
    """Units of another scanner or day that make no session by themselves: they are named here, and not used."""


Device = tuple[str, str, str, float | None]
V = TypeVar("V", bound=tuple[Hashable, ...])


def is_session(held: Held) -> bool:
    """Whether contrasts make a session by themselves."""
    return Contrast.T1W in held and len(held) > 1


def device_of(unit: Unit) -> Device:
    """What tells scanners apart."""
    return (unit.maker, unit.model, unit.serial, unit.field)


def other_device(a: Device, b: Device, *, same_frame: bool = False) -> bool:
    """Whether two headers are of two scanners; what one of them does not say contradicts nothing.

    Two images in one frame of reference are of one scanner, whatever serial number or model an export has given them,
    unless maker or field strength tell otherwise.
    """
    if a[3] is not None and b[3] is not None and abs(a[3] - b[3]) > SAME_FIELD:
        return True
    if a[0] and b[0] and a[0] != b[0]:
        return True
    if same_frame or (a[2] and a[2] == b[2]):
        return False
    return bool(a[2] and b[2]) or bool(a[1] and b[1] and a[1] != b[1])


def parts_of_study(units: Iterable[Met], holding: Holding, liars: frozenset[str] = frozenset()) -> list[Part]:
    """Part what bears one study identifier into visits: one, as a rule.

    Parameters
    ----------
    units
        All units of the study.
    holding
        Tells what some of them would hold as a session; asked only where patient identifiers differ.
    liars
        Frames of reference that cannot be such.

    Returns
    -------
    list of Part
        In the order of time.
    """
    every = sorted(units, key=lambda one: one.unit.digest)
    images = [one for one in every if one.unit.is_image] or every
    others = [] if len(images) == len(every) else [one for one in every if not one.unit.is_image]
    split = _Split(liars)
    by_scanner = split.by_device(images)
    by_day = [part for parts in by_scanner for part in split.by_day(parts)]
    by_sex = [part for parts in by_day for part in split.by_sex_and_birth(parts)]
    result: list[Part] = []
    for members in by_sex:
        result += split.by_number(members, holding, is_trusted=len(by_sex) == 1)
    by_number, result = result, [one for part in result for one in split.by_frame(part, holding)]
    result.sort(key=lambda part: order(part.members))
    reasons = _reasons(by_scanner, by_day, by_sex, by_number, result)
    _attach(result, others, liars)
    n_parts = len(result)
    result = _folded(result, holding)
    for part in result if n_parts > 1 else ():
        left = "; what is of another of them and makes no session by itself is not used" if part.foreign else ""
        text = f"its study identifier stands for {n_parts} visits, told apart by {reasons}{left}"
        part.remarks.append(Remark(kind=RemarkKind.VISIT_PARTED, text=text))
    return result


def _folded(parts: list[Part], holding: Holding) -> list[Part]:
    """Put parts of one patient that make no session by themselves beside one that does, or beside the first."""
    if not 1 < len(parts) <= MANY_PARTS:
        return parts
    able = {id(part) for part in parts if is_session(holding(_counted(part.members)))}
    hosts: dict[frozenset[tuple[str, str | None, int | None]], Part] = {}
    for part in sorted(parts, key=lambda one: id(one) not in able):
        hosts.setdefault(_people(part), part)
    result = []
    for part in parts:
        host = hosts[_people(part)]
        if part is host or id(part) in able:
            result.append(part)
        else:
            host.foreign += part.members
    return result


def _people(part: Part) -> frozenset[tuple[str, str | None, int | None]]:
    return frozenset((one.unit.label, sex_of(one.unit), birth_of(one.unit)) for one in part.members)


def _reasons(*stages: Sequence[object]) -> str:
    names = ("scanner", "day", "sex or day of birth", "patient identifier", "frame of reference")
    counts = [1, *(len(stage) for stage in stages)]
    return " and ".join(name for name, before, after in zip(names, counts, counts[1:], strict=False) if after > before)


def order(members: Sequence[Met]) -> tuple[float, float, str]:
    """Place in time of some units."""
    day = min((one.unit.day for one in members if one.unit.day is not None), default=None)
    of_day = [one.first for one in members if one.first is not None and one.unit.day == day]
    return (float("inf") if day is None else day, min(of_day, default=float("inf")), members[0].unit.digest)


class _Split:
    """The ways in which the units of a study are told apart, with the frames of reference that count."""

    def __init__(self, liars: frozenset[str]) -> None:
        self._liars = liars

    def frames(self, members: Iterable[Met]) -> set[str]:
        return {one.unit.frame for one in members if one.unit.frame} - self._liars

    def clusters(
        self, units: Sequence[Met], value: Callable[[Unit], V], conflict: Callable[[V, V, bool], bool]
    ) -> list[list[Met]]:
        """Units whose values do not contradict each other; those that say most come first, whatever their order."""
        members: dict[V, list[Met]] = defaultdict(list)
        for one in units:
            members[value(one.unit)].append(one)
        if len(members) == 1:
            return [list(units)]
        frames = {known: self.frames(of_value) for known, of_value in members.items()}
        found: list[list[V]] = []
        for known in sorted(members, key=lambda one: (sum(part in {"", None} for part in one), repr(one))):
            fits = [
                cluster
                for cluster in found
                if not any(conflict(known, other, bool(frames[known] & frames[other])) for other in cluster)
            ]
            if fits:
                shared = [sum(len(frames[known] & frames[other]) for other in cluster) for cluster in fits]
                fits[shared.index(max(shared))].append(known)
            else:
                found.append([known])
        return [[one for known in cluster for one in members[known]] for cluster in found]

    def by_device(self, units: Sequence[Met]) -> list[list[Met]]:
        return self.clusters(units, device_of, lambda a, b, same: other_device(a, b, same_frame=same))

    def by_day(self, units: Sequence[Met]) -> list[list[Met]]:
        clocks: dict[int | None, list[float]] = defaultdict(list)
        for one in units:
            clocks[one.unit.day] += [time for time in (one.first, one.last) if time is not None]

        def conflict(a: tuple[int | None], b: tuple[int | None], same_frame: bool) -> bool:
            if a[0] is None or b[0] is None or same_frame:
                return False
            early, late = sorted((a[0], b[0]))
            if late - early > 1 or not clocks[early] or not clocks[late]:
                return True
            return _DAY - max(clocks[early]) + min(clocks[late]) > NIGHT

        return self.clusters(units, lambda unit: (unit.day,), conflict)

    def by_sex_and_birth(self, units: Sequence[Met]) -> list[list[Met]]:
        def conflict(a: tuple[str, int | None], b: tuple[str, int | None], same_frame: bool) -> bool:
            known = [(x, y) for x, y in zip(a, b, strict=True) if x not in {"", None} and y not in {"", None}]
            return not same_frame and any(x != y for x, y in known)

        return self.clusters(units, lambda unit: (sex_of(unit) or "", birth_of(unit)), conflict)

    def by_number(self, units: list[Met], holding: Holding, *, is_trusted: bool) -> list[Part]:
        """Part by patient identifier, unless all that bear the study's are one visit."""
        groups: dict[str, list[Met]] = defaultdict(list)
        for one in units:
            groups[one.unit.label].append(one)
        unlabelled = groups.pop("", []) if len(groups) > 1 else []
        if len(groups) < 2:
            remarks = [_numbers(2)] if unlabelled else []
            return [Part(members=[*chain.from_iterable(groups.values()), *unlabelled], remarks=remarks)]
        labels = sorted(groups)
        held: list[Held] = []
        if len(labels) <= MANY_NUMBERS:
            held = [holding(_counted(groups[label])) for label in labels]
            share = self._share([groups[label] for label in labels])
            is_one = sum(map(is_session, held)) < 2 and (
                share or (is_trusted and not any(len(one) == len(CONTRASTS) for one in held))
            )
            if is_one:
                return [Part(members=[*units], remarks=[_numbers(len(labels) + bool(unlabelled))])]
        result = [Part(members=groups[label]) for label in labels]
        for one in unlabelled:
            next((part for part in result if one.unit.frame in self.frames(part.members)), result[0]).members.append(
                one
            )
        return result

    def by_frame(self, part: Part, holding: Holding) -> list[Part]:
        """Part what was acquired twice: T1w and another contrast under each of several frames of reference.

        Other frames go with the one that was used last before them.
        """
        groups: dict[str, list[Met]] = defaultdict(list)
        for one in part.members:
            groups["" if one.unit.frame in self._liars else one.unit.frame].append(one)
        able = [frame for frame in sorted(groups) if frame and sum(one.n_files for one in groups[frame]) > 1]
        if not 1 < len(able) <= MANY_PARTS:
            return [part]
        held = {frame: set(holding(_counted(groups[frame]))) for frame in able}
        whole = [frame for frame in able if Contrast.T1W in held[frame] and len(held[frame]) > 1]
        if not any(Contrast.T1W in held[a] & held[b] and len(held[a] & held[b]) > 1 for a, b in combinations(whole, 2)):
            return [part]
        parts = {frame: Part(members=groups[frame], remarks=[*part.remarks]) for frame in whole}
        begins = {frame: order(groups[frame]) for frame in whole}
        for frame in sorted(set(groups) - set(whole)):
            for one in groups[frame]:
                before = [known for known in whole if begins[known] <= order([one])]
                host = max(before, key=begins.__getitem__) if before else min(whole, key=begins.__getitem__)
                parts[host].members.append(one)
        return list(parts.values())

    def _share(self, groups: Sequence[Sequence[Met]]) -> bool:
        """Whether groups hang together by frames of reference."""
        return len(linked([self.frames(group) for group in groups])) == 1


def linked(frames: Sequence[set[str]]) -> list[list[int]]:
    """Places of sets that hang together by what they share."""
    result: list[tuple[set[str], list[int]]] = []
    for place, own in enumerate(frames):
        touched = [one for one in result if one[0] & own]
        rest = [one for one in result if not one[0] & own]
        union = own.union(*(one[0] for one in touched))
        result = [*rest, (union, sorted([place, *chain.from_iterable(one[1] for one in touched)]))]
    return sorted(places for _, places in result)


def _counted(members: Iterable[Met]) -> dict[str, int]:
    return {one.unit.digest: one.n_files for one in members}


def _numbers(count: int) -> Remark:
    text = f"files of one study bear {count} patient identifiers, or none; they are taken as one session"
    return Remark(kind=RemarkKind.PATIENT_NUMBERS, text=text)


def _attach(parts: list[Part], others: Iterable[Met], liars: frozenset[str]) -> None:
    """Give what is no original image to the visit that it was made in or of: by frame, patient, day."""
    apart: dict[str, list[Met]] = defaultdict(list)
    known = [
        (
            {one.unit.frame for one in part.members} - liars - {""},
            {one.unit.label for one in part.members} - {""},
            {one.unit.day for one in part.members} - {None},
        )
        for part in parts
    ]
    for one in others:
        unit = one.unit
        scores = [4 * (unit.frame in f) + 2 * (unit.label in n) + (unit.day in d) for f, n, d in known]
        if unit.label and max(scores) < 2 and len(parts) > 1:
            apart[unit.label].append(one)
            continue
        part, (_, labels, _) = parts[scores.index(max(scores))], known[scores.index(max(scores))]
        if labels and unit.label not in labels and not any(r.kind is RemarkKind.PATIENT_NUMBERS for r in part.remarks):
            part.remarks.append(_numbers(len(labels) + 1))
        part.members.append(one)
    parts += [Part(members=apart[label]) for label in sorted(apart)]


def sex_of(unit: Unit) -> str | None:
    """Sex that can contradict another one."""
    return unit.sex if unit.sex in {"F", "M"} else None


def birth_of(unit: Unit) -> int | None:
    """Day of birth, unless it is one that stands in for none."""
    return None if unit.birth is None or unit.birth < FIRST_BIRTH else unit.birth


_STANDING = ("number", "name", "stand-in", "")


def lead_of(members: Sequence[Met]) -> Met:
    """The unit after which a session is named: the first image of those whose patient is told best."""

    def place(one: Met) -> tuple[int, bool, float, float, str]:
        day = float("inf") if one.unit.day is None else one.unit.day
        first = float("inf") if one.first is None else one.first
        return (_STANDING.index(one.unit.standing), not one.unit.is_image, day, first, one.unit.digest)

    return min(members, key=place)
