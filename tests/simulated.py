"""Sessions whose images are proton density: real headers, geometry and files, without the cost of signals."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np

from qmri_core.simulation.anatomies import Anatomy
from qmri_core.simulation.cohort import PlannedSession, plan_cohort
from qmri_core.simulation.faults import Fault
from qmri_core.simulation.sessions import SimulatedSession, simulate_session
from tests.phantoms import phantom_atlas

PACKAGE = "qmri_core.simulation"


def plan_of(group: str, *, seed: int = 3, sessions: int = 16) -> PlannedSession:
    """Plan of the last session of a protocol group."""
    return [plan for plan in plan_cohort(sessions=sessions, groups=16, seed=seed) if plan.group == group][-1]


def plan_with(fault: Fault, *, seed: int = 3) -> PlannedSession:
    """Plan of a session with a fault."""
    plans = plan_cohort(sessions=len(Fault), groups=4, seed=seed, design="faults")
    return next(plan for plan in plans if plan.fault is fault)


def quick_session(plan: PlannedSession, *, resolution: float = 12.0) -> SimulatedSession:
    """Everything as simulated, but for the signal, which is the proton density."""

    def signal(anatomy: Anatomy, *_: object, **__: object) -> np.ndarray:
        return anatomy.pd.copy()

    with (
        patch(f"{PACKAGE}.acquisition.head_signal", signal),
        patch(f"{PACKAGE}.acquisition.ideal_signal", return_value=0.7),
        patch(f"{PACKAGE}.sessions.ideal_signal", return_value=0.7),
        patch(f"{PACKAGE}.extras.ideal_signal", return_value=0.7),
    ):
        return simulate_session(plan, phantom_atlas(), resolution=resolution)
