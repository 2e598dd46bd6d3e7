"""Populations of training: anything that people might be found to be, and what calibration would tell of them.

A network believes the population that it was trained on. So every batch has one of its own, over ranges far wider than
what studies differ by, and the network is told it, with an error of the size that it is told too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qmri_core.calibration.expectation import DEVIATIONS, KINDS, Expectation, moved_tissue
from qmri_core.calibration.population import Population, pd_relation, population
from qmri_core.calibration.session_model import BESIDE_WHITE_MATTER, LEVELS, PersonLevels
from qmri_core.simulation.subjects import CLASSES, DEEP_GREY
from qmri_core.tissues import MEMBERS, SIMULATED_OVER_3T

WIDTHS = {"WM": (0.08, 0.10, 0.025), "GM": (0.08, 0.10, 0.03), "nuclei": (0.10, 0.12, 0.035), "CSF": (0.05, 0.20, 0.0)}
"""Standard deviations of the levels of populations, logs of T1, T2 and PD beside T1; half of the variance of each is
common to all kinds of tissue. Chosen wider than methods of measurement differ (`calibration.levels.METHOD_ERRORS`)."""
FURTHEST = 2.0
"""Standard deviations at which levels are cut."""
ERRORS = {
    "WM": ((0.002, 0.025), (0.002, 0.025), (0.002, 0.015)),
    "GM": ((0.003, 0.08), (0.004, 0.10), (0.003, 0.03)),
    "nuclei": ((0.005, 0.12), (0.005, 0.14), (0.004, 0.035)),
    "CSF": ((0.01, 0.08), (0.02, 0.30), (0.002, 0.015)),
}
"""Ranges of the standard deviations with which levels are told, uniform in their logs; of T1, T2 and PD. That of white
matter is small: scales are set by it, and what all tissues share cannot be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPopulation:
    """People of some field strength, by logs over its reference values: ``levels`` by `DEVIATIONS`."""

    field_strength: float
    levels: Expectation

    @property
    def values(self) -> Population:
        """Reference values of the field strength."""
        return population(self.field_strength)

    def usual(self, kind: str) -> tuple[float, float, float]:
        """T1 [s], T2 [s], PD of its white matter, grey matter or fluid on average."""
        member = getattr(self.values, MEMBERS[kind])
        return moved_tissue(self.values, (member.t1, member.t2, member.pd), kind, self.levels.of(kind))

    def person(self, tissue: tuple[float, float, float], kind: str) -> tuple[float, float, float]:
        """T1 [s], T2 [s], PD of a tissue of a simulated person of 3 T, if the person were of these people."""
        t1, t2 = _over_3t(self.field_strength, kind)
        return moved_tissue(self.values, (tissue[0] * t1, tissue[1] * t2, tissue[2]), kind, self.levels.of(kind))

    def solid(self, solid: Tensor, kinds: Tensor) -> Tensor:
        """T1, T2, PD of voxels without fluid, if their person were of these people.

        Parameters
        ----------
        solid
            Of 3 T, shape (3, ...).
        kinds
            From `solid_kinds`, shape (3, ...).
        """
        names = KINDS[: len(kinds)]
        fields = np.log([_over_3t(self.field_strength, kind) for kind in names])
        shifts = np.asarray([self.levels.of(kind) for kind in names])
        of_field, of_people = (
            torch.einsum("kq,k...->q...", torch.from_numpy(each).to(kinds), kinds) for each in (fields, shifts)
        )
        t1, t2, pd = solid.unbind(0)
        t1, t2 = t1 * of_field[0].exp(), t2 * of_field[1].exp()
        longer = t1 * of_people[0].exp()
        a, b = pd_relation(self.values)
        denser = (a + b / t1) / (a + b / longer) * of_people[2].exp()
        return torch.stack([longer, t2 * of_people[1].exp(), pd * denser])


