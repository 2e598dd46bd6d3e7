"""What of a BIDS tree is not taken: processed images, originals of what is there, and what ``.bidsignore`` names.

Only folders below the source are judged: who gives a folder in ``derivatives`` as the source gets what he asks for.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePath

from storage.source.bids.sidecars import json_of
from storage.source.damage import DamagedError

DERIVATIVE, SOURCEDATA, IGNORED, REPOSITORY = "derivative", "sourcedata", "bids_ignored", "repository"
"""Why a file is left out unread."""

_FOLDERS = 4096  # folders whose state is kept

_CONVERTERS = frozenset(
    {"dcm2niix", "heudiconv", "dcm2bids", "bidscoin", "bidscoiner", "bidskit", "ezbids", "bidsify", "nipoppy", "curp"}
)  # fmt: skip
"""Programs that make raw data; what others generate is derived, where a description does not say what it is."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """One line of a ``.bidsignore``, which has the syntax of ``.gitignore``."""

    segments: tuple[str, ...]
    is_negated: bool
    folders_only: bool

    @classmethod
    def of(cls, line: str) -> _Rule | None:
        """Read one line; None if it says nothing."""
        text = line.rstrip()
        if not text or text.startswith("#"):
            return None
        is_negated = text.startswith("!")
        text = text.removeprefix("!").removeprefix("\\")
        folders_only, anchored = text.endswith("/"), "/" in text.rstrip("/")
        segments = tuple(part for part in text.split("/") if part)
        return cls(segments if anchored else ("**", *segments), is_negated, folders_only) if segments else None


def _fits(parts: tuple[str, ...], segments: tuple[str, ...]) -> bool:
    if not segments:
        return not parts
    if segments[0] == "**":
        return any(_fits(parts[start:], segments[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], segments[0]) and _fits(parts[1:], segments[1:])


@dataclass(frozen=True, slots=True)
class _State:
    """Why all below a folder is left out, if it is, and the rules that hold there with the folders that state them."""

    reason: str
    rules: tuple[tuple[str, tuple[_Rule, ...]], ...] = ()

    def ignores(self, path: str, *, is_folder: bool) -> bool:
        """Whether a ``.bidsignore`` names a path; of several rules that fit the last one holds."""
        ignored = False
        for root, rules in self.rules:
            parts = PurePath(path).relative_to(root).parts
            for rule in rules:
                if (is_folder or not rule.folders_only) and _fits(parts, rule.segments):
                    ignored = not rule.is_negated
        return ignored


class LeftOut:
    """Judges the files of one source; ``counts`` has how many were left out, by reason."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._states = {root: _State("", _rules_of(root))}
        self.counts: Counter[str] = Counter()

    def without(self, paths: Iterable[str]) -> Iterator[str]:
        """The paths that are to be read; the others are counted."""
        for path in paths:
            state = self._state(os.path.dirname(path))  # noqa: PTH120
            reason = state.reason or (IGNORED if state.ignores(path, is_folder=False) else "")
            if reason:
                self.counts[reason] += 1
            else:
                yield path

    def _state(self, folder: str) -> _State:
        if folder in self._states:
            return self._states[folder]
        above, name = os.path.split(folder)
        state = self._state(above) if len(folder) > len(self._root) else self._states[self._root]
        if not state.reason:
            reason = _why(above, name) or (IGNORED if state.ignores(folder, is_folder=True) else "")
            state = _State(reason, state.rules + _rules_of(folder))
        if len(self._states) >= _FOLDERS:
            self._states = {self._root: self._states[self._root]}
        self._states[folder] = state
        return state


def _why(above: str, name: str) -> str:
    """Why a folder is left out by what it is, if so."""
    if name in {".git", ".datalad"}:
        return REPOSITORY
    folder = os.path.join(above, name)  # noqa: PTH118
    description = os.path.join(folder, "dataset_description.json")  # noqa: PTH118
    if os.path.exists(description) and _is_derivative(description):  # noqa: PTH110
        return DERIVATIVE
    if name == "derivatives" and _holds(above, "sub-", "dataset_description.json", "rawdata"):
        return DERIVATIVE
    return SOURCEDATA if name == "sourcedata" and _holds(above, "sub-", "rawdata") else ""


def _holds(folder: str, *starts: str) -> bool:
    """Whether something in a folder has a name that starts in one of these ways."""
    try:
        return any(name.startswith(starts) for name in os.listdir(folder))  # noqa: PTH208
    except OSError:
        return False


def _is_derivative(description: str) -> bool:
    try:
        content = json_of(description)
    except (DamagedError, OSError):
        return False
    if not isinstance(content, dict):
        return False
    kind = str(content.get("DatasetType") or "").lower()
    if kind in {"raw", "derivative", "study"}:
        return kind == "derivative"
    made = content.get("GeneratedBy") or content.get("PipelineDescription")
    makers = [made] if isinstance(made, dict) else made if isinstance(made, list) else []
    names = [str(maker.get("Name") or "").lower() for maker in makers if isinstance(maker, dict)]
    return any(name not in _CONVERTERS for name in names)


def _rules_of(folder: str) -> tuple[tuple[str, tuple[_Rule, ...]], ...]:
    """Rules of the ``.bidsignore`` in a folder."""
    try:
        with open(os.path.join(folder, ".bidsignore"), encoding="utf-8-sig", errors="replace") as file:  # noqa: PTH118, PTH123
            rules = tuple(rule for line in file if (rule := _Rule.of(line)) is not None)
    except OSError:
        return ()
    return ((folder, rules),) if rules else ()
