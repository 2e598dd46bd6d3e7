"""A head with a skull, a folded cortex and ventricles, and what spoils its images; arrays of 3 mm voxels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SHAPE = (56, 72, 60)


@lru_cache(maxsize=1)
def head() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Values as in a T1w (white matter 150), and the brain."""
    z, y, x = np.indices(SHAPE) - np.asarray([27.5, 35.5, 29.5])[:, None, None, None]
    angle, height = np.arctan2(y, x), np.arctan2(z, np.hypot(y, x))
    radius = np.sqrt((z / 1.05) ** 2 + (y / 1.2) ** 2 + x**2)
    folds = 1.2 * np.cos(13 * angle) * np.cos(9 * height)
    values = np.zeros(SHAPE)
    for edge, value in ((25, 180.0), (23, 15.0), (21, 30.0), (20 + folds, 100.0), (17 + folds, 150.0)):
        values = np.where(radius < edge, value, values)
    ventricles = ((z / 5) ** 2 + (y / 9) ** 2 + ((np.abs(x) - 4) / 2.5) ** 2) < 1
    values[ventricles] = 40.0
    soft = ndimage.gaussian_filter(values, 0.5).astype(np.float32)
    return soft, (radius < 21).astype(np.uint8)


def noisy(array: NDArray[np.floating], deviation: float, seed: int = 0) -> NDArray[np.float32]:
    """Magnitude image with noise of a standard deviation in both channels."""
    parts = np.random.default_rng(seed).normal(0, deviation, (2, *array.shape))
    return np.hypot(array + parts[0], parts[1]).astype(np.float32)


def moved(array: NDArray[np.floating], amplitude: float, period: float) -> NDArray[np.float32]:
    """Acquired while the head moved to and fro along the second axis: amplitude in voxels, period in lines."""
    lines = np.fft.fftfreq(array.shape[1], 1 / array.shape[1])
    shift = amplitude * np.sin(2 * np.pi * lines / period + 0.7)
    phase = np.exp(-2j * np.pi * lines / array.shape[1] * shift)[None, :, None]
    return np.abs(np.fft.ifft(np.fft.fft(array, axis=1) * phase, axis=1)).astype(np.float32)
