"""Stores of many sessions with numbers that are drawn, and with trouble that is planted; volumes are small heads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from flows.browser.figure_list import QUALITY
from flows.maps.staleness import maps_identity
from qmri_core.series.acquisition import CONTRASTS
from qmri_core.series.geometry import Grid
from qmri_core.tissues import MAPS
from storage.store.cohort import Cohort, Placement, begin_append, begin_update, commit, write_arrays, writing
from storage.store.tables import write_table
from tests.flows.tiny_cohort import GRID, TRUE, images, maps, row_of

SMALLEST = Grid(shape=(4, 6, 5), spacing=(16.0, 16.0, 16.0))
VISITS = 3
DAYS = 180.0
DRIFTING, CHANGED = 0, 1
"""Places of the group whose contrast drifts, and of the one whose software changes before the last visit."""
DRIFT_PER_VISIT = -0.04
"""Of the log of the contrast of T1w."""
STEP = 0.08
"""Of the log of the scale of T2w, after the change of software."""


@dataclass(frozen=True)
class Planted:
    """A store, and what is wrong in it."""

    store: str
    groups: tuple[str, ...]
    bad: tuple[str, ...]


def session_name(number: int) -> str:
    return f"ses-{number:012x}"


def group_name(place: int) -> str:
    return f"siemens-skyra-3t-{place:06x}/t1w-mprage-tr2300_t2w-tse-tr6000_5.0x5.0x12.0mm-{place:04x}"


def write_cohort(
    folder: Path,
    *,
    n_sessions: int,
    n_groups: int,
    is_small: bool = False,
    wave: int = 400,
    has_scanner_days: bool = False,
) -> Planted:
    """Write a store; ``is_small``: with volumes of a hundred voxels, for many sessions.

    ``has_scanner_days``: as of a site that keeps them; nobody comes twice then, and the scanner drifts all the same.
    """
    rng = np.random.default_rng(n_sessions)
    grid = SMALLEST if is_small else GRID
    groups = tuple(group_name(place) for place in range(n_groups))
    names = [session_name(number) for number in range(n_sessions)]
    place = {name: number // VISITS % n_groups for number, name in enumerate(names)}
    rows = {name: drawn_row(rng, number, place[name]) for number, name in enumerate(names)}
    if has_scanner_days:
        for number, name in enumerate(names):
            by_scanner(rows[name], number, place[name])
    bad = tuple(names[k] for k in np.linspace(n_sessions * 0.55, n_sessions - 2, 5).astype(int))
    medians = {name: drawn_medians(rng, rows[name]["values"]["age"]) for name in names}
    plant(bad, rows, medians)
    location = str(folder / "store")
    with writing(location, create=True) as repository:
        for start in range(0, n_sessions, wave):
            some = names[start : start + wave]
            placements = [
                Placement(
                    session=name,
                    **dict(zip(("scanner", "protocol"), groups[place[name]].split("/"), strict=True)),
                    grid=grid,
                )
                for name in some
            ]
            begun = begin_append(repository, placements)
            fork = begun.session.fork()
            for name in some:
                fork = write_arrays(fork, begun.slots[name], volumes(int(name[4:], 16), grid))
            commit(
                repository,
                begun,
                [fork],
                values={name: rows[name]["values"] for name in some},
                rows=[rows[name]["row"] for name in some],
                message=f"Ingest {len(some)} sessions",
            )
            update = begin_update(repository, some)
            fork = update.session.fork()
            for name in some:
                fork = write_arrays(fork, update.slots[name], mapped(int(name[4:], 16), grid))
            done = [
                {"session": name, "checkpoint_digest": "c0ffee", "calibration_version": "1/1", **rows[name]["after"]}
                for name in some
            ]
            commit(repository, update, [fork], values={}, rows=done, message=f"Infer maps of {len(some)} sessions")
        write_statistics(repository, location, medians)
    return Planted(location, groups, bad)


def drawn_row(rng: np.random.Generator, number: int, place: int) -> dict[str, Any]:
    """Values and catalogue row of a session; every person comes three times, half a year apart."""
    visit, name = number % VISITS, session_name(number)
    person = np.random.default_rng(number // VISITS)
    quality = {
        f"{contrast}_{what}": float(typical * np.exp(0.04 * person.standard_normal() + 0.015 * rng.standard_normal()))
        for contrast in CONTRASTS
        for what, typical in zip(QUALITY, (40.0, 0.15, 0.4, 0.02, 0.03, 0.5), strict=True)
    }
    if place == DRIFTING:
        quality["T1w_contrast"] *= float(np.exp(DRIFT_PER_VISIT * visit))
    has_changed = place == CHANGED and visit == VISITS - 1
    scales = {f"{contrast}_scale": float(700 * np.exp(0.02 * rng.standard_normal())) for contrast in CONTRASTS}
    scales["T2w_scale"] *= float(np.exp(STEP * has_changed))
    quality |= {"brain_volume": 1.4 + 0.1 * float(person.standard_normal()), "coverage": 1.0}
    quality["alignment_residual"] = float(0.3 * np.exp(0.2 * rng.standard_normal()))
    person_name = f"sub-{number // VISITS:012x}"
    return {
        "row": row_of(name, person=person_name, quality_marks="", **quality),
        "values": {
            **scales,
            "sex": "FM"[number // VISITS % 2],
            "age": float(30 + number // VISITS % 50),
            "day": DAYS * visit,
            "software": "b2b2b2b2" if has_changed else "a1a1a1a1",
            "magnetic_field_strength": 3.0,
        },
        "after": {},
    }


def by_scanner(row: dict[str, Any], number: int, place: int) -> None:
    """Another person at every visit, a session each few days: what drifts, drifts with days of the scanner."""
    day = float(3 * (number // 3))
    row["row"]["person"] = f"sub-{number:012x}"
    row["values"] |= {"scanner_day": day, "day": 0.0}
    if place == DRIFTING:
        row["row"]["T1w_contrast"] *= float(np.exp(DRIFT_PER_VISIT * day / 30))


def drawn_medians(rng: np.random.Generator, age: float) -> dict[tuple[str, str], float]:
    return {
        (tissue, name): float(value * (1 + 0.001 * (age - 45)) * np.exp(0.02 * rng.standard_normal()))
        for name in MAPS
        for tissue, value in zip(("CSF", "GM", "WM"), TRUE[name], strict=True)
    }


def plant(bad: tuple[str, ...], rows: dict[str, Any], medians: dict[str, dict[tuple[str, str], float]]) -> None:
    """Five bad sessions: tissue, noise, a mark, alignment, and one that has failed for closure."""
    medians[bad[0]]["WM", "T1map"] *= 1.25
    rows[bad[1]]["row"]["T2w_snr"] /= 4
    rows[bad[2]]["row"]["quality_marks"] = "FLAIR_ghosts"
    rows[bad[2]]["row"]["FLAIR_ghosts"] *= 3
    rows[bad[3]]["row"]["alignment_residual"] *= 6
    rows[bad[4]]["after"] = {
        "status": "failed",
        "reason": "closure",
        "stage": "closure",
        "error": "ClosureError",
        "explanation": "T1 of white matter is 31 % above what its person can have",
    }


def volumes(number: int, grid: Grid) -> dict[str, Any]:
    if grid is GRID:
        return images(number)
    tissue = np.full(grid.shape, 3, dtype=np.uint8)
    made: dict[str, Any] = {str(contrast): np.ones(grid.shape, dtype=np.float32) for contrast in CONTRASTS}
    return made | {
        "tissue": tissue,
        "brain_mask": (tissue > 0).astype(np.uint8),
        "affine": np.diag([16.0, 16.0, 16.0, 1.0]),
    }


def mapped(number: int, grid: Grid) -> dict[str, Any]:
    if grid is not GRID:
        return {"T1map": np.full(grid.shape, 0.85, dtype=np.float32)}
    made = maps(number % 7)
    made |= {f"{name}_sd": (0.05 * made[name]).astype(np.float32) for name in MAPS}
    return made | {"residual": (0.05 + 0.0 * made["T1map"]).astype(np.float32)}


def write_statistics(repository: Any, location: str, medians: dict[str, dict[tuple[str, str], float]]) -> None:
    rows = []
    for row in Cohort.open(location).sessions.to_dict("records"):
        for (tissue, name), value in medians[row["session"]].items():
            figures = dict.fromkeys(("mean", "median", "mode", "q05", "q25", "q75", "q95"), value)
            keys = {"session": row["session"], "group": row["group"], "tissue": tissue, "map": name}
            rows.append({**keys, "n": 1000, "sd": 0.0, **figures, "made_with": maps_identity(row)})
    columns = {
        name: ("row", np.asarray([row[name] for row in rows], dtype=object if isinstance(rows[0][name], str) else None))
        for name in rows[0]
    }
    write_table(repository, "statistics", xr.Dataset(columns), message="Aggregate", metadata={"run": "aggregate"})
