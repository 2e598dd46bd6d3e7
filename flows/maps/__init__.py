"""From stored images to maps: weights, inference, staleness, synthetic contrasts."""
