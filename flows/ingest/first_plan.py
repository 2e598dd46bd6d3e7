"""What a run needs of the plan that a session gets by its own numbers, small enough to be kept between nights."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

import flows
import qmri_core
import storage
from qmri_core import versions
from qmri_core.series.acquisition import Contrast
from storage.source.assume_file import Override
from storage.store.schema import Reason, Status


class Planned(Protocol):
    """What decides whether a session is done, and what all sessions of a source are compared by."""

    @property
    def session(self) -> str:
        """Its pseudonym."""

    @property
    def person(self) -> str:
        """Pseudonym of the person."""

    @property
    def status(self) -> Status:
        """What it becomes if nothing fails."""

    @property
    def reason(self) -> Reason | None:
        """Why it is skipped or partial."""

    @property
    def input_digest(self) -> str:
        """Of the files that count, and what is stated of them."""

    @property
    def group(self) -> str:
        """Empty where the session is not ingested."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups that it may belong to by headers alone."""

    @property
    def content(self) -> str:
        """Digest of the T1w pixels; empty if not known."""

    @property
    def numbers(self) -> Mapping[Contrast, tuple[int, ...]]:
        """Numbers of the series that may be taken of each contrast that is taken."""

    @property
    def reaches(self) -> Mapping[Contrast, int]:
        """Millimetres that the slices of each contrast taken cover."""

    @property
    def date(self) -> int | None:
        """Ordinal of its date; None if it is not known."""

    @property
    def overrides(self) -> tuple[Override, ...]:
        """What the user states of the models of its group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstPlan:
    """A `Planned` that holds no series."""

    session: str
    person: str
    status: Status
    reason: Reason | None
    input_digest: str
    group: str
    groups: tuple[str, ...]
    content: str
    numbers: Mapping[Contrast, tuple[int, ...]]
    reaches: Mapping[Contrast, int]
    date: int | None = field(repr=False)
    overrides: tuple[Override, ...]

    @classmethod
    def of(cls, plan: Planned) -> FirstPlan:
        """What is to be kept of a plan."""
        return cls(**{name: getattr(plan, name) for name in cls.__slots__})

    @classmethod
    def from_bytes(cls, content: bytes) -> FirstPlan:
        """The plan that `to_bytes` gave."""
        (*values, status, reason, numbers, reaches) = pickle.loads(content)  # noqa: S301 - our own private file
        names = [name for name in cls.__slots__ if name not in _CODED]
        return cls(
            **dict(zip(names, values, strict=True)),
            status=Status(status),
            reason=Reason(reason) if reason else None,
            numbers={Contrast(name): found for name, found in numbers.items()},
            reaches={Contrast(name): found for name, found in reaches.items()},
        )

    def to_bytes(self) -> bytes:
        """The plan in few bytes that are read fast."""
        values = [getattr(self, name) for name in self.__slots__ if name not in _CODED]
        numbers, reaches = ({str(name): of for name, of in one.items()} for one in (self.numbers, self.reaches))
        return pickle.dumps((*values, str(self.status), str(self.reason or ""), numbers, reaches), -1)


_CODED = ("status", "reason", "numbers", "reaches")


def grounds_of_plans(overrides: Sequence[Override], *, by_software: bool) -> bytes:
    """What plans rest on beside the series of the sessions: what the user states, and the code."""
    stated = "\n".join(entry.model_dump_json() for entry in overrides)
    parts = (stated, str(by_software), versions.CODE_VERSION, str(versions.PREPROCESSING), sys.version, code_digest())
    return hashlib.sha256("\0".join(parts).encode()).digest()


@cache
def code_digest() -> str:
    """Digest of the code and the tables of this package as they are installed, which a developer changes any time."""
    digest = hashlib.sha256()
    for package in (qmri_core, storage, flows):
        for path in sorted(_sources(Path(str(package.__file__)).parent)):
            digest.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _sources(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.suffix in {".py", ".csv"} and path.is_file())
