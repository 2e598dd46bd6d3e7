"""What the path through k-space does to an image: truncation ringing and ghosts of periodic motion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

_SLICES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Distortion:
    """Along the phase-encoding direction of every slice.

    Parameters
    ----------
    phase_axis
        1 if rows are phase-encoded (lines change along the second axis), 2 for columns.
    kept
        Share of k-space lines that was acquired, symmetric about the centre; the rest is zero. 1 for no ringing.
    displacement
        Amplitude in voxels of the periodic motion along the phase-encoding direction; 0 for no ghosts.
    period
        Lines per cycle of the motion.
    start
        Its phase in radians.
    """

    phase_axis: int = 1
    kept: float = 1.0
    displacement: float = 0.0
    period: float = 8.0
    start: float = 0.0

    def apply(self, image: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Real and imaginary part of the image after truncation and motion; the latter is ``None`` without motion.

        A line that was acquired while the object was displaced by ``d`` has the phase ``-2 pi k d``: motion is slow
        against a line and rigid. Truncation keeps the mean.
        """
        size = image.shape[self.phase_axis]
        order = np.fft.fftfreq(size, 1 / size)
        weights = (np.abs(order) <= self.kept * size / 2).astype(np.complex64)
        if self.displacement:
            moved = self.displacement * np.sin(2 * math.pi * (order + size / 2) / self.period + self.start)
            weights *= np.exp(-2j * math.pi * order / size * moved).astype(np.complex64)
        shape = [1, 1, 1]
        shape[self.phase_axis] = size
        weights = weights.reshape(shape)
        real = np.empty_like(image)
        imaginary = np.empty_like(image) if self.displacement else None
        for start in range(0, len(image), _SLICES):
            part = slice(start, start + _SLICES)
            spectrum = fft.fft(image[part], axis=self.phase_axis) * weights
            result = fft.ifft(spectrum, axis=self.phase_axis)
            real[part] = result.real
            if imaginary is not None:
                imaginary[part] = result.imag
        return real, imaginary


def draw_distortion(rng: np.random.Generator, *, has_ringing: bool, has_ghosts: bool) -> Distortion | None:
    """Draw one of a series: ringing on half of them, ghosts on a quarter; ``None`` where there is neither.

    The same numbers are drawn whatever is asked for. 60 to 85 % of the lines are acquired; 0.15 to 0.5 voxels of
    motion with 5 to 40 lines per cycle make ghosts of some per cent.
    """
    is_truncated, is_moving = (bool(draw) for draw in rng.random(2) < (0.5, 0.25))
    kept, displacement = float(rng.uniform(0.6, 0.85)), float(rng.uniform(0.15, 0.5))
    period, start = float(rng.uniform(5, 40)), float(rng.uniform(0, 2 * math.pi))
    kept = kept if has_ringing and is_truncated else 1.0
    displacement = displacement if has_ghosts and is_moving else 0.0
    if kept == 1.0 and displacement == 0.0:
        return None
    return Distortion(kept=kept, displacement=displacement, period=period, start=start)
