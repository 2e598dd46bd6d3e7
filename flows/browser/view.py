"""One snapshot of a store as the pages show it, and its parts as plain values for templates and scripts."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from flows.browser.figures import Figures, figures_of
from flows.browser.outliers import Outlier, outliers
from flows.maps.odd_sessions import marked_sessions
from flows.maps.staleness import stale_sessions
from flows.statistics.aggregate import VALUES as OF_MAPS
from flows.statistics.aggregate import AggregateResult, identities_of_maps, read_statistics, tables_of, up_to_date
from flows.tables.decisions import decision_table, needed_table
from flows.tables.summary import left_out_text
from flows.tables.text import Rows, group_table, labels_of, records
from qmri_core.series.decided import decided_of
from qmri_core.series.remarks import MEANINGS as REMARKS
from qmri_core.series.remarks import remarks_of
from storage.store.cohort import Cohort
from storage.store.decisions.effect import Judged, judge
from storage.store.repository import iterate_history
from storage.store.schema import IMAGES, MEANINGS, Reason, Status

LAST_RUNS = 8
FAR_SHOWN = 200
"""Rows of the page of outliers; the table of the groups' page finds all."""
SAID = ("session", "person", "status", "reason", "quality_marks", "sex", "software", "left_out")
"""Texts of a session that scripts get, beside its figures."""

COMMANDS: Mapping[str, str] = {
    Reason.CLOSURE: 'qmri qc accept SESSION --store "$QMRI_STORE" --rater r1',
    Reason.NO_CALIBRATION: 'qmri calibrate --store "$QMRI_STORE" && qmri infer --store "$QMRI_STORE"',
    Reason.NO_PARAMETERS: 'qmri ingest "$QMRI_SOURCE" --store "$QMRI_STORE" --assume assume.yaml',
    Reason.WORKER_LOST: 'qmri ingest "$QMRI_SOURCE" --store "$QMRI_STORE" --workers 1',
    Reason.FORGOTTEN: "",
    Reason.FIELD_STRENGTH: "",
}
"""Command that tries again, or decides, where it is not another ingest."""
AGAIN = 'qmri ingest "$QMRI_SOURCE" --store "$QMRI_STORE" && qmri infer --store "$QMRI_STORE"'