def random_population(rng: np.random.Generator, field_strength: float) -> TrainingPopulation:
    """A population whose levels are drawn by `WIDTHS`; some are close to the reference values."""
    size = float(rng.uniform(0.1, 1.3))
    common = rng.standard_normal(3)
    levels: list[float] = []
    for kind in KINDS:
        drawn = math.sqrt(0.5) * (common + rng.standard_normal(3)) if kind != "CSF" else rng.standard_normal(3)
        levels += (size * np.asarray(WIDTHS[kind]) * np.clip(drawn, -FURTHEST, FURTHEST)).tolist()
    return TrainingPopulation(field_strength=field_strength, levels=Expectation(shift=tuple(levels)))


def told_of(people: TrainingPopulation, rng: np.random.Generator) -> Expectation:
    """What calibration tells of a population: its levels with errors, and the standard deviations of these."""
    ranges = np.log([of_quantity for kind in KINDS for of_quantity in ERRORS[kind]])
    sds = np.exp(rng.uniform(ranges[:, 0], ranges[:, 1]))
    told = np.asarray(people.levels.shift) + sds * np.clip(rng.standard_normal(len(sds)), -3, 3)
    return Expectation(shift=tuple(told.tolist()), sd=tuple(sds.tolist()))


def levels_of(told: Expectation) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What is told of a group in the order of `LEVELS`, and its standard deviations."""
    at = [DEVIATIONS.index(level) for level in LEVELS]
    return tuple(told.shift[k] for k in at), tuple(told.sd[k] for k in at)


def expected_of(told: Expectation, known: PersonLevels, group_error: float) -> Expectation:
    """What is expected of a session of a group: what is told of it, and what its signals say of the person beside.

    Parameters
    ----------
    told
        Of the group.
    known
        From `qmri_core.calibration.session_model.person` with the `levels_of` the group. What that adds for the
        uncertainty of the reference values (`BESIDE_WHITE_MATTER`) is in what is told here.
    group_error
        Standard deviation of the logs of the group's scales.
    """
    session = known.expectation
    group = dict(zip(DEVIATIONS, told.shift, strict=True))
    sds = dict(zip(DEVIATIONS, told.sd, strict=True))
    shift, sd = [], []
    for each, level, deviation in zip(DEVIATIONS, session.shift, session.sd, strict=True):
        kind, quantity = each
        followed = ("GM", quantity) if kind == "nuclei" else each
        is_level = followed in LEVELS
        shift.append(group[each] + level - (group[followed] if is_level else 0.0))
        of_person = deviation**2 - BESIDE_WHITE_MATTER.get(each, 0.0) ** 2 - (sds[followed] ** 2 if is_level else 0.0)
        sd.append(math.sqrt(sds[each] ** 2 + max(of_person, 0.0)))
    first, second, third = (math.hypot(scale, group_error) for scale in session.scale_sds)
    return Expectation(shift=tuple(shift), sd=tuple(sd), scale_sds=(first, second, third))


def solid_kinds(fractions: Tensor, labels: Tensor) -> Tensor:
    """Shares of white matter, grey matter and nuclei in what is not fluid in each voxel, shape (3, ...).

    Parameters
    ----------
    fractions
        Of CSF, grey and white matter, shape (3, ...); nuclei and islands count as grey, lesions as white.
    labels
        As `qmri_core.simulation.anatomies.Anatomy` has them.
    """
    nuclei = torch.zeros_like(labels, dtype=torch.bool)
    for name in DEEP_GREY:
        nuclei |= labels == CLASSES.index(name) + 1
    _, grey, white = fractions.unbind(0)
    parts = torch.stack([white, grey * ~nuclei, grey * nuclei])
    return parts / parts.sum(dim=0).clamp_min(1e-3)


def _over_3t(field_strength: float, kind: str) -> tuple[float, ...]:
    return SIMULATED_OVER_3T.get(field_strength, {}).get(kind, (1.0, 1.0))
