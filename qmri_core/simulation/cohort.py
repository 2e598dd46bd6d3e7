"""Who is scanned when on which scanner: the plan of a simulated cohort, from one seed. Identities are invented."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from qmri_core.simulation.effects import DEFAULT_EFFECTS, Effect
from qmri_core.simulation.faults import Fault
from qmri_core.simulation.protocols import SimulatedProtocol, protocol_table

_SURNAMES = (
    "Abendroth", "Baerwald", "Castellan", "Dombrowka", "Eschenbach", "Fairweather", "Grünspan", "Halvorsen",
    "Ibáñez", "Jankauskas", "Kowalczyk", "Lindqvist", "Moreau", "Nakagawa", "O'Sullivan", "Petrakis",
    "Quintero", "Rasmussen", "Szymański", "Thorvaldsen", "Underhill", "Vandermeer", "Weissenborn", "Yildirim",
)  # fmt: skip
_FEMALE = ("Adelheid", "Beatriz", "Chiara", "Dorothea", "Eulalia", "Friederike", "Ginevra", "Hedwig", "Ilse", "Joana")
_MALE = ("Anselm", "Bartosz", "Cornelius", "Domenico", "Edvard", "Ferdinand", "Gregor", "Horatio", "Ignacio", "Jasper")
_FIRST_DAY = datetime.date(2018, 1, 8)
_DAYS_BETWEEN_VISITS = 9
_YEARS_BETWEEN_CLINICS, _YEARS_WITHIN = 15.0, 14.0
"""Years between the mean ages of the youngest and the oldest clinic; standard deviation within one."""
_YOUNGEST, _OLDEST = 19.0, 89.0
CLINIC_SPREADS = (0.013, 0.013, 0.011, 0.016)
"""Standard deviations between clinics beyond age, of the logs of T1 and T2 of white and of grey matter; a judgement, as
what illness does is known in a few (see the docs)."""
_ONE_IN = 10
"""Of so many people of a clinic one comes to another one too."""


class Design(StrEnum):
    """How subjects are spread over groups."""

    COHORT = "cohort"
    """Different subjects in every group."""
    TRAVELLING_HEADS = "travelling-heads"
    """The same subjects in every group."""
    RETEST = "retest"
    """Every subject twice in one group."""
    CLINICS = "clinics"
    """Groups whose people differ: by age, by what sends them, and one in ten comes to a second group too."""
    FAULTS = "faults"
    """One session of each kind of `Fault`, in that order and then again; what must become of each is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """An invented patient, as the tags of a hospital's files name one."""

    number: int
    family_name: str
    given_name: str
    patient_id: str
    birth_date: datetime.date
    sex: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSession:
    """One visit. Everything of the session follows from this value alone.

    ``seed`` is the cohort's; ``index`` the session's place in it; ``person.number`` the subject; ``visit`` counts the
    person's visits from 0; ``group`` names scanner and protocol; ``serial_number`` is the device's; ``fault`` says what
    is wrong with the session, if anything; ``clinic`` is what the tissue of all people of its clinic differs by, logs
    of T1 and T2 of white and of grey matter.
    """

    seed: int
    index: int
    person: Person
    visit: int
    group: str
    protocol: SimulatedProtocol
    serial_number: str
    study_instance_uid: str
    date: datetime.date
    time: datetime.time
    fault: Fault | None = None
    effects: frozenset[Effect] = DEFAULT_EFFECTS
    clinic: tuple[float, ...] = ()

    @property
    def age(self) -> int:
        """Whole years on the day of the visit."""
        return _years(self.person.birth_date, self.date)

    @property
    def age_of_anatomy(self) -> int | None:
        """Years on the day of the first visit, which the anatomy follows; ``None`` if it follows none."""
        first = self.date - datetime.timedelta(days=_DAYS_BETWEEN_VISITS * self.visit)
        return _years(self.person.birth_date, first) if Effect.AGEING in self.effects else None

    @property
    def has_tumour(self) -> bool:
        """Whether the person has one, which follows from who it is."""
        return Effect.TUMOURS in self.effects and self.subject_seed % 8 == 0

    @property
    def subject_seed(self) -> int:
        """Seed of the person's anatomy."""
        return int.from_bytes(_digest(self.seed, "subject", self.person.number)[:6], "big")

    def generator(self, *purpose: int) -> np.random.Generator:
        """Random numbers of this session for one purpose, independent of all other sessions and purposes."""
        return np.random.default_rng([self.seed, 41, self.index, *purpose])

    def uid(self, *parts: str | int) -> str:
        """Identify something in this session uniquely (DICOM PS3.5 B.2) and the same on every run."""
        return uid(self.seed, self.index, *parts)


def uid(*parts: str | int) -> str:
    """DICOM identifier derived from ``parts``."""
    return f"2.25.{int.from_bytes(_digest(*parts)[:16], 'big')}"


