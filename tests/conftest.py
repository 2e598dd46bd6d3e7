"""What holds for all tests: the same examples in every run, and no limit on how long one of them takes."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "same-every-time", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same-every-time")
