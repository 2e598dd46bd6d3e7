"""Self-supervised loss: its parts against closed forms, and what minimises it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from qmri_core.calibration.expectation import UNTOLD
from qmri_core.calibration.population import population, sample_tissues
from qmri_core.calibration.session_model import PersonLevels
from qmri_core.mapping.inference import relative_signals
from qmri_core.mapping.network import MapNetwork, NetworkSettings
from qmri_core.mapping.voxelwise import estimator
from qmri_core.series.acquisition import Contrast
from qmri_core.training.protocols import Protocol
from qmri_core.training.self_supervision import (
    NOISE,
    RELATIVE_ERROR,
    Images,
    calibrated_slices,
    evidence,
    image_loss,
    image_score,
    log_prior,
    mixed_loss,
)
from tests.phantoms import cheap_protocol


@pytest.fixture
def protocol() -> Protocol:
    return cheap_protocol(np.random.default_rng(0))[0]


def tissue_maps(values: tuple[float, float, float], shape: tuple[int, int, int] = (1, 8, 8)) -> Tensor:
    return torch.tensor(values)[None, :, None, None].expand(shape[0], 3, *shape[1:]).clone()


def test_the_prior_is_a_density_and_is_highest_where_tissue_is() -> None:
    """Integral over a box by Monte Carlo, and tissue against what no tissue is."""
    values = population(3.0)
    rng = np.random.default_rng(0)
    low, high = np.array([-1.5, -1.5, -0.6]), np.array([3.0, 5.0, 0.8])
    points = torch.from_numpy(rng.uniform(low, high, (400_000, 3)))
    integral = float(log_prior(points, values).exp().mean()) * float(np.prod(high - low))
    assert integral == pytest.approx(1.0, abs=0.05)
    wm = values.white_matter
    tissue = torch.from_numpy(np.log(sample_tissues(values, 2000, rng) / [wm.t1, wm.t2, wm.pd]))
    wrong = tissue + torch.tensor([0.0, 0.0, 0.5])  # half more water than tissue holds
    assert float(log_prior(tissue, values).mean()) > float(log_prior(wrong, values).mean()) + 2
    assert float(log_prior(torch.tensor([3.5, -3.0, 3.5]), values)) > -15  # no tissue, and not impossible


def test_evidence_of_certain_maps_is_likelihood_and_prior(protocol: Protocol) -> None:
    physics = estimator(protocol)
    log_maps = tissue_maps((0.2, 0.1, 0.05))
    log_sd = torch.full_like(log_maps, -20.0)
    relative = torch.full((1, 3, 8, 8), 0.9)
    mask = torch.ones(1, 8, 8)
    found = float(evidence(log_maps, log_sd, relative, mask, protocol, physics, torch.randn_like(log_maps)))
    reference = torch.tensor(physics.white_matter)[:, None, None]
    signal = relative_signals(log_maps.exp() * reference, protocol, physics)[0, :, 0, 0].numpy()
    sd = math.hypot(NOISE, RELATIVE_ERROR * 0.9)
    likelihood = float(stats.t.logpdf(signal, df=4, loc=0.9, scale=sd).sum())
    prior = float(log_prior(log_maps[0, :, 0, 0], population(3.0)))
    assert found == pytest.approx(-(likelihood + prior - 60.0) / 3, rel=1e-4)


def test_a_voxel_of_no_tissue_costs_little(protocol: Protocol) -> None:
    """A vessel, dark on every image, in 256 voxels of white matter: by a normal likelihood it cost 80 times as much."""
    physics = estimator(protocol)
    maps = tissue_maps((0.0, 0.0, 0.0), (1, 16, 16))
    reference = torch.tensor(physics.white_matter)[:, None, None]
    relative = relative_signals(maps.exp() * reference, protocol, physics)
    log_sd, drawn = torch.full_like(maps, math.log(0.02)), torch.zeros_like(maps)

    def score(where: Tensor) -> float:
        return float(evidence(maps, log_sd, where, torch.ones(1, 16, 16), protocol, physics, drawn))

    dark = relative.clone()
    dark[0, :, 8, 8] = 0.0
    assert 0 < score(dark) - score(relative) < 0.1


def test_evidence_is_best_at_maps_that_explain_the_signals_with_some_uncertainty(protocol: Protocol) -> None:
    physics = estimator(protocol)
    truth = tissue_maps((0.1, 0.05, 0.02), (4, 16, 16))
    reference = torch.tensor(physics.white_matter)[:, None, None]
    relative = relative_signals(truth.exp() * reference, protocol, physics)
    mask = torch.ones(4, 16, 16)
    drawn = torch.from_numpy(np.random.default_rng(0).standard_normal(tuple(truth.shape), dtype=np.float32))

    def score(shift: tuple[float, float, float], sd: float) -> float:
        maps = truth + torch.tensor(shift)[:, None, None]
        return float(evidence(maps, torch.full_like(maps, math.log(sd)), relative, mask, protocol, physics, drawn))

    best = score((0, 0, 0), 0.02)
    for wrong in ((0.2, 0, 0), (0, 0.2, 0), (0, 0, 0.2), (-0.2, 0, 0), (0, -0.2, 0)):
        assert score(wrong, 0.02) > best
    assert score((0, 0, 0), 0.3) > best  # as uncertain as no image leaves it
    assert score((0, 0, 0), 1e-6) > best  # more certain than noise allows


def test_training_on_images_alone_widens_an_overconfident_network(protocol: Protocol) -> None:
    torch.manual_seed(0)
    network = MapNetwork(NetworkSettings(widths=(4, 4, 4)))
    assert network.head.bias is not None
    with torch.no_grad():
        network.head.bias[3:6] = -4.5  # within the range of what a network can say
    relative = torch.ones(2, 3, 32, 32) + 0.03 * torch.randn(2, 3, 32, 32)
    images = [Images(relative=relative, mask=torch.ones(2, 32, 32), expected=UNTOLD, acquisitions=protocol)]
    loss = image_loss(images, seed=1, slices=2, size=32)
    before = image_score(network, images)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for number in range(30):
        optimiser.zero_grad()
        value, figures = loss(network, number)
        assert figures == {"images": value.item()}
        torch.autograd.backward(value)
        optimiser.step()
    assert image_score(network, images) < before
    assert float(network.head.bias[3:6].detach().mean()) > -4.5


def test_calibrated_slices_are_relative_to_white_matter_and_of_the_brain(protocol: Protocol) -> None:
    physics = estimator(protocol)
    mask = np.zeros((6, 40, 50), dtype=np.uint8)
    mask[2:5, 5:35, 10:45] = 1
    scales = {contrast: 100.0 * (k + 1) for k, contrast in enumerate(protocol)}
    signals = dict(zip(physics.contrasts, physics.white_matter_signal, strict=True))
    images = {c: np.full(mask.shape, 1.5 * scales[c] * signals[c], dtype=np.float32) for c in protocol}
    images[Contrast.T2W][3, 20, 20] = np.nan
    one = PersonLevels(mean=np.arange(4) / 100, determined=np.ones(4), spread=np.ones(4), n_people=9.0, told=UNTOLD)
    found = calibrated_slices(images, mask, protocol, scales, one, n=8, rng=np.random.default_rng(0))
    assert found is not None
    assert found.relative.shape == (3, 3, 30, 35)
    assert float(found.mask.sum()) == 3 * 30 * 35 - 1
    inside = (found.mask > 0)[:, None].expand_as(found.relative)
    assert torch.allclose(found.relative[inside], torch.tensor(1.5), rtol=1e-5)
    assert not bool(found.relative[~inside].any())
    assert found.expected == one.expectation
    assert calibrated_slices(images, 0 * mask, protocol, scales, one, n=8, rng=np.random.default_rng(0)) is None


def test_batches_are_shared_out_evenly() -> None:
    def of(name: str) -> object:
        return lambda _network, _number: (torch.zeros(()), {name: 0.0})

    for share, expected in ((0.0, 0), (0.25, 25), (0.5, 50), (1.0, 100)):
        mixed = mixed_loss(of("a"), of("b"), share)  # type: ignore[arg-type]
        drawn = [next(iter(mixed(nn.Identity(), number)[1])) for number in range(100)]
        assert drawn.count("b") == expected
    with pytest.raises(ValueError, match="no session"):
        image_loss([], seed=1, slices=2, size=8)
