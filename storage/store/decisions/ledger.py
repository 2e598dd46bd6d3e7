"""The table ``/decisions``: rows are appended, a commit for each time that somebody decides, and never changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import icechunk
import numpy as np
import zarr

from storage.store.decisions.codes import FIELDS, Decision, DecisionError, Subject, decision_of, texts_of
from storage.store.repository import StoreError
from storage.store.schema import Variable, create_variable
from storage.store.tables import array_of, assign, change, column, group_of

NODE = "decisions"
_LONG_NAMES = {
    "kind": "session or group",
    "subject": "pseudonym of the session, or key of the group",
    "scope": "what of it the verdict is on",
    "verdict": "what was decided",
    "grounds": "coded reasons, joined by commas",
    "rater": "code of who decided",
    "input_digest": "digest of the input when it was decided",
    "preprocessing_version": "version of the preprocessing then",
    "checkpoint_digest": "digest of the checkpoint of the maps then",
    "calibration_version": "version of the calibration of the maps then",
    "failure": "reason of the failure then",
}
COLUMNS: Mapping[str, Variable] = {
    name: Variable(name=name, dims=("row",), dtype="str", long_name=_LONG_NAMES[name]) for name in FIELDS
}
"""Columns of the table, all texts; the order of the rows is that in which they were decided."""


def read_decisions(root: zarr.Group) -> tuple[Decision, ...]:
    """All decisions, in their order; none where nobody has decided anything.

    Raises
    ------
    StoreError
        If a row holds what is none of the codes: the store is damaged, or a newer program wrote it.
    """
    if NODE not in root:
        return ()
    node = group_of(root, NODE)
    columns = [[str(text) for text in column(array_of(node, name))] for name in FIELDS]
    try:
        return tuple(decision_of(dict(zip(FIELDS, texts, strict=True))) for texts in zip(*columns, strict=True))
    except ValueError as error:
        raise StoreError(f"the table of decisions is damaged, or of a newer program ({error})") from error


def append_decisions(repository: icechunk.Repository, decisions: Sequence[Decision]) -> str | None:
    """Append decisions in one commit; the new snapshot, or None where there are none.

    Raises
    ------
    DecisionError
        If the store has no such session or group.
    StoreError
        If others commit faster time and again.
    """
    if not decisions:
        return None

    def edit(root: zarr.Group) -> None:
        _check_subjects(root, decisions)
        _append(root, [texts_of(decision) for decision in decisions])

    counts = Counter(str(decision.verdict) for decision in decisions)
    told = ", ".join(f"{verdict} {count}" for verdict, count in sorted(counts.items()))
    return change(repository, edit, f"Decide: {told}", {"run": "qc", **dict(counts)})


def remove_session(root: zarr.Group, session: str) -> None:
    """Take all decisions on a session out of the table, as forgetting does."""
    if NODE not in root:
        return
    rows = [texts_of(decision) for decision in read_decisions(root)]
    kept = [row for row in rows if row["subject"] != session]
    if len(kept) == len(rows):
        return
    del root[NODE]  # no chunk of it stays
    if kept:
        _append(root, kept)


def _append(root: zarr.Group, rows: Sequence[Mapping[str, str]]) -> None:
    is_new = NODE not in root
    node = root.create_group(NODE) if is_new else group_of(root, NODE)
    for name, variable in COLUMNS.items():
        if is_new:
            create_variable(node, variable, (0,))
        array = array_of(node, name)
        start = array.shape[0]
        array.resize((start + len(rows),))
        assign(array, variable, {start + number: row[name] for number, row in enumerate(rows)})


def _check_subjects(root: zarr.Group, decisions: Sequence[Decision]) -> None:
    """Whatever is no session or group of the store is no pseudonym either, and may not enter it."""
    catalogue = group_of(root, "catalogue")
    known = {
        Subject.SESSION: {str(name) for name in column(array_of(catalogue, "session"))},
        Subject.GROUP: {str(name) for name in np.unique(column(array_of(catalogue, "group")).astype(str))} - {""},
    }
    if any(decision.subject not in known[decision.kind] for decision in decisions):
        raise DecisionError("the store has no such session or group; `qmri status` and the catalogue name those it has")
