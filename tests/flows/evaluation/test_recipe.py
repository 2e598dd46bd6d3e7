"""The published recipe on stored images, and evaluation with it as one more model."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from distributed import Client

from flows.evaluation.recipe import recipe_note, sampled_slices
from flows.evaluation.voxels import EvaluationTask, evaluate_pair
from flows.evaluation.with_truth import EvaluateResult, evaluate, evaluation_tasks
from flows.pictures.volumes import medians_picture
from flows.tables.text import detail_tables, evaluation_table
from qmri_core.series.acquisition import CONTRASTS
from storage.store.arrays import read_arrays
from storage.store.cohort import Cohort
from storage.store.slots import Slot
from tests.flows.end_to_end import Processed


@pytest.fixture(scope="module")
def tasks(processed: Processed) -> list[EvaluationTask]:
    links = pd.read_csv(processed.linkage, dtype=str)[["session", "study_instance_uid"]]
    known = {"study_instance_uid": str, "subject": str}
    return evaluation_tasks(
        Cohort.open(processed.store),
        processed.truth,
        pd.read_csv(processed.truth / "sessions.csv", dtype=known).merge(links, on="study_instance_uid"),
    )


@pytest.fixture(scope="module")
def result(
    processed: Processed, workers: Client, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EvaluateResult, Path]:
    out = tmp_path_factory.mktemp("tables")
    made = evaluate(processed.store, processed.truth, processed.linkage, client=workers, out=out, published_recipe=0.05)
    return made, out


def test_slices_are_bounded_in_number_and_spread_over_the_sessions(tasks: list[EvaluationTask]) -> None:
    told: list[tuple[int, int, str]] = []
    slices = sampled_slices(tasks, 7, seed=1, progress=lambda *call: told.append(call))
    assert len(slices) == 6  # two of each of three sessions
    assert told == [(number, 3, "read slices") for number in range(3)]
    for each in slices:
        assert each.images.shape == (len(CONTRASTS), *each.mask.shape)
        assert not each.images[:, ~each.mask].any()
    bright = np.quantile(np.concatenate([each.images[0][each.mask] for each in slices]), 0.85)
    assert bright == pytest.approx(1, abs=0.15)  # white matter is the mode of T1w
    again = sampled_slices(tasks, 7, seed=1)
    assert all((one.images == other.images).all() for one, other in zip(slices, again, strict=True))
    assert len(sampled_slices(tasks, 2, seed=1)) == 2


@pytest.mark.walk
def test_every_table_has_the_recipe_and_says_how_it_was_trained(result: tuple[EvaluateResult, Path]) -> None:
    tables, out = result
    models = ["network", "voxelwise", "published recipe", "null model"]
    for table in (tables.voxels, tables.regions, tables.medians):
        assert list(dict.fromkeys(table["model"])) == models
    of_tissues = ["network", "network, modes", *models[1:]]
    assert list(dict.fromkeys(tables.table["model"])) == of_tissues
    of_models = tables.table.groupby("model")["n_sessions"]
    assert (of_models.min() == 3).all()
    voxels = tables.voxels.set_index(["model", "tissue", "map"])
    for name in ("T1map", "T2map", "PDmap"):
        assert len({voxels.loc[(model, "WM", name), "n"] for model in models}) == 1  # all judged in the same voxels
    content = json.loads((out / "evaluation.json").read_text())
    record = content["published_recipe"]
    assert record["steps"] > 0
    assert f"{record['steps']} steps" in record["note"]
    assert "not its training" in record["note"]
    assert tables.note == record["note"]
    header, rows = evaluation_table(tables.table)
    assert [row[1] for row in rows[:5]] == of_tissues
    assert header[1] == "model"
    assert detail_tables({"voxels": tables.voxels})


def test_the_recipe_needs_workers(processed: Processed) -> None:
    with pytest.raises(ValueError, match="workers"):
        evaluate(processed.store, processed.truth, processed.linkage, published_recipe=1.0)


def test_a_pair_of_the_same_session_agrees_by_every_model(tasks: list[EvaluationTask]) -> None:
    rows = evaluate_pair((tasks[0], tasks[0])).rows
    assert [row["model"] for row in rows[::3]] == ["network", "voxelwise", "true maps", "null model"] * 2
    counts: dict[str, set[int]] = {}
    for row in rows:
        assert row["pair"] == "same group"
        assert row["difference"] == 0
        counts.setdefault(row["voxels"], set()).add(row["moments"]["count"])
    (of_truth,), (of_both,) = counts["of the truth"], counts["of both sessions"]  # all models in the same voxels
    assert of_truth > of_both > 1000


def test_two_people_differ_by_every_model_but_the_null_model(tasks: list[EvaluationTask]) -> None:
    """Not a pair of one person; but what is painted on the first one's tissue is the same for both."""
    rows = evaluate_pair((tasks[0], tasks[1])).rows
    differences = {(row["model"], row["map"]): row["difference"] for row in rows if row["voxels"] == "of the truth"}
    assert differences["null model", "T1map"] == 0
    assert differences["network", "T1map"] > 0.02
    assert differences["voxelwise", "T1map"] > 0.02


def test_maps_and_truth_are_not_read_for_training(tasks: list[EvaluationTask], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def spy(root: zarr.Group, slot: Slot, names: list[str]) -> dict[str, np.ndarray]:
        read.extend(names)
        return read_arrays(root, slot, names)

    monkeypatch.setattr("storage.store.cohort.read_arrays", spy)
    sampled_slices(tasks, 3, seed=1)
    assert set(read) == {"T1w", "T2w", "FLAIR", "brain_mask"}


@pytest.mark.walk
def test_the_picture_shows_the_models_that_are_there(result: tuple[EvaluateResult, Path]) -> None:
    tables, out = result
    assert (out / "evaluation.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    labels = {str(group): f"Skyra-{number}" for number, group in enumerate(tables.medians["group"])}
    widths = [
        struct.unpack(">I", medians_picture(medians, labels)[16:20])[0]
        for medians in (tables.medians, tables.medians[tables.medians["model"] != "published recipe"])
    ]
    assert widths[0] > widths[1]
    empty = tables.medians.assign(estimated=np.nan)
    assert medians_picture(empty, labels)[:4] == b"\x89PNG"


def test_the_note_names_sizes_and_steps() -> None:
    record = {
        "settings": {"widths": (8, 16, 32), "bottleneck": 64, "batch": 4}, "parameters": 138215, "steps": 250,
        "epochs": 1.5, "slices": 660, "seconds": 600, "first_loss": 0.3, "last_loss": 0.1,
    }  # fmt: skip
    note = recipe_note(record)
    for part in ("2601.05063", "8-16-32-64", "138,215", "250 steps of 4", "1.5 epochs", "64-128-256-512"):
        assert part in note
