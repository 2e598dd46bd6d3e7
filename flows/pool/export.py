"""What a store tells others of its sessions, so that levels can be solved for several sites together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.calibration.anchors import read_anchors
from flows.calibration.clinics import with_clinics
from flows.calibration.groups import sessions_of_groups
from flows.calibration.odd_sessions import suspects_of
from qmri_core import versions
from qmri_core.calibration.groups import GroupSessions, cohort_spreads, level_groups
from qmri_core.calibration.levels import Anchor
from storage.exports.bridging import local_codes, study_codes, study_of
from storage.exports.pool import FEWEST_PEOPLE, group_codes, site_export, too_small, write_export
from storage.pseudonyms import read_study_key
from storage.store.cohort import Cohort, latest


class PoolError(ValueError):
    """A store cannot take part in a pool as it is asked to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written: code of each group by its key, those that were left out, and numbers of sessions and people."""

    digest: str
    codes: Mapping[str, str]
    left_out: Mapping[str, int]
    n_sessions: int
    n_people: int
    n_shared: int
    """People whose codes other sites of the study would have too."""


def export_levels(
    store: Cohort | str,
    out: Path,
    *,
    study_key: Path | None = None,
    linkage: Path | None = None,
    anchors: Path | None = None,
    clinics: Path | None = None,
    fewest_people: int = FEWEST_PEOPLE,
    without_small: bool = False,
) -> Exported:
    """Write what levels need of a store's sessions: no image, identity, date, name or number of a device.

    Parameters
    ----------
    store
        As it is now; what comes later is not part of it.
    out
        File that is not there yet.
    study_key, linkage
        For people to have codes that other sites of the study have too; see `storage.exports.bridging`. Both or none.
    anchors
        Table of what was measured of groups and people.
    clinics
        Table of who sends people; without it each scanner is a clinic.
    fewest_people
        That each group must have.
    without_small
        Leave smaller groups out, in place of refusing the export.

    Raises
    ------
    PoolError
        If a group has too few people, there is none, or sessions wait for another preprocessing.
    storage.pseudonyms.KeyFileError, storage.exports.bridging.LinkageError, flows.calibration.site_tables.SiteTableError
        If a file that is given cannot be used.
    storage.exports.sealed.SealedFileError
        If the file cannot be written.
    """
    cohort = latest(store)
    every = sessions_of_groups(cohort.sessions, suspects_of(cohort.catalogue))
    if clinics is not None:
        every = with_clinics(every, clinics, cohort.labels)
    codes = group_codes(every)
    small = too_small(every, fewest_people)
    if small and not without_small:
        told = ", ".join(f"{cohort.labels.get(group, codes[group])} ({n})" for group, n in sorted(small.items()))
        raise PoolError(
            f"fewer than {fewest_people} people in: {told}. Few people are told apart by their ages; leave such groups "
            "out with --without-small, or state another number with --fewest-people"
        )
    groups = {group: one for group, one in every.items() if group not in small}
    if not groups:
        raise PoolError(f"no group has {fewest_people} people and population values; there is nothing to export")
    _refuse_outdated(cohort, groups)
    everybody = {person for one in groups.values() for person in one.people}
    people, n_shared, study = local_codes(everybody), 0, ""
    if study_key is not None and linkage is not None:
        key = read_study_key(study_key)
        persons = dict(zip(cohort.catalogue["session"], cohort.catalogue["person"], strict=True))
        people, n_shared = study_codes(everybody, persons, linkage, key)
        study = study_of(key)
    export = site_export(
        groups,
        codes=codes,
        people=people,
        study=study,
        state=cohort.snapshot,
        preprocessing=versions.PREPROCESSING,
        fewest_people=fewest_people,
        anchors=[] if anchors is None else _anchors(anchors, groups, cohort.labels),
    )
    return Exported(
        digest=write_export(out, export),
        codes={group: codes[group] for group in groups},
        left_out=small,
        n_sessions=sum(len(one.sessions) for one in groups.values()),
        n_people=len(everybody),
        n_shared=n_shared,
    )


def _anchors(
    table: Path, groups: Mapping[str, GroupSessions], labels: Mapping[str, str]
) -> list[tuple[str | None, Anchor]]:
    """Anchors, each with the group that it is of."""
    asked = level_groups(groups, cohort_spreads(groups))
    order = list(asked)
    people = {person: group for group, told in asked.items() for person in told.people}
    found = read_anchors(table, order, people, {group: groups[group].population for group in order}, labels)
    return [(None if one.group is None else order[one.group], one) for one in found]


def _refuse_outdated(cohort: Cohort, groups: Mapping[str, GroupSessions]) -> None:
    """Signals that another preprocessing has measured are others."""
    wanted = {session for one in groups.values() for session in one.sessions}
    rows = cohort.catalogue[cohort.catalogue["session"].isin(wanted)]
    n = int((rows["preprocessing_version"] != str(versions.PREPROCESSING)).sum())
    if n:
        raise PoolError(
            f"{n} of {len(wanted)} sessions were made with another preprocessing than that of this version; run "
            "`qmri ingest` first"
        )
