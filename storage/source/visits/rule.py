"""What a visit is: which files are one session, of whom, and on which day, also where identifiers lie.

The rule is in docs/explanation/visits.md. Its result depends on what the files say alone, not on their order.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmri_core.series.acquisition import CONTRASTS
from qmri_core.series.remarks import Remark, RemarkKind
from storage.pseudonyms import pseudonym
from storage.source.dates import CAPPED, is_new_year
from storage.source.full_disk import temporary_files
from storage.source.series import Series
from storage.source.visits.identity import Met, Unit
from storage.source.visits.one_date import AT_ONE_TIME, Visit, against
from storage.source.visits.parting import (
    SAME_FIELD,
    Device,
    Held,
    Holding,
    Part,
    birth_of,
    device_of,
    is_session,
    lead_of,
    linked,
    order,
    other_device,
    parts_of_study,
    sex_of,
)

MANY_STUDIES = 64
"""Studies of one person, day and scanner that are examined for one visit; an examination has fewer series."""

MANY_VISITS = 100
"""Studies under one patient identifier, above which it is taken for one that all people bear."""

MANY_A_DAY = 50
"""Visits on one scanner and date, above which the date is taken for one that stands in for none."""

ALIKE = 3
"""People of an archive whose one date is asked whether it stands in for none; two if it is a 1 January."""

SAME_HEAD = 120.0
"""Millimetres between the middles of two images of one head, both measured from the isocentre."""

HEAD = 100.0
"""Millimetres that an image of a head covers in every direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who a session is of, and when: ordinals of its date and of the person's first, None if not known."""

    session: str
    person: str
    date: int | None = field(default=None, repr=False)
    first_date: int | None = field(default=None, repr=False)
    is_common_date: bool = False
    """Whether the date is not known since too many share it."""
    remarks: tuple[Remark, ...] = ()

    @property
    def day(self) -> int | None:
        """Days since the person's first session."""
        return None if self.date is None or self.first_date is None else self.date - self.first_date


def covers_head(series: Series) -> bool:
    """Whether an image reaches over a head in every direction."""
    return all(size * step >= HEAD for size, step in zip(series.shape, series.spacing, strict=True))


def middle_of(series: Series) -> NDArray[np.float64]:
    """Middle of an image in RAS millimetres."""
    affine = np.asarray(series.affine)
    return np.asarray(affine[:3, :3] @ ((np.asarray(series.shape) - 1) / 2) + affine[:3, 3], dtype=np.float64)


_UNIT = ", ".join(Unit._fields)

_PART = (
    "session", "person", "label", "standing", "date", "day", "doubt", "maker", "model", "serial", "field", "first",
    "last", "sex", "birth", "age",
)  # fmt: skip


class PartRow(NamedTuple):
    """A session as a row of the table of visits."""

    session: str
    person: str
    label: str
    standing: str
    date: int | None
    day: int | None
    doubt: str
    maker: str
    model: str
    serial: str
    field: float | None
    first: float | None
    last: float | None
    sex: str | None
    birth: int | None
    age: int | None


