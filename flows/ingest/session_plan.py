"""What ingest does with each session that discovery finds, decided before anything is decoded."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby

import numpy as np

from flows.ingest.extents import Extents, reach_of
from flows.ingest.first_plan import Planned
from qmri_core.calibration.population import ADULT
from qmri_core.physics.header import acquisition_from_header
from qmri_core.series.acquisition import CONTRASTS, Acquisition, AcquisitionError, Contrast
from qmri_core.series.classification import Decision, SkipReason
from qmri_core.series.decided import decided_text
from qmri_core.series.grouping import canonical_spacing, grid_of, protocol_keys, scanner_key, settle
from qmri_core.series.remarks import READ_OTHERWISE, Remark, RemarkKind, ordered
from qmri_core.series.stored_keys import as_stored
from storage.source.assume_file import Assumption, Override, overriding
from storage.source.series import Series, decide, decide_session
from storage.store.schema import Reason, Status
from storage.store.slots import Placement

MIN_CONTRASTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """One session: what was decided on its series, and how the session is to be ingested, or why it is not.

    ``status`` is complete or partial for a session to be ingested; then ``chosen``, ``acquisitions`` and ``placement``
    are filled. Otherwise it is skipped, with ``reason`` and ``explanation``.
    """

    session: str
    person: str
    series: tuple[Series, ...] = field(repr=False)
    decisions: tuple[Decision, ...] = field(repr=False)
    status: Status
    reason: Reason | None = None
    explanation: str = ""
    chosen: Mapping[Contrast, Series] = field(default_factory=dict, repr=False)
    alternates: Mapping[Contrast, tuple[Series, ...]] = field(default_factory=dict, repr=False)
    """Of each contrast taken its repeats, of equal numbers and geometry as the one chosen, the better ones first."""
    acquisitions: Mapping[Contrast, Acquisition] = field(default_factory=dict, repr=False)
    placement: Placement | None = None
    input_digest: str = ""
    overrides: tuple[Override, ...] = field(default=(), repr=False)
    """What the user states of the models of this session's group."""
    on_taking: tuple[Remark, ...] = field(default=(), repr=False)
    """What was seen of the series that were taken while the session was ingested."""
    in_group: tuple[Remark, ...] = ()
    """What is seen beside the other sessions of the group."""
    groups: tuple[str, ...] = ()
    """Groups that the session may belong to, by headers alone: its own, and those behind bin edges that it is near."""

    @property
    def content(self) -> str:
        """Digest of the T1w pixels; equal for the same images under other identifiers. Empty if not known."""
        t1w = self.chosen.get(Contrast.T1W)
        return t1w.content if t1w is not None and self.placement is not None else ""

    @property
    def group(self) -> str:
        """Group that the session is ingested into; empty if it is not."""
        return self.placement.group if self.placement is not None else ""

    @property
    def numbers(self) -> Mapping[Contrast, tuple[int, ...]]:
        """Numbers of the series taken of each contrast, and of their repeats."""
        return {
            contrast: tuple(one.number for one in (taken, *self.alternates.get(contrast, ())))
            for contrast, taken in self.chosen.items()
        }

    @property
    def reaches(self) -> Mapping[Contrast, int]:
        """Millimetres that the slices of each contrast taken cover."""
        return {contrast: reach_of(one) for contrast, one in self.chosen.items()}

    @property
    def date(self) -> int | None:
        """Ordinal of the date of what is taken; None if it is not known."""
        return next((one.date for one in self.chosen.values()), None)

    def equals_of(self, contrast: Contrast) -> tuple[tuple[Series, bool], ...]:
        """The series taken of a contrast and its repeats, each with whether its looks may decide.

        They may between reconstructions of one kind: a filter changes how an image looks, and so does an agent. Where
        one may have been given before any of them, headers decide alone.
        """
        equal = (self.chosen[contrast], *self.alternates.get(contrast, ()))
        kinds = [_kind(one) for one in equal]
        members = {id(one) for one in equal}
        is_doubtful = any(one.context.named_agent for one in equal) or any(
            doubt.kind is RemarkKind.AGENT
            for one, decision in zip(self.series, self.decisions, strict=True)
            if id(one) in members
            for doubt in decision.doubts
        )
        return tuple((one, kind == kinds[0] and not is_doubtful) for one, kind in zip(equal, kinds, strict=True))

    @property
    def series_text(self) -> str:
        """What was decided on each series, as compact JSON: number, contrast or reason, explanation."""
        return decided_text(
            (one.number, str(decision.contrast if decision.reason is None else decision.reason), decision.explanation)
            for one, decision in zip(self.series, self.decisions, strict=True)
        )

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """What to know of the session before it is ingested."""
        given = chain.from_iterable(one.remarks for one in self.series)
        doubts = chain.from_iterable(one.doubts for one in self.decisions)
        own = (_misnamed(self), _repeats(self), _unscaled(self), _not_adult(self), _two_people(self))
        return ordered([*given, *doubts, *chain.from_iterable(own), *self.in_group, *self.on_taking])

    @property
    def age(self) -> int | None:
        """Age of the person in whole years, by the series that are taken; None if it is not known, or they differ."""
        ages = _stated_ages(self)
        return min(ages) if ages and max(ages) - min(ages) <= 1 else None

    @property
    def sex(self) -> str:
        """Sex of the person by the series that are taken; empty if it is not known, or they differ."""
        sexes = _stated_sexes(self)
        return sexes.pop() if len(sexes) == 1 else ""


