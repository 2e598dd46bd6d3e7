"""Ablations take away what they say, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from qmri_core.baseline.published_recipe import textbook_signal
from qmri_core.mapping.inference import run_network
from qmri_core.training import loop as training
from qmri_core.training.ablations import (
    VARIANTS,
    ablation,
    with_textbook,
    without_calibration,
    without_conditions,
    without_levels,
)
from qmri_core.training.loop import TrainingSettings
from qmri_core.training.simulated_batches import Batch, make_batch, make_slab
from tests.phantoms import cheap_protocol, phantom_atlas

SETTINGS = TrainingSettings(n_steps=12, slices=2, size=32, widths=(4, 4, 4))


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    slabs = [make_slab(phantom_atlas(), seed, 32) for seed in (1, 2, 3)]
    rng = np.random.default_rng(0)
    return [make_batch(slab, *cheap_protocol(rng), rng, slices=2) for slab in slabs]


def test_without_calibration_every_image_has_usual_white_matter(batches: list[Batch]) -> None:
    for batch in batches:
        scaled = batch.relative * torch.tensor([1.3, 0.7, 2.0])[:, None, None]  # scales that calibration had found
        found = without_calibration(replace(batch, relative=scaled))
        white = batch.regions[:, 1] > 0
        for plane in found.relative.unbind(1):
            assert float(plane[white].median()) == pytest.approx(1.0, abs=1e-5)
        torch.testing.assert_close(found.relative, without_calibration(batch).relative)  # nothing is left of them


def test_without_conditions_the_protocol_is_not_told(batches: list[Batch]) -> None:
    found = without_conditions(batches[0])
    assert not found.physics.conditions.any()
    both = [run_network(None, one.relative, one.mask, one.physics)[0] for one in (batches[0], found)]
    assert torch.equal(*both)  # the estimate still knows it


def test_without_levels_nothing_is_told_of_the_tissues(batches: list[Batch]) -> None:
    found = without_levels(batches[0])
    assert all(batches[0].physics.expected.shift)
    assert not any(found.physics.expected.shift)
    both = [
        (one.truth.exp() * torch.tensor(one.physics.white_matter)[:, None, None] * one.mask[:, None],
         one.relative * torch.tensor(one.physics.white_matter_signal)[:, None, None])
        for one in (batches[0], found)
    ]  # fmt: skip
    for same in zip(*both, strict=True):  # the same head in the same images
        torch.testing.assert_close(*same)


def test_with_the_textbook_its_signals_are_inverted(batches: list[Batch]) -> None:
    """Signals of white and grey matter by the textbook come back; by the phase graph they would not all."""
    physics = with_textbook(without_levels(batches[0])).physics
    t1, t2, pd = (torch.tensor(values) for values in ((0.85, 1.4), (0.07, 0.095), (0.69, 0.82)))
    signals = [textbook_signal(batches[0].nominal[c], pd, t1, t2) for c in physics.contrasts]
    relative = torch.stack(
        [one / reference for one, reference in zip(signals, physics.white_matter_signal, strict=True)]
    )
    maps, _ = run_network(None, relative[None, :, None, :], torch.ones(1, 1, 2), physics)
    expected = torch.log(torch.stack([t1, t2, pd]) / torch.tensor(physics.white_matter)[:, None])
    torch.testing.assert_close(maps[0, :, 0], expected, atol=0.06, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_is_scored(name: str, batches: list[Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REPORT_EVERY", 4)
    row = ablation(name, batches, batches[:1], SETTINGS)
    assert (row["variant"], row["steps"]) == (name, 12)
    assert np.isfinite([row["nll"], row["t1"], row["t2"], row["pd"]]).all()
