"""Training of the network: one loop for any loss; simulated heads with known maps, and how a run goes on after a kill.

Several processes train together by the means of torch (``torchrun``, or `torch.distributed.init_process_group`): the
batches of a step are dealt out, and their gradients averaged.
"""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from qmri_core.calibration.session_model import LEVELS, observations, person
from qmri_core.mapping.checkpoint import Checkpoint, write_whole
from qmri_core.mapping.inference import run_network
from qmri_core.mapping.network import MapNetwork, NetworkSettings
from qmri_core.series.acquisition import CONTRASTS, Contrast
from qmri_core.simulation.atlas import Atlas
from qmri_core.training.losses import negative_log_likelihood, regional_error
from qmri_core.training.protocols import Protocol, random_protocol
from qmri_core.training.simulated_batches import (
    FIRST_HELD_OUT,
    FIRST_SMALL,
    MANY,
    Batch,
    Slab,
    make_batch,
    make_slab,
    random_spreads,
)

WINDOW = 12
"""Protocols in use at one time."""
BATCHES_PER_PROTOCOL = 100
"""Batches after which the window moves on by one protocol."""
WARM_UP = 100
"""Steps over which the learning rate rises."""
REPORT_EVERY = 100
"""Steps between entries of the curve."""
SLABS_PER_SEED = 1_000_000
"""Heads that a seed of a training has to itself."""

Report = Callable[[int, int, str], None]
Loss = Callable[[nn.Module, int], tuple[Tensor, Mapping[str, float]]]
"""Of a network on the batch of a number: what is minimised, and figures to watch. A function of the number alone."""
Score = Callable[[MapNetwork], Mapping[str, float]]
"""Of a network on what is held out; ``nll`` decides, lower is better."""


class TrainingError(RuntimeError):
    """A training that cannot go on as asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Everything that, with the data, determines the weights."""

    seed: int = 1
    n_steps: int = 6000
    batches_per_step: int = 1
    """Dealt out over the processes, whose number must divide it."""
    n_protocols: int = 96
    n_slabs: int = 200
    slices: int = 6
    size: int = 96
    learning_rate: float = 2e-3
    regional_weight: float = 1.0
    """Of the error of a slab's mean over a tissue: it is small beside a voxel's, and it tells people apart."""
    small_weight: float = 4.0
    """Of voxels in nuclei and lesions: with the signals of mixtures of cortex and white matter, and far fewer."""
    missing_contrast: float = 0.15
    """Share of batches without T2w or without FLAIR."""
    low_field: float = 0.3
    """Share of protocols at 1.5 T; the others are at 3 T."""
    widths: tuple[int, int, int] = (16, 32, 64)
    validate_every: int = 500
    """Steps between looks at what is held out."""
    patience: int = 8
    """Looks without a better one after which training stops."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed {self.seed} is none: it must lie between 0 and {2**32 - 1}")
        if not 0 < self.n_slabs <= SLABS_PER_SEED:
            raise ValueError(
                f"{self.n_slabs} slabs: at least 1 and at most {SLABS_PER_SEED}, or seeds would share them"
            )

    @property
    def entropy(self) -> int:
        """What the draws of protocols, heads and batches start from; no two seeds share it.

        Heads that are held out are numbered from `FIRST_HELD_OUT` on: seeds that come near are moved beyond 32 bits.
        """
        is_apart = (self.seed + 1) * SLABS_PER_SEED <= FIRST_HELD_OUT
        return self.seed if is_apart else self.seed + 2**32


@dataclass(slots=True, kw_only=True)
class _State:
    """Where a run is; all of it is in the file that a killed run goes on from."""

    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    held_out: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Sum and number of every figure since the last entry of the curve, in this process."""
    best: dict[str, Tensor] | None = None
    best_step: int = 0
    since_best: int = 0


