"""A group most of whose sessions contradict what was put in: then none of it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.tables.text import records
from qmri_core.series.acquisition import CONTRASTS
from storage.store.decisions.effect import GROUP_CLOSURE
from storage.store.schema import Reason, Status
from storage.store.waves import commit

if TYPE_CHECKING:
    import pandas as pd

    from storage.store.cohort import Cohort

FEWEST = 3
"""Sessions with maps of a group that can be said to fail together."""


def settle_groups(cohort: Cohort) -> str | None:
    """Let sessions fail with their group where more than half of it has failed, and no longer where it has not.

    Returns
    -------
    str or None
        The new snapshot; None if no group has changed.
    """
    rows = changed_rows(cohort.catalogue)
    if not rows:
        return None
    with cohort.writing() as repository:
        return commit(
            repository,
            None,
            [],
            values={},
            rows=rows,
            message=f"Closure of groups: {len(rows)} sessions",
            metadata={"run": "infer"},
        )


def changed_rows(catalogue: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of the sessions whose group says otherwise than their status."""
    mapped = catalogue[(catalogue["group"] != "") & (catalogue["checkpoint_digest"] != "")]
    with_group = mapped["error"] == GROUP_CLOSURE
    own = (mapped["status"] == Status.FAILED) & (mapped["reason"] == Reason.CLOSURE) & ~with_group
    has_maps = own | with_group | mapped["status"].isin([Status.COMPLETE, Status.PARTIAL])
    n_failed, n = (flags.groupby(mapped["group"]).sum() for flags in (own, has_maps))
    fails = mapped["group"].map((n >= FEWEST) & (2 * n_failed > n)).astype(bool)
    told = {
        group: f"{n_failed[group]} of {n[group]} sessions of its group contradict what was put in" for group in n.index
    }
    failing = records(mapped[fails & has_maps & ~own & ~with_group])
    good = records(mapped[~fails & with_group])
    return [*(_failed(str(row["session"]), told[row["group"]]) for row in failing), *map(_good, good)]


def _failed(session: str, told: str) -> dict[str, Any]:
    return {
        "session": session,
        "status": str(Status.FAILED),
        "reason": str(Reason.CLOSURE),
        "stage": "closure",
        "error": GROUP_CLOSURE,
        "explanation": told,
    }


def _good(row: dict[str, Any]) -> dict[str, Any]:
    is_partial = len(str(row["contrasts"]).split(",")) < len(CONTRASTS)
    status, reason = (Status.PARTIAL, Reason.MISSING_CONTRAST) if is_partial else (Status.COMPLETE, "")
    cleared = dict.fromkeys(("stage", "error", "explanation"), "")
    return {"session": row["session"], "status": str(status), "reason": str(reason), **cleared}
