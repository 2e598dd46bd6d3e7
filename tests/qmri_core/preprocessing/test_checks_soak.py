"""How often right sessions are refused and mistakes are caught: the table of docs/explanation/checks.md.

An hour on one core for the numbers of the documentation; others by ``QMRI_CHECKED_SESSIONS``, ``QMRI_CHECKED_MISTAKES``
and ``QMRI_CHECKED_SEED``.
"""

from __future__ import annotations

import os
from collections import defaultdict

import pytest
from scipy.stats import binomtest

from qmri_core.preprocessing.checks import ImageMismatchError, check
from tests.qmri_core.preprocessing.mistaken_sessions import mistakes, plan_at, prepared

RIGHT = int(os.environ.get("QMRI_CHECKED_SESSIONS", "416"))
PLANTED = min(int(os.environ.get("QMRI_CHECKED_MISTAKES", "52")), RIGHT)
SEED = int(os.environ.get("QMRI_CHECKED_SEED", "9300"))


@pytest.mark.soak  # an hour
@pytest.mark.timeout(4 * 3600)
def test_right_sessions_pass_and_mistakes_are_caught() -> None:
    refused: list[str] = []
    told: list[str] = []
    caught: dict[str, list[bool]] = defaultdict(list)
    for index in range(RIGHT):
        session = prepared(plan_at(index, seed=SEED), has_mistakes=index < PLANTED)
        try:
            if check(session.images, session.mask, session.spacing, session.acquisitions):
                told.append(session.group)
        except ImageMismatchError:
            refused.append(session.group)
        for kind, images, stated in mistakes(session, index) if index < PLANTED else ():
            try:
                remarks = check(images, session.mask, session.spacing, stated)
                caught[kind].append(kind == "after agent" and bool(remarks))
            except ImageMismatchError:
                caught[kind].append(True)
    for name, count, total in (
        ("refused", len(refused), RIGHT),
        ("called enhanced", len(told), RIGHT),
        *((kind, sum(found), len(found)) for kind, found in caught.items()),
    ):
        interval = binomtest(count, total).proportion_ci(method="exact")
        print(f"{name:20s} {count:4d} of {total:4d}  {interval.low:.1%} to {interval.high:.1%}")
    assert len(refused) <= max(1, RIGHT // 200)
    assert len(told) <= max(1, RIGHT // 33)
    for kind, found in caught.items():
        assert sum(found) >= 0.85 * len(found), kind
