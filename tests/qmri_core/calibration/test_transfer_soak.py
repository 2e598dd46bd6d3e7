"""What the expectation of magnetization transfer does to regions, with and without it in the images, by their signals.

``pytest -m soak -s tests/qmri_core/calibration/test_transfer_soak.py`` prints the table of the experiments, in a
minute. Truth is the simulator's bound pool, not the two pools of the expectation: another law of power, and nuclei like
cortex.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qmri_core.calibration.hierarchy import solve_levels
from qmri_core.calibration.population import pd_relation, population
from qmri_core.calibration.scales import (
    PRIOR_SPREADS,
    Signals,
    calibrate_group,
    calibrated_acquisitions,
    level_group,
    session_scales,
)
from qmri_core.mapping.voxelwise import compress, estimator
from qmri_core.physics.header import acquisition_from_header
from qmri_core.physics.registry import fast_signal
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.simulation.acquisition import field_of_view
from qmri_core.simulation.protocols import SimulatedProtocol, SimulatedSeries, protocol_table
from qmri_core.simulation.sessions import _mt_power
from qmri_core.simulation.signals import bound_pool_factor
from qmri_core.tissues import LESION_3T, SIMULATED, numbers_of

pytestmark = pytest.mark.soak

BOUND = {"wm": 1.0, "csf": 0.0, "lesion": 0.4}
"""Of the simulator, relative to white matter; all grey matter has half."""
CORTEX_OFFSETS = {Contrast.T1W: 0.0, Contrast.T2W: 0.03, Contrast.FLAIR: -0.05}
REGIONS = ("gm", "caudate", "putamen", "thalamus", "pallidum", "lesion", "wm")
VALUES = {**{name: numbers_of(values) for name, values in SIMULATED.items()}, "lesion": numbers_of(LESION_3T)}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Of each session what calibration sees, what maps are made of, and what is true."""

    acquisitions: Mapping[Contrast, Acquisition]
    sessions: Sequence[Signals]
    regions: Sequence[Mapping[tuple[Contrast, str], float]]
    truth: Sequence[Mapping[str, tuple[float, float]]]


def scanned(
    protocol: SimulatedProtocol, people: Sequence[Mapping[str, tuple[float, float]]], *, has_transfer: bool, seed: int
) -> Group:
    """Signals of the same people by what one scanner did."""
    rng = np.random.default_rng(seed)
    a, b = pd_relation(population(3.0))
    sessions, regions = [], []
    for person in people:
        seen: dict[Contrast, dict[str, float]] = {}
        own: dict[tuple[Contrast, str], float] = {}
        for one in protocol.series:
            scale = math.exp(3 + 0.03 * rng.standard_normal())
            power = _mt_power(one) if has_transfer else 0.0
            for region, (t1, t2) in person.items():
                pd = {"csf": 1.0, "lesion": VALUES["lesion"].get("pd", 0.85)}.get(region, 1 / (a + b / t1))
                tissue = (torch.tensor(value, dtype=torch.float64) for value in (pd, t1, t2))
                value = abs(float(fast_signal(one.acquisition, *tissue)))
                own[one.contrast, region] = (
                    scale
                    * value
                    * float(bound_pool_factor(torch.tensor(BOUND.get(region, 0.5), dtype=torch.float64), power))
                )
            mixed = math.exp(CORTEX_OFFSETS[one.contrast] + 0.015 * rng.standard_normal())
            seen[one.contrast] = {
                "WM": own[one.contrast, "wm"],
                "GM": own[one.contrast, "gm"] * mixed,
                "CSF": own[one.contrast, "csf"],
            }
        sessions.append(seen)
        regions.append(own)
    headers = {one.contrast: _by_header(one) for one in protocol.series}
    return Group(acquisitions=headers, sessions=sessions, regions=regions, truth=people)


def _by_header(one: SimulatedSeries) -> Acquisition:
    planes = round(field_of_view(one.geometry.plane)[2] / (one.geometry.thickness + one.geometry.gap))
    return acquisition_from_header(one.header, one.contrast, one.acquisition.sequence, planes=planes)


