"""What a site says of who sends its people, read from a table: the clinic of each person or scanner, as a code."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from flows.calibration.site_tables import SiteTableError, lines_of, refuse_unless_one
from qmri_core.calibration.groups import GroupSessions


class _Row(BaseModel):
    """One line of the table."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    person: str = ""
    scanner: str = ""
    clinic: str = Field(min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clinics:
    """Codes of clinics by person and by scanner, where a site has said so; else each scanner is a clinic."""

    by_person: Mapping[str, str] = field(default_factory=dict)
    by_scanner: Mapping[str, str] = field(default_factory=dict)

    def of(self, people: Sequence[str], scanner: str) -> list[str]:
        """Clinic of each session of a scanner, by its person."""
        usual = self.by_scanner.get(scanner, scanner)
        return [self.by_person.get(person, usual) for person in people]


def read_clinics(table: Path, people: Collection[str], scanners: Collection[str], labels: Mapping[str, str]) -> Clinics:
    """Clinics from a table with the columns of `_Row`; their names become codes, by the order in which they come.

    Parameters
    ----------
    table
        One line per person or scanner.
    people, scanners
        Those that are calibrated: pseudonyms, and the first parts of the groups' keys.
    labels
        Label of each group, which stands for its scanner.

    Raises
    ------
    SiteTableError
        With the line, if a column is unknown or missing, or a person or scanner is not there or comes twice.
    """
    by_name = {**{name: name for name in scanners}, **{label: key.split("/")[0] for key, label in labels.items()}}
    codes: dict[str, str] = {}
    by_person: dict[str, str] = {}
    by_scanner: dict[str, str] = {}
    for where, row in lines_of(table, _Row):
        refuse_unless_one(where, {"a scanner (as qmri status prints it)": row.scanner, "a person": row.person})
        code = codes.setdefault(row.clinic, f"clinic-{len(codes) + 1}")
        name = row.person or by_name.get(row.scanner, "")
        known, kept, word = (people, by_person, "person") if row.person else (scanners, by_scanner, "scanner")
        if name not in known:
            raise SiteTableError(f"{where}: the {word} is not among those calibrated")
        if name in kept:
            raise SiteTableError(f"{where}: the {word} comes in an earlier line too")
        kept[name] = code
    return Clinics(by_person=by_person, by_scanner=by_scanner)


def with_clinics(
    groups: Mapping[str, GroupSessions], table: Path, labels: Mapping[str, str]
) -> dict[str, GroupSessions]:
    """The groups with the clinics of a table; see `read_clinics`."""
    everybody = {person for one in groups.values() for person in one.people}
    clinics = read_clinics(table, everybody, {one.scanner for one in groups.values()}, labels)
    return {key: replace(one, clinics=clinics.of(one.people, one.scanner)) for key, one in groups.items()}
