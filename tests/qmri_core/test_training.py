"""Training in small: it learns, and its settings determine the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qmri_core.acquisition import CONTRASTS
from qmri_core.losses import negative_log_likelihood, resynthesis_error
from qmri_core.training import TrainingSettings, make_batch, make_slab, train
from qmri_core.training_protocols import random_protocol
from tests.phantoms import phantom_atlas

SETTINGS = TrainingSettings(n_steps=100, n_protocols=1, n_slabs=3, slices=2, size=32, widths=(4, 4, 4))


@pytest.mark.walk
def test_equal_settings_give_equal_weights_and_the_loss_falls() -> None:
    first, record = train(phantom_atlas(), SETTINGS)
    second, _ = train(phantom_atlas(), SETTINGS)
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert record["steps"] == SETTINGS.n_steps
    assert record["curve"][-1]["nll"] < 0.1


def test_every_training_protocol_has_a_model_and_three_contrasts() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        nominal, as_run = random_protocol(rng)
        assert tuple(nominal) == CONTRASTS == tuple(as_run)
        for contrast in CONTRASTS:
            assert as_run[contrast].sequence is nominal[contrast].sequence


def test_a_batch_is_calibrated_to_white_matter() -> None:
    slab = make_slab(phantom_atlas(), 7, TrainingSettings(slices=4, size=48))
    nominal, as_run = random_protocol(np.random.default_rng(3))
    relative, physics = make_batch(slab, nominal, as_run, np.random.default_rng(1))
    assert relative.shape == (4, 3, 48, 48)
    assert tuple(physics.contrasts) == CONTRASTS
    log_t1 = slab.truth[:, 0]
    white = (slab.mask > 0) & (log_t1.abs() < 0.1)
    assert int(white.sum()) > 50
    for k, contrast in enumerate(CONTRASTS):
        assert float(relative[:, k][white].median()) == pytest.approx(1.0, rel=0.35), contrast
    outside = (slab.mask < 1)[:, None].expand_as(relative)
    assert not bool(relative[outside].any())


def test_likelihood_is_least_at_the_truth_and_at_the_honest_spread() -> None:
    torch.manual_seed(0)
    truth = torch.zeros(1, 3, 40, 40)
    estimate = 0.1 * torch.randn(1, 3, 40, 40)
    weight = torch.ones(1, 40, 40)

    def score(log_sd: float) -> float:
        """The untempered likelihood, which the tempered one has the gradient of, up to a factor."""
        spread = torch.full_like(truth, log_sd, requires_grad=True)
        negative_log_likelihood(estimate, spread, truth, weight).backward()
        assert spread.grad is not None
        return float(spread.grad.mean())

    assert score(float(np.log(0.05))) < 0 < score(float(np.log(0.2)))


def test_resynthesis_error_ignores_what_is_absent_or_outside() -> None:
    acquired = torch.zeros(1, 3, 2, 2)
    synthesised = torch.ones(1, 3, 2, 2)
    present = torch.tensor([[1.0, 0.0, 1.0]])
    weight = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    synthesised[:, 1] = 100.0
    assert float(resynthesis_error(synthesised, acquired, present, weight)) == pytest.approx(1.0)
