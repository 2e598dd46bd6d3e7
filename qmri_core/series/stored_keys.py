"""Keys of protocols that a store has had since their digests were short."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from qmri_core.series.grouping import DIGEST_LENGTH

SHORT_LENGTH = 4
"""Hexadecimal digits of the digest in keys of version 0.1: two protocols of one readable name could share them."""


def shortened(key: str) -> str:
    """The key of a group, or of a protocol, as version 0.1 made it."""
    return re.sub(rf"-([0-9a-f]{{{SHORT_LENGTH}}})[0-9a-f]{{{DIGEST_LENGTH - SHORT_LENGTH}}}$", r"-\1", key)


def is_short(key: str) -> bool:
    """Whether version 0.1 made the key."""
    return re.search(rf"mm-[0-9a-f]{{{SHORT_LENGTH}}}$", key) is not None


def whole_keys(candidates: Iterable[tuple[str, str, tuple[str, ...]]]) -> dict[str, str]:
    """The whole key of each group with a short one: that of most of its sessions, and of those the first by name.

    Parameters
    ----------
    candidates
        Of each session its name, the short key of its group, and the whole keys that it may have.
    """
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for _, group, keys in candidates:
        votes[group].update([key for key in keys if shortened(key) == group][:1])
    return {group: min(counts, key=lambda key: (-counts[key], key)) for group, counts in votes.items() if counts}


def as_stored(
    candidates: Mapping[str, tuple[str, ...]], stored: Mapping[str, str], whole: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Candidates of sessions, under the keys that a store has for their groups.

    A key that a store has in its short form stays short; another protocol whose digest begins alike keeps its own.

    Parameters
    ----------
    candidates
        For each session the groups that it may belong to, by their whole keys.
    stored
        Groups of the sessions that a store holds.
    whole
        Whole keys of the store's groups with short ones, as far as they are known from what is stored. Of the others,
        the sessions tell that are stored in them, else all sessions.
    """
    short = {group for group in stored.values() if is_short(group)}
    if not short:
        return dict(candidates)
    told = whole_keys((name, shortened(keys[0]), keys) for name, keys in candidates.items())
    told |= whole_keys((name, stored[name], keys) for name, keys in candidates.items() if name in stored)
    known = told | dict(whole)
    names = {known[group]: group for group in short if group in known}
    return {name: tuple(names.get(key, key) for key in keys) for name, keys in candidates.items()}
