"""Training in small: it learns, its settings determine the weights, and neither a kill nor company changes them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qmri_core.mapping.checkpoint import load_checkpoint
from qmri_core.mapping.network import MapNetwork, NetworkSettings
from qmri_core.series.acquisition import CONTRASTS, Contrast, PulseSequence
from qmri_core.simulation.atlas import Atlas
from qmri_core.training import held_out
from qmri_core.training import loop as training
from qmri_core.training.ablations import without_levels
from qmri_core.training.held_out import held_out_batches, held_out_score
from qmri_core.training.loop import (
    TrainingError,
    TrainingSettings,
    averaged,
    fit,
    simulated_batches,
    simulated_loss,
    undetermined_by,
)
from qmri_core.training.losses import LEAST_VOXELS, negative_log_likelihood, regional_error
from qmri_core.training.protocols import Protocol, random_protocol
from tests.phantoms import cheap_protocol, phantom_atlas

SETTINGS = TrainingSettings(
    n_steps=60,
    n_protocols=1,
    n_slabs=2,
    slices=2,
    size=32,
    widths=(4, 4, 4),
    learning_rate=1e-2,
    missing_contrast=0.0,
    validate_every=20,
)


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protocols without echo trains, which need tables; and reports at short intervals."""
    for module in (training, held_out):
        monkeypatch.setattr(module, "random_protocol", cheap_protocol)
    monkeypatch.setattr(training, "REPORT_EVERY", 10)
    monkeypatch.setattr(training, "WARM_UP", 5)


def train(atlas: Atlas, settings: TrainingSettings, **others: Any) -> tuple[MapNetwork, dict[str, Any]]:
    return fit(simulated_loss(simulated_batches(atlas, settings), settings), settings, **others)


class Killed(Exception):  # noqa: N818 - it stands for a signal
    """What ends a run in the middle."""


def same(one: MapNetwork, other: MapNetwork) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def dying(at: int) -> Callable[[int, int, str], None]:
    def progress(step: int, _total: int, _text: str) -> None:
        if step == at:
            raise Killed

    return progress


def test_equal_settings_give_equal_weights_and_the_loss_falls() -> None:
    first, record = train(phantom_atlas(), SETTINGS)
    second, _ = train(phantom_atlas(), SETTINGS)
    assert same(first, second)
    assert record["steps"] == SETTINGS.n_steps
    assert record["curve"][-1]["nll"] < record["curve"][0]["nll"]
    other, _ = train(phantom_atlas(), replace(SETTINGS, seed=2))
    assert not same(first, other)


@pytest.mark.walk
def test_a_run_that_was_killed_ends_at_the_same_weights(tmp_path: Path) -> None:
    batches = held_out_batches(phantom_atlas(), n=1, size=32, slices=2)

    def run(state: Path | None, progress: Callable[[int, int, str], None] | None = None) -> MapNetwork:
        return train(
            phantom_atlas(), SETTINGS, progress=progress, state=state, score=lambda one: held_out_score(one, batches)
        )[0]

    whole = run(None)
    state = tmp_path / "run.state"
    for kill in (20, 50):
        with pytest.raises(Killed):
            run(state, dying(kill))
    steps: list[int] = []
    resumed = run(state, lambda step, _total, _text: steps.append(step))
    assert steps[0] > 20  # it went on, and did not begin anew
    assert same(whole, resumed)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_mean_of_two_networks_is_that_of_their_weights(share: float) -> None:
    torch.manual_seed(1)
    first, last = (MapNetwork(NetworkSettings(undetermined=(value,) * 4)) for value in (0.1, 0.2))
    for network in (first, last):
        nn.init.normal_(network.head.weight)  # zero until it is trained
    kept = {name: tensor.clone() for name, tensor in last.state_dict().items()}
    mean = averaged(first, last, share)
    assert mean.settings == last.settings
    for name, tensor in mean.state_dict().items():
        expected = share * first.state_dict()[name].numpy() + (1 - share) * kept[name].numpy()
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=0, atol=1e-6)
        assert torch.equal(last.state_dict()[name], kept[name])


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "run.state"
    with pytest.raises(Killed):
        train(phantom_atlas(), SETTINGS, progress=dying(30), state=state)
    with pytest.raises(TrainingError, match=r"run\.state is of a training with other settings"):
        train(phantom_atlas(), replace(SETTINGS, learning_rate=1e-4), state=state)


