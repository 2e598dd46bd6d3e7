"""What holds for all tests: the same examples in every run, no limit on their time, and who shares a process."""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "same-every-time", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same-every-time")


@pytest.hookimpl(tryfirst=True)  # before the names of groups are taken
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file together where several processes run the tests, and all files that need the processed cohort."""
    shared = {item.path for item in items if "processed" in getattr(item, "fixturenames", ())}
    for item in items:
        name = "processed" if item.path in shared else item.path.name
        item.add_marker(pytest.mark.xdist_group(name))
