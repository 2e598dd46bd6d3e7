"""Remarks: what is not as it should be in a session that is used all the same, for whoever decides what to do.

A session without images has a reason instead. A remark is a kind and a sentence; the sentence holds numbers, codes and
series numbers, never a text of a header.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class RemarkKind(StrEnum):
    """What a remark is about, in the order in which somebody has to decide."""

    REPEATED = "repeated"


MEANINGS: Mapping[RemarkKind, tuple[str, str]] = {
    RemarkKind.REPEATED: (
        "several series of one contrast lie in the session, and one was taken",
        "look whether the right one was taken; move the others out of the source if not",
    ),
}
"""Of each kind what it says, and what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Remark:
    """One thing to know of a session; ``text`` says it of this session, and names series by their numbers."""

    kind: RemarkKind
    text: str


def ordered(remarks: Iterable[Remark]) -> tuple[Remark, ...]:
    """Each remark once, in the order of the kinds."""
    place = {kind: index for index, kind in enumerate(RemarkKind)}
    return tuple(sorted(set(remarks), key=lambda remark: (place[remark.kind], remark.text)))