def drawn_people(n: int, seed: int) -> list[dict[str, tuple[float, float]]]:
    rng = np.random.default_rng(seed)
    people = []
    for _ in range(n):
        shared = rng.standard_normal(2)
        person = {}
        for name, values in VALUES.items():
            t1, t2 = math.sqrt(0.5) * (shared + rng.standard_normal(2)) * (0.035, 0.04)
            person[name] = (values["t1"] * math.exp(t1), values["t2"] * math.exp(t2))
        people.append(person)
    return people


def errors(groups: Sequence[Group], *, has_transfer: bool) -> NDArray[np.float64]:
    """Logs of found over true T1 and T2 by the voxelwise estimate, shape (group, person, region, 2)."""
    names = [str(k) for k in range(len(groups[0].sessions))]
    asked = [
        level_group(
            one.sessions,
            one.acquisitions,
            names,
            clinics=[str(number)] * len(names),
            covariates=np.zeros((len(names), 3)),
            scanner=str(number),
        )
        for number, one in enumerate(groups)
    ]
    levels = solve_levels(asked, has_transfer=has_transfer)
    result = np.zeros((len(groups), len(names), len(REGIONS), 2))
    for number, group in enumerate(groups):
        scales = calibrate_group(
            group.sessions,
            group.acquisitions,
            PRIOR_SPREADS,
            hidden=levels.hidden[number],
            level=levels.groups[number],
        )
        acquisitions = calibrated_acquisitions(scales, group.acquisitions)
        physics = estimator(acquisitions)
        white = np.asarray(physics.white_matter[:2])
        for row, (signals, own, truth) in enumerate(zip(group.sessions, group.regions, group.truth, strict=True)):
            units = physics.units(session_scales(scales, signals, acquisitions))
            values = [
                [own[contrast, region] / unit for region in REGIONS]
                for contrast, unit in zip(physics.contrasts, units, strict=True)
            ]
            found = physics(compress(torch.tensor(values, dtype=torch.float64)[:, None]))[:2, 0].T.numpy()
            result[number, row] = found + np.log(white) - np.log([truth[region] for region in REGIONS])
    return result


def without_slices(group: Group) -> Group:
    return replace(group, acquisitions={c: replace(one, slices=None) for c, one in group.acquisitions.items()})


def variation(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Percent between groups, shape (region, 2)."""
    return np.asarray(100 * found.mean(axis=1).std(axis=0, ddof=1))


def test_table_of_the_experiments() -> None:
    """Where trains have it, cortex and lesions are nearer to the truth with the expectation; where not, it has a price.

    The voxelwise estimate has a bias of its own, which the last rows show.
    """
    people, protocols = drawn_people(6, 5), protocol_table()[:4]
    t2 = {}
    for in_images in (True, False):
        groups = [scanned(one, people, has_transfer=in_images, seed=number) for number, one in enumerate(protocols)]
        told = "with" if in_images else "without"
        for name, of_name, is_on in (
            ("one number for all, not applied", [without_slices(one) for one in groups], True),
            ("by the protocol", groups, True),
            ("off", groups, False),
        ):
            found = errors(of_name, has_transfer=is_on)
            cov, bias = variation(found), 100 * found.mean(axis=(0, 1))
            contrast = found[..., REGIONS.index("lesion"), 1] - found[..., REGIONS.index("wm"), 1]
            true = math.log(VALUES["lesion"]["t2"] / VALUES["wm"]["t2"])
            lesion = 1 + float(contrast.mean()) / true
            t2[in_images, name] = float(bias[0, 1]), abs(lesion - 1)
            rows = " | ".join(f"{c[1]:.1f} ({m[1]:+.1f})" for c, m in zip(cov[:5], bias[:5], strict=True))
            t1 = " | ".join(f"{c[0]:.1f} ({m[0]:+.1f})" for c, m in zip(cov[:5], bias[:5], strict=True))
            print(f"| {told}, {name} | T2 {rows} | {lesion:.2f} |\n| {told}, {name} | T1 {t1} | |")
    assert abs(t2[True, "by the protocol"][0]) < abs(t2[True, "off"][0])
    assert t2[True, "by the protocol"][1] < t2[True, "off"][1]
    assert 2 < t2[False, "off"][0] - t2[False, "by the protocol"][0] < 6  # the price where there is none
