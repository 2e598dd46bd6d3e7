"""Who was imaged and when, as the tables of a BIDS tree say it: ``participants``, ``sessions`` and ``scans``.

- Age: that of the session in ``sessions.tsv``; else that of the person in ``participants.tsv``, which is taken for the
  age at the first session; else that of the sidecar.
- Sex: ``sessions.tsv``, ``participants.tsv``, sidecar.
- Day: from ``acq_time`` of ``sessions.tsv``, else the first of ``scans.tsv``, since the first session of the person in
  the source. Dates may be shifted, as BIDS asks for, as long as all of a person are alike. Of a person of whom no table
  says a date, those of the sidecars count: tables may be shifted where sidecars are not, so that they never mix.

What contradicts itself, and of whom the participants have no row, is said in remarks. No date leaves this module.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from qmri_core.series.remarks import Remark, RemarkKind
from storage.pseudonyms import pseudonym
from storage.source.bids.names import CONTRASTS, parse, stem_of
from storage.source.bids.sidecars import Folders, date_in, folders_of, read_sidecar
from storage.source.bids.tables import TOP, Columns, Row, Table, age_of, date_of, read_table, sex_of
from storage.source.dates import is_new_year
from storage.source.series import Series

_PEOPLE = 2048  # people of whom the tables are kept
_YEAR = 365.2425


@dataclass(frozen=True, slots=True, kw_only=True)
class _Visit:
    """What the tables say of one session; dates as ordinals, ``text`` as it is written."""

    row: Row = field(default_factory=dict, repr=False)
    date: int | None = field(default=None, repr=False)
    text: str = field(default="", repr=False)
    scanned: int | None = field(default=None, repr=False)
    """First date of its scans."""
    span: int = 0
    """Days between the first and the last of its images that are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dataset:
    """``rows`` of participants by the names that the table has, which ``spelled`` has by their plain form."""

    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict, repr=False)
    spelled: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    columns: Columns = field(repr=False)
    problem: str
    says_something: bool
    """Whether any row states an age or a sex."""
    folders: Mapping[str, int] = field(repr=False)
    """How many people's folders have each plain form."""

    def rows_of(self, label: str) -> tuple[Row, ...]:
        """Those of a person by name; else by the plain form, where it stands for one person alone."""
        exact = label.removeprefix("sub-")
        if exact in self.rows:
            return tuple(self.rows[exact])
        spelled = self.spelled.get(_plain(label), ())
        return tuple(self.rows[spelled[0]]) if len(spelled) == 1 and self.folders.get(_plain(label)) == 1 else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Person:
    rows: tuple[Row, ...] = field(repr=False)
    is_listed: bool
    """False where others have a row that says age or sex, and this person has none."""
    of_person: Columns
    of_visit: Columns
    visits: Mapping[str, _Visit]
    problems: tuple[str, ...]


Place = tuple[str, str, tuple[str, ...]]
"""Root of a dataset, label of a person, and pseudonyms of the sessions that the person's tables and folders name."""