def plan_cohort(
    *,
    sessions: int,
    groups: int,
    seed: int,
    design: str | Design = Design.COHORT,
    effects: frozenset[Effect] = DEFAULT_EFFECTS,
    protocols: Sequence[str] = (),
) -> tuple[PlannedSession, ...]:
    """Plan ``sessions`` visits in all over ``groups`` groups.

    Groups take ``protocols``, names in the table, in order; without them all of the table. Two protocols of one model
    are two groups of one scanner, and after the last protocol the first comes again, on further devices.

    Raises
    ------
    ValueError
        If a count is not positive, there are fewer sessions than groups, or the design or a protocol is not known.
    """
    try:
        kind = Design(design)
    except ValueError:
        raise ValueError(f"design {design!r} is none of {', '.join(Design)}") from None
    if sessions < 1 or groups < 1 or seed < 0:
        raise ValueError(f"sessions {sessions} and groups {groups} must be at least 1, seed {seed} at least 0")
    if sessions < groups * (2 if kind is Design.RETEST else 1):
        raise ValueError(
            f"{sessions} sessions do not fill {groups} groups of the design {kind}; simulate more sessions"
        )
    table = _named(protocols)
    return tuple(_plan(index, groups, seed, kind, effects, table) for index in range(sessions))


def _named(names: Sequence[str]) -> Sequence[SimulatedProtocol]:
    table = {protocol.name: protocol for protocol in protocol_table()}
    if unknown := sorted(set(names) - set(table)):
        raise ValueError(f"protocols {', '.join(unknown)} are none of {', '.join(sorted(table))}")
    if len(set(names)) < len(names):
        raise ValueError(f"protocols {', '.join(names)} name one twice; more groups take them again")
    return [table[name] for name in names or table]


def _plan(
    index: int, groups: int, seed: int, design: Design, effects: frozenset[Effect], table: Sequence[SimulatedProtocol]
) -> PlannedSession:
    home = None
    if design in (Design.COHORT, Design.FAULTS):
        number, group, visit = index, index % groups, 0
    elif design is Design.CLINICS:
        block, place = divmod(index, _ONE_IN + 1)
        visit = place // _ONE_IN
        number = _ONE_IN * block + (block % _ONE_IN if visit else place)
        home = number % groups
        group = (home + visit * (1 + block % max(groups - 1, 1))) % groups
    elif design is Design.TRAVELLING_HEADS:
        number, group, visit = index // groups, index % groups, index % groups
    else:
        number, group, visit = index // 2, index // 2 % groups, index % 2
    protocol, replica = table[group % len(table)], group // len(table)
    person = _person(seed, number)
    if home is not None:
        person = replace(person, birth_date=_birth_date(seed, number, home, groups))
    rng = np.random.default_rng([seed, 43, index])
    first = _FIRST_DAY + datetime.timedelta(days=int(np.random.default_rng([seed, 47, number]).integers(0, 1800)))
    return PlannedSession(
        seed=seed,
        index=index,
        person=person,
        visit=visit,
        group=f"{protocol.name}-{replica}" if replica else protocol.name,
        protocol=protocol,
        serial_number=str(
            10_000 + int.from_bytes(_digest(seed, "device", protocol.model, replica)[:4], "big") % 90_000
        ),
        study_instance_uid=uid(seed, index, "study"),
        date=first + datetime.timedelta(days=_DAYS_BETWEEN_VISITS * visit),
        time=datetime.time(int(rng.integers(7, 19)), int(rng.integers(0, 60)), int(rng.integers(0, 60))),
        fault=tuple(Fault)[index % len(Fault)] if design is Design.FAULTS else None,
        effects=effects,
        clinic=() if home is None else _clinic(seed, home),
    )


def _birth_date(seed: int, number: int, home: int, groups: int) -> datetime.date:
    """Of a person of a clinic, whose people are of an age."""
    place = int(np.random.default_rng([seed, 59]).permutation(groups)[home])
    mean = 55.0 + _YEARS_BETWEEN_CLINICS * (place / max(groups - 1, 1) - 0.5)
    years = mean + _YEARS_WITHIN * float(np.random.default_rng([seed, 61, number]).standard_normal())
    return _FIRST_DAY - datetime.timedelta(days=int(365.25 * min(max(years, _YOUNGEST), _OLDEST)))


def _clinic(seed: int, home: int) -> tuple[float, ...]:
    """What the tissue of a clinic's people differs by; of white and grey matter half of the variance is shared."""
    shared, own = np.random.default_rng([seed, 67, home]).standard_normal((2, len(CLINIC_SPREADS)))
    mixed = (np.tile(shared[:2], 2) + own) * np.sqrt(0.5)
    return tuple(float(value) for value in mixed * CLINIC_SPREADS)


def _years(birth: datetime.date, day: datetime.date) -> int:
    return day.year - birth.year - ((day.month, day.day) < (birth.month, birth.day))


def _person(seed: int, number: int) -> Person:
    rng = np.random.default_rng([seed, 53, number])
    is_female = bool(rng.random() < 0.5)
    return Person(
        number=number,
        family_name=str(rng.choice(_SURNAMES)),
        given_name=str(rng.choice(_FEMALE if is_female else _MALE)),
        patient_id=f"{int.from_bytes(_digest(seed, 'patient', number)[:5], 'big') % 10**9:09d}",
        birth_date=datetime.date(1935, 1, 1) + datetime.timedelta(days=int(rng.integers(0, 23_000))),
        sex="F" if is_female else "M",
    )


def _digest(*parts: str | int) -> bytes:
    return hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
