"""Signals of whole heads."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from qmri_core.acquisition import Acquisition
from qmri_core.physics.registry import fast_signal, signal
from qmri_core.simulation.anatomies import Anatomy

_CHUNK = 1 << 18
_FLUID_NODES = 65


def head_signal(
    anatomy: Anatomy, acquisition: Acquisition, transmit: NDArray[np.float32] | float = 1.0
) -> NDArray[np.float32]:
    """Signed signal of every voxel, zero in air.

    A voxel holds CSF and everything else, and their signals add up: mixing their relaxation rates instead would make
    bright rims around the ventricles on FLAIR that no scanner shows. What is not CSF is one tissue of mean rates, since
    it differs little within a voxel. Closed forms are evaluated as they are, phase graphs through the table of
    `fast_signal`, within 0.2 % of the accurate model. What makes simulated data differ from a model that reads
    headers is the hidden acquisition, not the evaluation.

    Parameters
    ----------
    anatomy
        Who; also a slab.
    acquisition
        What the scanner did.
    transmit
        Actual over nominal flip angle, one number or per voxel (z, y, x).

    Returns
    -------
    ndarray
        Shape (z, y, x), in the unit of PD.
    """
    scale = np.ascontiguousarray(np.broadcast_to(np.asarray(transmit, dtype=np.float32), anatomy.pd.shape)).reshape(-1)
    result = _fluid_signal(anatomy, acquisition, scale)
    t1, t2, pd = (array.reshape(-1) for array in anatomy.without_fluid())
    inside = np.flatnonzero(pd > 0)
    with torch.no_grad():
        for start in range(0, inside.size, _CHUNK):
            part = inside[start : start + _CHUNK]
            density, one, two, angle = (torch.from_numpy(array[part]) for array in (pd, t1, t2, scale))
            result[part] += fast_signal(acquisition, density, one, two, transmit_scale=angle).numpy()
    return result.reshape(anatomy.pd.shape)


def reference_signal(acquisition: Acquisition, *, t1: float = 0.85, t2: float = 0.07, pd: float = 0.69) -> float:
    """Magnitude of one tissue (white matter if not given) at the nominal flip angle, by the accurate model."""
    one = torch.ones((), dtype=torch.float64)
    with torch.no_grad():
        return abs(float(signal(acquisition, one * pd, one * t1, one * t2)))


def _fluid_signal(anatomy: Anatomy, acquisition: Acquisition, scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Signal of the CSF in each voxel, flat; CSF is the same everywhere, so that only the transmit scale varies."""
    csf = anatomy.subject.values["csf"]
    nodes = torch.linspace(float(scale.min()), float(scale.max()) + 1e-6, _FLUID_NODES, dtype=torch.float64)
    one = torch.ones_like(nodes)
    with torch.no_grad():
        values = signal(acquisition, one * csf.pd, one * csf.t1, one * csf.t2, transmit_scale=nodes)
    per_fraction = np.interp(scale, nodes.numpy(), values.numpy()).astype(np.float32)
    return np.asarray(per_fraction * anatomy.fractions[0].reshape(-1), dtype=np.float32)
