"""How often right sessions are stopped and planted failures are: the table of docs/explanation/closure.md.

Sizes by ``QMRI_CLOSED_SESSIONS``, ``QMRI_CLOSED_FAILURES`` (of each kind) and ``QMRI_CLOSED_SEED``.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
import torch
from scipy.stats import binomtest

from qmri_core.mapping.checkpoint import load_checkpoint
from qmri_core.series.acquisition import AcquisitionError
from tests.qmri_core.mapping.closing_sessions import (
    OF_GROUPS,
    OF_SESSIONS,
    Mapped,
    calibrated,
    groups_of,
    is_covered,
    mapped,
)
from tests.qmri_core.preprocessing.mistaken_sessions import Prepared, plan_at, prepared

RIGHT = int(os.environ.get("QMRI_CLOSED_SESSIONS", "416"))
PLANTED = min(int(os.environ.get("QMRI_CLOSED_FAILURES", "32")), RIGHT)
SEED = int(os.environ.get("QMRI_CLOSED_SEED", "4711"))


@pytest.mark.soak  # two hours
@pytest.mark.timeout(6 * 3600)
def test_right_sessions_pass_and_planted_failures_are_stopped_or_covered() -> None:
    torch.set_num_threads(1)
    measure([prepared(plan_at(index, seed=SEED), has_mistakes=False) for index in range(RIGHT)])


def measure(sessions: list[Prepared], planted: int = PLANTED) -> None:
    network = load_checkpoint().network
    groups = groups_of(sessions)
    right = [mapped(network, session, groups[session.group].calibration) for session in sessions]
    print_line("right: refused by ingest", sum(one.refused for one in right), len(right))
    print_line("right: failed for closure", sum(is_failed(one) for one in right), len(right))
    print_line("right: widened", sum(bool(one.closure and one.closure.widened) for one in right), len(right))
    for session, one in zip(sessions, right, strict=True):
        if one.closure is not None and one.closure.findings:
            print("   ", session.group, one.closure.text, dict(one.closure.widened), flush=True)
    for kind, change in {**OF_SESSIONS, **OF_GROUPS}.items():
        ends: Counter[str] = Counter()
        for index, session in enumerate(sessions[:planted]):
            group = groups[session.group]
            calibration = group.calibration
            try:
                wrong = change(session, index)
                if kind in OF_GROUPS:
                    lying = [change(one, index) for one in group.sessions]
                    calibration = calibrated(lying, wrong.acquisitions, group.spreads)
                ends[end_of(mapped(network, wrong, calibration), right[index])] += 1
            except AcquisitionError:  # numbers that no acquisition has: ingest refuses the header
                ends["ingest"] += 1
        print_line(kind, ends["ingest"] + ends["closure"] + ends["covered"], planted)
        print("   ", dict(ends), flush=True)


def is_failed(one: Mapped) -> bool:
    return one.closure is not None and one.closure.has_failed


def end_of(planted: Mapped, right: Mapped) -> str:
    if planted.refused:
        return "ingest"
    if is_failed(planted):
        return "closure"
    return "covered" if is_covered(planted, right) else "missed"


def print_line(name: str, count: int, total: int) -> None:
    interval = binomtest(count, total).proportion_ci(method="exact")
    print(f"{name:28s} {count:4d} of {total:4d}  {interval.low:.1%} to {interval.high:.1%}", flush=True)
