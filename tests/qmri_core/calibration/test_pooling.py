"""Sites that say what does not fit together, and sites that do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qmri_core.calibration.groups import GroupSessions
from qmri_core.calibration.levels import Anchor
from qmri_core.calibration.pooling import PoolingError, solve_together
from qmri_core.calibration.session_model import observations
from qmri_core.series.acquisition import Contrast
from tests.protocols import plain_protocol

PROTOCOL = plain_protocol()
PEOPLE = [f"{number:016x}" for number in range(12)]


def group(seed: int, people: Sequence[str] = PEOPLE) -> GroupSessions:
    """Signals of nobody in particular; all people are women of 50."""
    rng = np.random.default_rng(seed)
    n = len(people)
    signals: list[dict[Contrast, dict[str, float]]] = [{contrast: {} for contrast in PROTOCOL} for _ in people]
    for contrast, tissue in observations(PROTOCOL):
        for own, log in zip(signals, 5 + rng.normal(0, 0.05, n), strict=True):
            own[contrast][tissue] = float(np.exp(log))
    return GroupSessions(
        sessions=[""] * n,
        doubts=[False] * n,
        signals=signals,
        people=people,
        clinics=["clinic-1"] * n,
        scanner="scanner-1",
        ages=np.full(n, 50.0),
        sexes=np.full(n, 0.5),
        acquisitions=PROTOCOL,
    )


def site(seed: int, **changes: Any) -> dict[str, GroupSessions]:
    return {"group-1": replace(group(seed), **changes)}


def test_scanners_clinics_and_local_people_of_two_sites_are_others() -> None:
    local = [f"local-{number}" for number in range(12)]
    found = solve_together([site(1, people=local), site(2, people=local)])
    assert found.n_shared == 0
    assert [one.level.component for one in found.groups.values()] == [0, 1]
    shared = solve_together([site(1), site(2)])
    assert shared.n_shared == 12
    assert [one.level.component for one in shared.groups.values()] == [0, 0]


def test_few_people_who_contradict_each_other_are_taken_for_others() -> None:
    sexes = np.full(12, 0.5)
    sexes[3] = -0.5
    found = solve_together([site(1), site(2, sexes=sexes)])
    assert (found.n_shared, found.n_apart) == (11, 1)
    assert [one.level.n_bridging for one in found.groups.values()] == [11, 11]


@pytest.mark.parametrize(
    "changes",
    [{"sexes": np.r_[np.full(4, -0.5), np.full(8, 0.5)]}, {"ages": np.r_[np.full(4, 75.0), np.full(8, 50.0)]}],
)
def test_identifiers_that_name_other_people_elsewhere_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(PoolingError, match="4 of 12 people"):
        solve_together([site(1), site(2, **changes)])


def test_a_session_counts_once() -> None:
    with pytest.raises(PoolingError, match="12 sessions stand in both of the exports 1 and 3"):
        solve_together([site(1), site(2), site(1)])


def test_an_anchor_of_one_site_moves_the_level_of_all() -> None:
    anchor = Anchor(level=("WM", "t1"), deviation=0.05, sd=0.01)
    sites = [site(1), site(2)]
    without, found = solve_together(sites), solve_together(sites, [[("group-1", anchor)], []])
    for key, one in found.groups.items():
        assert abs(one.level.mean[0] - 0.05) < 0.5 * abs(without.groups[key].level.mean[0] - 0.05)
    with pytest.raises(PoolingError, match="an anchor of export 2 is of a group"):
        solve_together(sites, [[], [("group-7", anchor)]])
