"""Brain mask by deepbet (Fisch et al. 2024), whose weights come with its wheel."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_core.series.geometry import Volume, closest_canonical

PLAUSIBLE_LITRES = (0.5, 2.2)
"""Volume of parenchyma, ventricles and sulcal CSF; outside, the extraction failed."""


class BrainMaskError(ValueError):
    """No plausible brain was found."""


def brain_mask(t1w: Volume) -> NDArray[np.uint8]:
    """Mask of the brain with ventricles and sulcal CSF.

    Parameters
    ----------
    t1w
        Head, any orientation and spacing; T1w is what the network was trained on.

    Returns
    -------
    ndarray
        0 or 1, uint8, shape of ``t1w.array``.

    Raises
    ------
    BrainMaskError
        If nothing is found or the volume is not that of a brain.

    References
    ----------
    Fisch et al. 2024, Computers in Biology and Medicine 179:108845 (deepbet).
    """
    order, flipped = closest_canonical(t1w.affine)
    flips = tuple(axis for axis in range(3) if flipped[axis])
    canonical = np.flip(t1w.array.transpose(2, 1, 0).transpose(order), axis=flips)  # x, y, z towards R, A, S
    model = _model()
    try:
        mask = model.run_model(np.ascontiguousarray(canonical, dtype=np.float32))
        mask = model.postprocess(mask > 0.5)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise BrainMaskError(f"deepbet found no brain in a volume of shape {t1w.array.shape}") from error
    back = np.flip(mask, axis=flips).transpose(np.argsort(order)).transpose(2, 1, 0)
    litres = float(back.sum()) * abs(float(np.linalg.det(t1w.affine[:3, :3]))) * 1e-6
    if not PLAUSIBLE_LITRES[0] <= litres <= PLAUSIBLE_LITRES[1]:
        raise BrainMaskError(f"a brain of {litres:.2f} l was found, outside {PLAUSIBLE_LITRES} l")
    return np.ascontiguousarray(back, dtype=np.uint8)


@lru_cache(maxsize=1)
def _model() -> Any:  # noqa: ANN401 - deepbet has no types
    from deepbet import BrainExtraction

    with warnings.catch_warnings():
        # deepbet ships TorchScript, which torch 2.15 deprecates
        warnings.filterwarnings("ignore", message=".*torch.jit.load")
        return BrainExtraction(no_gpu=True)
