"""What a store's current calibrations say, as `qmri calibration` shows it."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from flows.calibration.calibrate import SCALE_NUMBERS, current_calibrations
from flows.calibration.groups import signals_of
from flows.tables.text import records
from qmri_core.calibration.hidden_parameters import ADDED
from qmri_core.calibration.levels import METHOD_ERRORS
from qmri_core.calibration.scales import (
    ScaleCalibration,
    Signals,
    calibrated_acquisitions,
    is_nobodys,
    odd_scales,
    session_person,
    session_scales,
)
from qmri_core.calibration.session_model import LEVELS
from qmri_core.series.acquisition import Acquisition, Contrast
from storage.store.acquisitions import acquisitions_of
from storage.store.cohort import Cohort

QUANTITY_OF = {"T1map": "t1", "T2map": "t2"}
"""Quantity that calibration has levels of, by the map that shows it."""


def calibration_table(cohort: Cohort) -> pd.DataFrame:
    """What the current calibrations say, beside what they started from, and how far the data have moved each.

    One row per group and contrast: the values of `ScaleCalibration`, ``version``, ``reference``, and the smallest and
    largest ratio of a session's scale to the group's (``session_low``, ``session_high``; without `odd_sessions`).
    """
    rows: list[dict[str, object]] = []
    for group, (version, scales, reference), members in calibrated_sessions(cohort):
        of_sessions = [
            session_scales(scales, *member) for member in members.values() if not odd_scales(scales, *member)
        ]
        for contrast, scale in scales.items():
            ratios = [each[contrast] / scale.scale for each in of_sessions]
            rows.append(
                {
                    "group": group,
                    "contrast": str(contrast),
                    "version": version,
                    **{name: getattr(scale, name) for name in SCALE_NUMBERS},
                    "session_low": min(ratios, default=float("nan")),
                    "session_high": max(ratios, default=float("nan")),
                    "reference": reference,
                }
            )
    columns = ["group", "contrast", "version", *SCALE_NUMBERS, "session_low", "session_high", "reference"]
    return pd.DataFrame(rows, columns=columns)


def people_table(cohort: Cohort) -> pd.DataFrame:
    """What the sessions' signals tell of people, by the current calibrations.

    One row per group and level of `qmri_core.calibration.session_model.LEVELS` with the columns ``group``, ``tissue``,
    ``quantity``, ``determined`` (share of the variance between people, mean over sessions), and the least and largest
    deviation of a session's person from the group's mean (``session_low``, ``session_high``; log, as in the maps).
    """
    rows: list[dict[str, object]] = []
    for group, (_, scales, _), members in calibrated_sessions(cohort):
        people = [session_person(scales, *member) for member in members.values()]
        for level, (tissue, quantity) in enumerate(LEVELS if people else ()):
            deviations = [float(one.widened[level]) for one in people]
            rows.append(
                {
                    "group": group,
                    "tissue": tissue,
                    "quantity": quantity,
                    "determined": sum(float(one.determined[level]) for one in people) / len(people),
                    "session_low": min(deviations),
                    "session_high": max(deviations),
                }
            )
    return pd.DataFrame(rows, columns=["group", "tissue", "quantity", "determined", "session_low", "session_high"])


def levels_table(cohort: Cohort) -> pd.DataFrame:
    """What the current calibrations take the people of each group for, on average, and on what that rests.

    One row per group and level of `qmri_core.calibration.session_model.LEVELS` with the columns ``group``, ``tissue``,
    ``quantity``, ``level`` and its ``sd`` (log, over the population's value), ``from_ages`` (what the ages of its
    people make of it), ``measured`` (share of the variance between clinics that data determine; the rest is imposed),
    ``method_error`` (of the population's value, which all groups share), ``n_bridging`` (people who are in other groups
    too), ``component`` (equal where such people connect groups), ``apart`` (standard deviation of the level beside
    the mean over all groups), ``freedom`` (of these errors) and ``n_clinics``. Calibrations of before levels have none.
    """
    rows = [
        {
            "group": group,
            "tissue": tissue,
            "quantity": quantity,
            "level": level.mean[k],
            "sd": level.sd[k],
            "from_ages": level.from_ages[k],
            "measured": level.measured[k],
            "method_error": METHOD_ERRORS[tissue, quantity],
            "n_bridging": level.n_bridging,
            "component": level.component,
            "apart": level.apart[k] if level.apart else float("nan"),
            "freedom": level.freedom[k] if level.freedom else float("nan"),
            "n_clinics": len(level.clinics),
        }
        for group, (_, scales, _) in sorted(current_calibrations(cohort).items())
        if (level := next(iter(scales.values())).level) is not None
        for k, (tissue, quantity) in enumerate(LEVELS)
    ]
    names = [
        "level",
        "sd",
        "from_ages",
        "measured",
        "method_error",
        "n_bridging",
        "component",
        "apart",
        "freedom",
        "n_clinics",
    ]
    return pd.DataFrame(rows, columns=["group", "tissue", "quantity", *names])


def unlikely_sessions(cohort: Cohort) -> pd.DataFrame:
    """Sessions whose signals nobody can have, with the columns ``group`` and ``session``; they get the group's scales.

    See `qmri_core.calibration.session_model.is_likely`.
    """
    rows = [
        {"group": group, "session": session}
        for group, (_, scales, _), members in calibrated_sessions(cohort)
        for session, member in members.items()
        if is_nobodys(scales, *member)
    ]
    return pd.DataFrame(rows, columns=["group", "session"])


def odd_sessions(cohort: Cohort) -> pd.DataFrame:
    """Sessions with a scale that is none of their group's; they count for nothing there.

    One row per session and part of its scales, with the columns ``group``, ``session``, ``part`` (a contrast, or
    ``common``) and ``factor``, over the group's; see `qmri_core.calibration.scales.odd_scales`.
    """
    rows = [
        {"group": group, "session": session, "part": str(part), "factor": factor}
        for group, (_, scales, _), members in calibrated_sessions(cohort)
        for session, member in members.items()
        for part, factor in odd_scales(scales, *member).items()
    ]
    return pd.DataFrame(rows, columns=["group", "session", "part", "factor"])


def hidden_table(cohort: Cohort) -> pd.DataFrame:
    """What the current calibrations say of parameters that headers hide.

    One row per group, contrast and parameter with the columns ``group``, ``contrast``, ``name``, ``header`` (what it
    was taken for), ``value``, ``sd`` and ``prior_sd`` (of the value), and ``effect`` (of the move, on the log of grey
    over white matter).
    """
    rows: list[dict[str, object]] = []
    for group, (_, scales, _) in sorted(current_calibrations(cohort).items()):
        members = records(cohort.sessions[cohort.sessions["group"] == group])
        for contrast, acquisition in (acquisitions_of(members[0]) if members else {}).items():
            now = calibrated_acquisitions(scales, {contrast: acquisition})[contrast]
            for one in scales[contrast].hidden:
                unit = 1.0 if one.name in ADDED else float(getattr(acquisition, one.name))
                rows.append(
                    {
                        "group": group,
                        "contrast": str(contrast),
                        "name": one.name,
                        "header": getattr(acquisition, one.name),
                        "value": getattr(now, one.name),
                        "sd": unit * one.sd,
                        "prior_sd": unit * one.prior_sd,
                        "effect": one.effect * one.shift / one.prior_sd,
                    }
                )
    columns = ["group", "contrast", "name", "header", "value", "sd", "prior_sd", "effect"]
    return pd.DataFrame(rows, columns=columns)


def calibrated_sessions(
    cohort: Cohort,
) -> Iterator[
    tuple[
        str,
        tuple[int, dict[Contrast, ScaleCalibration], str],
        dict[str, tuple[Signals, dict[Contrast, Acquisition]]],
    ]
]:
    """Groups in order, each with its current calibration, and signals and acquisitions of its sessions."""
    for group, current in sorted(current_calibrations(cohort).items()):
        members = records(cohort.sessions[cohort.sessions["group"] == group])
        acquisitions = calibrated_acquisitions(current[1], acquisitions_of(members[0])) if members else {}
        yield group, current, {str(row["session"]): (signals_of(row, acquisitions), acquisitions) for row in members}
