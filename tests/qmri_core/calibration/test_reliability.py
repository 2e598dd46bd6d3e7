"""What is shown of people's differences, and measured to what, against simulated people of the model itself."""

from __future__ import annotations

import numpy as np
import pytest

from qmri_core.calibration.reliability import measurement_deviation, shown_share
from qmri_core.calibration.session_model import MOST_WIDENED


@pytest.mark.parametrize("determined", [0.1, 0.3, 0.5, 0.8, 1.0])
def test_values_of_simulated_people_scatter_as_stated(determined: float) -> None:
    """The oracle: people are drawn, measured with the error that leaves the share, and estimated by regression."""
    rng = np.random.default_rng(5)
    spread = 0.06
    true = spread * rng.standard_normal(200_000)
    error = spread * np.sqrt(1 / determined - 1)
    posterior_mean = determined * (true + error * rng.standard_normal(true.size))
    values = posterior_mean * min(1 / determined, MOST_WIDENED)
    slope, _ = np.polyfit(true, values, 1)
    scatter = np.std(values - slope * true)
    assert slope == pytest.approx(float(shown_share(determined)), abs=0.01)  # 200,000 people
    assert scatter == pytest.approx(float(measurement_deviation(determined, spread)), rel=0.01, abs=1e-12)


def test_nothing_determined_shows_nothing_and_what_is_not_known_stays_so() -> None:
    assert float(shown_share(0.0)) == 0
    assert float(measurement_deviation(0.0, 0.06)) == 0  # everybody has the group's value
    assert np.isnan(shown_share(np.nan))
    assert np.isnan(measurement_deviation(np.nan, 0.06))