def _stated_ages(plan: SessionPlan) -> set[int]:
    return {one.age for one in plan.chosen.values() if one.age is not None}


def _stated_sexes(plan: SessionPlan) -> set[str]:
    return {one.sex for one in plan.chosen.values() if one.sex}


def _two_people(plan: SessionPlan) -> Iterator[Remark]:
    """Ages and sexes in which the series of one session differ."""
    ages = _stated_ages(plan)
    if ages and max(ages) - min(ages) > 1:
        text = f"the ages that its series state differ by {max(ages) - min(ages)} years; the age is not known"
        yield Remark(kind=RemarkKind.AGE_UNKNOWN, text=text)
    if len(_stated_sexes(plan)) > 1:
        yield Remark(kind=RemarkKind.AGE_UNKNOWN, text="its series state different sexes; the sex is not known")


def _not_adult(plan: SessionPlan) -> Iterator[Remark]:
    if plan.age is not None and plan.age < ADULT:
        text = f"age {plan.age}: the maps rest on reference values of adults"
        yield Remark(kind=RemarkKind.NOT_ADULT, text=text)


def _read_otherwise(members: Iterable[Series]) -> Iterator[str]:
    """What makes another input of the same files."""
    for one in members:
        for remark in one.remarks:
            if remark.kind in READ_OTHERWISE:
                yield f"{one.digest} {remark.kind}"


def _kind(one: Series) -> tuple[object, ...]:
    """What an image was made by, beside the acquisition."""
    context = one.context
    return one.header.image_type, one.header.scan_options, context.lossy, context.processed, context.converted


def _misnamed(plan: SessionPlan) -> Iterator[Remark]:
    """Series whose numbers contradict their BIDS name."""
    for one, decision in zip(plan.series, plan.decisions, strict=True):
        if one.named is None or one.contrast is not None or decision.contrast is one.named:
            continue
        if decision.contrast is not None:
            text = f"series {one.number} is named {one.named}, and a {decision.contrast} by its numbers"
        elif decision.reason in {SkipReason.NO_PARAMETERS, one.problem}:
            continue
        else:
            text = f"series {one.number} is left out: {decision.explanation}"
        yield Remark(kind=RemarkKind.MISNAMED, text=text)


def _repeats(plan: SessionPlan) -> Iterator[Remark]:
    """Series of a contrast of which another one was taken."""
    for contrast, taken in plan.chosen.items():
        others = [
            one.number
            for one, decision in zip(plan.series, plan.decisions, strict=True)
            if decision.contrast is contrast and decision.reason is SkipReason.DUPLICATE
        ]
        if others:
            numbers = ", ".join(map(str, sorted(others)))
            text = f"{contrast}: series {taken.number} is taken, beside it lie series {numbers}"
            yield Remark(kind=RemarkKind.REPEATED, text=text)


def _unscaled(plan: SessionPlan) -> Iterator[Remark]:
    """Series taken without the factor that makes them comparable with those of other sessions."""
    for contrast, taken in plan.chosen.items():
        if taken.context.unscaled:
            text = f"{contrast}: series {taken.number} lacks its scale factor"
            yield Remark(kind=RemarkKind.SCALE_UNKNOWN, text=text)