class Visits:
    """The sessions of a source: units are read once, and tables of them lie on disk, so that memory stays small.

    Parameters
    ----------
    units
        All units that a scan has met, in any order.
    key
        Key of the pseudonyms.
    holding
        Tells what some units would hold as a session; asked only where identifiers contradict each other.

    Raises
    ------
    DiskFullError
        If there is no place for the tables.
    """

    def __init__(self, units: Iterable[Met], *, key: bytes, holding: Holding) -> None:
        self._key, self._holding = key, holding
        self._database = sqlite3.connect("", isolation_level=None)
        with ExitStack() as on_error, temporary_files():
            on_error.callback(self._database.close)
            self._fill(units)
            on_error.pop_all()

    def _fill(self, units: Iterable[Met]) -> None:
        run = self._database.execute
        run("PRAGMA journal_mode = OFF").fetchall()
        run(f"CREATE TABLE unit ({_UNIT}, first, last, n_files)")
        run(f"CREATE TABLE part ({', '.join(_PART)}, is_common DEFAULT 0, PRIMARY KEY (session)) WITHOUT ROWID")
        run("CREATE TABLE member (unit TEXT PRIMARY KEY, session TEXT, is_foreign INTEGER) WITHOUT ROWID")
        run("CREATE TABLE remark (session, kind, text)")
        run("BEGIN")
        marks = ", ".join("?" * (len(Unit._fields) + 3))
        self._database.executemany(f"INSERT INTO unit VALUES ({marks})", ((*one.unit, *one[1:]) for one in units))  # noqa: S608
        run("CREATE INDEX by_study ON unit (study)")
        run("CREATE INDEX by_digest ON unit (digest)")
        self._part()
        run("CREATE INDEX by_session ON member (session)")
        run("CREATE INDEX by_label ON part (label, day)")
        liars = self._lying_labels()
        self._join(liars)
        self._name_persons(liars)
        run("CREATE INDEX by_person ON part (person, date)")
        run("CREATE INDEX remarks ON remark (session)")
        self._check_dates()
        run("COMMIT")

    def close(self) -> None:
        """Drop the tables."""
        self._database.close()

    @property
    def sessions(self) -> list[str]:
        """Pseudonyms of the sessions, sorted."""
        return [row[0] for row in self._database.execute("SELECT session FROM part ORDER BY session")]

    def units(self, session: str, *, foreign: bool = False) -> dict[str, int]:
        """Digests of the units of a session, and the number of files of each; or of those that it must not use."""
        query = (
            "SELECT digest, n_files FROM unit JOIN member ON unit = digest WHERE member.session = ? AND "
            "is_foreign = ? ORDER BY digest"
        )
        return dict(self._database.execute(query, (session, int(foreign))).fetchall())

    def who(self, session: str) -> Who:
        """Who a session is of, and when."""
        run = self._database.execute
        person, date, is_common = run(
            "SELECT person, date, is_common FROM part WHERE session = ?", (session,)
        ).fetchone()
        first = run("SELECT MIN(date) FROM part WHERE person = ?", (person,)).fetchone()[0]
        remarks = run("SELECT DISTINCT kind, text FROM remark WHERE session = ?", (session,))
        told = tuple(Remark(kind=RemarkKind(kind), text=text) for kind, text in remarks)
        return Who(
            session=session, person=person, date=date, first_date=first, is_common_date=bool(is_common), remarks=told
        )

    def _rows(self, query: str, *values: object) -> Iterator[Met]:
        for row in self._database.execute(f"SELECT {_UNIT}, first, last, n_files FROM unit {query}", values):  # noqa: S608
            yield Met(Unit(*row[:-3]), *row[-3:])

    def _lying_frames(self) -> frozenset[str]:
        """Frames of reference that several studies share and no two of them can."""
        rows = self._database.execute(
            "SELECT frame FROM unit WHERE frame != '' AND is_image GROUP BY frame HAVING COUNT(DISTINCT study) > 1 AND "
            "(COUNT(DISTINCT label) > 1 OR COUNT(DISTINCT serial) > 1 OR MAX(field) - MIN(field) > ? "
            "OR MAX(day) - MIN(day) > 1)",
            (SAME_FIELD,),
        )
        return frozenset(row[0] for row in rows)

    def _part(self) -> None:
        """Part studies, and keep the parts as sessions."""
        self._frame_liars = self._lying_frames()
        for _, units in groupby(self._rows("ORDER BY study"), key=lambda one: one.unit.study):
            parts = parts_of_study(units, self._holding, self._frame_liars)
            days = {order(part.members)[0] for part in parts}
            names: set[str] = set()
            for part in parts:
                row = self._row_of(part, names, is_by_day=len(days) > 1)
                self._database.execute(
                    f"INSERT INTO part ({', '.join(_PART)}) VALUES ({', '.join('?' * len(_PART))})",  # noqa: S608
                    row,
                )
                for is_foreign, members in enumerate((part.members, part.foreign)):
                    rows = [(one.unit.digest, row.session, is_foreign) for one in members]
                    self._database.executemany("INSERT INTO member VALUES (?, ?, ?)", rows)
                self._remark(row.session, part.remarks)

    def _row_of(self, part: Part, names: set[str], *, is_by_day: bool) -> PartRow:
        lead = lead_of(part.members)
        unit = lead.unit
        images = [one.unit for one in part.members if one.unit.is_image] or [unit]
        maker, model, serial, strength = min(
            map(device_of, images), key=lambda one: (sum(value in {"", None} for value in one), repr(one))
        )
        session, more = unit.session, 0
        while session in names:
            evidence = (unit.day, maker, model, serial, strength, unit.sex, unit.birth, more)
            session, more = pseudonym(self._key, "session", unit.session, repr(evidence)), more + 1
        names.add(session)
        times = [
            time for one in part.members if one.unit.is_image for time in (one.first, one.last) if time is not None
        ]
        sexes, births = ({value(one) for one in images} - {None} for value in (sex_of, birth_of))
        days = {one.day for one in images if one.day is not None}
        apart = max(days) - min(days) if days else 0
        return PartRow(
            session=session,
            person=unit.person,
            label=unit.label,
            standing=unit.standing,
            date=None if apart > 1 else unit.day if is_by_day else unit.date,
            day=unit.day,
            doubt=f"its images, of one frame of reference, bear dates {apart} days apart" if apart > 1 else unit.doubt,
            maker=maker,
            model=model,
            serial=serial,
            field=strength,
            first=min(times, default=None),
            last=max(times, default=None),
            sex=next(iter(sexes)) if len(sexes) == 1 else None,  # type: ignore[arg-type]
            birth=next(iter(births)) if len(births) == 1 else None,  # type: ignore[arg-type]
            age=unit.age if unit.age is not None and 0 < unit.age < CAPPED else None,
        )

    def _remark(self, session: str, remarks: Iterable[Remark]) -> None:
        self._database.executemany(
            "INSERT INTO remark VALUES (?, ?, ?)", [(session, str(one.kind), one.text) for one in remarks]
        )

    def _lying_labels(self) -> dict[str, str]:
        """Patient identifiers that stand for several people, and by what that is seen."""
        year = 365.25
        queries = {
            "tools write it for all people alike": "standing = 'stand-in'",
            "two sexes": "COUNT(DISTINCT sex) > 1",
            "days of birth more than a year apart": "MAX(birth) - MIN(birth) > 366",
            "ages that do not fit the dates": (
                f"MAX(date - (age + 1) * {year}) - MIN(date - age * {year}) > {2 * year}"
            ),
            f"more than {MANY_VISITS} studies": f"COUNT(*) > {MANY_VISITS}",
        }
        found: dict[str, str] = {}
        for reason, condition in queries.items():
            rows = self._database.execute(f"SELECT label FROM part WHERE label != '' GROUP BY label HAVING {condition}")  # noqa: S608
            for (label,) in rows:
                found.setdefault(label, reason)
        for label in self._in_two_scanners():
            found.setdefault(label, "two scanners at one time")
        return found

    def _in_two_scanners(self) -> Iterator[str]:
        """Patient identifiers with images of two scanners at one time."""
        rows = map(
            PartRow._make,
            self._database.execute(
                f"SELECT {', '.join(_PART)} FROM part WHERE label != '' AND day IS NOT NULL AND last > first "  # noqa: S608
                "ORDER BY label, day, first, session"
            ),
        )
        for (label, _), parts in groupby(rows, key=lambda part: (part.label, part.day)):
            latest: PartRow | None = None
            for part in parts:
                if latest is not None and latest.last is not None and part.first is not None and part.last is not None:
                    overlap = min(latest.last, part.last) - part.first
                    if overlap > AT_ONE_TIME and other_device(_device(latest), _device(part)):
                        yield label
                        break
                if latest is None or (latest.last or 0.0) < (part.last or 0.0):
                    latest = part

    def _join(self, liars: Mapping[str, str]) -> None:
        """Join studies of one patient, day and scanner that are one visit only together."""
        run = self._database.execute
        columns = ", ".join(f"part.{name}" for name in _PART)
        days = run("SELECT label, day FROM part WHERE label != '' AND day IS NOT NULL GROUP BY label, day "
                   "HAVING COUNT(*) > 1 ORDER BY label, day").fetchall()  # fmt: skip
        for label, day in days:
            if label not in liars:
                query = f"SELECT {columns} FROM part WHERE label = ? AND day = ? ORDER BY session"  # noqa: S608
                self._join_some([PartRow(*row) for row in run(query, (label, day))], frames_only=False)
        frames = run(
            "SELECT DISTINCT part.label, unit.frame FROM unit JOIN member ON member.unit = unit.digest JOIN part "
            "ON part.session = member.session WHERE unit.is_image AND unit.frame != '' "
            "GROUP BY part.label, unit.frame HAVING COUNT(DISTINCT part.session) > 1 ORDER BY part.label, unit.frame"
        ).fetchall()
        for label, frame in frames:
            if frame in self._frame_liars:
                continue
            query = (
                f"SELECT DISTINCT {columns} FROM unit JOIN member ON member.unit = unit.digest JOIN part "  # noqa: S608
                "ON part.session = member.session WHERE part.label = ? AND unit.frame = ? ORDER BY part.session"
            )
            parts = [PartRow(*row) for row in run(query, (label, frame))]
            is_one_day = len({part.day for part in parts} - {None}) == 1 and all(part.day is not None for part in parts)
            if not label or label in liars or not is_one_day:
                self._join_some(parts, frames_only=True)

    def _join_some(self, parts: Sequence[PartRow], *, frames_only: bool) -> None:
        clusters: list[list[PartRow]] = []
        for part in sorted(parts, key=lambda one: (sum(value in {"", None} for value in _device(one)), one.session)):
            fit = next((c for c in clusters if not any(other_device(_device(part), _device(one)) for one in c)), None)
            if fit is None:
                clusters.append([part])
            else:
                fit.append(part)
        for cluster in clusters:
            if 1 < len(cluster) <= MANY_STUDIES:
                self._join_alike(sorted(cluster, key=_when), frames_only=frames_only)

    def _join_alike(self, parts: list[PartRow], *, frames_only: bool) -> None:
        """Join parts of one patient, day and scanner, in the order of time, if that makes more of them."""
        held = {part.session: self._holding(self.units(part.session)) for part in parts}
        short = [part for part in parts if 0 < len(held[part.session]) < len(CONTRASTS)]
        if len(short) < 2:
            return
        frames = {part.session: self._frames_of(part.session) for part in parts}
        families = [[short[place] for place in places] for places in linked([frames[part.session] for part in short])]
        whole = [_union(held[part.session] for part in family) for family in families]
        if not frames_only and sum(map(is_session, whole)) < 2:
            families = [short]
        joined = [family for family in families if _is_more([held[part.session] for part in family])]
        left = [part for part in short if not any(part in family for family in joined)]
        for part in left:
            text = (
                f"{len(short) - 1} other incomplete studies of the same patient, day and scanner lie beside it; "
                "nothing says that they are one visit"
            )
            self._remark(part.session, [Remark(kind=RemarkKind.VISIT_UNSURE, text=text)])
        for family in joined:
            bare = [part for part in parts if not held[part.session] and (
                frames[part.session] & set().union(*(frames[one.session] for one in family))
                or (family is joined[0] and not frames_only and not any(
                    frames[part.session] & set().union(*(frames[one.session] for one in other)) for other in joined
                ))
            )]  # fmt: skip
            first = next((part for part in family if is_session(held[part.session])), family[0])
            self._merge(first, [*family, *bare], "frame of reference" if frames_only else "patient, day and scanner")

    def _merge(self, lead: PartRow, parts: Sequence[PartRow], common: str) -> None:
        others = [(lead.session, part.session) for part in parts if part.session != lead.session]
        for table in ("member", "remark"):
            self._database.executemany(f"UPDATE {table} SET session = ? WHERE session = ?", others)  # noqa: S608
        self._database.executemany("DELETE FROM part WHERE session = ?", [(part,) for _, part in others])
        text = f"files of one {common} bear {len(parts)} study identifiers; they are taken as one session"
        self._remark(lead.session, [Remark(kind=RemarkKind.VISIT_JOINED, text=text)])

    def _frames_of(self, session: str) -> set[str]:
        rows = self._database.execute(
            "SELECT DISTINCT frame FROM unit JOIN member ON unit = digest WHERE member.session = ? AND frame != ''",
            (session,),
        )
        return {row[0] for row in rows} - self._frame_liars

    def _name_persons(self, liars: Mapping[str, str]) -> None:
        """Tell people by their visits where the patient identifier stands for several."""
        for label, reason in sorted(liars.items()):
            sessions = [row[0] for row in self._database.execute("SELECT session FROM part WHERE label = ?", (label,))]
            text = f"its patient identifier may stand for several people ({reason}); each visit counts as a person"
            for session in sessions:
                person = pseudonym(self._key, "person", session)
                self._database.execute("UPDATE part SET person = ? WHERE session = ?", (person, session))
                self._remark(session, [Remark(kind=RemarkKind.PERSON_UNSURE, text=text)])

    def _against_date(self, date: int) -> str:
        """Why the one date of the archive stands in for none; see `storage.source.visits.one_date.against`."""
        query = f"SELECT {', '.join(_PART)} FROM part WHERE date IS NOT NULL ORDER BY person, session"  # noqa: S608
        visits: list[Visit] = []
        n_again = 0
        for person, rows in groupby(
            map(PartRow._make, self._database.execute(query).fetchall()), lambda row: row.person
        ):
            parts = list(rows)
            visits += [Visit(person=person, device=_device(row), first=row.first, last=row.last) for row in parts]
            if len(parts) > 1:
                n_again += sum(is_session(self._holding(self.units(row.session))) for row in parts) > 1
        return against(date, visits, n_again)

    def _check_dates(self) -> None:
        """Forget dates that stand in for none, seen over all of the archive."""
        run = self._database.execute
        people, first, last = run("SELECT COUNT(DISTINCT person), MIN(date), MAX(date) FROM part "
                                  "WHERE date IS NOT NULL").fetchone()  # fmt: skip
        if (
            first is not None
            and first == last
            and people >= (2 if is_new_year(first) else ALIKE)
            and (reason := self._against_date(first))
        ):
            text = f"all {people} people of the archive have one date, {reason}"
            run("UPDATE part SET is_common = 1, doubt = ?, date = NULL WHERE date IS NOT NULL", (text,))
        crowded = run("SELECT date, maker, model, serial FROM part WHERE date IS NOT NULL GROUP BY date, maker, model, "
                      "serial HAVING COUNT(*) > ?", (MANY_A_DAY,)).fetchall()  # fmt: skip
        text = f"more than {MANY_A_DAY} visits on one scanner have its date"
        for place in crowded:
            run("UPDATE part SET is_common = 1, doubt = ?, date = NULL WHERE date = ? AND maker = ? AND model = ? AND "
                "serial = ?", (text, *place))  # fmt: skip
        run("INSERT INTO remark SELECT session, ?, doubt || '; its day is not known' FROM part WHERE doubt != '' AND "
            "date IS NULL", (str(RemarkKind.DATE_UNKNOWN),))  # fmt: skip


def _device(part: PartRow) -> Device:
    return (part.maker, part.model, part.serial, part.field)


def _when(part: PartRow) -> tuple[float, float, str]:
    never = float("inf")
    return (never if part.day is None else part.day, never if part.first is None else part.first, part.session)


def _union(held: Iterable[Held]) -> Held:
    return {contrast: middle for one in held for contrast, middle in one.items()}


def _is_more(held: Sequence[Held]) -> bool:
    """Whether parts together hold more than any of them alone, and are images of one head by their places."""
    if len(held) < 2 or len(_union(held)) <= max(map(len, held)):
        return False
    middles = [middle for one in held for middle in one.values()]
    return all(float(np.linalg.norm(a - b)) <= SAME_HEAD for a in middles for b in middles)