def fit(
    loss: Loss,
    settings: TrainingSettings,
    *,
    progress: Report | None = None,
    deadline: float | None = None,
    start: Checkpoint | None = None,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    score: Score | None = None,
    state: Path | None = None,
) -> tuple[MapNetwork, dict[str, Any]]:
    """Minimise a loss over batches.

    Parameters
    ----------
    loss
        Of a network on a batch.
    progress
        Called with step, number of steps and a line of text.
    deadline
        Seconds after which the learning rate falls to its end and training stops; ``None`` runs all steps.
    start
        Weights to go on from; the record names them. Their widths must be those of ``settings``.
    device, precision
        Where the network is trained, and the precision of its features; for the record too.
    score
        Looked at every ``validate_every`` steps and at the end: the best weights are kept, and training stops after
        ``patience`` looks without better ones. Without it the last weights are kept.
    state
        File that the run is saved to at every entry of the curve; if it exists, the run goes on from it, to the
        same weights as without a break. The caller removes it when the weights are safe.

    Raises
    ------
    TrainingError
        If the file is of other settings, or the processes do not divide the batches of a step.
    """
    rank, world = _place_among_processes(settings)
    network = _first_weights(settings, start)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
    identity = {**asdict(settings), "start": "" if start is None else start.digest, "deadline": deadline}
    at = _resumed(state, identity, network, optimiser)
    module: nn.Module = DistributedDataParallel(network) if world > 1 else network
    began = time.monotonic() - at.seconds
    while not _is_over(network, score, at, settings, done := _done(at, settings, deadline, began)):
        if state is not None and rank == 0 and at.step and at.step % REPORT_EVERY == 0:
            _save(state, identity, network, optimiser, at)
        _set_rate(optimiser, settings, at.step, done)
        _step(loss, module, optimiser, at, settings, rank, world)
        if at.step % REPORT_EVERY == 0:
            at.curve.append({"step": at.step, **_means(at.sums)})
            at.sums = {}
            if progress is not None:
                progress(at.step, settings.n_steps, _line(at))
    _finish(network, at)
    place = {"processes": world, "device": torch.device(device).type}
    return network, _record(at, settings, start) | place | {"precision": str(precision).removeprefix("torch.")}


def _place_among_processes(settings: TrainingSettings) -> tuple[int, int]:
    """Rank of this process and their number."""
    if not distributed.is_initialized():
        return 0, 1
    rank, world = distributed.get_rank(), distributed.get_world_size()
    if settings.batches_per_step % world:
        raise TrainingError(
            f"{settings.batches_per_step} batches per step cannot be dealt out to {world} processes: "
            f"give a multiple of {world}"
        )
    return rank, world


def _first_weights(settings: TrainingSettings, start: Checkpoint | None) -> MapNetwork:
    torch.manual_seed(settings.seed)
    network = MapNetwork(NetworkSettings(widths=settings.widths))
    if start is not None:
        network.load_state_dict(start.network.state_dict())
    return network


def _set_rate(optimiser: torch.optim.Optimizer, settings: TrainingSettings, step: int, done: float) -> None:
    """The rate rises over `WARM_UP` steps and falls as a half cosine."""
    warm = min(1.0, (step + 1) / WARM_UP)
    for group in optimiser.param_groups:
        group["lr"] = settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * done))


def _finish(network: MapNetwork, at: _State) -> None:
    """Give the network its best weights, ready for inference on the CPU."""
    if at.best is not None:
        network.load_state_dict(at.best)
    network.eval().to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _done(at: _State, settings: TrainingSettings, deadline: float | None, began: float) -> float:
    """How much of the training is done, by steps or by time; the same in all processes."""
    at.seconds = time.monotonic() - began
    return _most(max(at.step / settings.n_steps, 0.0 if deadline is None else at.seconds / deadline))


def _is_over(network: MapNetwork, score: Score | None, at: _State, settings: TrainingSettings, done: float) -> bool:
    """Whether training ends here, after a look at what is held out where one is due."""
    is_last = done >= 1
    is_due = is_last or (at.step > 0 and at.step % settings.validate_every == 0)
    if score is not None and is_due and (not at.held_out or at.held_out[-1]["step"] != at.step):
        is_last |= _look(network, score, at, settings)
    return is_last


def _record(at: _State, settings: TrainingSettings, start: Checkpoint | None) -> dict[str, Any]:
    return {
        "settings": asdict(settings),
        "started_from": None if start is None else {"digest": start.digest, "training": dict(start.training)},
        "steps": at.step,
        "best_step": at.best_step if at.best is not None else at.step,
        "seconds": round(at.seconds),
        "curve": at.curve,
        "held_out": at.held_out,
    }


