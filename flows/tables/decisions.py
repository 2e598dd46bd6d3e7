"""What was decided and what a person has to decide, as rows for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flows.tables.text import Rows
from storage.store.decisions.codes import Verdict
from storage.store.decisions.effect import LeftOut
from storage.store.schema import Status

if TYPE_CHECKING:
    from storage.store.cohort import Cohort
    from storage.store.decisions.effect import Judged
    from storage.store.decisions.standing import Standing


def decision_table(judgement: Judged, labels: Mapping[str, str]) -> tuple[list[str], Rows]:
    """The decision that counts on each scope, by whom and why, whether it holds, and what other raters say."""
    header = ["subject", "scope", "verdict", "reasons", "rater", "holds", "other raters"]
    rows = [
        [
            labels.get(subject, subject),
            str(scope),
            str(standing.decision.verdict),
            ", ".join(standing.decision.grounds) or "-",
            standing.decision.rater,
            _holds(standing),
            ", ".join(f"{other.rater} {other.verdict}" for other in standing.others) or "-",
        ]
        for (_, subject, scope), standing in sorted(judgement.standings.items())
    ]
    return header, rows


def needed_table(cohort: Cohort, judgement: Judged) -> tuple[list[str], Rows]:
    """What a person has to decide: failures that nobody knows of, and decisions that are open again or disputed."""
    rows: Rows = []
    for row in cohort.catalogue.to_dict("records"):
        session = str(row["session"])
        if row["status"] == Status.FAILED and session not in judgement.settled:
            has_maps = judgement.left_out.get(session) is LeftOut.CLOSURE
            rows.append([session, f"failed: {row['reason']}", "accept or reject" if has_maps else "acknowledge"])
    for (_, subject, _), standing in sorted(judgement.standings.items()):
        if standing.is_open or standing.is_disputed:
            rows.append([cohort.labels.get(subject, subject), _holds(standing), "decide again"])
    return ["to be decided", "why", "how"], rows


def _holds(standing: Standing) -> str:
    if standing.changed:
        return f"no: {', '.join(name.replace('_', ' ') for name in standing.changed)} changed"
    if standing.decision.verdict is Verdict.UNSURE:
        return "no: unsure"
    return "yes, raters disagree" if standing.is_disputed else "yes"
