"""Codes of people for exports: their own at each site, or, under the key of a study, the same at all of its sites.

The pseudonyms of a store rest on the site's own key and say nothing elsewhere. Who a person is stands in the linkage
table alone, so codes that sites have in common are made from its identifiers, and where these cannot be trusted to name
one person, the person keeps a code of the site.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from qmri_core.calibration.pooling import LOCAL
from storage.exports.linkage import LinkageError, read_linkage
from storage.pseudonyms import pseudonym
from storage.source.visits.identity import stands_in


def study_of(key: bytes) -> str:
    """Code by which exports under one key are told from others; it does not tell the key."""
    return pseudonym(key, "study")


def local_codes(people: Iterable[str]) -> dict[str, str]:
    """Codes that hold in one export only, in the order of the pseudonyms, which is none of people."""
    return {person: f"{LOCAL}{number}" for number, person in enumerate(sorted(set(people)), start=1)}


def study_codes(
    people: Iterable[str], persons: Mapping[str, str], linkage: Path, key: bytes
) -> tuple[dict[str, str], int]:
    """Codes under the key of a study, of those people whose identifier is trusted; and how many these are.

    An identifier is one where it holds a digit, is not one that tools write for all alike, and stands for one person of
    the store, who has no other. Blanks around it, and case, do not count.

    Parameters
    ----------
    people
        Pseudonyms that are exported.
    persons
        Pseudonym of the person of every session that the store has seen.
    linkage
        CSV with the columns ``session`` and ``patient_id``: what ``qmri ingest --linkage`` has written, or a table like
        it with the identifiers that the sites have agreed on.
    key
        Of the study.

    Raises
    ------
    LinkageError
        If the table lacks the columns, or names no session of the store.
    """
    identifiers, owners = defaultdict(set), defaultdict(set)
    for row in read_linkage(linkage, ("session", "patient_id")):
        person = persons.get(row["session"])
        identifier = " ".join(row["patient_id"].split()).casefold()
        if person:
            identifiers[person].add(identifier)
            owners[identifier].add(person)
    if not identifiers:
        raise LinkageError(
            f"{linkage.name} names no session of this store; give the table that `qmri ingest --linkage` wrote for it"
        )
    codes = local_codes(people)
    trusted = 0
    for person in codes:
        own = identifiers.get(person, set())
        if len(own) == 1 and len(owners[identifier := min(own)]) == 1 and _names_somebody(identifier):
            codes[person] = pseudonym(key, "study person", identifier)
            trusted += 1
    return codes, trusted


def _names_somebody(identifier: str) -> bool:
    return re.search(r"\d", identifier) is not None and not stands_in(identifier)
