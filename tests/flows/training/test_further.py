"""Training in a store: what is registered, and when it is promoted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.maps.weights import Promotion, chosen_weights, resident_checkpoint
from flows.tables.text import records
from flows.training.further import Trained, train_model
from flows.training.images import split
from qmri_core.mapping.checkpoint import (
    FILE_DIGESTS_BEFORE,
    checkpoint_bytes,
    content_digest,
    load_checkpoint,
    read_checkpoint,
)
from qmri_core.mapping.network import MapNetwork, NetworkSettings
from qmri_core.training import held_out
from qmri_core.training import loop as training
from qmri_core.training.held_out import held_out_batches, held_out_score
from qmri_core.training.loop import TrainingSettings
from storage.store.checkpoints import register
from storage.store.cohort import Cohort, writing
from tests.flows.end_to_end import Processed
from tests.phantoms import cheap_protocol, phantom_atlas

SIZES = {"n_protocols": 2, "n_slabs": 2, "slices": 2, "size": 32, "widths": (4, 4, 4), "validate_every": 20}


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Protocols without echo trains, whose tables take minutes; the state of a run in a folder of its own."""
    for module in (training, held_out):
        monkeypatch.setattr(module, "random_protocol", cheap_protocol)
    monkeypatch.setattr(training, "REPORT_EVERY", 10)
    monkeypatch.setattr(training, "WARM_UP", 5)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store whose promoted checkpoint is untrained."""
    location = str(tmp_path / "store")
    with writing(location, create=True):
        pass
    with torch.random.fork_rng():
        torch.manual_seed(0)
        content = checkpoint_bytes(MapNetwork(NetworkSettings(widths=(4, 4, 4))), {})
        digest = content_digest(content, name="untrained")
        register(location, content, record={}, promote=True, digest=digest)
    return location


def run(store: str, *, rate: float, **others: Any) -> Trained:
    return train_model(
        store,
        steps=40,
        seed=4,
        settings=TrainingSettings(learning_rate=rate, **SIZES),  # type: ignore[arg-type]
        atlas=phantom_atlas(),
        n_batches=3,
        **others,
    )


def test_what_is_better_is_promoted_and_kept_with_its_record(store: str, tmp_path: Path) -> None:
    before = Cohort.open(store).promoted
    result = run(store, rate=3e-3, out=tmp_path / "weights.safetensors")
    assert result.score["nll"] < result.score_before["nll"]
    assert result.is_promoted
    assert (result.started_from, Cohort.open(store).promoted) == (before, result.digest)
    assert load_checkpoint(tmp_path / "weights.safetensors").network.settings.undetermined != (0.0,) * 4
    assert load_checkpoint(tmp_path / "weights.safetensors").digest == result.digest
    record = Cohort.open(store).registered[result.digest]
    assert {k: v for k, v in record["score"].items() if v is not None} == {
        k: v for k, v in result.score.items() if np.isfinite(v)
    }
    assert record["started_from"]["digest"] == result.started_from
    assert (record["image_share"], record["images"]) == (0.0, {})  # the store holds none
    assert (tmp_path / "weights.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "cache").rglob("*.state"))
    assert resident_checkpoint(chosen_weights(Cohort.open(store))).digest == result.digest
    # the score is that of the registered bytes
    network = read_checkpoint((tmp_path / "weights.safetensors").read_bytes(), name="weights").network
    batches = held_out_batches(phantom_atlas(), n=3, size=32, slices=2)
    assert held_out_score(network, batches) == pytest.approx(dict(result.score), nan_ok=True)
    assert "promoted" in result.text()


def test_what_is_worse_is_registered_and_promoted_only_on_demand(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Cohort.open(store).promoted
    scores = iter([1.0, 2.0] * 2)  # of the trained network, and of the one before

    def worse(share: float) -> Callable[[object], dict[str, float]]:
        del share
        return lambda _network: {"nll": 3.0 - next(scores), "t1": 0.1, "t2": 0.1, "pd": 0.1}

    monkeypatch.setattr("flows.training.goals.held_out_by", lambda _batches, _images, share: worse(share))
    monkeypatch.setattr(
        "flows.training.goals.fit", lambda _loss, _settings, *, start, **_: (start.network, {"curve": []})
    )
    result = run(store, rate=1e-3)
    assert not result.score["nll"] <= result.score_before["nll"]
    assert not result.is_promoted
    assert Cohort.open(store).promoted == before
    assert result.digest in Cohort.open(store).registered
    again = run(store, rate=1e-3, promote=Promotion.ALWAYS)
    assert again.is_promoted
    assert Cohort.open(store).promoted == again.digest


def test_a_training_that_was_killed_goes_on(store: str) -> None:
    class Killed(Exception):  # noqa: N818 - it stands for a signal
        pass

    def dying(step: int, _total: int, _text: str) -> None:
        if step == 30:
            raise Killed

    steps: list[int] = []
    with pytest.raises(Killed):
        run(store, rate=1e-3, progress=dying)
    run(store, rate=1e-3, progress=lambda step, _total, text: steps.append(step) if text.startswith("loss") else None)
    assert steps == [30, 40]


def test_minutes_end_a_training_in_a_store(store: str) -> None:
    result = run(store, rate=1e-3, minutes=1e-4)
    assert 0 < Cohort.open(store).registered[result.digest]["steps"] < 40


def test_a_share_of_images_that_is_none_is_refused(store: str) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        train_model(store, image_share=1.5)


def test_a_store_is_trained_on_by_person_and_scored_on_others(processed: Processed, tmp_path: Path) -> None:
    location = str(tmp_path / "copy")
    shutil.copytree(processed.store, location)
    stored = {str(row["session"]): row for row in records(Cohort.open(location).sessions)}
    divided = split(list(stored.values()))
    result = run(location, rate=1e-3, image_share=0.5)
    assert result.images["train_sessions"] == len(divided.train) > 0
    assert result.images["held_out_sessions"] == len(divided.held_out) > 0
    assert {"images", "simulated"} <= set(result.score)
    assert result.score["nll"] == pytest.approx(0.5 * (result.score["images"] + result.score["simulated"]))
    assert "held out" in result.text()
    curve = Cohort.open(location).registered[result.digest]["curve"]
    assert all({"nll", "images"} <= set(entry) for entry in curve)


def test_without_a_promoted_checkpoint_the_shipped_one_counts(tmp_path: Path) -> None:
    with writing(tmp_path / "store", create=True):
        pass
    weights = chosen_weights(Cohort.open(str(tmp_path / "store")))
    assert (weights.digest, weights.file, weights.cohort) == (load_checkpoint().digest, None, None)


def test_maps_of_the_same_weights_in_another_file_are_theirs(store: str, tmp_path: Path) -> None:
    """Of release 0.1 with a file of the user's, and with the store's promoted checkpoint; not with those it shipped."""
    shipped = chosen_weights(Cohort.open(str(empty_store(tmp_path))))
    assert not shipped.recorded & {*FILE_DIGESTS_BEFORE, *FILE_DIGESTS_BEFORE.values()}
    file = tmp_path / "own.safetensors"
    file.write_bytes(checkpoint_bytes(MapNetwork(NetworkSettings(widths=(4, 4, 4))), {"steps": 1}))
    in_store = register(store, file.read_bytes(), record={}, promote=True)  # as 0.1 did: named by its file
    for weights in (chosen_weights(Cohort.open(store), file), chosen_weights(Cohort.open(store))):
        assert weights.as_recorded(in_store) == in_store
        assert weights.as_recorded(weights.digest) == weights.digest
        assert weights.as_recorded("of others") == weights.digest
        assert resident_checkpoint(weights).digest == weights.digest


def empty_store(folder: Path) -> Path:
    with writing(folder / "empty", create=True):
        pass
    return folder / "empty"
