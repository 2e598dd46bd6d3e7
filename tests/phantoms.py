"""Small seeded synthetic volumes for tests: nothing is read from disk."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence
from qmri_core.series.geometry import Volume
from qmri_core.simulation.anatomies import Anatomy, make_anatomy
from qmri_core.simulation.atlas import Atlas, atlas_from_templates
from qmri_core.training.protocols import Protocol


def ellipsoid_templates(spacing: float = 4.0) -> dict[str, Volume]:
    """Templates of an ellipsoid brain in Montreal coordinates: cortex around white matter around ventricles."""
    x, y, z = (np.arange(low, high + 1e-6, spacing) for low, high in ((-96, 96), (-132, 96), (-84, 96)))
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = x[0], y[0], z[0]
    radius = np.sqrt(
        (x[None, None] / 68) ** 2 + ((y[None, :, None] + 17) / 86) ** 2 + ((z[:, None, None] - 5) / 68) ** 2
    )
    brain, white, ventricles = (_soft(limit - radius) for limit in (1.0, 0.82, 0.22))
    gm = (brain - white) * 0.97
    wm = white - ventricles
    t1 = np.where(brain > 0.05, 0.3 * brain + 0.5 * wm, 0.0)
    parts = {"gm": gm, "wm": wm, "t1": t1}
    return {name: Volume(array=array.astype(np.float32), affine=affine) for name, array in parts.items()}


@cache
def phantom_atlas(resolution: float = 4.0) -> Atlas:
    """Atlas of the ellipsoid brain in a head, kept between tests."""
    return atlas_from_templates(ellipsoid_templates(), resolution=resolution)


@cache
def phantom_anatomy(seed: int = 0, resolution: float = 4.0) -> Anatomy:
    """Head of a subject with an ellipsoid brain, kept between tests: do not change its arrays."""
    return make_anatomy(phantom_atlas(resolution), seed=seed, resolution=resolution)


def smooth_volume(shape: tuple[int, int, int] = (20, 24, 18), *, spacing: float = 4.0, seed: int = 0) -> Volume:
    """Positive smooth texture within an ellipsoid, zero outside; centred on the origin, RAS."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    values = np.full(shape, 2.0)
    for _ in range(6):
        wave = rng.uniform(-4, 4, 3)
        values += 0.2 * np.cos(sum(w * grid for w, grid in zip(wave, grids, strict=True)) + rng.uniform(0, 6))
    inside = sum(grid**2 for grid in grids) < 0.8
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -(np.asarray(shape[::-1]) - 1) / 2 * spacing
    return Volume(array=np.where(inside, values, 0.0).astype(np.float32), affine=affine)


def _soft(margin: np.ndarray) -> np.ndarray:
    """1 where the margin is positive, 0 where it is negative, with a border of a few millimetres."""
    return 1 / (1 + np.exp(-np.clip(margin * 60, -30, 30)))


def cheap_protocol(rng: np.random.Generator, *, field_strength: float = 3.0) -> tuple[Protocol, Protocol]:
    """A random protocol for training that needs no table of echo trains: spin echoes, and a gradient echo."""
    long, short = float(rng.uniform(2.5, 4.0)), float(rng.uniform(0.45, 0.65))
    nominal = {
        Contrast.T1W: _spin_echo(Contrast.T1W, short, 0.012),
        Contrast.T2W: _spin_echo(Contrast.T2W, long, 0.09),
        Contrast.FLAIR: _spin_echo(Contrast.FLAIR, 0.8 * long, 0.03),
    }
    nominal = {contrast: replace(one, field_strength=field_strength) for contrast, one in nominal.items()}
    as_run = {
        contrast: replace(one, flip_angle=one.flip_angle * float(rng.normal(1, 0.02)))
        for contrast, one in nominal.items()
    }
    return nominal, as_run


def _spin_echo(contrast: Contrast, repetition_time: float, echo_time: float) -> Acquisition:
    return Acquisition(
        contrast=contrast,
        sequence=PulseSequence.SPIN_ECHO,
        field_strength=3.0,
        repetition_time=repetition_time,
        echo_time=echo_time,
        flip_angle=np.pi / 2,
        refocusing_angle=np.pi,
    )