class People:
    """Tables of the datasets of one source, read when they are needed.

    Parameters
    ----------
    key
        Key of the pseudonyms.
    sessions
        Pseudonyms of the sessions of the source.
    """

    def __init__(self, key: bytes, sessions: Collection[str]) -> None:
        self._key, self._sessions = key, frozenset(sessions)
        self._datasets: dict[str, _Dataset] = {}
        self._people: OrderedDict[tuple[str, str], _Person] = OrderedDict()
        self._states: dict[Place, str] = {}
        self._roots: dict[str, str] = {}

    def told(self, members: Sequence[Series]) -> list[Series]:
        """The NIfTI series of one session, with age, sex and day from the tables, and remarks on the first."""
        result = list(members)
        first = True
        for place, one in enumerate(members):
            folder, file = os.path.split(one.paths[0])
            name = parse(stem_of(file))
            if one.kind != "nifti" or name is None:
                continue
            person = self._person(folders_of(folder, name.person)[0], name.person)
            changed, doubts = self._stated(one, person, name.person, name.session)
            result[place] = replace(changed, remarks=(*changed.remarks, *doubts)) if first else changed
            first = False
        return result

    def places(self, members: Sequence[Series]) -> tuple[Place, ...]:
        """People of whom tables were asked for the series of one session."""
        found: dict[Place, None] = {}
        for one in members:
            folder, file = os.path.split(one.paths[0])
            name = parse(stem_of(file))
            if one.kind == "nifti" and name is not None:
                root = folders_of(folder, name.person)[0]
                visits = self._person(root, name.person).visits
                sessions = (pseudonym(self._key, "session", name.person, visit) for visit in visits)
                found[root, name.person, tuple(sessions)] = None
        return tuple(found)

    def state(self, place: Place) -> str:
        """What changes when `told` may say something else of a person's sessions."""
        root, label, sessions = place
        if place not in self._states:
            if len(self._states) >= _PEOPLE:
                self._states.clear()
            dataset = self._dataset(root)
            said = dataset.rows_of(label), dataset.columns, dataset.problem, dataset.says_something
            present = [session in self._sessions for session in sessions]
            below = tuple(_state_below(os.path.join(root, label)))  # noqa: PTH118
            text = repr((said, present, self._state_of_root(root), below))
            self._states[place] = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
        return self._states[place]

    def _state_of_root(self, root: str) -> str:
        """Of the files at the root that speak of all people, but for the rows of participants."""
        if root not in self._roots:
            with suppress(OSError), os.scandir(root) as entries:
                files = [entry for entry in entries if entry.name.lower().endswith(".json")]
                self._roots[root] = repr(sorted(_stamp(entry) for entry in files))
        return self._roots.get(root, "")

    def _stated(self, one: Series, person: _Person, label: str, session: str) -> tuple[Series, list[Remark]]:
        doubts = list(person.problems)
        visit = person.visits.get(session, _Visit())
        span = visit.span
        day, doubt = (None, "") if span > 1 else self._day(person, label, session)
        doubts += [doubt] if doubt else []
        own = [row for row in person.rows if _is_of(row, session)]
        age = _agreed([age_of(visit.row, person.of_visit), *_at_first(own, person, day), (one.age, "")], doubts)
        sexes = [sex_of(visit.row, person.of_visit), *(sex_of(row, person.of_person) for row in own), (one.sex, "")]
        doubts += [why for _, why in sexes if why]
        known = [sex for sex, _ in sexes if sex]
        doubts += ["the sex is stated in two ways: the first of sessions, participants and sidecar is taken"] * (
            len(set(known)) > 1
        )
        sex = known[0] if known else ""
        if not person.is_listed and (age is None or not sex):
            unknown = " and ".join(("age",) * (age is None) + ("sex",) * (not sex))
            doubts.append(f"participants.tsv has no row of the person: {unknown} not known")
        remarks = [Remark(kind=RemarkKind.TABLES, text=doubt) for doubt in dict.fromkeys(doubts)]
        if span > 1:
            text = f"its images were acquired up to {span} days apart by their dates; its day is not known"
            remarks.append(Remark(kind=RemarkKind.DATE_UNKNOWN, text=text))
        if (age, sex, day) == (one.age, one.sex, one.day):
            return one, remarks
        digest = hashlib.sha256(f"{one.digest}\0{age} {sex} {day}".encode()).hexdigest()
        return replace(one, age=age, sex=sex, day=day, digest=digest), remarks

    def _day(self, person: _Person, label: str, session: str) -> tuple[int | None, str]:
        """Days since the person's first session in the source, and why they are not known though dates are stated."""
        present = {
            name: visit
            for name, visit in person.visits.items()
            if pseudonym(self._key, "session", label, name) in self._sessions
        }
        visit = present.get(session, _Visit())
        if visit.date is not None and visit.scanned is not None and abs(visit.date - visit.scanned) > 1:
            return None, "the dates of sessions and scans differ: the day is not known"
        texts = [one.text for one in present.values() if one.text]
        if len(texts) > 1 and len(set(texts)) == 1:
            return None, f"{len(texts)} sessions have the same date and time: the day is not known"
        clear = {name: one for name, one in present.items() if one.span <= 1}
        dates = {name: one.scanned if one.date is None else one.date for name, one in clear.items()}
        known = [date for date in dates.values() if date is not None]
        date = dates.get(session)
        return (None if date is None else date - min(known)), ""

    def _person(self, root: str, label: str) -> _Person:
        place = root, label
        if place not in self._people:
            if len(self._people) >= _PEOPLE:
                self._people.popitem(last=False)
            dataset = self._dataset(root)
            rows = dataset.rows_of(label)
            folder = os.path.join(root, label)  # noqa: PTH118
            visits, visit_problem = _visits(folder, label)
            if all(visit.date is None and visit.scanned is None for visit in visits.values()):
                visits = _dated_by_sidecars(visits, folder)
            self._people[place] = _Person(
                rows=rows,
                is_listed=bool(rows) or not dataset.says_something,
                of_person=dataset.columns,
                of_visit=Columns.of(
                    os.path.join(folder, f"{label}_sessions.json"),  # noqa: PTH118
                    os.path.join(root, "sessions.json"),  # noqa: PTH118
                ),
                visits=visits,
                problems=tuple(text for text in (dataset.problem, visit_problem) if text),
            )
        return self._people[place]

    def _dataset(self, root: str) -> _Dataset:
        if root not in self._datasets:
            table = read_table(os.path.join(root, "participants.tsv"), "participant_id")  # noqa: PTH118
            rows: dict[str, list[Row]] = {}
            for row in table.rows:
                rows.setdefault(row["participant_id"].removeprefix("sub-"), []).append(row)
            spelled: dict[str, list[str]] = {}
            for name in rows:
                spelled.setdefault(_plain(name), []).append(name)
            columns = Columns.of(os.path.join(root, "participants.json"))  # noqa: PTH118
            self._datasets[root] = _Dataset(
                rows=rows,
                spelled=spelled,
                columns=columns,
                problem=_said("participants.tsv", table),
                says_something=any({*age_of(row, columns), *sex_of(row, columns)} - {None, ""} for row in table.rows),
                folders=Counter(_plain(name) for name in _names(root, "sub-")) if rows else {},
            )
        return self._datasets[root]


