"""Decisions as a CSV file: out of a store, and into one that has the same sessions."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from storage.store.decisions.codes import (
    DEFAULT_SCOPE,
    DIGESTS,
    FIELDS,
    Decision,
    DecisionError,
    Subject,
    Verdict,
    decision_of,
    texts_of,
    word,
)
from storage.store.decisions.effect import current_digests
from storage.store.schema import Reason

if TYPE_CHECKING:
    from storage.store.cohort import Cohort

MAX_BYTES = 64_000_000
"""Of a file of decisions: some 200 bytes each."""
_PATTERNS = {
    "input_digest": re.compile(r"([0-9a-f]{16,64})?"),
    "preprocessing_version": re.compile(r"[0-9+]{0,40}"),
    "checkpoint_digest": re.compile(r"([0-9a-f]{16,64}(\+[0-9a-f]{16,64})*)?"),
    "calibration_version": re.compile(r"[0-9/+]{0,200}"),
}
"""Digests and versions have these forms; a name has none of them."""


def write_decisions(cohort: Cohort, path: Path) -> int:
    """Write all decisions as CSV, in their order; how many.

    Raises
    ------
    DecisionError
        If the file is there already, or cannot be written.
    """
    try:
        with path.open("x", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(texts_of(decision) for decision in cohort.decisions)
    except OSError as error:
        raise DecisionError(f"the file of decisions cannot be written ({error.strerror})") from error
    return len(cohort.decisions)


def read_file(cohort: Cohort, path: Path) -> tuple[list[Decision], int]:
    """Decisions of a CSV file that the store does not have yet, and how many it has already.

    Columns ``subject``, ``verdict`` and ``rater`` have to be there, ``grounds``, ``scope`` and the digests may be;
    without digests a decision is on the sessions as they are now. A group is named by its key or its label.

    Raises
    ------
    DecisionError
        If the file cannot be read, or a line has something that is none of the codes; it names the line, and does not
        repeat its text.
    """
    now = current_digests(cohort.catalogue)
    found = []
    for number, texts in _lines(path):
        try:
            found.append(_decision(texts, now, cohort.groups_by_name))
        except DecisionError as error:
            raise DecisionError(f"line {number} of the file of decisions: {error}") from None
    there = Counter(cohort.decisions)
    new = []
    for decision in found:
        if there[decision]:
            there[decision] -= 1
        else:
            new.append(decision)
    return new, len(found) - len(new)


def _lines(path: Path) -> Sequence[tuple[int, Mapping[str, str]]]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DecisionError("the file of decisions is larger than any can be")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            header = reader.fieldnames or []
            lines = [(reader.line_num, {key: str(text).strip() for key, text in line.items()}) for line in reader]
    except OSError as error:
        raise DecisionError(f"the file of decisions cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DecisionError(f"the file of decisions is no CSV file in UTF-8 ({type(error).__name__})") from error
    if any(None in line for _, line in lines):
        raise DecisionError("a line of the file of decisions has more fields than its header")
    missing = {"subject", "verdict", "rater"} - set(header)
    if missing:
        raise DecisionError(f"the file of decisions lacks the columns {', '.join(sorted(missing))}")
    if not set(header) <= set(FIELDS):
        raise DecisionError(f"the file of decisions has columns that are none of {', '.join(FIELDS)}")
    return lines


def _decision(
    line: Mapping[str, str], now: Mapping[tuple[Subject, str], Mapping[str, str]], keys: Mapping[str, str]
) -> Decision:
    texts = {name: line.get(name, "") for name in FIELDS}
    verdict = Verdict(word("verdict", texts["verdict"], Verdict))
    texts["scope"] = texts["scope"] or DEFAULT_SCOPE[verdict]
    if (Subject.SESSION, texts["subject"]) in now:
        texts["kind"] = Subject.SESSION
    else:
        texts |= {"kind": Subject.GROUP, "subject": keys.get(texts["subject"], texts["subject"])}
    known = now.get((Subject(texts["kind"]), texts["subject"]))
    if known is None:
        raise DecisionError("the store has no such session or group")
    if not any(name in line for name in DIGESTS):
        texts |= known
    if any(not pattern.fullmatch(texts[name]) for name, pattern in _PATTERNS.items() if texts[name] != known[name]):
        raise DecisionError("a digest or version has none of the forms that they have")
    if texts["failure"] and texts["failure"] not in set(Reason):
        raise DecisionError("that failure is none of the reasons")
    return decision_of(texts)
