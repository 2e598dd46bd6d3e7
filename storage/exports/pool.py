"""What sites tell each other to solve their levels together: exports of sites, and the answer to all of them.

The models here are the allow-list: numbers, codes and words of this program, and no text of anybody's. No image, name,
date, serial number, institution or pseudonym of a store leaves; see ``docs/explanation/privacy.md``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from qmri_core.calibration.groups import GroupSessions
from qmri_core.calibration.hidden_parameters import PARAMETER_SPREADS, TRANSFER, Hidden
from qmri_core.calibration.levels import Anchor, GroupLevel
from qmri_core.calibration.pooling import LOCAL, Pooled, PooledGroup
from qmri_core.calibration.scales import Signals
from qmri_core.calibration.session_model import Spreads, observations
from qmri_core.series.acquisition import Acquisition, Contrast, without_jitter
from storage.exports.sealed import SealedFileError, read_sealed, write_sealed
from storage.store.acquisitions import acquisition_of, acquisition_values

EXPORT, ANSWER = "qmri pool export", "qmri pool solve"
"""Kinds of files, and the commands that write them."""
VERSION = 1
"""Of the format of both."""
FEWEST_PEOPLE = 10
"""People that a group must have to be exported, if nothing else is said: a usual bound for tables that are given away;
chosen."""
SIGNAL_DECIMALS = 6
"""Of the log of a signal: levels to 1e-6 need them."""
_LEVEL_DECIMALS = 7
_SEXES: Mapping[float, Literal["F", "M", ""]] = {0.5: "F", -0.5: "M", 0.0: ""}
_PARAMETERS = frozenset(one.name for one in fields(Acquisition))
_OWN_NUMBERS = frozenset({"repetition_time", "echo_time", "inversion_time", "flip_angle", "echo_train_length"})
"""Parameters that the store has as numbers of their own."""
_OF_SEXES = {word: number for number, word in _SEXES.items()}

Number = Annotated[float, Field(allow_inf_nan=False)]
OfLevels = tuple[Number, Number, Number, Number]
"""By `LEVELS`."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExportedSession(_Strict):
    """Age in whole years, 90 and above as 90; ``logs`` of the signals of the group's observations, in their order."""

    person: Annotated[str, Field(pattern=rf"^({LOCAL}\d+|[0-9a-f]{{16}})$")]
    clinic: Annotated[str, Field(pattern=r"^clinic-\d+$")]
    age: Annotated[int, Field(ge=0, le=90)] | None
    sex: Literal["F", "M", ""]
    scale_unknown: bool
    logs: tuple[Number | None, ...]


class ExportedGroup(_Strict):
    """Sessions of one scanner and protocol; ``acquisitions`` in SI units as `storage.store.acquisitions` has them."""

    group: Annotated[str, Field(pattern=r"^group-\d+$")]
    scanner: Annotated[str, Field(pattern=r"^scanner-\d+$")]
    acquisitions: dict[Contrast, dict[str, Any]]
    observations: tuple[tuple[Contrast, Literal["WM", "GM", "CSF"]], ...]
    sessions: Annotated[tuple[ExportedSession, ...], Field(min_length=1)]

    @field_validator("acquisitions")
    @classmethod
    def _known(cls, acquisitions: dict[Contrast, dict[str, Any]]) -> dict[Contrast, dict[str, Any]]:
        for contrast, settings in acquisitions.items():
            try:
                marks = dict(_acquisition(contrast, settings).marks)
            except (TypeError, KeyError, AttributeError):
                raise ValueError(f"{contrast} has parameters that this version does not know; upgrade here") from None
            if not set(marks) <= _PARAMETERS:
                raise ValueError(f"{contrast} has marks of parameters that this version does not know; upgrade here")
        return acquisitions

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if list(self.observations) != observations(self.acquisitions):
            raise ValueError("observations are not those of its series")
        if any(len(one.logs) != len(self.observations) for one in self.sessions):
            raise ValueError("a session has not as many signals as there are observations")
        return self


