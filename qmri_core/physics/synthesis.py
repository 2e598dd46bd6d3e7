"""Images of any family from maps: another inversion time, another echo time, double inversion recovery."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from qmri_core.physics.magnitude import magnitude
from qmri_core.physics.registry import fast_signal, signal
from qmri_core.series.acquisition import Acquisition

_BLOCK = 1 << 17


def synthesise(
    acquisition: Acquisition,
    pd: NDArray[np.float32],
    t1: NDArray[np.float32],
    t2: NDArray[np.float32],
    *,
    transmit_scale: NDArray[np.float32] | float = 1.0,
    noise: float = 0.0,
    is_exact: bool = False,
) -> NDArray[np.float32]:
    """Magnitude image that an acquisition would give of an object.

    Parameters
    ----------
    acquisition
        Complete parameters, of any family; with a second inversion time, double inversion recovery.
    pd, t1, t2
        Maps of one shape; ``pd`` relative, ``t1`` and ``t2`` in seconds; NaN gives NaN.
    transmit_scale
        Actual over nominal angle, of that shape or one number.
    noise
        Standard deviation per channel in units of ``pd``; the mean magnitude then has the Rician floor.
    is_exact
        Run the phase graph in every voxel instead of reading its table.

    Returns
    -------
    NDArray
        Signal in the unit of ``pd``, of the maps' shape.

    Raises
    ------
    AcquisitionError
        If the acquisition is not complete.
    """
    model = signal if is_exact else fast_signal
    flat = [np.ascontiguousarray(each, dtype=np.float32).ravel() for each in (pd, t1, t2)]
    scale = np.broadcast_to(np.asarray(transmit_scale, dtype=np.float32), t1.shape).ravel()
    result = np.full(flat[0].shape, np.nan, dtype=np.float32)
    inside = np.flatnonzero(np.isfinite(sum(flat)) & (flat[1] > 0) & (flat[2] > 0))
    with torch.no_grad():
        for start in range(0, inside.size, _BLOCK):
            block = inside[start : start + _BLOCK]
            values = [torch.from_numpy(each[block]) for each in flat]
            scales = torch.from_numpy(scale[block])
            value = model(acquisition, values[0], values[1], values[2], transmit_scale=scales)
            result[block] = magnitude(value, noise=noise).numpy()
    return result.reshape(t1.shape)
