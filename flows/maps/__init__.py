"""From stored images to maps: calibration, weights, inference, staleness, synthetic contrasts."""
