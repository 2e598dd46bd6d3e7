"""Two checkpoints on a store's own sessions: what moves, by how much, and whether the maps hold what was put in.

Nothing is written. Images, calibrations and people are those of the store; only the weights differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flows.cluster.boundary import Outcome, Stage, at_boundary
from flows.cluster.driver import required
from flows.maps.plan import MapsPlan, plan_maps
from flows.maps.session import OF_INFERENCE, InferTask, checked, prepare, read_images
from flows.maps.weights import Weights, resident_device
from flows.progress import Progress, quiet
from flows.selection import Selected
from flows.tables.text import number, records, text_table
from qmri_core.statistics import tissue_statistics
from qmri_core.tissues import MAPS, TISSUES
from storage.store.decisions.effect import judge
from storage.store.repository import StoreError
from storage.store.schema import Status

if TYPE_CHECKING:
    from distributed import Client

    from storage.store.cohort import Cohort

PER_GROUP = 5
"""Sessions of each group that are compared, unless the user asks for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Of the compared sessions: ``values`` and ``closure``.

    ``values``: session, group, tissue, map, before, after (medians; s, PD relative to CSF), sd_before, sd_after
    (medians of the stated deviations). ``closure``: session, group, before, after: empty where the maps hold what was
    put in, else what does not.
    """

    values: pd.DataFrame
    closure: pd.DataFrame

    def moved(self) -> pd.DataFrame:
        """By group, tissue and map: sessions, means before and after, mean and largest change as shares of before.

        ``in_sd``: mean size of the change in deviations that the weights of before state.
        """
        change = self.values["after"] / self.values["before"] - 1
        in_sd = (self.values["after"] - self.values["before"]).abs() / self.values["sd_before"]
        table = self.values.assign(change=change, largest=change.abs(), in_sd=in_sd)
        table = table.dropna(subset=["before", "after"])  # of tissues that a session has no voxel of
        return table.groupby(["group", "tissue", "map"], as_index=False).agg(
            n=("session", "size"),
            before=("before", "mean"),
            after=("after", "mean"),
            change=("change", "mean"),
            largest=("largest", "max"),
            in_sd=("in_sd", "mean"),
        )

    def lines(self, labels: Mapping[str, str]) -> Iterator[str]:
        """Both for people; ``labels`` of the groups."""
        yield f"{self.closure['session'].nunique()} sessions of {self.closure['group'].nunique()} groups"
        yield text_table(
            ["group", "tissue", "map", "sessions", "before", "after", "change", "largest", "in stated sd"],
            [
                [
                    labels.get(str(row["group"]), str(row["group"])),
                    row["tissue"],
                    row["map"],
                    row["n"],
                    number(row["before"], row["map"]),
                    number(row["after"], row["map"]),
                    f"{100 * row['change']:+.2f} %",
                    f"{100 * row['largest']:.2f} %",
                    f"{row['in_sd']:.2f}",
                ]
                for row in records(self.moved())
            ],
        )
        broken = {name: self.closure[self.closure[name] != ""] for name in ("before", "after")}
        yield (
            f"maps that contradict what was put in: {len(broken['before'])} before, {len(broken['after'])} after "
            f"(of {len(self.closure)})"
        )
        fresh = self.closure[(self.closure["after"] != "") & (self.closure["before"] == "")]
        yield from (f"  now fails: {row['session']}: {row['after']}" for row in records(fresh))


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareTask:
    """One session to infer with two checkpoints."""

    of_before: InferTask
    of_after: InferTask


def compare_weights(
    cohort: Cohort,
    before: Weights,
    after: Weights,
    *,
    client: Client,
    per_group: int = PER_GROUP,
    progress: Progress = quiet,
) -> Comparison:
    """Infer some sessions of each group with both, and compare.

    Parameters
    ----------
    per_group
        Sessions of each group at most: the first by pseudonym, which is by chance, and the same each time. Those that
        count for nothing are left out.

    Raises
    ------
    StoreError
        If no session has what maps need, or one cannot be read.
    """
    left = set(judge(cohort).left_out)
    plans, _ = plan_maps(cohort, after, Selected(retry=True))
    chosen = list(_first(sorted(plans, key=lambda plan: plan.slot.session), per_group, left))
    if not chosen:
        raise StoreError("no stored session has what maps need, so nothing can be compared; run `qmri ingest` first")
    tasks = [_task(cohort, plan, before, after) for plan in chosen]
    failure = "it could not be inferred with both"
    done = required(
        client,
        compare_session,
        tasks,
        name="compare",
        failure=failure,
        session=lambda task: task.of_after.slot.session,
        progress=progress,
    )
    rows = sorted((row for _, outcome in done for row in outcome.rows), key=lambda row: str(row["session"]))
    return Comparison(
        values=pd.DataFrame([row for row in rows if "tissue" in row]),
        closure=pd.DataFrame([row for row in rows if "tissue" not in row]),
    )


def compare_session(task: CompareTask) -> Outcome:
    """Infer one session with both checkpoints; its medians and what does not hold, as rows."""
    return at_boundary(task.of_after.slot.session, lambda stage: _compare(task, stage))


def _first(plans: Sequence[MapsPlan], per_group: int, left: set[str]) -> Iterator[MapsPlan]:
    taken: dict[str, int] = {}
    for plan in plans:
        if plan.slot.session not in left and taken.get(plan.slot.group, 0) < per_group:
            taken[plan.slot.group] = taken.get(plan.slot.group, 0) + 1
            yield plan


def _task(cohort: Cohort, plan: MapsPlan, before: Weights, after: Weights) -> CompareTask:
    task = InferTask(
        cohort=cohort,
        slot=plan.slot,
        acquisitions=plan.acquisitions,
        scales=plan.scales,
        person=plan.person,
        is_adult=plan.is_adult,
        weights=before.seen_from(cohort),
        fork=b"",  # nothing is written
    )
    return CompareTask(of_before=task, of_after=replace(task, weights=after.seen_from(cohort)))


def _compare(task: CompareTask, stage: Stage) -> Outcome:
    slot = task.of_after.slot
    start: dict[str, object] = {"session": slot.session, "group": slot.group}
    found = [_inferred(one, stage) for one in (task.of_before, task.of_after)]
    with stage("statistics"):
        tissue = task.of_after.cohort.read(slot, ["tissue"])["tissue"]
        rows: list[Mapping[str, object]] = [
            {
                **start,
                "tissue": name,
                "map": of_map,
                **{
                    f"{figure}{when}": float(tissue_statistics(maps[f"{of_map}{suffix}"][tissue == label]).median)
                    for when, (maps, _) in zip(("before", "after"), found, strict=True)
                    for figure, suffix in (("", ""), ("sd_", "_sd"))
                },
            }
            for of_map in MAPS
            for name, label in TISSUES.items()
        ]
    rows.append({**start, "before": found[0][1], "after": found[1][1]})
    return Outcome(session=slot.session, status=Status.COMPLETE, rows=tuple(rows))


def _inferred(task: InferTask, stage: Stage) -> tuple[dict[str, np.ndarray], str]:
    """Maps of a session by their names, and what contradicts what was put in; empty if nothing does."""
    session = prepare(task, read_images(task, stage), stage)
    packed = session.empty()
    with stage("infer"):
        device = resident_device(task.weights)
        for part in session.parts:
            for owned, tensor in device.start([part])():
                session.put(packed, owned, tensor.numpy())
    with stage("closure"):
        outcome = checked(task, session, packed)
    maps = {name: session.volume(values) for name, values in zip(OF_INFERENCE, packed, strict=True)}
    return maps, outcome.explanation if outcome.status is Status.FAILED else ""
