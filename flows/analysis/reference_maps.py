"""Maps of z: where each voxel of a session lies among those of other people of the cohort, in template space."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flows.calibration.calibrate import acquisitions_of_maps, all_scales
from flows.cluster.driver import completed
from flows.progress import Progress, quiet
from flows.tables.text import records
from qmri_core.analysis.centiles import FEWEST_PEOPLE, TooFewPeopleError, age_and_sex
from qmri_core.analysis.voxel_scores import People, VoxelModel
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.series.geometry import Affine
from qmri_core.tissues import GREY_MATTER, MAPS, WHITE_MATTER
from storage.store.cohort import Cohort
from storage.store.opened.values import LEAST_OVERLAP, MOST_STRETCH
from storage.store.repository import StoreError
from storage.store.slots import Slot

if TYPE_CHECKING:
    from distributed import Client

MILLIMETRES = 2
"""Of the voxels in template space."""
_AT_ONCE = 20_000_000
"""Numbers of a part of the voxels that the model holds at once."""
NOTES = (
    "maps of z: logs of each voxel of grey and white matter given age, sex and group, among the first sessions of all "
    f"other people of this cohort, where {FEWEST_PEOPLE} of them or more have tissue; people: how many",
    "zdev: standard deviation of z, by the stated uncertainty of the voxel and by how few people tell what is expected",
    "people differ in how their gyri lie: a voxel of cortex is not the same place in everybody, and of many thousand "
    "voxels some lie far out by chance",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionMaps:
    """Maps of one session in template space, by T1map, T2map and PDmap: z, its deviation, people; shape (z, y, x)."""

    session: str
    z: Mapping[str, NDArray[np.float32]]
    deviation: Mapping[str, NDArray[np.float32]]
    n_people: Mapping[str, NDArray[np.float32]]
    affine: Affine


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    cohort: Cohort
    slot: Slot
    acquisitions: Mapping[Contrast, Acquisition]
    millimetres: int


@contextmanager
def reference_maps(
    cohort: Cohort,
    values: pd.DataFrame,
    sessions: Sequence[str] = (),
    *,
    client: Client,
    millimetres: int = MILLIMETRES,
    progress: Progress = quiet,
) -> Iterator[tuple[Iterator[SessionMaps], tuple[str, ...]]]:
    """Context of maps of sessions, one after the other, and of the sessions to which the template cannot be brought.

    The template is brought to the first session of each person and to those that are asked for, some ten seconds of a
    core each; what they are there lies in temporary files as long as the context lasts.

    Parameters
    ----------
    values
        `flows.analysis.values.values_table`: whom the cohort consists of.
    sessions
        Whose maps are made; default: those of all.
    client
        Of the workers.

    Raises
    ------
    TooFewPeopleError
        If too few people are of known age and sex, or the template can be brought to too few.
    StoreError
        If a session has no place.
    """
    rows = _people_of(values, sessions)
    is_first = ~rows["person"].duplicated().to_numpy()
    age_and_sex(rows, is_first)  # before anything is measured
    wanted = set(sessions) or set(rows["session"])
    rows = rows[is_first | rows["session"].isin(wanted)].reset_index(drop=True)
    tasks = _tasks(cohort, list(rows["session"]), millimetres)
    with tempfile.TemporaryDirectory(prefix="qmri-reference-") as folder:
        resampled, found = _resampled(tasks, Path(folder), client, progress)
        kept = rows[rows["session"].isin(found)].reset_index(drop=True)
        n_people = kept["person"].nunique()
        if n_people < FEWEST_PEOPLE:
            raise TooFewPeopleError(
                f"the template can be brought to {n_people} people of known age and sex, and {FEWEST_PEOPLE} are the "
                "fewest among which a place means much"
            )
        places = np.asarray([found[name] for name in kept["session"]], dtype=np.intp)
        asked = [str(name) for name in kept["session"] if name in wanted]
        scores = _scored(kept, resampled, places, asked, Path(folder), progress)
        left_out = tuple(str(name) for name in rows["session"] if name not in found)
        yield _maps_of(asked, scores, millimetres), left_out


def _maps_of(sessions: Sequence[str], scores: NDArray[np.float32], millimetres: int) -> Iterator[SessionMaps]:
    from qmri_core.preprocessing.template.resampling import space

    to = space(millimetres)
    for name, of_session in zip(sessions, scores, strict=True):
        z, deviation, n_people = (
            {of: to.volume(of_session[number, what]) for number, of in enumerate(MAPS)} for what in range(3)
        )
        yield SessionMaps(session=name, z=z, deviation=deviation, n_people=n_people, affine=to.affine)


def _people_of(values: pd.DataFrame, sessions: Sequence[str]) -> pd.DataFrame:
    """One row per session of known age and sex: session, person, label, age, sex, day; the first of a person first."""
    rows = values.drop_duplicates("session")[["session", "person", "label", "age", "sex", "day"]]
    rows = rows[rows["age"].notna() & rows["sex"].isin(["F", "M"])]
    rows = rows.sort_values(["person", "day", "session"], ignore_index=True)
    if unknown := sorted(set(sessions) - set(rows["session"])):
        raise StoreError(f"{unknown[0]}: has no place: it is unknown, does not count, or its age or sex is not known")
    return rows


def _tasks(cohort: Cohort, sessions: Sequence[str], millimetres: int) -> list[_Task]:
    scales = all_scales(cohort)
    stored = {str(row["session"]): row for row in records(cohort.sessions)}
    return [
        _Task(
            cohort=cohort,
            slot=cohort.slots[name],
            acquisitions=acquisitions_of_maps(stored[name], scales),
            millimetres=millimetres,
        )
        for name in sessions
    ]


def _resampled(
    tasks: Sequence[_Task], folder: Path, client: Client, progress: Progress
) -> tuple[NDArray[np.float32], dict[str, int]]:
    """Maps and stated deviations in template space, shape (session, map, voxel), and the place of each session."""
    from qmri_core.preprocessing.template.resampling import space

    n_voxels = space(tasks[0].millimetres).places.shape[1]
    shape = (len(tasks), 2 * len(MAPS), n_voxels)
    stored = np.memmap(folder / "maps", dtype=np.float32, mode="w+", shape=shape)
    found: dict[str, int] = {}
    for task, maps in completed(client, resample, tasks, progress=progress, text="bring to the template"):
        if maps is not None:
            stored[len(found)] = maps
            found[task.slot.session] = len(found)
    return stored, found


def resample(task: _Task) -> NDArray[np.float32] | None:
    """Maps and stated deviations of a session in template space, shape (map, voxel); None where it cannot be brought.

    Called on a worker.
    """
    from qmri_core.preprocessing.template.resampling import in_space, space
    from qmri_core.preprocessing.template.segmentation import regions_of
    from qmri_core.preprocessing.tissue import TissueError

    names = [*MAPS, *(f"{name}_sd" for name in MAPS)]
    stored = task.cohort.read(task.slot, [*map(str, task.acquisitions), *names, "tissue", "brain_mask", "affine"])
    images = {
        contrast: stored[str(contrast)] for contrast in task.acquisitions if np.isfinite(stored[str(contrast)]).any()
    }
    mask = (stored["brain_mask"] == 1).astype(np.uint8)
    try:
        _, registered = regions_of(images, mask, stored["affine"], task.acquisitions)
    except TissueError:
        return None
    if registered.overlap < LEAST_OVERLAP or registered.stretch > MOST_STRETCH:
        return None
    solid = np.isin(stored["tissue"], (GREY_MATTER, WHITE_MATTER)) & (mask == 1)
    maps = np.stack([stored[name] for name in names])
    return in_space(maps, solid, stored["affine"], registered.warp, space(task.millimetres))


def _scored(
    rows: pd.DataFrame,
    resampled: NDArray[np.float32],
    places: NDArray[np.intp],
    sessions: Sequence[str],
    folder: Path,
    progress: Progress,
) -> NDArray[np.float32]:
    """Of sessions, z, its deviation and people, shape (session, map, what, voxel); voxels part by part."""
    is_first = ~rows["person"].duplicated().to_numpy()
    regressors = age_and_sex(rows, is_first)
    groups = pd.factorize(rows["label"])[0].astype(np.intp)
    people = People(regressors=regressors[is_first], groups=groups[is_first])
    of_person = {person: number for number, person in enumerate(rows.loc[is_first, "person"])}
    index = {name: number for number, name in enumerate(rows["session"])}
    n_voxels = resampled.shape[2]
    size = max(1, _AT_ONCE // (len(people.groups) * (2 + regressors.shape[1])))
    parts = [(k, slice(start, start + size)) for k in range(len(MAPS)) for start in range(0, n_voxels, size)]
    shape = (len(sessions), len(MAPS), 3, n_voxels)
    found = np.memmap(folder / "scores", dtype=np.float32, mode="w+", shape=shape)
    for done, (number, part) in enumerate(parts, start=1):
        model = VoxelModel(people, _logs(resampled[places[is_first], number, part]))
        for place, name in enumerate(sessions):
            k = index[name]
            value = resampled[places[k], number, part].astype(np.float64)
            with np.errstate(invalid="ignore", divide="ignore"):
                relative = resampled[places[k], number + len(MAPS), part] / value
            scores = model.scores(_logs(value), relative, regressors[k], int(groups[k]), of_person[rows["person"][k]])
            found[place, number, :, part] = scores.z, scores.deviation, scores.n_people
        progress(done, len(parts), "compare voxels")
    return found


def _logs(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logs of what is above 0, NaN elsewhere."""
    return np.log(np.where(values > 0, values, np.nan).astype(np.float64))