def plan_sessions(
    series: Iterable[Series], overrides: Sequence[Override] = (), *, by_software: bool = False
) -> list[SessionPlan]:
    """One plan per session, in the order of the session pseudonyms, as into an empty store."""
    ordered = sorted(series, key=lambda one: (one.session, one.number, one.digest))
    members = {session: tuple(group) for session, group in groupby(ordered, key=lambda one: one.session)}
    first = [plan_session(one, overrides, by_software=by_software) for one in members.values()]
    assignment = assign_groups(first, {})
    return [finish_plan(plan, assignment, overrides, by_software=by_software) for plan in first]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAssignment:
    """What only all sessions together tell: the group of each, which hold one image twice, and the usual extents."""

    groups: Mapping[str, str] = field(default_factory=dict, repr=False)
    twins: Mapping[str, str] = field(default_factory=dict, repr=False)
    extents: Extents = field(default_factory=Extents, repr=False)


def assign_groups(
    plans: Iterable[Planned], stored: Mapping[str, str], whole: Mapping[str, str] | None = None
) -> GroupAssignment:
    """Settle groups and find images that occur twice; of ``plans`` little is kept.

    Parameters
    ----------
    plans
        First plans of all sessions of a source, see `plan_session`.
    stored
        Group of each session that the store holds.
    whole
        Whole keys of the store's groups with short ones; see `qmri_core.series.stored_keys.as_stored`.
    """
    candidates: dict[str, tuple[str, ...]] = {}
    holders: dict[str, list[str]] = defaultdict(list)
    extents = Extents()
    for plan in plans:
        if not plan.group:
            continue
        extents.add(plan.group, plan.reaches)
        candidates[plan.session] = plan.groups
        if plan.content:
            holders[plan.content].append(plan.session)
    twins: dict[str, str] = {}
    for sessions in holders.values():
        first, *others = sorted(sessions, key=lambda session: (session not in stored, session))
        twins |= dict.fromkeys(others, first)
    candidates = as_stored(candidates, stored, whole or {})
    return GroupAssignment(groups=settle(candidates, stored), twins=twins, extents=extents)


def finish_plan(
    plan: SessionPlan, assignment: GroupAssignment, overrides: Sequence[Override] = (), *, by_software: bool = False
) -> SessionPlan:
    """Make the final plan of a session from its first one."""
    twin = assignment.twins.get(plan.session)
    if twin is not None:
        return replace(
            plan,
            status=Status.SKIPPED,
            reason=Reason.DUPLICATE,
            explanation=f"its T1w image is that of session {twin}, under other identifiers",
            placement=None,
        )
    if plan.placement is None:
        return plan
    in_group = tuple(assignment.extents.short(plan.group, plan.chosen))
    group = assignment.groups.get(plan.session)
    if group is not None and group != plan.group:
        plan = plan_session(plan.series, overrides, by_software=by_software, group=group)
    return replace(plan, in_group=in_group) if in_group else plan


