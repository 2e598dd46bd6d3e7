"""A store with a few ellipsoid heads, written through the storage layer, and statistics with round numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flows.statistics.aggregate import AggregateResult, tables_of
from qmri_core.series.geometry import Grid
from storage.store.cohort import Placement, begin_append, begin_update, commit, write_arrays, writing

GRID = Grid(shape=(14, 40, 32), spacing=(5.0, 5.0, 12.0))
GROUPS = (
    "siemens-prisma-3t-1a2b3c/t1w-mprage-tr2300_t2w-tse-tr6000_5.0x5.0x12.0mm-3fa2",
    "philips-ingenia-3t-4d5e6f/t1w-spgr-tr8_t2w-tse-tr4500_5.0x5.0x12.0mm-91bc",
)
TRUE = {"T1map": (4.0, 1.4, 0.85), "T2map": (1.5, 0.095, 0.075), "PDmap": (1.0, 0.82, 0.7)}
"""Values of CSF, grey and white matter."""


def head() -> NDArray[np.uint8]:
    """Tissue labels: white matter in grey matter, CSF around and in the middle."""
    z, y, x = np.meshgrid(*(GRID.coordinates(axis) for axis in "zyx"), indexing="ij")
    radius = np.sqrt((z / 70) ** 2 + (y / 85) ** 2 + (x / 68) ** 2)
    tissue = np.zeros(GRID.shape, dtype=np.uint8)
    for limit, label in ((1.0, 1), (0.93, 2), (0.75, 3), (0.2, 1)):
        tissue[radius < limit] = label
    return tissue


def images(number: int) -> dict[str, NDArray[Any]]:
    tissue = head()
    rng = np.random.default_rng(number)
    levels = {"T1w": (0, 20, 60, 90), "T2w": (0, 200, 90, 70), "FLAIR": (0, 10, 80, 60)}
    arrays: dict[str, NDArray[Any]] = {
        name: (np.asarray(values)[tissue] + rng.normal(0, 3, tissue.shape)).astype(np.float32)
        for name, values in levels.items()
    }
    arrays |= {"tissue": tissue, "brain_mask": (tissue > 0).astype(np.uint8), "affine": np.diag([5.0, 5.0, 12.0, 1.0])}
    return arrays


def maps(number: int) -> dict[str, NDArray[np.float32]]:
    tissue = head()
    scale = 1 + 0.01 * number
    return {name: (scale * np.asarray([np.nan, *values])[tissue]).astype(np.float32) for name, values in TRUE.items()}


def make_store(folder: Path, *, per_group: int = 2) -> str:
    """Sessions with maps in two groups, one without maps, one skipped and one failed."""
    location = str(folder / "store")
    places = {f"ses-{number:012x}": GROUPS[number % 2] for number in range(2 * per_group + 1)}
    with writing(location, create=True) as repository:
        wave = begin_append(repository, [placement_of(name, group) for name, group in places.items()])
        forks = [
            write_arrays(wave.session.fork(), wave.slots[name], images(number)) for number, name in enumerate(places)
        ]
        rows = [row_of(name, person=f"sub-{number:012x}") for number, name in enumerate(places)]
        rows += [
            row_of("ses-aaaaaaaaaaaa", status="skipped", reason="missing_contrast", stage="plan"),
            row_of("ses-ffffffffffff", status="failed", reason="read_error", stage="read", error="ReadError"),
        ]
        commit(repository, wave, forks, values={}, rows=rows, message=f"Ingest {len(places)} sessions")
        with_maps = list(places)[:-1]
        update = begin_update(repository, with_maps)
        written = [
            write_arrays(update.session.fork(), slot, maps(number)) for number, slot in enumerate(update.slots.values())
        ]
        done = [{"session": name, "checkpoint_digest": "c0ffee", "calibration_version": "1/1"} for name in with_maps]
        commit(repository, update, written, values={}, rows=done, message=f"Infer maps of {len(done)} sessions")
    return location


def statistics(per_group: int = 2) -> AggregateResult:
    """Tables as aggregate makes them of the store's maps."""
    rows: list[Mapping[str, object]] = []
    for number in range(2 * per_group):
        for name, values in TRUE.items():
            for tissue, value in zip(("CSF", "GM", "WM"), values, strict=True):
                median = value * (1 + 0.01 * number)
                figures = dict.fromkeys(("mean", "median", "q05", "q25", "q75", "q95"), median) | {"mode": value}
                keys = {"session": f"ses-{number:012x}", "group": GROUPS[number % 2], "tissue": tissue, "map": name}
                rows.append({**keys, "n": 100, "sd": 0.0, **figures})
    return tables_of(pd.DataFrame(rows))


def placement_of(session: str, group: str) -> Placement:
    scanner, protocol = group.split("/")
    return Placement(session=session, scanner=scanner, protocol=protocol, grid=GRID)


def row_of(session: str, *, status: str = "complete", **values: object) -> dict[str, object]:
    return {
        "session": session,
        "status": status,
        "code_version": "0.1.0",
        "preprocessing_version": "1",
        **values,
    }