def draws(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> tuple[set[int], set[tuple[int, ...]]]:
    """Seeds of heads, and beginnings of the streams of protocols and batches, that ``work`` draws from."""
    heads: set[int] = set()
    streams: set[tuple[int, ...]] = set()
    generator = np.random.default_rng

    class Slab:
        def to(self, _device: object) -> Slab:
            return self

    def make_slab(_atlas: Atlas, seed: int, _size: int) -> Slab:
        heads.add(seed)
        streams.add(tuple(np.random.SeedSequence([seed, 41]).generate_state(8)))  # as `simulated_batches` does
        return Slab()

    def default_rng(entropy: Any) -> np.random.Generator:
        streams.add(tuple(np.random.SeedSequence(entropy).generate_state(8)))
        return generator(entropy)

    with monkeypatch.context() as patch:
        for module in (training, held_out):
            patch.setattr(module, "make_slab", make_slab)
            patch.setattr(module, "make_batch", lambda *_, **__: SimpleNamespace(flipped=lambda: None))
        patch.setattr(np.random, "default_rng", default_rng)
        work()
    return heads, streams


@pytest.mark.parametrize("seed", [0, 1, 1999, 2000, 2001, 2002, 2_000_000_000, 2_000_000_007, 2**32 - 1])
def test_no_seed_draws_what_is_held_out(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, seed=seed, n_slabs=200)

    def some() -> None:
        batches = simulated_batches(phantom_atlas(), settings)
        for number in range(400):
            batches(number)

    heads, streams = draws(monkeypatch, some)
    held_heads, held_streams = draws(monkeypatch, lambda: held_out_batches(phantom_atlas(), n=500))
    assert len(heads) > 150
    assert not heads & held_heads
    assert not streams & held_streams


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2), (1999, 2000), (0, 2000), (2000, 2**32 - 1)])
def test_seeds_share_no_head(one: int, other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def heads(seed: int) -> set[int]:
        settings = replace(SETTINGS, seed=seed, n_slabs=1_000_000)
        batches = simulated_batches(phantom_atlas(), settings)
        return draws(monkeypatch, lambda: [batches(number) for number in range(100)])[0]

    assert not heads(one) & heads(other)


def test_seeds_far_from_what_is_held_out_draw_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped weights can be made again: their seeds give the heads that they were trained on."""
    batches = simulated_batches(phantom_atlas(), replace(SETTINGS, seed=13))
    assert draws(monkeypatch, lambda: batches(0))[0] <= {13_000_000, 13_000_001}
    assert draws(monkeypatch, lambda: held_out_batches(phantom_atlas(), n=2))[0] == {2_000_000_000, 2_000_000_001}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, "seed -1 is none: it must lie between 0 and 4294967295"),
        ({"seed": 2**32}, "seed 4294967296 is none"),
        ({"n_slabs": 0}, "0 slabs"),
        ({"n_slabs": 1_000_001}, "1000001 slabs: at least 1 and at most 1000000, or seeds would share them"),
    ],
)
def test_settings_that_would_share_heads_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**values)  # type: ignore[arg-type]


def quadratic(network: nn.Module, number: int) -> tuple[Tensor, dict[str, float]]:
    """A loss without data: pulls one weight towards the number of the batch."""
    weight = next(network.parameters()).flatten()[0]
    value = (weight - number).square() + sum((p.sum() * 0 for p in network.parameters()), torch.zeros(()))
    return value, {"nll": value.item()}


def test_training_stops_when_what_is_held_out_gets_worse_and_keeps_the_best() -> None:
    scores = iter([3.0, 1.0, 2.0, 2.5, 4.0])
    weights: list[Tensor] = []

    def score(network: MapNetwork) -> dict[str, float]:
        weights.append(next(network.parameters()).detach().clone())
        return {"nll": next(scores)}

    settings = replace(SETTINGS, n_steps=200, patience=3)
    network, record = fit(quadratic, settings, score=score)
    assert [look["step"] for look in record["held_out"]] == [20, 40, 60, 80, 100]
    assert (record["steps"], record["best_step"]) == (100, 40)
    assert torch.equal(next(network.parameters()), weights[1])


TOGETHER = """
import sys, torch
from dataclasses import replace
from pathlib import Path
from torch import distributed
from qmri_core.training import held_out, loop as training
from tests.phantoms import cheap_protocol, phantom_atlas
from tests.qmri_core.training.test_loop import SETTINGS, train
torch.set_num_threads(1)
if "alone" not in sys.argv:
    distributed.init_process_group("gloo")
training.random_protocol = cheap_protocol
training.REPORT_EVERY, training.WARM_UP = 10, 5
settings = replace(SETTINGS, n_steps=30, batches_per_step=2)
network, record = train(phantom_atlas(), settings)
rank = 0 if "alone" in sys.argv else distributed.get_rank()
torch.save({"weights": network.state_dict(), "record": record}, f"{sys.argv[1]}/{rank}.pt")
"""


@pytest.mark.walk
@pytest.mark.timeout(300)
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """Gradients of two processes on the CPU, averaged by torch, against one process that takes both batches itself."""
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    (tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    for command in ([*launch, script, tmp_path / "two"], [sys.executable, script, tmp_path / "one", "alone"]):
        subprocess.run(list(map(str, command)), check=True, env=environment, cwd=Path(__file__).parents[3])
    two = [torch.load(tmp_path / "two" / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    one = torch.load(tmp_path / "one" / "0.pt", weights_only=True)
    assert (two[0]["record"]["processes"], one["record"]["processes"]) == (2, 1)
    for name, weight in one["weights"].items():
        assert torch.equal(two[0]["weights"][name], two[1]["weights"][name]), name
        torch.testing.assert_close(two[0]["weights"][name], weight, rtol=1e-3, atol=1e-5)
    assert two[0]["record"]["curve"][-1]["nll"] == pytest.approx(one["record"]["curve"][-1]["nll"], rel=1e-3)


def test_processes_that_do_not_divide_the_batches_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("is_initialized", True), ("get_rank", 0), ("get_world_size", 2)):
        monkeypatch.setattr(training.distributed, name, lambda value=value: value)
    with pytest.raises(TrainingError, match="3 batches per step cannot be dealt out to 2 processes"):
        fit(quadratic, replace(SETTINGS, batches_per_step=3))


@pytest.mark.walk
def test_a_process_that_is_killed_leaves_a_state_to_go_on_from(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        TOGETHER.replace("n_steps=30", "n_steps=60").replace(
            "atlas(), settings)", "atlas(), settings, state=Path(sys.argv[1]) / 's')"
        )
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(tmp_path), "alone"]
    process = subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[3])
    while not (tmp_path / "s").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "0.pt").exists()
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[3])
    saved = torch.load(tmp_path / "0.pt", weights_only=True)
    whole, _ = train(phantom_atlas(), replace(SETTINGS, n_steps=60, batches_per_step=2))
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, saved["weights"][name]), name


def test_slopes_of_what_is_held_out_are_of_tissue_means_over_heads() -> None:
    """The voxelwise estimate of one head times a factor per head: its slope is known."""
    batches = [without_levels(one) for one in held_out_batches(phantom_atlas(), n=5, size=32, slices=2)]
    truths = [float((one.truth[:, 0] * one.regions[:, 1]).sum() / one.regions[:, 1].sum()) for one in batches]

    coming = iter(truths)

    class Known(MapNetwork):
        """Says 0.3 times the true log T1, on average over each head's white matter."""

        def forward(self, inputs: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
            del conditions
            maps = torch.full((len(inputs), 3, *inputs.shape[-2:]), 0.3 * next(coming) + 0.01)
            return maps, torch.zeros_like(maps)

    found = held_out_score(Known(NetworkSettings(widths=(4, 4, 4))), batches)
    assert found["slope_wm_t1"] == pytest.approx(0.3, abs=1e-4)


def test_every_training_protocol_has_a_model_and_three_contrasts() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        nominal, as_run = random_protocol(rng)
        assert tuple(nominal) == CONTRASTS == tuple(as_run)
        for contrast in CONTRASTS:
            assert as_run[contrast].sequence is nominal[contrast].sequence


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


def test_regional_error_is_of_means_and_of_regions_that_are_large_enough() -> None:
    size = int(np.ceil(np.sqrt(LEAST_VOXELS)))
    truth = torch.zeros(1, 3, size, 2 * size)
    estimate = truth.clone()
    estimate[0, 0, :, :size] = torch.linspace(-1, 1, size)  # errors that cancel
    estimate[0, 1, :, :size] = 0.3
    regions = torch.zeros(1, 2, size, 2 * size)
    regions[0, 0, :, :size] = 1
    regions[0, 1, 0, -1] = 1  # one voxel
    estimate[..., -1] = 9.0
    assert float(regional_error(estimate, truth, regions)) == pytest.approx(0.1, abs=1e-6)
    assert float(regional_error(estimate, truth, torch.zeros_like(regions))) == 0.0


def test_what_signals_leave_open_in_training_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle is what was measured for the shipped weights, which saw 3 T and no group whose scales may be anything;
    here of protocols without variable-flip trains."""
    wanted = itertools.cycle([PulseSequence.MPRAGE, PulseSequence.SPIN_ECHO])

    def usual(rng: np.random.Generator, *, field_strength: float) -> tuple[Protocol, Protocol]:
        t1w = next(wanted)
        while True:
            nominal, as_run = random_protocol(rng, field_strength=field_strength)
            families = [one.sequence for one in nominal.values()]
            if nominal[Contrast.T1W].sequence is t1w and PulseSequence.VARIABLE_FLIP_TSE not in families:
                return nominal, as_run

    monkeypatch.setattr(training, "random_protocol", usual)
    monkeypatch.setattr("qmri_core.training.simulated_batches.ANY_SCALE_SHARE", 0.0)
    usual_settings = replace(SETTINGS, n_protocols=24, low_field=0.0)
    whole = undetermined_by(usual_settings)
    np.testing.assert_allclose(whole, load_checkpoint().network.settings.undetermined, atol=0.08)
    without = undetermined_by(replace(usual_settings, missing_contrast=1.0))
    assert all(more > less for more, less in zip(without, whole, strict=True))
    assert undetermined_by(usual_settings) == whole