def plan_session(
    members: tuple[Series, ...], overrides: Sequence[Override] = (), *, by_software: bool = False, group: str = ""
) -> SessionPlan:
    """Decide on one session from the records of its series.

    The group follows from headers alone, unless ``group`` names another one of the session's candidates. The first of
    ``overrides`` that matches the group and a contrast changes that contrast's acquisition, and with it the digest of
    the input. With ``by_software`` another software version makes another scanner.
    """
    decisions = decide_session(members)
    chosen = _chosen(members, decisions)
    plan = SessionPlan(
        session=members[0].session,
        person=members[0].person,
        series=members,
        decisions=decisions,
        status=Status.SKIPPED,
        chosen=chosen,
        alternates={contrast: _alternates(members, decisions, contrast) for contrast in chosen},
        input_digest=_digest([*(one.digest for one in members), *_read_otherwise(members)]),
    )
    absent = [contrast for contrast in CONTRASTS if contrast not in chosen]
    if Contrast.T1W in absent or len(chosen) < MIN_CONTRASTS:
        reason = Reason.NO_PARAMETERS if _is_silent(decisions) else Reason.MISSING_CONTRAST
        text = _what_is_missing(chosen, absent, decisions) + _left_out(absent, members, decisions)
        return replace(plan, reason=reason, explanation=text)
    try:
        acquisitions = _acquisitions(chosen, decisions)
    except AcquisitionError as error:
        return replace(plan, reason=Reason.NO_PARAMETERS, explanation=str(error))
    t1w = chosen[Contrast.T1W]
    spacings = {contrast: canonical_spacing(np.asarray(one.affine)) for contrast, one in chosen.items()}
    scanner = scanner_key(t1w.header, t1w.device, software=by_software)
    protocols = protocol_keys(acquisitions, spacings)
    protocol = group.partition("/")[2] or protocols[0]
    placement = Placement(session=t1w.session, scanner=scanner, protocol=protocol, grid=grid_of(protocol))
    applied = {c: entry for c in chosen if (entry := overriding(overrides, placement.group, c)) is not None}
    if applied:
        stated = (f"{c} {sorted(entry.model.items())}" for c, entry in applied.items())
        plan = replace(plan, input_digest=_digest([plan.input_digest, *stated]), overrides=tuple(applied.values()))
    try:
        acquisitions |= _overridden(chosen, acquisitions, applied)
    except AcquisitionError as error:
        return replace(plan, reason=Reason.NO_PARAMETERS, explanation=str(error))
    return replace(
        plan,
        person=t1w.person,
        status=Status.PARTIAL if absent else Status.COMPLETE,
        reason=Reason.MISSING_CONTRAST if absent else None,
        explanation=f"no {' and no '.join(absent)}{_left_out(absent, members, decisions)}" if absent else "",
        acquisitions=acquisitions,
        placement=placement,
        groups=tuple(f"{scanner}/{one}" for one in protocols),
    )


def taken_plan(plan: SessionPlan, taken: Mapping[Contrast, tuple[int, str]]) -> SessionPlan:
    """The plan as it was carried out, where other series were taken than headers prefer.

    The digest of the input stays: it is that of all series of the session, whichever is taken of them.

    Parameters
    ----------
    taken
        By contrast the place among its equal series, from 1, and why that one was taken.
    """
    if not taken:
        return plan
    decisions, chosen, remarks = list(plan.decisions), dict(plan.chosen), list(plan.on_taking)
    for contrast, (place, why) in taken.items():
        preferred, best = chosen[contrast], plan.alternates[contrast][place - 1]
        for index, (one, decision) in enumerate(zip(plan.series, plan.decisions, strict=True)):
            if one is best:
                is_best = f"{decide(one).explanation}; taken before series {preferred.number}: {why}"
                decisions[index] = replace(decision, reason=None, explanation=is_best)
            elif decision.contrast is contrast and decision.reason in {None, SkipReason.DUPLICATE}:
                instead = "" if one is preferred else f" instead of series {preferred.number}"
                text = f"series {best.number} is taken{instead}: {why}"
                decisions[index] = replace(decision, reason=SkipReason.DUPLICATE, explanation=text)
        chosen[contrast] = best
        text = f"{contrast}: series {best.number} is taken instead of series {preferred.number}: {why}"
        remarks.append(Remark(kind=RemarkKind.BETTER_REPEAT, text=text))
    acquisitions = _acquisitions(chosen, decisions)
    applied = {c: e for c in chosen if (e := overriding(plan.overrides, plan.group, c)) is not None}
    return replace(
        plan,
        chosen=chosen,
        decisions=tuple(decisions),
        on_taking=tuple(remarks),
        acquisitions=acquisitions | _overridden(chosen, acquisitions, applied),
    )


def _chosen(members: Sequence[Series], decisions: Sequence[Decision]) -> dict[Contrast, Series]:
    """The series taken, in the order of the contrasts."""
    taken = {
        decision.contrast: one
        for one, decision in zip(members, decisions, strict=True)
        if decision.reason is None and decision.contrast is not None
    }
    return {contrast: taken[contrast] for contrast in CONTRASTS if contrast in taken}


def _alternates(members: Sequence[Series], decisions: Sequence[Decision], contrast: Contrast) -> tuple[Series, ...]:
    """The repeats of a contrast's series that was taken, in the order of preference."""
    repeats = [
        (decision.place, index)
        for index, decision in enumerate(decisions)
        if decision.contrast is contrast and decision.place and decision.reason is SkipReason.DUPLICATE
    ]
    return tuple(members[index] for _, index in sorted(repeats))


