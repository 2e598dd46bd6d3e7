"""Training in a store: what is registered, and when it is promoted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flows.train import Trained, train_model
from flows.weights import Promotion, chosen_weights, resident_checkpoint
from qmri_core.checkpoint import SHIPPED, checkpoint_bytes, digest_of, read_checkpoint
from qmri_core.held_out import FIRST_SEED, held_out_score
from qmri_core.network import MapNetwork, NetworkSettings
from qmri_core.training import TrainingSettings
from storage.checkpoints import promoted, register, registered
from storage.cohort import writing
from tests.phantoms import phantom_atlas

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]  # minutes: each protocol needs its tables

SIZES = {"n_protocols": 2, "n_slabs": 2, "slices": 2, "size": 32, "widths": (4, 4, 4)}


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store whose promoted checkpoint is untrained."""
    location = str(tmp_path / "store")
    with writing(location, create=True):
        pass
    with torch.random.fork_rng():
        torch.manual_seed(0)
        register(location, checkpoint_bytes(MapNetwork(NetworkSettings(widths=(4, 4, 4))), {}), record={}, promote=True)
    return location


def run(store: str, *, rate: float, promote: Promotion = Promotion.IF_BETTER, out: Path | None = None) -> Trained:
    return train_model(
        store,
        steps=40,
        seed=3,
        promote=promote,
        out=out,
        settings=TrainingSettings(learning_rate=rate, **SIZES),  # type: ignore[arg-type]
        atlas=phantom_atlas(),
        n_batches=1,
    )


def test_what_is_better_is_promoted_and_kept_with_its_record(store: str, tmp_path: Path) -> None:
    before = promoted(store)
    result = run(store, rate=1e-2, out=tmp_path / "weights.safetensors")
    assert result.score["nll"] < result.score_before["nll"]
    assert result.is_promoted
    assert (result.started_from, promoted(store)) == (before, result.digest)
    assert digest_of(tmp_path / "weights.safetensors") == result.digest
    record = registered(store)[result.digest]
    assert record["score"] == dict(result.score)
    assert record["started_from"]["digest"] == before
    assert resident_checkpoint(chosen_weights(store)).digest == result.digest
    # the score is that of the registered bytes
    network = read_checkpoint((tmp_path / "weights.safetensors").read_bytes(), name="weights").network
    sizes = TrainingSettings(**SIZES)  # type: ignore[arg-type]
    assert held_out_score(network, phantom_atlas(), n_batches=1, settings=sizes) == result.score
    assert "promoted" in result.text()


def test_what_is_worse_is_registered_and_promoted_only_on_demand(store: str) -> None:
    before = promoted(store)
    result = run(store, rate=30.0)
    assert not result.score["nll"] <= result.score_before["nll"]
    assert not result.is_promoted
    assert promoted(store) == before
    assert result.digest in registered(store)
    again = run(store, rate=30.0, promote=Promotion.ALWAYS)
    assert again.is_promoted
    assert promoted(store) == again.digest


def test_without_a_promoted_checkpoint_the_shipped_one_counts(tmp_path: Path) -> None:
    with writing(tmp_path / "store", create=True):
        pass
    weights = chosen_weights(str(tmp_path / "store"))
    assert (weights.digest, weights.file, weights.store) == (digest_of(SHIPPED), None, None)


def test_no_training_run_sees_the_heads_of_the_score() -> None:
    settings = TrainingSettings()
    assert 1_000_000 * 1999 + settings.n_slabs <= FIRST_SEED
