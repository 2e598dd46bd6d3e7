"""Which sessions a run is about, where a person asks for some."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from storage.store.repository import StoreError
from storage.store.schema import Reason, Status

if TYPE_CHECKING:
    import pandas as pd

    from storage.store.cohort import Cohort

RECORD = ("status", "reason", "stage", "input_digest", "preprocessing_version", "calibration_version",
          "checkpoint_digest")  # fmt: skip
"""Columns of the catalogue of which one differs where a session has been done again, or has ended otherwise."""


class SelectionError(StoreError):
    """What was asked for is not there."""


class Selection(BaseModel):
    """What a session must be to be selected: one of each that is given. Nothing given selects all."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    sessions: tuple[str, ...] = ()
    """Pseudonyms."""
    groups: tuple[str, ...] = ()
    """Labels or keys of groups; of new sessions nobody knows the group yet."""
    statuses: tuple[Status, ...] = ()
    """How they have ended."""
    reasons: tuple[Reason, ...] = ()
    """Why they are not complete."""
    since: AwareDatetime | None = Field(default=None)
    """New or changed in the store since then."""
    retry: bool = False
    """Do what is selected again although nothing has changed, what has failed included."""

    @property
    def is_everything(self) -> bool:
        """Whether nothing is asked for, so that nothing has to be looked up."""
        return self == EVERYTHING

    def of(self, cohort: Cohort, others: Iterable[str] = ()) -> Selected:
        """The sessions of a store that are selected, and of ``others``, new ones, where they are named or all are.

        Raises
        ------
        SelectionError
            If a session or group that is named is not there.
        """
        if self.is_everything:
            return EVERY
        rows = cohort.catalogue
        names, new = set(map(str, rows["session"])), set(others)
        if unknown := sorted(set(self.sessions) - names - new):
            raise SelectionError(f"{len(unknown)} of the sessions that are named are not there; give pseudonyms")
        chosen = set(rows.loc[self._fits(rows, cohort), "session"].astype(str))
        if not (self.groups or self.statuses or self.reasons):
            chosen |= new - names
        if self.sessions:
            chosen &= set(self.sessions)
        return Selected(names=frozenset(chosen), retry=self.retry)

    def _fits(self, rows: pd.DataFrame, cohort: Cohort) -> pd.Series[bool]:
        fits = rows["session"] != ""
        if self.groups:
            groups = [cohort.groups_by_name.get(name, name) for name in self.groups]
            if unknown := sorted(set(groups) - set(rows["group"])):
                raise SelectionError(
                    f"{len(unknown)} of the groups that are named are not there; `qmri status` names them"
                )
            fits &= rows["group"].isin(groups)
        if self.statuses:
            fits &= rows["status"].isin([*map(str, self.statuses)])
        if self.reasons:
            fits &= rows["reason"].isin([*map(str, self.reasons)])
        if self.since is not None:
            fits &= ~rows["session"].isin(_unchanged(cohort, self.since))
        return fits


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """Sessions that a run is about; ``names`` is None where it is about all."""

    names: frozenset[str] | None = field(default=None, repr=False)
    retry: bool = False

    def __contains__(self, session: str) -> bool:
        return self.names is None or session in self.names

    def is_again(self, session: str) -> bool:
        """Whether a session is to be done again, whatever has changed."""
        return self.retry and session in self


EVERY = Selected()


def moment(text: str) -> datetime:
    """Time that a user writes, as ``2026-11-30`` or with hours; UTC where it names no zone.

    Raises
    ------
    ValueError
        If it is no time.
    """
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _unchanged(cohort: Cohort, since: datetime) -> set[str]:
    """Sessions whose record is what it was then; none where there was no store then, or its history is gone."""
    from storage.store.cohort import Cohort

    try:
        before = Cohort.open(cohort.location, at=since).catalogue
    except StoreError:
        return set()
    columns = ["session", *RECORD]
    both = cohort.catalogue[columns].merge(before[columns], on=columns)
    return set(both["session"].astype(str))
