"""One snapshot of a store as the pages show it, and its parts as plain values for templates and scripts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any

from flows.browser.figures import Figures, figures_of
from flows.browser.outliers import Outlier, outliers
from flows.browser.plain import finite, plain, words
from flows.calibration.odd_sessions import marked_sessions
from flows.maps.staleness import stale_sessions
from flows.statistics.aggregate import VALUES as OF_MAPS
from flows.statistics.aggregate import AggregateResult, identities_of_maps, read_statistics, tables_of, up_to_date
from flows.statistics.thumbnails import identities
from flows.tables.decisions import decision_table, needed_table
from flows.tables.summary import left_out_text
from flows.tables.text import Rows, group_table, labels_of
from storage.store.cohort import Cohort
from storage.store.decisions.effect import Judged, judge
from storage.store.repository import iterate_history
from storage.store.schema import IMAGES, Status
from storage.store.thumbnails import made_with

LAST_RUNS = 8
FAR_SHOWN = 200
"""Rows of the page of outliers; the table of the groups' page finds all."""
SAID = ("session", "person", "status", "reason", "quality_marks", "sex", "software", "left_out")
"""Texts of a session that scripts get, beside its figures."""


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
    def thumbnails(self) -> dict[str, int]:
        """Row of each session's stored thumbnail, of those that are of what the session holds now."""
        there = {name: (row, made) for row, (name, made) in enumerate(made_with(self.cohort.root).items())}
        wanted = identities(self.cohort.values_of(OF_MAPS)) if there else {}
        return {name: there[name][0] for name, made in wanted.items() if name in there and there[name][1] == made}

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
            "scanner_day": plain(rows["scanner_day"]),
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

    def volumes(self, session: str) -> list[str]:
        """Names of its images and maps that hold something, by the digests of what was written."""
        slot = self.cohort.slots.get(session)
        if slot is None:
            return []
        digests = self.cohort.read(slot, ["digest"])["digest"]
        return [variable.name for variable, digest in zip(IMAGES, digests, strict=True) if str(digest)]


@lru_cache(maxsize=4)
def view_of(cohort: Cohort) -> View:
    """The view of a snapshot, one for all requests."""
    return View(cohort)
