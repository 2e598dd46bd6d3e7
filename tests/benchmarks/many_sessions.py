"""A store of thousands of sessions, written in one commit: all values and tables, and the volumes of one session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from flows.statistics.aggregate import VALUES
from flows.statistics.thumbnails import identities
from qmri_core.series.geometry import Grid
from storage.store.cohort import Cohort, Placement, begin_append, commit, write_arrays, writing
from storage.store.tables import array_of, change, group_of
from storage.store.thumbnails import PICTURED, SIZE, Thumbnail, write
from tests.flows.browser.cohorts import (
    SMALLEST,
    VISITS,
    drawn_medians,
    drawn_row,
    group_name,
    plant,
    session_name,
    write_statistics,
)

FULL = Grid(shape=(176, 224, 192), spacing=(1.0, 1.0, 1.0))
"""Of the first group, one of whose sessions has volumes."""
SHOWN = session_name(0)


def head(grid: Grid) -> NDArray[np.bool_]:
    """Voxels of a brain, an ellipsoid that fills most of the grid."""
    axes = [np.linspace(-1.2, 1.2, size) for size in grid.shape]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.asarray(z**2 + y**2 + x**2 < 1)


def full_volumes() -> dict[str, Any]:
    """What the session that is opened shows first, of a million voxels of brain, with noise."""
    rng, inside = np.random.default_rng(0), head(FULL)
    noisy = rng.normal(1.0, 0.05, FULL.shape).astype(np.float32)
    volume = np.where(inside, noisy, np.float32(np.nan))
    return {
        "T1w": 700 * volume,
        "T1map": volume,
        "T1map_sd": 0.05 * volume,
        "tissue": np.where(inside, 3, 0).astype(np.uint8),
        "brain_mask": inside.astype(np.uint8),
        "affine": np.eye(4),
    }


def write_many(folder: Path, *, n_sessions: int, n_groups: int) -> str:
    """Write a store in one commit, with all values and tables, thumbnails, and the volumes of one session."""
    location, rng = str(folder / "store"), np.random.default_rng(5)
    names = [session_name(number) for number in range(n_sessions)]
    place = {name: number // VISITS % n_groups for number, name in enumerate(names)}
    rows = {name: drawn_row(rng, number, place[name]) for number, name in enumerate(names)}
    medians = {name: drawn_medians(rng, rows[name]["values"]["age"]) for name in names}
    plant(tuple(names[k] for k in np.linspace(n_sessions * 0.55, n_sessions - 2, 5).astype(int)), rows, medians)
    made = {"checkpoint_digest": "c0ffee", "calibration_version": "1/1"}
    placements = [
        Placement(
            session=name,
            **dict(zip(("scanner", "protocol"), group_name(place[name]).split("/"), strict=True)),
            grid=SMALLEST if place[name] else FULL,
        )
        for name in names
    ]
    with writing(location, create=True) as repository:
        wave = begin_append(repository, placements)
        fork = wave.session.fork()
        root = zarr.open_group(fork.store, mode="r+", zarr_format=3)
        for group in {one.group for one in placements}:
            affines = array_of(group_of(root, group), "affine")
            affines[...] = np.broadcast_to(np.eye(4), affines.shape)
            digests = array_of(group_of(root, group), "digest")
            digests[...] = np.full(digests.shape, "0123456789abcdef" * 2, dtype=object)
        write_arrays(fork, wave.slots[SHOWN], full_volumes())
        commit(
            repository,
            wave,
            [fork],
            values={name: rows[name]["values"] for name in names},
            rows=[{**rows[name]["row"], **made} for name in names],
            message=f"Ingest {n_sessions} sessions",
        )
        failed = [{"session": name, **rows[name]["after"]} for name in names if rows[name]["after"]]
        commit(repository, None, [], values={}, rows=failed, message="Infer")
        write_statistics(repository, location, medians)
        thumbnails = drawn_thumbnails(identities(Cohort.open(location).values_of(VALUES)))
        change(repository, lambda root: write(root, thumbnails), "Make thumbnails", {})
    return location


def drawn_thumbnails(made_with: Mapping[str, str]) -> dict[str, Thumbnail]:
    """Noise within a brain."""
    rng, inside = np.random.default_rng(1), head(Grid(shape=(3, SIZE, SIZE), spacing=(1.0, 1.0, 1.0)))[1]
    noise = rng.integers(90, 160, (64, len(PICTURED), SIZE, SIZE), np.uint8) * inside
    return {
        name: Thumbnail(made_with=made, levels=noise[number % 64])
        for number, (name, made) in enumerate(made_with.items())
    }