@dataclass(frozen=True)
class View:
    """A snapshot of a store; whatever was computed of it is kept, since a snapshot never changes."""

    cohort: Cohort

    @cached_property
    def judgement(self) -> Judged:
        """What people have decided, and what it changes."""
        return judge(self.cohort)

    @cached_property
    def figures(self) -> Figures:
        """Every session in numbers."""
        return figures_of(self.cohort, self.judgement)

    @cached_property
    def outliers(self) -> list[Outlier]:
        """All sessions, the one farthest from its group first."""
        return outliers(self.figures)

    @cached_property
    def tables(self) -> AggregateResult:
        """Statistics of groups over the sessions that count in this snapshot, from those that are stored."""
        stored = self.cohort.values_of(OF_MAPS)
        made = identities_of_maps(stored, self.judgement)
        statistics = up_to_date(read_statistics(self.cohort), made, stored)
        return tables_of(statistics, left_out=marked_sessions(stored))

    @cached_property
    def labels(self) -> dict[str, str]:
        """Labels of the groups that have sessions."""
        return labels_of(self.cohort.catalogue["group"], self.cohort.labels)

    @cached_property
    def table_json(self) -> bytes:
        """Every stored session as columns, for the scripts of the pages."""
        data, far = self.figures, {one.session: one for one in self.outliers}
        rows = data.rows
        place = {group.key: number for number, group in enumerate(data.groups)}
        table: dict[str, Any] = {name: rows[name].astype(str).tolist() for name in SAID}
        table |= {
            "snapshot": self.cohort.snapshot,
            "group": [place[str(key)] for key in rows["group"]],
            "counts": rows["counts"].astype(int).tolist(),
            "age": plain(rows["age"]),
            "day": plain(rows["day"]),
            "score": [far[session].score for session in table["session"]],
            "why": [far[session].sentence for session in table["session"]],
            "figures": [
                {"name": one.name, "title": one.title, "unit": one.unit, "sort": one.sort} for one in data.figures
            ],
            "values": {one.name: plain(rows[one.name]) for one in data.figures},
            "groups": [
                {**finite(asdict(group)), "uncertain": group.is_uncertain, "calibrated": bool(group.levels)}
                for group in data.groups
            ],
        }
        return json.dumps(table, separators=(",", ":"), allow_nan=False).encode()

    def overview(self) -> dict[str, Any]:
        """What the first page says: counts, last runs, and what needs a person."""
        rows = self.cohort.catalogue
        counts = Counter(rows["status"])
        totals = [("sessions", len(rows)), ("people", len(set(rows["person"]) - {""})), ("groups", len(self.labels))]
        totals += [(str(state), counts[state]) for state in Status]
        by_group = Counter(zip(rows["group"], rows["status"], rows["reason"], strict=True))
        return {
            "totals": totals,
            "states": sorted(
                [self.labels.get(group, "-"), status, words(reason), str(count)]
                for (group, status, reason), count in by_group.items()
            ),
            "runs": [
                (f"{one.time:%Y-%m-%d %H:%M} UTC", one.id, one.message)
                for one in islice(iterate_history(self.cohort.repository), LAST_RUNS)
            ],
            "stale": sorted(Counter(stale_sessions(self.cohort).values()).items()),
            "lacking": self.figures.lacking,
            "needed": needed_table(self.cohort, self.judgement),
            "left_out": left_out_text(self.judgement.reasons(self.cohort.slots)),
            "group_table": group_table(self.tables.groups, self.labels),
        }

    def decisions(self) -> tuple[list[str], Rows]:
        """What stands, on whom, by whom, and whether raters agree."""
        return decision_table(self.judgement, self.cohort.labels)

    def agreement(self) -> str:
        """How often raters agree, of what several have rated."""
        several = [one for one in self.judgement.standings.values() if one.others]
        if not several:
            return ""
        agree = sum(not one.is_disputed for one in several)
        return f"Of {len(several)} subjects that more than one rater has decided on, raters agree on {agree}."

    def failures(self) -> list[dict[str, str]]:
        """Sessions that are not complete, failed ones first: why, what to do, and the command."""
        rows = self.cohort.catalogue
        order = {str(status): number for number, status in enumerate((Status.FAILED, Status.SKIPPED, Status.PARTIAL))}
        chosen = rows[(rows["status"] != Status.COMPLETE) | (rows["reason"] != "")]
        told = [self._failure(row) for row in records(chosen)]
        return sorted(told, key=lambda one: (order.get(one["status"], 9), one["known"] != "", one["session"]))

    def _failure(self, row: Mapping[str, Any]) -> dict[str, str]:
        session, reason = str(row["session"]), str(row["reason"])
        known = self.judgement.settled.get(session)
        is_stored = session in self.cohort.slots
        return {
            "session": session,
            "label": self.labels.get(str(row["group"]), "-"),
            "status": str(row["status"]),
            "reason": words(reason),
            "stage": str(row["stage"]) or "-",
            "explanation": str(row["explanation"]) or "-",
            "meaning": MEANINGS[Reason(reason)].replace("``", "") if reason in set(Reason) else "",
            "command": COMMANDS.get(reason, AGAIN).replace("SESSION", session),
            "known": f"{known}ed".replace("eed", "ed") if known else "",
            "stored": "yes" if is_stored else "",
        }

    def session_json(self, session: str) -> bytes:
        """Everything about one session but its volumes.

        Raises
        ------
        KeyError
            If the snapshot has no such session.
        """
        row = self.cohort.rows_of([session]).get(session)
        if row is None:
            raise KeyError(session)
        own = self.figures.rows[self.figures.rows["session"] == session]
        value = records(own)[0] if len(own) else {}
        far = next((one for one in self.outliers if one.session == session), None)
        people = self.figures.rows
        same = people[(people["person"] == row["person"]) & (people["person"] != "") & (people["session"] != session)]
        key = str(row["group"])
        told = {
            "session": session,
            "person": str(row["person"]),
            "group": self.labels.get(key, "-"),
            "key": key,
            "status": str(row["status"]),
            "reason": words(row["reason"]),
            "explanation": str(row["explanation"]),
            "why": far.sentence if far else "",
            "score": far.score if far else None,
            "marks": str(row["quality_marks"]),
            "people": {name: number(value.get(name)) for name in ("age", "day")} | {"sex": str(value.get("sex", ""))},
            "figures": [[one.title, number(value.get(one.name)), one.unit] for one in self.figures.figures]
            if value
            else [],
            "series": [list(map(str, one)) for one in decided_of(str(row["series"]))],
            "remarks": [[words(one.kind), one.text, REMARKS[one.kind][1]] for one in remarks_of(str(row["remarks"]))],
            "provenance": [[words(name), str(row[name])] for name in PROVENANCE],
            "same_person": [[str(one["session"]), number(one["day"])] for one in records(same.sort_values("day"))],
            "decisions": self._decisions_on(session, key),
            "counts": self._counts(session, bool(value) and bool(value["counts"])),
            "volumes": self.volumes(session),
        }
        return json.dumps(told, separators=(",", ":"), allow_nan=False).encode()

    def volumes(self, session: str) -> list[str]:
        """Names of its images and maps that hold something, by the digests of what was written."""
        slot = self.cohort.slots.get(session)
        if slot is None:
            return []
        digests = self.cohort.read(slot, ["digest"])["digest"]
        return [variable.name for variable, digest in zip(IMAGES, digests, strict=True) if str(digest)]

    def _counts(self, session: str, has_maps: bool) -> str:
        if session in self.judgement.left_out:
            return f"counts for nothing: {self.judgement.left_out[session]}"
        return "counts" if has_maps else "has no maps that count"

    def _decisions_on(self, session: str, group: str) -> list[list[str]]:
        return [
            [str(one.kind), str(one.scope), str(one.verdict), ", ".join(map(words, one.grounds)) or "-", one.rater]
            for one in self.cohort.decisions
            if one.subject in (session, group)
        ]


PROVENANCE = ("code_version", "preprocessing_version", "calibration_version", "checkpoint_digest", "input_digest")


@lru_cache(maxsize=4)
def view_of(cohort: Cohort) -> View:
    """The view of a snapshot, one for all requests."""
    return View(cohort)


def plain(values: pd.Series[Any]) -> list[float | None]:
    """Numbers with five digits, None for what is not known."""
    return [None if value != value or math.isinf(value) else float(f"{value:.5g}") for value in values.astype(float)]


def number(value: object) -> float | None:
    """The same of one number."""
    known = isinstance(value, (int, float, np.number)) and math.isfinite(float(value))
    return float(f"{float(str(value)):.5g}") if known else None


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """The same of all numbers within a dictionary."""
    return {
        name: [finite(one) for one in value]
        if isinstance(value, (list, tuple))
        else number(value)
        if isinstance(value, float)
        else value
        for name, value in values.items()
    }


def words(text: object) -> str:
    """A code as words."""
    return str(text).replace("_", " ") or "-"
