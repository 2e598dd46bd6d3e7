"""Thumbnails of sessions for the wall of the browser: made on workers from one slice of each volume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from flows.cluster.boundary import Outcome, Stage, at_boundary
from flows.cluster.driver import required
from flows.maps.staleness import maps_identity
from flows.pictures.slices import fitted, grey_levels
from flows.progress import Progress, quiet
from flows.selection import Selected
from flows.tables.text import records
from storage.store.cohort import Cohort
from storage.store.schema import Status
from storage.store.tables import change
from storage.store.thumbnails import PICTURED, SIZE, Thumbnail, made_with, write

if TYPE_CHECKING:
    from distributed import Client

    from storage.store.slots import Slot

SESSIONS_PER_TASK = 32
MOST_AT_ONCE = 2048
"""Sessions whose thumbnails are held before they are written: 28 kB each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureTask:
    """Sessions of one group to make thumbnails of."""

    cohort: Cohort
    slots: tuple[Slot, ...]


def identities(stored: pd.DataFrame) -> dict[str, str]:
    """What the thumbnail of each stored session is to be made of, by its values `flows.statistics.aggregate.VALUES`."""
    return {str(row["session"]): f"{maps_identity(row)},{row['status']}" for row in records(stored)}


def make_thumbnails(
    cohort: Cohort, stored: pd.DataFrame, *, selected: Selected, client: Client, progress: Progress = quiet
) -> dict[str, Thumbnail]:
    """Make those that are lacking or of other images; the last ones are returned, to be committed by the caller.

    More than `MOST_AT_ONCE` are committed on the way. A session whose volumes cannot be read gets none.
    """
    wanted, there = identities(stored), made_with(cohort.root)
    due = sorted(name for name, made in wanted.items() if there.get(name) != made and name in selected)
    made: dict[str, Thumbnail] = {}
    done = 0
    for task, outcome in required(
        client,
        picture_sessions,
        list(_tasks(cohort, due)),
        name="thumbnails",
        failure="its thumbnail could not be made",
        session=lambda task: task.slots[0].session,
    ):
        for session, levels in outcome.pictures.items():
            made[session] = Thumbnail(made_with=wanted[session], levels=levels)
        done += len(task.slots)
        progress(done, len(due), "thumbnails")
        if len(made) >= MOST_AT_ONCE:
            commit_thumbnails(cohort, made)
            made = {}
    return made


def commit_thumbnails(cohort: Cohort, made: Mapping[str, Thumbnail]) -> str | None:
    """Write thumbnails in a commit of their own; its snapshot."""

    def edit(root: zarr.Group) -> None:
        write(root, made)

    with cohort.writing() as repository:
        return change(repository, edit, f"Make thumbnails of {len(made)} sessions", {"run": "aggregate"})


def _tasks(cohort: Cohort, sessions: Sequence[str]) -> Iterator[PictureTask]:
    slots = sorted((cohort.slots[name] for name in sessions), key=lambda slot: (slot.group, slot.index))
    for _, members in groupby(slots, key=lambda slot: slot.group):
        of_group = tuple(members)
        for start in range(0, len(of_group), SESSIONS_PER_TASK):
            yield PictureTask(cohort=cohort, slots=of_group[start : start + SESSIONS_PER_TASK])


def picture_sessions(task: PictureTask) -> Outcome:
    """Slices of each session, shape (picture, row, column); none of a session that cannot be read."""
    pictures = {}
    for slot in task.slots:
        made = at_boundary(slot.session, partial(_pictures, task.cohort, slot))
        if not isinstance(made, Outcome):
            pictures[slot.session] = made
    return Outcome(session=task.slots[0].session, status=Status.COMPLETE, pictures=pictures)


def _pictures(cohort: Cohort, slot: Slot, stage: Stage) -> NDArray[np.uint8]:
    levels = np.zeros((len(PICTURED), SIZE, SIZE), dtype=np.uint8)
    for place, name in enumerate(PICTURED):
        with stage("read"):
            section = cohort.read_part(slot, name, (cohort.nodes.array(slot.group, name).shape[1] // 2,))
        with stage("thumbnail"):
            small = fitted(grey_levels(section, name), SIZE)
            levels[place, : small.shape[0], : small.shape[1]] = small
    return levels