class ExportedAnchor(_Strict):
    """`qmri_core.calibration.levels.Anchor` of a group or a person, by their codes."""

    group: str | None
    person: str | None
    level: tuple[Literal["WM", "GM"], Literal["t1", "t2"]]
    deviation: Number
    sd: Annotated[Number, Field(gt=0)]
    method: Annotated[str, Field(pattern=r"^(method-\d+)?$")]
    method_sd: Annotated[Number, Field(ge=0)]


class SiteExport(_Strict):
    """What a site tells: ``state`` is the snapshot of its store, ``study`` the code of the study's key, or empty."""

    study: Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")]
    state: Annotated[str, Field(pattern=r"^[0-9A-Z]{20}$")]
    preprocessing: int
    fewest_people: int
    groups: Annotated[tuple[ExportedGroup, ...], Field(min_length=1)]
    anchors: tuple[ExportedAnchor, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        codes = [one.group for one in self.groups]
        people = {session.person for one in self.groups for session in one.sessions}
        if len(set(codes)) < len(codes):
            raise ValueError("a group stands twice")
        if any((one.group or codes[0]) not in codes for one in self.anchors):
            raise ValueError("an anchor is of no group here")
        if any(one.person is not None and one.person not in people for one in self.anchors):
            raise ValueError("an anchor is of nobody here")
        if any((one.group is None) == (one.person is None) for one in self.anchors):
            raise ValueError("an anchor is of a group or a person, and not of both")
        return self


class _Level(_Strict):
    mean: OfLevels
    sd: OfLevels
    from_ages: OfLevels
    measured: OfLevels
    n_bridging: int
    component: int
    apart: OfLevels
    freedom: OfLevels
    clinics: dict[str, Number]


class _Hidden(_Strict):
    name: Literal[(*PARAMETER_SPREADS, TRANSFER)]  # type: ignore[valid-type]
    shift: Number
    sd: Number
    prior_sd: Annotated[Number, Field(gt=0)]
    effect: Number


class AnsweredGroup(_Strict):
    """Level and hidden parameters of a group; ``reference`` says what the population was taken for."""

    group: str
    n_sessions: int
    reference: str
    level: _Level
    hidden: dict[Contrast, tuple[_Hidden, ...]]

    def pooled(self) -> PooledGroup:
        """In the words of the calibration."""
        hidden = {contrast: tuple(Hidden(**dict(one)) for one in own) for contrast, own in self.hidden.items()}
        return PooledGroup(level=GroupLevel(**dict(self.level)), hidden=hidden)


class AnsweredSite(_Strict):
    """The groups of one export, told by the snapshot that it was made of, and its digest."""

    state: str
    export: str
    groups: tuple[AnsweredGroup, ...]


class _Spreads(_Strict):
    own: dict[Contrast, Annotated[Number, Field(gt=0)]]
    common: Annotated[Number, Field(gt=0)]


class Answer(_Strict):
    """Levels of the groups of all sites."""

    preprocessing: int
    is_anchored: bool
    has_transfer: bool
    """Whether magnetization transfer was expected."""
    spreads: _Spreads
    sites: Annotated[tuple[AnsweredSite, ...], Field(min_length=1)]

    def scale_spreads(self) -> Spreads:
        """Of the scales of sessions of all sites."""
        return Spreads(own=self.spreads.own, common=self.spreads.common)


def group_codes(groups: Mapping[str, GroupSessions]) -> dict[str, str]:
    """Code of each group: its number among all of the store."""
    return {group: f"group-{number}" for number, group in enumerate(sorted(groups), start=1)}


def too_small(groups: Mapping[str, GroupSessions], fewest: int) -> dict[str, int]:
    """Groups with fewer people than that, and how many they have."""
    sizes = {group: len(set(one.people)) for group, one in groups.items()}
    return {group: n for group, n in sizes.items() if n < fewest}


def site_export(
    groups: Mapping[str, GroupSessions],
    *,
    codes: Mapping[str, str],
    people: Mapping[str, str],
    study: str,
    state: str,
    preprocessing: int,
    fewest_people: int,
    anchors: Sequence[tuple[str | None, Anchor]] = (),
) -> SiteExport:
    """What a site tells of its ``groups``, by ``codes`` of groups and of ``people``; anchors with their group."""
    scanners = _numbered("scanner", (one.scanner for one in groups.values()))
    clinics = _numbered("clinic", (clinic for one in groups.values() for clinic in one.clinics))
    methods = _numbered("method", (anchor.method for _, anchor in anchors if anchor.method)) | {"": ""}
    return SiteExport(
        study=study,
        state=state,
        preprocessing=preprocessing,
        fewest_people=fewest_people,
        groups=tuple(
            _exported(one, codes[group], scanners[one.scanner], clinics, people) for group, one in groups.items()
        ),
        anchors=tuple(
            ExportedAnchor(
                group=None if group is None else codes[group],
                person=None if one.person is None else people[one.person],
                level=one.level,  # type: ignore[arg-type]
                deviation=one.deviation,
                sd=one.sd,
                method=methods[one.method],
                method_sd=one.method_sd,
            )
            for group, one in anchors
        ),
    )


def _numbered(name: str, values: Any) -> dict[str, str]:  # noqa: ANN401 - any iterable of texts
    return {value: f"{name}-{number}" for number, value in enumerate(sorted(set(values)), start=1)}


def _exported(
    one: GroupSessions, code: str, scanner: str, clinics: Mapping[str, str], people: Mapping[str, str]
) -> ExportedGroup:
    names = observations(one.acquisitions)
    rows = zip(one.people, one.clinics, one.ages.tolist(), one.sexes.tolist(), one.doubts, one.signals, strict=True)
    return ExportedGroup(
        group=code,
        scanner=scanner,
        acquisitions={contrast: _settings(without_jitter(own)) for contrast, own in one.acquisitions.items()},
        observations=tuple(names),  # type: ignore[arg-type]
        sessions=tuple(
            ExportedSession(
                person=people[person],
                clinic=clinics[clinic],
                age=int(age) if math.isfinite(age) else None,
                sex=_SEXES[sex],
                scale_unknown=doubt,
                logs=tuple(_log(signals[contrast][tissue]) for contrast, tissue in names),
            )
            for person, clinic, age, sex, doubt, signals in rows
        ),
    )


def _log(signal: float) -> float | None:
    return round(math.log(signal), SIGNAL_DECIMALS) if signal > 0 and math.isfinite(signal) else None


def _settings(acquisition: Acquisition) -> dict[str, Any]:
    """An acquisition as the store has it, in one piece, with what differs from file to file rounded away."""
    start = f"{acquisition.contrast}_"
    values = {name.removeprefix(start): value for name, value in acquisition_values(acquisition).items()}
    rest: dict[str, Any] = json.loads(str(values.pop("model_parameters")))
    return {name: value for name, value in values.items() if value == value} | rest  # NaN is none


def _acquisition(contrast: Contrast, settings: Mapping[str, Any]) -> Acquisition:
    """Back from `_settings`; TypeError, KeyError or ValueError where they are none."""
    rest = {name: value for name, value in settings.items() if name not in _OWN_NUMBERS | {"sequence"}}
    numbers = dict.fromkeys(_OWN_NUMBERS, math.nan) | {name: settings[name] for name in _OWN_NUMBERS & set(settings)}
    values = {"sequence": settings["sequence"], "model_parameters": json.dumps(rest), **numbers}
    result = acquisition_of({f"{contrast}_{name}": value for name, value in values.items()}, contrast)
    if result is None:
        raise ValueError("a series has no sequence")
    return result


def exported_groups(export: SiteExport) -> dict[str, GroupSessions]:
    """Groups of an export by their codes, as calibration asks for them; sessions have no names."""
    return {
        one.group: GroupSessions(
            sessions=[""] * len(one.sessions),
            doubts=[session.scale_unknown for session in one.sessions],
            signals=[_signals(one, session) for session in one.sessions],
            people=[session.person for session in one.sessions],
            clinics=[session.clinic for session in one.sessions],
            scanner=one.scanner,
            ages=np.asarray([math.nan if session.age is None else session.age for session in one.sessions], float),
            sexes=np.asarray([_OF_SEXES[session.sex] for session in one.sessions], float),
            acquisitions={contrast: _acquisition(contrast, own) for contrast, own in one.acquisitions.items()},
        )
        for one in export.groups
    }


def exported_anchors(export: SiteExport) -> list[tuple[str | None, Anchor]]:
    """Anchors of an export, each with the code of its group."""
    return [
        (
            one.group,
            Anchor(
                level=one.level,
                deviation=one.deviation,
                sd=one.sd,
                person=one.person,
                method=one.method,
                method_sd=one.method_sd,
            ),
        )
        for one in export.anchors
    ]


def _signals(group: ExportedGroup, session: ExportedSession) -> Signals:
    signals: dict[Contrast, dict[str, float]] = {contrast: {} for contrast in group.acquisitions}
    for (contrast, tissue), log in zip(group.observations, session.logs, strict=True):
        signals[contrast][tissue] = math.nan if log is None else math.exp(log)
    return signals


def answer_to(
    exports: Sequence[tuple[SiteExport, str]],
    sites: Sequence[Mapping[str, GroupSessions]],
    pooled: Pooled,
    *,
    has_transfer: bool,
) -> Answer:
    """The solution, for the sites of ``exports`` (each with its digest) to take back."""
    is_anchored = any(export.anchors for export, _ in exports)
    return Answer(
        preprocessing=exports[0][0].preprocessing,
        is_anchored=is_anchored,
        has_transfer=has_transfer,
        spreads=_Spreads(
            own={contrast: round(sd, 9) for contrast, sd in pooled.spreads.own.items()},
            common=round(pooled.spreads.common, 9),
        ),
        sites=tuple(
            AnsweredSite(
                state=export.state,
                export=digest,
                groups=tuple(
                    _answered(
                        code,
                        one,
                        pooled.groups[number, code],
                        reference=one.population.describe(is_anchored=is_anchored, has_transfer=has_transfer),
                    )
                    for code, one in site.items()
                    if (number, code) in pooled.groups
                ),
            )
            for number, ((export, digest), site) in enumerate(zip(exports, sites, strict=True))
        ),
    )


def _answered(code: str, one: GroupSessions, found: PooledGroup, *, reference: str) -> AnsweredGroup:
    level: dict[str, Any] = {
        name: tuple(round(number, _LEVEL_DECIMALS) for number in value) if isinstance(value, tuple) else value
        for name, value in asdict(found.level).items()
    }
    hidden = {
        contrast: tuple(
            _Hidden(**{name: round(v, 9) if isinstance(v, float) else v for name, v in asdict(each).items()})
            for each in own
        )
        for contrast, own in found.hidden.items()
    }
    return AnsweredGroup(
        group=code,
        n_sessions=len(one.sessions),
        reference=reference,
        level=_Level(**level),
        hidden=hidden,
    )


def write_export(path: Path, export: SiteExport) -> str:
    """Write what a site tells; the digest."""
    return write_sealed(path, export.model_dump(mode="json"), kind=EXPORT, version=VERSION)


def write_answer(path: Path, answer: Answer) -> str:
    """Write the answer to all sites; the digest."""
    return write_sealed(path, answer.model_dump(mode="json"), kind=ANSWER, version=VERSION)


def read_export(path: Path) -> tuple[SiteExport, str]:
    """What a site has told, and the digest.

    Raises
    ------
    storage.exports.sealed.SealedFileError
        If the file is none, damaged, or of another version, or says what no site of this version does.
    """
    content, digest = read_sealed(path, kind=EXPORT, version=VERSION, source=EXPORT)
    return _checked(SiteExport, content, path), digest


def read_answer(path: Path) -> Answer:
    """The answer to all sites; raises as `read_export` does."""
    content, _ = read_sealed(path, kind=ANSWER, version=VERSION, source=ANSWER)
    return _checked(Answer, content, path)


_Model = TypeVar("_Model", bound=BaseModel)


def _checked(model: type[_Model], content: Mapping[str, Any], path: Path) -> _Model:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SealedFileError(f"{path.name}: {place}: {first['msg']}; this version writes no such file") from None
