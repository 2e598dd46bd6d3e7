"""A store takes its levels back from the answer to several sites, as a new version of its calibration."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from flows.calibration.calibrate import kept, read_calibrations, version_rows, write_versions
from flows.calibration.groups import sessions_of_groups
from flows.calibration.odd_sessions import suspects_of
from flows.maps.staleness import IMAGES_REST_ON
from flows.pool.export import PoolError
from flows.tables.text import records
from qmri_core import versions
from qmri_core.calibration.groups import GroupSessions, calibrated
from storage.exports.pool import Answer, AnsweredGroup, AnsweredSite, group_codes, read_answer
from storage.store.cohort import Cohort, history, latest

_RESTS_ON = ("person", "age", "sex", *IMAGES_REST_ON)
"""Values of a session that levels rest on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """Groups that have a new version, and those of the store that the answer does not tell of.

    ``n_since`` are sessions of the first that came since the export. ``snapshot`` is None where the store has this
    answer already.
    """

    snapshot: str | None
    groups: Sequence[str]
    others: Sequence[str]
    n_since: int


def adopt_levels(store: Cohort | str, answer: Path) -> Adopted:
    """Calibrate the groups of a store by the levels that several sites have solved together.

    Scales are those of the sessions that were exported, as the store had them then; sessions that came since are
    measured by them, as any that comes after a calibration.

    Raises
    ------
    PoolError
        If the answer is not to this store, sessions that it rests on have changed, or it was made by another version.
    storage.exports.sealed.SealedFileError
        If the file is damaged, or of another kind or version.
    """
    found = read_answer(answer)
    cohort = latest(store)
    with cohort.writing() as repository:
        cohort = cohort.refreshed()
        site, then = _own_part(found, cohort, answer.name)
        every = sessions_of_groups(then.sessions, suspects_of(then.catalogue))
        told = _told_groups(site, every, answer.name)
        n_since = _refuse_stale(then, cohort, list(told), answer.name)
        rows = _versions(found, told, every, cohort, answer.name)
        groups = sorted({str(row["group"]) for row in rows})
        message = f"Adopt pooled levels of {len(groups)} groups"
        snapshot = write_versions(repository, cohort, rows, message=message, run="pool adopt") if rows else None
    others = sorted(set(cohort.catalogue["group"]) - {"", *told})
    return Adopted(snapshot=snapshot, groups=groups, others=others, n_since=n_since)


def _own_part(answer: Answer, cohort: Cohort, name: str) -> tuple[AnsweredSite, Cohort]:
    """The part of the answer that is to this store, and the store as it was exported."""
    if answer.preprocessing != versions.PREPROCESSING:
        raise PoolError(
            f"{name}: is of preprocessing {answer.preprocessing}, and this version has {versions.PREPROCESSING}; let "
            "all sites use one version, and export and solve again"
        )
    states = {snapshot.id for snapshot in history(cohort.repository)}
    for site in answer.sites:
        if site.state in states:
            return site, cohort.at_snapshot(site.state)
    raise PoolError(
        f"{name}: is no answer to this store. It is another cohort's, or the state that was exported has ended (by "
        "forget, compact or rollback); then export again, and have all solved again"
    )


def _told_groups(site: AnsweredSite, every: Mapping[str, GroupSessions], name: str) -> dict[str, AnsweredGroup]:
    """What the answer says of each group, by its key."""
    keys = {code: group for group, code in group_codes(every).items()}
    told = {keys.get(one.group, ""): one for one in site.groups}
    if any(group not in every or len(every[group].sessions) != one.n_sessions for group, one in told.items()):
        raise PoolError(f"{name}: has other groups than were exported; export again, and have all solved again")
    return told


def _refuse_stale(then: Cohort, now: Cohort, groups: Collection[str], name: str) -> int:
    """Number of sessions of the groups that came since; those of then must be as they were."""
    before, after = (_of_groups(one, groups) for one in (then, now))
    same = before.index.intersection(after.index)
    n_changed = len(before) - len(same) + int((before.loc[same] != after.loc[same]).any(axis=1).sum())
    if n_changed:
        raise PoolError(
            f"{name}: is stale: {n_changed} of the {len(before)} sessions of the exported groups were removed, or read "
            "anew with another result; export again, and have all solved again"
        )
    return len(after) - len(same)


def _of_groups(cohort: Cohort, groups: Collection[str]) -> pd.DataFrame:
    values = cohort.values_of(_RESTS_ON).set_index("session")
    return values[values["group"].isin(groups)].drop(columns="index").fillna({"age": -1.0})


def _versions(
    answer: Answer,
    told: Mapping[str, AnsweredGroup],
    every: Mapping[str, GroupSessions],
    cohort: Cohort,
    name: str,
) -> list[dict[str, object]]:
    """Rows of the next version of each group whose newest does not say the same."""
    table = read_calibrations(cohort)
    current = table.groupby("group")["version"].max().to_dict()
    rows: list[dict[str, object]] = []
    for group, found in told.items():
        one, pooled = every[group], found.pooled()
        if found.reference != one.population.describe(is_anchored=answer.is_anchored, has_transfer=answer.has_transfer):
            raise PoolError(f"{name}: was solved by a version with other population values; let all sites use one")
        scales = calibrated(one, answer.scale_spreads(), level=kept(pooled.level), hidden=pooled.hidden)
        reference = f"{found.reference}; levels were solved for {len(answer.sites)} stores together"
        made = version_rows(group, int(current.get(group, 0)) + 1, scales, reference)
        if not _is_current(made, table):
            rows += made
    return rows


def _is_current(rows: Sequence[Mapping[str, object]], table: pd.DataFrame) -> bool:
    """Whether a group's newest version says the same."""
    if table.empty:
        return False
    newest = table[table["group"] == rows[0]["group"]]
    newest = newest[newest["version"] == newest["version"].max()]
    names = ("contrast", "scale", "spread", "reference", "level", "hidden")
    return [[row[name] for name in names] for row in records(newest)] == [[row[name] for name in names] for row in rows]
