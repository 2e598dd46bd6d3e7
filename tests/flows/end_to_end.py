"""A small simulated cohort taken through everything, and how tests look into its store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from distributed import Client
from numpy.typing import NDArray

from flows.ingest.session_plan import SessionPlan, plan_sessions
from flows.statistics.aggregate import AggregateResult
from flows.tables.summary import RunSummary
from storage.pseudonyms import load_key
from storage.source.discovery import discover
from storage.store.cohort import Cohort, history, open_repository
from storage.store.schema import WORKER_VARIABLES

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Processed:
    """A cohort after ingest, infer and aggregate; tests that change something copy it first."""

    source: Path
    truth: Path
    store: str
    linkage: Path
    key_file: Path
    checkpoint: Path
    ingested: RunSummary
    inferred: RunSummary
    aggregated: AggregateResult

    @property
    def key(self) -> bytes:
        return load_key(self.key_file)

    def plans(self, source: Path | None = None) -> list[SessionPlan]:
        return plan_sessions(discover(source or self.source, key=self.key).series)


def last_snapshot(store: str | Path) -> str:
    return history(open_repository(store))[0].id


def arrays(store: str | Path) -> dict[str, dict[str, NDArray[Any]]]:
    """All arrays of all stored sessions, by session and variable."""
    cohort = Cohort.open(store)
    return {name: cohort.read(slot, list(WORKER_VARIABLES)) for name, slot in cohort.slots.items()}


def assert_same_arrays(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    """Bit by bit: NaN equals NaN, 0 is not -0."""
    assert set(found) == set(expected)
    different = [name for name in expected if found[name].tobytes() != expected[name].tobytes()]
    assert not different


def values(store: str | Path) -> pd.DataFrame:
    """Everything that stands in the groups beside the arrays, by session, whatever the order of the sessions."""
    return Cohort.open(store).sessions.drop(columns="index").set_index("session").sort_index()


def finite(array: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(array))


def other_weights() -> bytes:
    """A small checkpoint with weights that matter: of a fresh network the last layer is zero, whatever the rest."""
    import torch

    from qmri_core.mapping.checkpoint import checkpoint_bytes
    from qmri_core.mapping.network import MapNetwork, NetworkSettings

    network = MapNetwork(NetworkSettings(widths=(4, 4, 4), embedding=4))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return checkpoint_bytes(network, {})


def command(*arguments: object, code: str | None = None) -> list[str]:
    """Command line of ``qmri``; with ``code``, which is to call it with ``sys.argv[1:]``, of a changed one."""
    start = ["-m", "flows.cli.main"] if code is None else ["-c", code]
    return [sys.executable, *start, *map(str, arguments)]


def environment(key_file: Path, **more: object) -> dict[str, str]:
    """Environment of a process: none of the user's settings."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("QMRI_")}
    return own | {"QMRI_KEY_FILE": str(key_file)} | {name: str(value) for name, value in more.items()}


def qmri(
    *arguments: object, key_file: Path, workers: Client | None = None, timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """Run the real command line in a process of its own; with ``workers`` on a cluster that is already there."""
    more = {} if workers is None else {"QMRI_SCHEDULER": workers.scheduler.address}
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=environment(key_file, **more),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def names_below(source: Path) -> Iterator[str]:
    """Names of files and folders below a source: people's names among them."""
    yield from {path.name for path in source.rglob("*")} | {
        path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_dir()
    }
