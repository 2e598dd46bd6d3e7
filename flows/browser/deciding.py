"""Decisions from a page, through the functions that `qmri qc` has: what is asked is checked, told, and committed."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.store.cohort import Cohort
from storage.store.decisions.codes import Decision, DecisionError, Ground, Scope, Verdict
from storage.store.decisions.making import change_of, decide, decisions_on

MOST = 10_000
"""Subjects of one decision."""


class Asked(BaseModel):
    """What a page asks for; every word is one of the codes, or a subject that the store has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subjects: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST)]
    verdict: Verdict
    rater: str
    grounds: tuple[Ground, ...] = ()
    scope: Scope | None = None


def preview_decisions(cohort: Cohort, asked: object) -> dict[str, object]:
    """Tell what decisions would change; nothing is written.

    Raises
    ------
    DecisionError
        If a word is none of the codes, or there is nothing to decide on.
    """
    now = cohort.refreshed()
    made = _decisions(now, asked)
    return {"decisions": len(made), "change": change_of(now, made).text(), "snapshot": now.snapshot}


def commit_decisions(cohort: Cohort, asked: object) -> dict[str, object]:
    """Append decisions in one commit; its snapshot, and what they change.

    Raises
    ------
    DecisionError, storage.store.repository.StoreError
        As `storage.store.decisions.making.decide`.
    """
    now = cohort.refreshed()
    made = _decisions(now, asked)
    snapshot, change = decide(now, made)
    return {"decisions": len(made), "change": change.text(), "snapshot": snapshot}


def _decisions(cohort: Cohort, asked: object) -> list[Decision]:
    try:
        wanted = Asked.model_validate(asked)
    except ValidationError as error:
        names = ", ".join(sorted({str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}))
        raise DecisionError(f"what is asked cannot be read: {names or 'it is no decision'}") from None
    return decisions_on(
        cohort, wanted.subjects, wanted.verdict, rater=wanted.rater, grounds=wanted.grounds, scope=wanted.scope
    )
