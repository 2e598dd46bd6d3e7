"""What holds for all tests: the same examples in every run; one small cohort, processed once for all that need it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from distributed import Client

    from tests.flows.end_to_end import Processed

settings.register_profile(
    "same-every-time", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same-every-time")
os.environ.setdefault("QMRI_MAGNETIZATION_TRANSFER", "false")  # simulated heads have none, unless a test asks for it


@pytest.fixture(scope="session")
def workers() -> Iterator[Client]:
    """Two real worker processes."""
    from flows.cluster.clusters import dask_client
    from flows.settings import Settings

    with dask_client(Settings.model_construct(workers=2)) as client:
        yield client


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights, with which the network leaves the voxelwise estimate as it is."""
    import torch

    from qmri_core.mapping.checkpoint import save_checkpoint
    from qmri_core.mapping.network import MapNetwork, NetworkSettings

    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_checkpoint(path, MapNetwork(NetworkSettings()), {"steps": 0})
    return path


@pytest.fixture(scope="session")
def processed(tmp_path_factory: pytest.TempPathFactory, workers: Client, checkpoint: Path) -> Processed:
    """Three sessions in two groups (two and one) after ingest, infer and aggregate, undisturbed.

    Made by whichever of the test processes needs it first, for all of them.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    kept = shared / "cohort.pickle"
    with FileLock(shared / "cohort.lock"):
        if not kept.is_file():
            cohort = process(tmp_path_factory.mktemp("cohort"), workers, checkpoint)
            kept.write_bytes(pickle.dumps(cohort))
        made: Processed = pickle.loads(kept.read_bytes())  # noqa: S301 - written above
    return made


def process(folder: Path, workers: Client, checkpoint: Path) -> Processed:
    """Simulate a cohort and take it the whole way."""
    from flows.ingest.run import ingest
    from flows.maps.infer import infer
    from flows.simulate import simulate
    from flows.statistics.aggregate import aggregate
    from storage.pseudonyms import load_key
    from tests.flows.end_to_end import Processed

    source, store, linkage, key_file = folder / "in", str(folder / "store"), folder / "linkage.csv", folder / "key"
    key_file.write_text("5e" * 32)  # pseudonyms, and by them who is trained on and held out, as at every other run
    simulated = simulate(source, sessions=3, groups=2, resolution=3.0, seed=2, client=workers)
    ingested = ingest(source, store, key=load_key(key_file), linkage=linkage, client=workers)
    inferred = infer(store, checkpoint=checkpoint, client=workers)
    aggregated = aggregate(store, out=folder / "tables", client=workers)
    return Processed(
        source=source,
        truth=simulated.truth,
        store=store,
        linkage=linkage,
        key_file=key_file,
        checkpoint=checkpoint,
        ingested=ingested,
        inferred=inferred,
        aggregated=aggregated,
    )
