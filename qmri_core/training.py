"""Training on simulated anatomies with random protocols: likelihood of the known maps and re-synthesis together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from qmri_core.acquisition import CONTRASTS, Acquisition, Contrast
from qmri_core.checkpoint import Checkpoint
from qmri_core.inference import run_network, synthesise
from qmri_core.losses import negative_log_likelihood, resynthesis_error
from qmri_core.network import MapNetwork, NetworkSettings
from qmri_core.physics.registry import fast_signal
from qmri_core.population import MEMBERS, population
from qmri_core.preprocessing.tissue import TISSUES
from qmri_core.session_model import Spreads, measurement_error, observations, posterior
from qmri_core.simulation.anatomies import random_slab
from qmri_core.simulation.atlas import Atlas
from qmri_core.training_protocols import Protocol, random_protocol
from qmri_core.voxelwise import VoxelwiseEstimator, estimator

PURE = 0.9
"""Largest tissue fraction above which a voxel counts in full."""
MIXED_WEIGHT = 0.25
WINDOW = 12
"""Protocols in use at one time."""
SCALE_SPREADS = (math.log(0.01), math.log(0.08))
"""Range of the logs of the spreads of scales between sessions of a group, of one series and common to all."""
GROUP_ERROR = 0.01
"""Of a group's level: few sessions, and people that differ from the population."""
STEPS_PER_PROTOCOL = 50
"""Steps after which the window moves on by one protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Everything that, with the atlas, determines the weights."""

    seed: int = 1
    n_steps: int = 6000
    n_protocols: int = 48
    n_slabs: int = 200
    slices: int = 6
    size: int = 96
    learning_rate: float = 2e-3
    resynthesis_weight: float = 0.2
    missing_contrast: float = 0.15
    """Share of steps without T2w or without FLAIR."""
    widths: tuple[int, int, int] = (16, 32, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slab:
    """Truth of a few slices of one simulated head, twice as fine in plane as the network sees them."""

    solid: Tensor
    """T1, T2, PD of what is not CSF; shape (slice, 3, 2 y, 2 x)."""
    fluid: Tensor
    """Fraction of CSF, shape (slice, 2 y, 2 x)."""
    mask: Tensor
    """Brain, shape (slice, y, x)."""
    weight: Tensor
    """What a voxel counts in the loss, shape (slice, y, x): mixed ones less, their truth being a convention."""
    truth: Tensor
    """Log T1, T2, PD over the reference white matter of 3 T at the network's resolution, shape (slice, 3, y, x)."""
    tissues: Mapping[str, tuple[float, float, float]]
    """The subject's own T1, T2, PD of ``WM``, ``GM`` and ``CSF``."""

    def to(self, device: torch.device | str) -> Slab:
        """The same slab on another device."""
        names = ("solid", "fluid", "mask", "weight", "truth")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def make_slab(atlas: Atlas, seed: int, settings: TrainingSettings) -> Slab:
    """Slices of a random head at a random resolution of 1 to 2 mm in plane and 1 to 5 mm apart."""
    rng = np.random.default_rng([seed, 41])
    resolution = float(rng.uniform(1.0, 2.1))
    spacing = resolution if rng.random() < 0.5 else float(rng.uniform(2.0, 5.0))
    anatomy = random_slab(
        atlas,
        seed=seed,
        shape=(settings.slices, 2 * settings.size, 2 * settings.size),
        resolution=resolution / 2,
        slice_spacing=spacing,
    )
    t1, t2, pd = (torch.from_numpy(array) for array in (anatomy.t1, anatomy.t2, anatomy.pd))
    fractions = _coarse(torch.from_numpy(anatomy.fractions)).permute(1, 0, 2, 3)
    mask = (fractions.sum(dim=1) > 0.5).to(torch.float32)
    density = _coarse(pd)
    r1, r2 = _coarse(pd / t1) / density.clamp_min(1e-6), _coarse(pd / t2) / density.clamp_min(1e-6)
    wm = population(3.0).white_matter
    coarse = torch.stack([1 / r1.clamp_min(0.05), 1 / r2.clamp_min(0.1), density.clamp_min(1e-3)], dim=1)
    truth = torch.log(coarse / torch.tensor([wm.t1, wm.t2, wm.pd])[:, None, None])
    own = {tissue: anatomy.subject.values[tissue.lower()] for tissue in TISSUES}
    return Slab(
        solid=torch.from_numpy(np.stack(anatomy.without_fluid(), axis=1)),
        fluid=torch.from_numpy(anatomy.fractions[0].copy()),
        mask=mask,
        weight=mask * torch.where(fractions.amax(dim=1) > PURE, 1.0, MIXED_WEIGHT),
        truth=truth * mask[:, None],
        tissues={tissue: (values.t1, values.t2, values.pd) for tissue, values in own.items()},
    )


def make_batch(
    slab: Slab, nominal: Protocol, as_run: Protocol, rng: np.random.Generator
) -> tuple[Tensor, VoxelwiseEstimator]:
    """Calibrated signals of a slab, as preprocessing and calibration would hand them over.

    Tissue and CSF of a voxel add up. Transmit field, remains of the receive field after bias correction, scales that
    deviate in the session and are estimated as `qmri_core.calibration` does, Rician noise. Computed where the slab is.
    """
    t1, t2, pd = slab.solid.unbind(1)
    device = slab.mask.device
    n, height, width = slab.mask.shape
    transmit = 1 + float(rng.uniform(-0.05, 0.05)) + _smooth_field(rng, (n, 2 * height, 2 * width), 0.12, device)
    common = _smooth_field(rng, slab.mask.shape, 0.06, device)
    physics = estimator(nominal)
    csf_t1, csf_t2, csf_pd = (torch.tensor(v, device=device) for v in slab.tissues["CSF"])
    wm = population(3.0).white_matter
    errors = _scale_errors(slab, nominal, as_run, rng)
    planes = []
    for contrast in physics.contrasts:
        acquisition = as_run[contrast]
        level = float(_tissue_signal(acquisition, (wm.t1, wm.t2, wm.pd), float(transmit.mean())).abs())
        fine = fast_signal(acquisition, pd, t1, t2, transmit_scale=transmit)
        fine = fine + slab.fluid * fast_signal(acquisition, csf_pd, csf_t1, csf_t2, transmit_scale=transmit)
        signal = _coarse(fine)
        field = torch.exp(common + _smooth_field(rng, slab.mask.shape, 0.03, device))
        scale = level * math.exp(errors[contrast])
        sigma = 1 / float(rng.uniform(25, 80))
        drawn = rng.standard_normal((2, n, height, width), dtype=np.float32)
        noise = torch.from_numpy(drawn).to(device) * sigma
        planes.append(torch.hypot(signal * field / scale + noise[0], noise[1]) * slab.mask)
    return torch.stack(planes, dim=1).to(torch.float32), physics


def _scale_errors(slab: Slab, nominal: Protocol, as_run: Protocol, rng: np.random.Generator) -> dict[Contrast, float]:
    """What calibration leaves: log of the estimated over the true scale of a session, by contrast.

    The group's level is that of the population's white matter, with a small error; the session's deviations and those
    of its person are told apart as far as the model of `qmri_core.session_model` can.
    """
    values = population(3.0)
    session_transmit = 1 + 0.02 * float(rng.standard_normal())
    own, common = rng.uniform(*SCALE_SPREADS, len(nominal)), rng.uniform(*SCALE_SPREADS)
    spreads = Spreads(own=dict(zip(nominal, np.exp(own).tolist(), strict=True)), common=math.exp(common))
    shared = spreads.common * float(rng.standard_normal())
    true = {contrast: shared + spread * float(rng.standard_normal()) for contrast, spread in spreads.own.items()}
    deviations = []
    for contrast, tissue in observations(nominal):
        member = getattr(values, MEMBERS[tissue])
        persons = _tissue_signal(as_run[contrast], slab.tissues[tissue], session_transmit)
        usual = _tissue_signal(as_run[contrast], (member.t1, member.t2, member.pd), 1.0)
        noise = measurement_error(contrast, tissue) * float(rng.standard_normal())
        deviations.append(float((persons / usual).abs().log()) + true[contrast] + noise)
    found = posterior(np.asarray([deviations]), nominal, spreads).shifts
    level = GROUP_ERROR * rng.standard_normal(len(nominal))
    return {
        contrast: float(shift) - true[contrast] + float(error)
        for contrast, shift, error in zip(nominal, found[0], level, strict=True)
    }


def _tissue_signal(acquisition: Acquisition, tissue: tuple[float, float, float], transmit: float) -> Tensor:
    t1, t2, pd = (torch.tensor([value]) for value in tissue)
    return fast_signal(acquisition, pd, t1, t2, transmit_scale=torch.tensor([transmit]))


def _coarse(fine: Tensor) -> Tensor:
    """Mean of 2 x 2 voxels in plane; shape (..., 2 y, 2 x) of three or four axes."""
    return functional.avg_pool2d(fine if fine.ndim == 4 else fine[:, None], 2).reshape(
        *fine.shape[:-2], fine.shape[-2] // 2, -1
    )


def train(
    atlas: Atlas,
    settings: TrainingSettings,
    *,
    progress: Callable[[int, int, str], None] | None = None,
    deadline: float | None = None,
    start: Checkpoint | None = None,
    device: torch.device | str = "cpu",
) -> tuple[MapNetwork, dict[str, Any]]:
    """Train a network, from scratch or further.

    Parameters
    ----------
    atlas
        Anatomies to draw heads from.
    settings
        Seeds and sizes; equal settings on equal hardware give equal weights unless ``deadline`` cuts them short.
    progress
        Called with step, number of steps and a line of text.
    deadline
        Seconds after which the learning rate falls to its end and training stops; ``None`` runs all steps.
    start
        Weights to go on from; the record names them. Their widths must be those of ``settings``.
    device
        Where batches are made and the network is trained. Heads are made on the CPU, once.

    Returns
    -------
    tuple
        The network in evaluation mode, on the CPU, and the training record: settings, steps, losses.
    """
    torch.manual_seed(settings.seed)
    network = MapNetwork(NetworkSettings(widths=settings.widths))
    if start is not None:
        network.load_state_dict(start.network.state_dict())
    network.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
    began = time.monotonic()
    protocol_rng = np.random.default_rng([settings.seed, 1])
    protocols = [random_protocol(protocol_rng) for _ in range(settings.n_protocols)]
    slabs: dict[int, Slab] = {}
    curve: list[dict[str, float]] = []
    running = {"nll": 0.0, "resynthesis": 0.0, "t1": 0.0, "t2": 0.0, "pd": 0.0}
    step = 0
    for step in range(settings.n_steps):
        done = step / settings.n_steps
        if deadline is not None:
            done = max(done, (time.monotonic() - began) / deadline)
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * done))
        rng = np.random.default_rng([settings.seed, 2, step])
        number = int(rng.integers(settings.n_slabs))
        if number not in slabs:
            slabs[number] = make_slab(atlas, 1_000_000 * settings.seed + number, settings).to(device)
        slab = slabs[number]
        first = step // STEPS_PER_PROTOCOL  # a window that moves on: the tables of echo trains that are kept are few
        nominal, as_run = protocols[(first + int(rng.integers(WINDOW))) % settings.n_protocols]
        if rng.random() < settings.missing_contrast:
            absent = Contrast.T2W if rng.random() < 0.5 else Contrast.FLAIR
            nominal = {contrast: nominal[contrast] for contrast in CONTRASTS if contrast is not absent}
        with torch.no_grad():
            relative, physics = make_batch(slab, nominal, as_run, rng)
        if rng.random() < 0.5:
            relative = relative.flip(-1)
            mask, weight, truth = slab.mask.flip(-1), slab.weight.flip(-1), slab.truth.flip(-1)
        else:
            mask, weight, truth = slab.mask, slab.weight, slab.truth
        log_maps, log_sd = run_network(network, relative, mask, physics)
        nll = negative_log_likelihood(log_maps, log_sd, truth, weight)
        maps = log_maps.clamp(-3, 3.5).exp() * torch.tensor(physics.white_matter, device=device)[:, None, None]
        present = torch.ones(relative.shape[:2], device=device)
        resynthesis = resynthesis_error(synthesise(maps, nominal, physics), relative, present, weight)
        loss = nll + settings.resynthesis_weight * resynthesis
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        error = ((log_maps.detach() - truth).abs() * weight[:, None]).sum(dim=(0, 2, 3)) / weight.sum().clamp_min(1)
        for name, value in zip(running, (nll.item(), resynthesis.item(), *error.tolist()), strict=True):
            running[name] += value
        if (step + 1) % 100 == 0:
            curve.append({"step": step + 1, **{name: value / 100 for name, value in running.items()}})
            running = dict.fromkeys(running, 0.0)
            if progress is not None:
                last = curve[-1]
                progress(
                    step + 1,
                    settings.n_steps,
                    f"loss {last['nll']:.3f}, error T1 {last['t1']:.1%} T2 {last['t2']:.1%} PD {last['pd']:.1%}",
                )
    network.eval().to("cpu")
    return network, {
        "settings": asdict(settings),
        "started_from": None if start is None else {"digest": start.digest, "training": dict(start.training)},
        "steps": step + 1,
        "seconds": round(time.monotonic() - began),
        "curve": curve[:: max(1, len(curve) // 40)] + curve[-1:],
    }


def _smooth_field(rng: np.random.Generator, shape: tuple[int, ...], amplitude: float, device: torch.device) -> Tensor:
    """Random low-order polynomial over the slab with about ``amplitude`` standard deviation."""
    n, height, width = shape
    y = torch.linspace(-1, 1, height, device=device)[:, None]
    x = torch.linspace(-1, 1, width, device=device)[None, :]
    z = torch.linspace(-0.3, 0.3, n, device=device)[:, None, None]
    weights: NDArray[np.float64] = rng.standard_normal(6) * amplitude
    a = [float(w) for w in weights]
    plane = a[0] * x + a[1] * y + a[2] * (x * y) + a[3] * (x.square() - 0.33) + a[4] * (y.square() - 0.33)
    return plane[None] + a[5] * z
