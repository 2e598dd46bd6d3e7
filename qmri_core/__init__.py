"""The science: signal models, calibration, network, preprocessing, simulation, statistics."""