def _acquisitions(chosen: Mapping[Contrast, Series], decisions: Iterable[Decision]) -> dict[Contrast, Acquisition]:
    """Acquisitions by the headers; `AcquisitionError` says what the user must state."""
    sequences = {decision.contrast: decision.sequence for decision in decisions if decision.reason is None}
    acquisitions: dict[Contrast, Acquisition] = {}
    for contrast, one in chosen.items():
        sequence = sequences[contrast]
        if sequence is None:
            raise AcquisitionError(f"{contrast}: the sequence family is not known; state it with --assume")
        try:
            acquisitions[contrast] = acquisition_from_header(one.header, contrast, sequence, planes=_planes(one))
        except AcquisitionError as error:
            raise AcquisitionError(f"{error}; state what is missing with --assume") from error
    return acquisitions


def _planes(one: Series) -> int:
    """Planes of an image along the axis of its slices: the last of DICOM, that of the widest spacing of NIfTI."""
    widest = max(range(3), key=lambda axis: (round(one.spacing[axis], 2), axis))
    return one.shape[2 if one.kind == "dicom" else widest]


def _overridden(
    chosen: Mapping[Contrast, Series],
    acquisitions: Mapping[Contrast, Acquisition],
    overrides: Mapping[Contrast, Override],
) -> dict[Contrast, Acquisition]:
    """The acquisitions that the user's statements change; `AcquisitionError` names what was stated."""
    result: dict[Contrast, Acquisition] = {}
    for contrast, entry in overrides.items():
        header, sequence = chosen[contrast].header, acquisitions[contrast].sequence
        try:
            planes = _planes(chosen[contrast])
            result[contrast] = acquisition_from_header(header, contrast, sequence, entry.model, planes=planes)
        except (ValueError, ArithmeticError) as error:  # zero echoes, say, end in a division
            where = "" if isinstance(error, AcquisitionError) else f"{contrast} {sequence}: "
            stated = ", ".join(sorted(entry.model))
            raise AcquisitionError(f"{where}{error}; the assume file states {stated} for this group") from error
    return result


def unmatched_entries(
    entries: Sequence[Assumption | Override], unmatched: Iterable[int], used: Iterable[Override]
) -> tuple[int, ...]:
    """Positions of the assume entries that matched nothing.

    ``unmatched`` counts those with ``match`` only; ``used`` are the overrides that some plan holds.
    """
    places = [place for place, entry in enumerate(entries) if isinstance(entry, Assumption)]
    applied = list(used)
    unused = [place for place, entry in enumerate(entries) if isinstance(entry, Override) and entry not in applied]
    return tuple(sorted([*unused, *(places[index] for index in unmatched)]))


def _is_silent(decisions: Iterable[Decision]) -> bool:
    """Whether headers without numbers are why the session has no contrast: nothing else could be one."""
    anatomical = [one for one in decisions if one.reason in {None, *_MAY_BE_CONTRAST}]
    return bool(anatomical) and all(one.reason is SkipReason.NO_PARAMETERS for one in anatomical)


_MAY_BE_CONTRAST = {SkipReason.NO_PARAMETERS, SkipReason.CONTRAST_UNKNOWN, SkipReason.DUPLICATE}


def _what_is_missing(
    chosen: Mapping[Contrast, Series], absent: Iterable[Contrast], decisions: Iterable[Decision]
) -> str:
    counts: dict[str, int] = defaultdict(int)
    for decision in decisions:
        if decision.reason is not None:
            counts[str(decision.reason)] += 1
    others = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    found = f"{' and '.join(chosen)}, but no {' and no '.join(absent)}" if chosen else "none of the contrasts"
    hint = "; state with --assume what they are" if SkipReason.NO_PARAMETERS in counts else ""
    return f"found {found}; maps need T1w and one of T2w and FLAIR" + (
        f" (other series: {others}{hint})" if others else ""
    )


def _left_out(absent: Sequence[Contrast], members: Iterable[Series], decisions: Iterable[Decision]) -> str:
    """Why series of the absent contrasts are not taken, in the form of a clause; empty if there are none."""
    texts = [
        f"{decision.contrast} series {one.number} is left out: {decision.explanation}"
        for one, decision in zip(members, decisions, strict=True)
        if decision.contrast in absent and decision.reason in _TELLING
    ]
    return "".join(f"; {text}" for text in texts)


_TELLING = {SkipReason.CONTRAST_UNKNOWN, SkipReason.INCOMPLETE, SkipReason.LOCALIZER}
"""Reasons whose explanations say what is wrong with an image of a known contrast."""


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()
