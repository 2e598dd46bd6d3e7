"""What a set of acquisitions can determine, and how well."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from qmri_core.calibration.population import population
from qmri_core.calibration.session_model import expected_slopes
from qmri_core.physics.information import condition_number, cramer_rao_bound, jacobian, scale_gain
from qmri_core.series.acquisition import CONTRASTS, Acquisition
from qmri_core.tissues import LESION_3T, PUTAMEN_3T, Sourced

PRIOR_DEVIATIONS = (0.15, 0.20, 0.05)
"""Relative standard deviations of T1, T2 and PD within a tissue, for the bound with prior knowledge; assumed."""

LISTED_SPREADS = (0.005, 0.03, 0.10)
"""Standard deviations of the log scale of a series between sessions, for which slopes are given."""

_AT_3_T: Mapping[str, Mapping[str, Sourced]] = {"putamen": PUTAMEN_3T, "lesion": LESION_3T}


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueRow:
    """What a protocol can determine in one voxel of one tissue; deviations relative, order T1, T2, PD."""

    tissue: str
    condition: float
    alone: tuple[float, float, float]
    with_prior: tuple[float, float, float]
    scale_gain: float
    """Largest relative error of T1, T2 or PD per relative error of one series' scale; NaN unless three series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolReport:
    """The acquisitions and one row per tissue of `reference_tissues`."""

    acquisitions: tuple[Acquisition, ...]
    rows: tuple[TissueRow, ...]
    snr: float
    field_strength: float
    """Of the population whose tissues the rows are, in tesla."""
    slopes: Mapping[float, Mapping[tuple[str, str], float]]
    """By the spread of the scales, `session_model.expected_slopes`."""


def reference_tissues(field_strength: float) -> dict[str, tuple[float, float, float]]:
    """T1 [s], T2 [s] and PD of the tissues that advice is about: those that are known at the field strength [T].

    White matter, grey matter and fluid are the population's; values of nuclei and lesions are known at 3 T alone.

    Raises
    ------
    FieldStrengthError
        If no population values exist for the field strength.
    """
    values = population(field_strength)
    brain = {"white matter": values.white_matter, "cortical grey": values.grey_matter}
    others = _AT_3_T if values.field_strength == 3.0 else {}
    return {
        **{name: (tissue.t1, tissue.t2, tissue.pd) for name, tissue in brain.items()},
        **{name: (entries["t1"].value, entries["t2"].value, entries["pd"].value) for name, entries in others.items()},
        "fluid": (values.csf.t1, values.csf.t2, values.csf.pd),
    }


def advise(acquisitions: Collection[Acquisition], *, snr: float = 50.0, transmit_scale: float = 1.0) -> ProtocolReport:
    """What the images of a protocol determine.

    Parameters
    ----------
    acquisitions
        Of different contrasts and one field strength.
    snr
        Signal over noise of white matter, the same in each image.
    transmit_scale
        Actual over nominal angle.

    Raises
    ------
    AcquisitionError
        If a series cannot be evaluated.
    FieldStrengthError
        If no population values exist for the field strength.
    ValueError
        If there is no series, or the signal-to-noise ratio is not positive.
    """
    if not snr > 0:
        raise ValueError(f"snr {snr:g} is not positive")
    series = tuple(acquisitions)
    if not series:
        raise ValueError("no series given; a protocol needs at least one")
    field_strength = series[0].field_strength
    tissues = reference_tissues(field_strength)
    values = torch.tensor(list(tissues.values()), dtype=torch.float64)
    signals, derivatives = jacobian(series, values[:, 2], values[:, 0], values[:, 1], transmit_scale=transmit_scale)
    noise = signals[0].abs() / snr
    alone = cramer_rao_bound(derivatives, noise)
    with_prior = cramer_rao_bound(derivatives, noise, prior_deviation=PRIOR_DEVIATIONS)
    condition = gain = torch.full((len(tissues),), math.nan)
    if len(series) == len(CONTRASTS):
        condition = condition_number(signals, derivatives)
        gain = scale_gain(signals, derivatives).abs().amax((-1, -2))
    rows = tuple(
        TissueRow(
            tissue=tissue,
            condition=float(condition[index]),
            alone=_triple(alone[index]),
            with_prior=_triple(with_prior[index]),
            scale_gain=float(gain[index]),
        )
        for index, tissue in enumerate(tissues)
    )
    by_contrast = {acquisition.contrast: acquisition for acquisition in series}
    return ProtocolReport(
        acquisitions=series,
        rows=rows,
        snr=snr,
        field_strength=population(field_strength).field_strength,
        slopes={spread: expected_slopes(by_contrast, spread) for spread in LISTED_SPREADS},
    )


def _triple(values: torch.Tensor) -> tuple[float, float, float]:
    first, second, third = values.tolist()
    return first, second, third
