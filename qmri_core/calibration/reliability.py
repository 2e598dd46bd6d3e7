"""How far values of people can be told apart: what of their differences is shown, and what each is measured to.

Both follow from the share of the variance between people that a session's signals determine, as
`qmri_core.calibration.session_model.PersonLevels` has it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_core.calibration.session_model import MOST_WIDENED

TELLS_APART = 1 / MOST_WIDENED
"""Share determined from which differences between people are shown in full; below it, values tell no people apart."""


def shown_share(determined: ArrayLike) -> NDArray[np.float64]:
    """Slope of the values on the true ones over people: 1 from `TELLS_APART` on, less below; NaN where not known."""
    return np.asarray(np.minimum(1.0, MOST_WIDENED * np.asarray(determined, dtype=np.float64)))


def measurement_deviation(determined: ArrayLike, spread: ArrayLike) -> NDArray[np.float64]:
    """Standard deviation of a value about the line of `shown_share` for a person, in the unit of ``spread``.

    A posterior mean has the variance ``determined * spread**2``, and so has its covariance with the truth; a value is
    that mean times the factor by which it is widened.

    Parameters
    ----------
    determined
        Share of the variance between people that the signals determine.
    spread
        Standard deviation of the true values between people.
    """
    share = np.asarray(determined, dtype=np.float64)
    factor = np.minimum(1 / np.maximum(share, 1e-6), MOST_WIDENED)
    return np.asarray(factor * np.asarray(spread, dtype=np.float64) * np.sqrt(np.clip(share * (1 - share), 0.0, None)))