def averaged(before: MapNetwork, after: MapNetwork, share: float) -> MapNetwork:
    """Mean of the weights of two networks, ``share`` of those of ``before``; what else it knows is that of ``after``.

    Weights that were trained on from others often do better on what is held out, and on what is like neither, when
    some of the others are kept (Wortsman et al. 2022, Robust fine-tuning of zero-shot models, CVPR, section 3).
    """
    network = copy.deepcopy(after)
    first, last = before.state_dict(), after.state_dict()
    network.load_state_dict({name: torch.lerp(last[name], first[name], share) for name in last})
    return network


def undetermined_by(settings: TrainingSettings, *, draws: int = 8) -> tuple[float, ...]:
    """What simulated sessions leave open: `qmri_core.mapping.network.NetworkSettings.undetermined`, to three decimals.

    Mean over the protocols of a training, with and without the contrasts that it leaves out, and ``draws`` spreads of
    scales for each.
    """
    rng = np.random.default_rng([settings.entropy, 3])
    missing = settings.missing_contrast
    shares = {None: 1 - missing, Contrast.T2W: missing / 2, Contrast.FLAIR: missing / 2}
    total = np.zeros(len(LEVELS))
    protocols = _protocols(settings)
    for nominal, _ in protocols:
        for _ in range(draws):
            spreads = random_spreads(nominal, rng)
            for absent, share in shares.items():
                known = [math.nan if contrast is absent else 0.0 for contrast, _ in observations(nominal)]
                total += share * (1 - person(np.asarray(known), nominal, spreads, n_people=MANY).determined)
    return tuple(round(float(value), 3) for value in total / (len(protocols) * draws))


def _protocols(settings: TrainingSettings) -> list[tuple[Protocol, Protocol]]:
    rng = np.random.default_rng([settings.entropy, 1])
    return [
        random_protocol(rng, field_strength=1.5 if rng.random() < settings.low_field else 3.0)
        for _ in range(settings.n_protocols)
    ]


def simulated_batches(
    atlas: Atlas, settings: TrainingSettings, *, device: torch.device | str = "cpu"
) -> Callable[[int], Batch]:
    """Batches of simulated heads by number. Heads are made once, on the CPU; batches on the device."""
    protocols = _protocols(settings)
    slabs: dict[int, Slab] = {}

    def batch(number: int) -> Batch:
        rng = np.random.default_rng([settings.entropy, 2, number])
        head = int(rng.integers(settings.n_slabs))
        if head not in slabs:
            slabs[head] = make_slab(atlas, SLABS_PER_SEED * settings.entropy + head, settings.size).to(device)
        first = number // BATCHES_PER_PROTOCOL  # a window that moves on: the tables of echo trains kept are few
        nominal, as_run = protocols[(first + int(rng.integers(WINDOW))) % settings.n_protocols]
        nominal = _perhaps_without_one(nominal, settings.missing_contrast, rng)
        with torch.no_grad():
            made = make_batch(slabs[head], nominal, as_run, rng, slices=settings.slices)
        return made.flipped() if rng.random() < 0.5 else made

    return batch


def simulated_loss(
    batches: Callable[[int], Batch], settings: TrainingSettings, *, precision: torch.dtype = torch.float32
) -> Loss:
    """Loss on batches with known maps: their likelihood, and errors of tissue means."""

    def loss(network: nn.Module, number: int) -> tuple[Tensor, Mapping[str, float]]:
        batch = batches(number)
        log_maps, log_sd = run_network(network, batch.relative, batch.mask, batch.physics, precision=precision)
        emphasis = 1 + (settings.small_weight - 1) * batch.regions[:, FIRST_SMALL:].amax(dim=1)
        nll = negative_log_likelihood(log_maps, log_sd, batch.truth, batch.weight * emphasis)
        regional = regional_error(log_maps, batch.truth, batch.regions)
        total = nll + settings.regional_weight * regional
        error = ((log_maps.detach() - batch.truth).abs() * batch.weight[:, None]).sum(dim=(0, 2, 3))
        t1, t2, pd = (error / batch.weight.sum().clamp_min(1)).tolist()
        return total, {"nll": nll.item(), "regional": regional.item(), "t1": t1, "t2": t2, "pd": pd}

    return loss