def _state_below(folder: str) -> Iterator[str]:
    """Names in the folders of a person, down to those of images, and the state of tables and sidecars."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in found:
        if entry.name.lower().endswith((".json", ".tsv")):
            yield _stamp(entry)
        else:
            yield entry.name
            if entry.name.startswith("ses-") or entry.name == "anat":
                yield from _state_below(entry.path)


def _stamp(entry: os.DirEntry[str]) -> str:
    try:
        state = os.stat(entry.path)  # noqa: PTH116 - with what a link points to
    except OSError:
        return entry.name
    return f"{entry.name} {state.st_size} {state.st_mtime_ns}"


def _plain(name: str) -> str:
    """The label of a person in any spelling of case and prefix."""
    return re.sub(r"^sub[-_]", "", name.strip(), flags=re.IGNORECASE).casefold()


def _names(folder: str, prefix: str) -> list[str]:
    """What lies in a folder under names that begin so; nothing where it cannot be listed."""
    try:
        return sorted(name for name in os.listdir(folder) if name.startswith(prefix))  # noqa: PTH208
    except OSError:
        return []


def _said(name: str, table: Table) -> str:
    return f"{name} is not read: {table.problem}" if table.problem else ""


def _visits(folder: str, label: str) -> tuple[dict[str, _Visit], str]:
    """What the tables in a person's folder say of the sessions, by their names; empty for the only one without."""
    table = read_table(os.path.join(folder, f"{label}_sessions.tsv"), "session_id")  # noqa: PTH118
    visits: dict[str, _Visit] = {}
    for row in table.rows:
        name = f"ses-{row['session_id'].removeprefix('ses-')}"
        text = row.get("acq_time", "")
        visits[name] = _Visit(row=row, date=date_of(text), text=text if date_of(text) is not None else "")
    problem = _said("sessions.tsv", table)
    for name in _names(folder, "ses-") or [""]:
        scans = read_table(os.path.join(folder, name, "_".join(filter(None, (label, name, "scans.tsv")))), "filename")  # noqa: PTH118
        problem = problem or _said("scans.tsv", scans)
        times = [row.get("acq_time", "") for row in scans.rows]
        text = min((time for time in times if date_of(time) is not None), default="")
        visit = visits.get(name, _Visit())
        span = _span(row.get("acq_time", "") for row in scans.rows if row["filename"].startswith("anat/"))
        visits[name] = replace(visit, scanned=date_of(text), text=visit.text or text, span=span)
    return visits, problem


def _dated_by_sidecars(visits: Mapping[str, _Visit], folder: str) -> dict[str, _Visit]:
    """Visits with the first date that sidecars of their images state; a 1 January stands in for none."""
    result = dict(visits)
    folders = Folders()
    for name, visit in visits.items():
        place = os.path.join(folder, name, "anat")  # noqa: PTH118
        _, stems = folders.of(place)
        images = [stem for stem in sorted(stems) if (parsed := parse(stem)) is not None and parsed.suffix in CONTRASTS]
        texts = [date_in(read_sidecar(os.path.join(place, f"{stem}.nii"), folders).values) for stem in images]  # noqa: PTH118
        text = min((text for text in texts if _is_day(date_of(text))), default="")
        span = _span(text for text in texts if _is_day(date_of(text)))
        result[name] = replace(visit, date=date_of(text), text=text, span=span)
    return result


def _span(texts: Iterable[str]) -> int:
    """Days between the first and the last of the dates."""
    dates = [date for text in texts if (date := date_of(text)) is not None]
    return max(dates) - min(dates) if dates else 0


def _is_day(date: int | None) -> bool:
    return date is not None and not is_new_year(date)


def _is_of(row: Row, session: str) -> bool:
    """Whether a row of participants speaks of a session, where it names one."""
    stated = row.get("session_id") or row.get("session") or ""
    return not session or not stated or stated.removeprefix("ses-") == session.removeprefix("ses-")


def _at_first(own: Sequence[Row], person: _Person, day: int | None) -> list[tuple[int | None, str]]:
    """Ages by the person's rows of participants: at this session where the row names it, else at the first one."""
    result = []
    for row in own:
        age, doubt = age_of(row, person.of_person)
        later = 0 if day is None or row.get("session_id") or row.get("session") else int(day / _YEAR)
        result.append((None if age is None else min(TOP, age + later), doubt))
    return result


def _agreed(ages: Sequence[tuple[int | None, str]], doubts: list[str]) -> int | None:
    """The first age that is known; what contradicts it goes to ``doubts``."""
    doubts += [doubt for _, doubt in ages if doubt]
    known = [age for age, _ in ages if age is not None]
    if known and max(known) - min(known) > 1:
        text = f"the ages by sessions, participants and sidecar differ by {max(known) - min(known)} years"
        doubts.append(f"{text}: the first of them is taken")
    return known[0] if known else None
