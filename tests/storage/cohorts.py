"""Tiny synthetic sessions for the tests of the cohort store."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_core.series.geometry import Grid
from storage.store.repository import writing
from storage.store.slots import Placement
from storage.store.waves import begin_append, begin_update, commit, write_arrays

GRID = Grid(shape=(6, 16, 14), spacing=(2.0, 2.0, 3.0))
GROUP = "scanner-a/protocol-1_2.0x2.0x3.0mm"


def placement(session: str, group: str = GROUP, grid: Grid = GRID) -> Placement:
    scanner, protocol = group.split("/")
    return Placement(session=session, scanner=scanner, protocol=protocol, grid=grid)


def images(session: str, shape: tuple[int, int, int] = GRID.shape) -> dict[str, NDArray[Any]]:
    """Noise that depends on the session's name only."""
    rng = np.random.default_rng(zlib.crc32(session.encode()))
    arrays: dict[str, NDArray[Any]] = {
        name: rng.gamma(2.0, 100.0, shape).astype(np.float32) for name in ("T1w", "T2w", "FLAIR")
    }
    arrays["tissue"] = rng.integers(0, 4, shape).astype(np.uint8)
    arrays["brain_mask"] = (arrays["tissue"] > 0).astype(np.uint8)
    arrays["T1w"][0, 0, :3] = np.nan
    arrays["affine"] = np.diag([*GRID.spacing, 1.0])
    return arrays


def maps(session: str, shape: tuple[int, int, int] = GRID.shape) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(zlib.crc32(session.encode()) + 1)
    return {name: rng.gamma(5.0, 0.2, shape).astype(np.float32) for name in ("T1map", "T2map", "PDmap")}


def row(session: str, status: str = "complete", **values: object) -> dict[str, object]:
    return {"session": session, "status": status, "input_digest": f"input of {session}", **values}


def ingest(location: Path | str, placements: Sequence[Placement]) -> str:
    """Store the sessions in one wave, each through a fork of its own."""
    with writing(location, create=True) as repository:
        wave = begin_append(repository, placements)
        forks = [
            write_arrays(wave.session.fork(), wave.slots[place.session], images(place.session, place.grid.shape))
            for place in placements
        ]
        return commit(
            repository,
            wave,
            forks,
            values={place.session: {"age": 40.0} for place in placements},
            rows=[row(place.session, "partial") for place in placements],
            message=f"Ingest {len(placements)} sessions",
            metadata={"run": "test", "sessions": len(placements)},
        )


def infer(location: Path | str, sessions: Iterable[str]) -> str:
    """Store maps of the sessions in one wave."""
    with writing(location) as repository:
        wave = begin_update(repository, list(sessions))
        forks = [write_arrays(wave.session.fork(), slot, maps(name)) for name, slot in wave.slots.items()]
        rows = [row(name, checkpoint_digest="c0ffee") for name in wave.slots]
        return commit(repository, wave, forks, values={}, rows=rows, message="Infer", metadata={})
