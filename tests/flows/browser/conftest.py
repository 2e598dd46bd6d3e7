from __future__ import annotations

import pytest

from tests.flows.browser.cohorts import Planted, write_cohort


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Sixty sessions in four groups: one drifts, one changes its software, five sessions are bad; not to be changed."""
    return write_cohort(tmp_path_factory.mktemp("planted"), n_sessions=60, n_groups=4, is_small=True)