def _perhaps_without_one(nominal: Protocol, share: float, rng: np.random.Generator) -> Protocol:
    if rng.random() >= share:
        return nominal
    absent = Contrast.T2W if rng.random() < 0.5 else Contrast.FLAIR
    return {contrast: nominal[contrast] for contrast in CONTRASTS if contrast is not absent}


def _step(
    loss: Loss,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    at: _State,
    settings: TrainingSettings,
    rank: int,
    world: int,
) -> None:
    """One step of the optimiser on the mean gradient over the step's batches, of which this process makes its share."""
    optimiser.zero_grad(set_to_none=True)
    own = range(rank, settings.batches_per_step, world)
    for k in own:
        is_last = k + world >= settings.batches_per_step
        alone = module.no_sync() if isinstance(module, DistributedDataParallel) and not is_last else nullcontext()
        with alone:
            value, figures = loss(module, at.step * settings.batches_per_step + k)
            torch.autograd.backward(value / len(own))
        for name, figure in figures.items():
            total, count = at.sums.get(name, (0.0, 0))
            at.sums[name] = (total + figure, count + 1)
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimiser.step()
    at.step += 1


def _look(network: MapNetwork, score: Score, at: _State, settings: TrainingSettings) -> bool:
    """Score what is held out, keep the best weights; whether to stop. Equal in all processes."""
    network.eval()
    with torch.inference_mode():
        figures = dict(score(network))
    network.train()
    is_best = at.best is None or figures["nll"] < min(each["nll"] for each in at.held_out)
    at.held_out.append({"step": at.step, **figures})
    at.since_best = 0 if is_best else at.since_best + 1
    if is_best:
        at.best = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        at.best_step = at.step
    return at.since_best >= settings.patience


def _line(at: _State) -> str:
    last = at.curve[-1]
    loss = " ".join(f"{name} {last[name]:.3f}" for name in ("nll", "images") if name in last)
    errors = " ".join(f"{name.upper()} {last[name]:.1%}" for name in ("t1", "t2", "pd") if name in last)
    held = f"held out {at.held_out[-1]['nll']:.3f}" if at.held_out else ""
    return ", ".join(part for part in (f"loss {loss}", f"error {errors}" if errors else "", held) if part)


def _most(value: float) -> float:
    """Largest of a value over the processes: all stop at the same step."""
    if not distributed.is_initialized():
        return value
    both = torch.tensor([value], dtype=torch.float64)
    distributed.all_reduce(both, op=distributed.ReduceOp.MAX)
    return float(both)


def _means(sums: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """Mean figures over the batches of all processes."""
    everyone: list[Mapping[str, tuple[float, int]]] = [sums]
    if distributed.is_initialized():
        everyone = [{}] * distributed.get_world_size()
        distributed.all_gather_object(everyone, sums)
    names = dict.fromkeys(name for each in everyone for name in each)
    pairs = {name: [each[name] for each in everyone if name in each] for name in names}
    return {name: sum(total for total, _ in found) / sum(n for _, n in found) for name, found in pairs.items()}


def _save(
    path: Path, identity: Mapping[str, object], network: nn.Module, optimiser: torch.optim.Optimizer, at: _State
) -> None:
    content = {"identity": repr(identity), "network": network.state_dict(), "optimiser": optimiser.state_dict()}
    buffer = io.BytesIO()
    torch.save({**content, "state": {name: getattr(at, name) for name in _State.__dataclass_fields__}}, buffer)
    write_whole(path, buffer.getvalue())


def _resumed(
    path: Path | None, identity: Mapping[str, object], network: nn.Module, optimiser: torch.optim.Optimizer
) -> _State:
    if path is None or not path.exists():
        return _State()
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved["identity"] != repr(identity):
        raise TrainingError(f"{path.name} is of a training with other settings; remove it, or give the settings it had")
    network.load_state_dict(saved["network"])
    optimiser.load_state_dict(saved["optimiser"])
    return _State(**saved["state"])
