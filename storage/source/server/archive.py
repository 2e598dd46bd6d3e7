"""What a server must be able to do, whatever it is asked by."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydicom.dataset import Dataset

from storage.source.origin import Server


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What a server lists of a study. ``stamp`` changes when it does, ``date`` is an ordinal, None if not told."""

    uid: str = field(repr=False)
    stamp: str
    date: int | None = field(repr=False)
    n_instances: int | None
    """None of a server that does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What a server lists of a series of a study."""

    uid: str = field(repr=False)
    modality: str
    body_part: str
    n_instances: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The header of one object, None if it cannot be read, and a digest of all that was told of it."""

    dataset: Dataset | None = field(repr=False)
    digest: str


class Archive(Protocol):
    """A connection to a server, for one thread at a time; all methods raise `ServerError` where it fails."""

    def studies(self, filters: Mapping[str, str]) -> Iterator[Study]:
        """Studies that match, in any order; one may come twice."""
        ...

    def members(self, study: str) -> Sequence[Member]:
        """Series of a study."""
        ...

    def headers(self, study: str, series: str, *, one: bool = False) -> Sequence[Header]:
        """Headers of all objects of a series, or of one of them."""
        ...

    def retrieve(self, study: str, series: str, wanted: Mapping[str, Path]) -> None:
        """Write the objects of a series that are wanted, by their identifiers, into files."""
        ...


def connect(server: Server) -> AbstractContextManager[Archive]:
    """Connect to a server, with the credentials of the environment.

    Raises
    ------
    ServerError
        If that cannot be done.
    """
    if server.url.startswith("dimse"):
        from storage.source.server.dimse import DimseArchive  # libraries that no other source needs

        return DimseArchive(server)
    from storage.source.server.web import WebArchive

    return WebArchive(server)


def credential(name: str) -> str:
    """What the environment says under ``QMRI_PACS_<name>``; never kept, shown or logged."""
    return os.environ.get(f"QMRI_PACS_{name}", "")
