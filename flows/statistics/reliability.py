"""What the signals of each session determine of its person, beside its statistics."""

from __future__ import annotations

import pandas as pd

from flows.calibration.tables import QUANTITY_OF, calibrated_sessions
from qmri_core.calibration.reliability import measurement_deviation
from qmri_core.calibration.scales import session_person
from qmri_core.calibration.session_model import LEVELS
from storage.store.cohort import Cohort
from storage.store.opened.values import RELIABILITY

_MAPS = {quantity: name for name, quantity in QUANTITY_OF.items()}


def reliability_table(cohort: Cohort) -> pd.DataFrame:
    """By the current calibrations, one row per session and level: session, tissue, map, determined, deviation.

    ``determined`` is the share of what people differ by that the session's signals determine, ``deviation`` the
    standard deviation of the measurement, relative to the value. T1 and T2 of white and grey matter have levels; of PD
    and CSF neither is known.
    """
    rows: list[dict[str, object]] = []
    for _, (_, scales, _), members in calibrated_sessions(cohort):
        for session, member in members.items():
            person = session_person(scales, *member)
            deviations = measurement_deviation(person.determined, person.spread)
            for level, (tissue, quantity) in enumerate(LEVELS):
                figures = {"determined": float(person.determined[level]), "deviation": float(deviations[level])}
                rows.append({"session": session, "tissue": tissue, "map": _MAPS[quantity], **figures})
    return pd.DataFrame(rows, columns=["session", "tissue", "map", *RELIABILITY])


def with_reliability(cohort: Cohort, statistics: pd.DataFrame) -> pd.DataFrame:
    """Statistics with ``determined``, and ``deviation`` in the unit of the map; NaN where not known."""
    bare = statistics.drop(columns=list(RELIABILITY), errors="ignore")
    table = bare.merge(reliability_table(cohort), on=["session", "tissue", "map"], how="left")
    return table.assign(deviation=table["deviation"].astype(float) * table["median"].astype(float))
