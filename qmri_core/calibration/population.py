"""What is known of brain tissue before any image is seen, per field strength; sources are in `qmri_core.tissues`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qmri_core.tissues import REFERENCE_VALUES, numbers_of, used_value

FIELD_STRENGTHS = tuple(sorted(REFERENCE_VALUES))
"""Field strengths with reference values, in tesla."""
FIELD_TOLERANCE = 0.2
"""Largest distance in tesla from a field strength that counts as it: 2.89 T, as Siemens has it, counts as 3 T."""

COVARIATES = ("per decade", "per decade squared", "women beside men")
"""Of what a person's log T1 and T2 depend on, in order: age at 45 years, its square, and sex."""


def trend_of(tissue: str, quantity: str) -> tuple[tuple[float, float], ...]:
    """Means and standard deviations of the changes by `COVARIATES`, before any cohort is seen; logs."""
    lines = (used_value(what, tissue, quantity) for what in COVARIATES)
    return tuple((one.value, one.sd) for one in lines)


def method_error(tissue: str, quantity: str) -> float:
    """Standard deviation of the log of a population's value between methods of measurement."""
    return used_value("method", tissue, quantity).value


ADULT = 18
"""Years; the reference values are of adults, and of people below this age they are not known to hold."""


class FieldStrengthError(ValueError):
    """No population values exist for this field strength."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissue:
    """Reference T1 and T2 [s] and PD (CSF = 1), and between-subject coefficients of variation."""

    t1: float
    t2: float
    pd: float
    t1_spread: float
    t2_spread: float
    pd_spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """Tissues of healthy adults at one field strength."""

    field_strength: float
    white_matter: Tissue
    grey_matter: Tissue
    csf: Tissue
    correlation: float = 0.5
    """Correlation over people of T1, and of T2, between white and grey matter; assumed."""

    def describe(self, *, is_anchored: bool = False, has_transfer: bool = True) -> str:
        """The reference on which a calibration rests, in words, for the maps' attributes.

        ``is_anchored`` says that something was measured beside, ``has_transfer`` that slices were expected to saturate
        each other.
        """
        wm = self.white_matter
        rest = "; moved by what the site has measured" if is_anchored else ""
        rest += "" if has_transfer else "; magnetization transfer is taken for absent"
        return (
            f"white matter of people of 45 years at {self.field_strength:g} T taken for T1 {wm.t1:g} s, "
            f"T2 {wm.t2:g} s, PD {wm.pd:g}; the absolute level of the maps rests on this, and differences between "
            "groups on the ages of their people, on people who are in several groups, and else on this alone; "
            "differences between sessions do not; differences between groups in the contrast of grey to white matter "
            f"are in part taken for what headers hide{rest}"
        )

    def at(self, level: Sequence[float]) -> Population:
        """With white and grey matter moved by logs of T1 and T2 of white and of grey matter; PD follows T1."""
        a, b = pd_relation(self)
        moved = []
        for tissue, (t1, t2) in ((self.white_matter, level[:2]), (self.grey_matter, level[2:])):
            longer = tissue.t1 * math.exp(t1)
            pd = tissue.pd * (a + b / tissue.t1) / (a + b / longer)
            moved.append(replace(tissue, t1=longer, t2=tissue.t2 * math.exp(t2), pd=pd))
        return replace(self, white_matter=moved[0], grey_matter=moved[1])


_POPULATIONS = {
    field_strength: Population(
        field_strength=field_strength,
        white_matter=Tissue(**numbers_of(tissues["WM"])),
        grey_matter=Tissue(**numbers_of(tissues["GM"])),
        csf=Tissue(**numbers_of(tissues["CSF"])),
    )
    for field_strength, tissues in REFERENCE_VALUES.items()
}


def population(field_strength: float) -> Population:
    """Population values nearest to ``field_strength`` (tesla).

    Raises
    ------
    FieldStrengthError
        If none is within `FIELD_TOLERANCE`.
    """
    for known, values in _POPULATIONS.items():
        if abs(field_strength - known) <= FIELD_TOLERANCE:
            return values
    raise FieldStrengthError(
        f"no population values for {field_strength:g} T (known: {', '.join(f'{f:g}' for f in FIELD_STRENGTHS)} T); "
        "maps and advice need them, images do not"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """Voxels of one kind of tissue: share of all, centres in seconds, standard deviations of the logs of T1 and T2."""

    share: float
    t1: float
    t2: float
    t1_wide: float
    t2_wide: float
    is_fluid: bool = False


PD_SCATTER = 0.03
"""Standard deviation of the log of PD about its relation to T1, for the prior of the estimator; assumed."""
FLUID_SCATTER = 0.01
"""Standard deviation of the log of PD of fluid, for the prior of the estimator; assumed."""


def tissue_clouds(values: Population) -> tuple[Cloud, ...]:
    """White matter, grey matter, deep nuclei, lesions and CSF."""
    wm, gm, csf = values.white_matter, values.grey_matter, values.csf
    return (
        Cloud(share=0.34, t1=wm.t1, t2=wm.t2, t1_wide=0.10, t2_wide=0.10),
        Cloud(share=0.34, t1=gm.t1, t2=gm.t2, t1_wide=0.12, t2_wide=0.12),
        Cloud(share=0.10, t1=0.5 * (wm.t1 + gm.t1), t2=0.95 * wm.t2, t1_wide=0.12, t2_wide=0.15),
        Cloud(share=0.12, t1=1.2 * gm.t1, t2=1.7 * wm.t2, t1_wide=0.25, t2_wide=0.30),
        Cloud(share=0.10, t1=csf.t1, t2=csf.t2, t1_wide=0.08, t2_wide=0.20, is_fluid=True),
    )


def sample_tissues(values: Population, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Random voxels of one pure tissue each: wide clouds around white matter, grey matter, deep nuclei, lesions, CSF.

    Wider than any tissue's spread between people, so that an estimator built on them is pulled little towards the
    references. PD follows T1 loosely: 1/PD = A + B/T1 through white and grey matter (Fatouros and Marmarou 1999,
    J Neurosurg 90:109), with 3 % scatter.

    Returns
    -------
    ndarray
        Shape (n, 3): T1 [s], T2 [s], PD.
    """
    clouds = tissue_clouds(values)
    kind = rng.choice(len(clouds), size=n, p=[cloud.share for cloud in clouds])
    names = ("t1", "t2", "t1_wide", "t2_wide", "is_fluid")
    centre_t1, centre_t2, wide_t1, wide_t2, fluid = (
        np.array([getattr(cloud, name) for cloud in clouds])[kind] for name in names
    )
    t1 = centre_t1 * np.exp(wide_t1 * rng.standard_normal(n))
    t2 = np.minimum(centre_t2 * np.exp(wide_t2 * rng.standard_normal(n)), 0.9 * t1)
    a, b = pd_relation(values)
    pd = np.exp(PD_SCATTER * rng.standard_normal(n)) / (a + b / t1)
    pd = np.where(fluid, values.csf.pd * np.exp(FLUID_SCATTER * rng.standard_normal(n)), pd)
    return np.stack([t1, t2, np.clip(pd, 0.3, 1.1)], axis=1)


def pd_relation(values: Population) -> tuple[float, float]:
    """A and B [s] of 1/PD = A + B/T1 through the white and grey matter of a population."""
    wm, gm = values.white_matter, values.grey_matter
    b = (1 / wm.pd - 1 / gm.pd) / (1 / wm.t1 - 1 / gm.t1)
    return 1 / wm.pd - b / wm.t1, b
