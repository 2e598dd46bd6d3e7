"""Maps against a known truth: voxels of one tissue, regions, lesions, stated uncertainty, pairs of scans.

Everything here takes arrays on one grid and gives small values that add up over sessions; nothing here is ever used to
make maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.calibration.population import population
from qmri_core.series.geometry import Affine, spacing_of
from qmri_core.simulation.subjects import CLASSES
from qmri_core.statistics import JointMoments
from qmri_core.tissues import MAPS, MEMBERS

_QUANTITIES = dict(zip(MAPS, ("t1", "t2", "pd"), strict=True))
"""Names in a population of the quantities that the maps hold."""
PURITY = 0.97
"""Least share of one tissue in a voxel that counts: in a mixed one the truth is a convention."""
MIN_REGION_VOXELS = 20
"""Number of voxels that a region needs for a median."""
NORMAL, LESION = "wm", "lesion"
TRUTH_REGIONS = (NORMAL, "gm", "thalamus", "caudate", "putamen", "pallidum", LESION)
"""Regions as the simulation names them; ``wm`` without lesions, ``gm`` is the cortex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is known of a simulated session, on a grid of its own.

    Parameters
    ----------
    t1, t2, pd
        Seconds, seconds, CSF = 1; shape (z, y, x).
    fractions
        CSF, grey and white matter, shape (3, z, y, x).
    labels
        Index into `qmri_core.simulation.subjects.CLASSES` plus 1, 0 for air; shape (z, y, x).
    affine
        To the session's scanner frame. Sessions of one person share the grid: equal indices are equal places.
    """

    t1: NDArray[np.float32]
    t2: NDArray[np.float32]
    pd: NDArray[np.float32]
    fractions: NDArray[np.float32]
    labels: NDArray[np.uint8]
    affine: Affine


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelAgreement:
    """One map of one session against the truth, over voxels of one tissue.

    ``median_error`` and ``mean_error`` are of the absolute relative error, ``bias`` is the median relative error;
    ``within_one`` and ``within_two`` are the shares of voxels whose truth lies within one and two stated standard
    deviations, NaN where none were stated.
    """

    n: int
    median_error: float
    mean_error: float
    bias: float
    within_one: float
    within_two: float
    moments: JointMoments


def resample_truth(
    values: NDArray[np.float32], weight: NDArray[np.float32], affine: Affine, *, shape: tuple[int, int, int], to: Affine
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean of ``values`` over each voxel of another grid.

    Parameters
    ----------
    values, weight
        Shapes (channel, z, y, x) and (z, y, x) on the grid of ``affine``; values count by their weight.
    shape, to
        Shape (z, y, x) and affine of the grid to sample on.

    Returns
    -------
    tuple
        Weighted means, shape (channel, z, y, x), NaN where no weight is; and the mean weight, shape (z, y, x).
    """
    counts = np.maximum(1, np.rint(spacing_of(to) / spacing_of(affine))).astype(int)
    index = np.linalg.inv(affine) @ to
    sums = np.zeros((len(values) + 1, *shape), dtype=np.float32)
    channels = [weight, *(weight * channel for channel in values)]
    z, y, x = np.meshgrid(*(np.arange(size, dtype=np.float64) for size in shape), indexing="ij", sparse=True)
    steps = [(np.arange(count) - (count - 1) / 2) / count for count in counts]
    for dx in steps[0]:
        for dy in steps[1]:
            for dz in steps[2]:
                points = [row[0] * (x + dx) + row[1] * (y + dy) + row[2] * (z + dz) + row[3] for row in index[2::-1]]
                for total, channel in zip(sums, channels, strict=True):
                    total += ndimage.map_coordinates(channel, points, order=1, output=np.float32, cval=0.0)
    total_weight = sums[0] / counts.prod()
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(sums[0] > 1e-6, sums[1:] / sums[0], np.float32(np.nan))
    return means.astype(np.float32), total_weight.astype(np.float32)


def voxel_agreement(
    estimated: NDArray[np.float32],
    true: NDArray[np.float32],
    where: NDArray[np.bool_],
    *,
    sd: NDArray[np.float32] | None = None,
) -> VoxelAgreement:
    """Compare the voxels in ``where`` in which the estimate is finite and the truth is positive.

    Parameters
    ----------
    estimated, true, sd
        Of equal shape and unit; ``sd`` is the stated standard deviation.
    where
        Voxels to compare.
    """
    inside = where & np.isfinite(estimated) & (true > 0)
    x, y = true[inside].astype(np.float64), estimated[inside].astype(np.float64)
    if x.size == 0:
        nan = float("nan")
        return VoxelAgreement(
            n=0, median_error=nan, mean_error=nan, bias=nan, within_one=nan, within_two=nan, moments=JointMoments()
        )
    relative = y / x - 1
    shares = [float("nan")] * 2
    if sd is not None:
        deviations = np.abs(y - x) / np.maximum(sd[inside].astype(np.float64), 1e-12)
        shares = [float(np.mean(deviations <= k)) for k in (1, 2)]
    return VoxelAgreement(
        n=int(x.size),
        median_error=float(np.median(np.abs(relative))),
        mean_error=float(np.mean(np.abs(relative))),
        bias=float(np.median(relative)),
        within_one=shares[0],
        within_two=shares[1],
        moments=JointMoments.of(x, y),
    )


def pure_tissues(fractions: NDArray[np.float32]) -> dict[str, NDArray[np.bool_]]:
    """Voxels of which at least `PURITY` is one tissue: ``CSF``, ``GM``, ``WM``, and ``parenchyma``, the last two.

    Parameters
    ----------
    fractions
        CSF, grey and white matter, shape (3, z, y, x).
    """
    csf, grey, white = (fraction >= PURITY for fraction in fractions)
    return {"CSF": csf, "GM": grey, "WM": white, "parenchyma": grey | white}


def region_medians(
    values: NDArray[np.float32], labels: NDArray[np.integer], regions: Mapping[str, int]
) -> dict[str, float]:
    """Median of the finite values in each region; NaN with fewer than `MIN_REGION_VOXELS` of them.

    Parameters
    ----------
    values, labels
        Shape (z, y, x).
    regions
        Label by name.
    """
    result = {}
    for name, label in regions.items():
        inside = values[labels == label]
        inside = inside[np.isfinite(inside)]
        result[name] = float(np.median(inside)) if inside.size >= MIN_REGION_VOXELS else float("nan")
    return result


def contrast_ratio(estimated: Mapping[str, float], true: Mapping[str, float], lesion: str, normal: str) -> float:
    """Estimated over true difference of two regions: 1 where a lesion stands out as it should, 0 if painted over.

    NaN where either region is missing.
    """
    difference = true[lesion] - true[normal]
    return (estimated[lesion] - estimated[normal]) / difference if difference else float("nan")


def pair_agreement(
    first: NDArray[np.float32], second: NDArray[np.float32], where: NDArray[np.bool_]
) -> tuple[JointMoments, float]:
    """Two maps of one head in a common space: their joint moments, and the mean relative difference.

    The difference is taken relative to the mean of the two, so that neither scan is the reference; NaN without voxels.
    """
    inside = where & np.isfinite(first) & np.isfinite(second)
    x, y = first[inside].astype(np.float64), second[inside].astype(np.float64)
    difference = float(np.mean(2 * np.abs(x - y) / (x + y))) if x.size else float("nan")
    return JointMoments.of(x, y), difference


def null_values(field_strength: float) -> dict[str, dict[str, float]]:
    """Constant that the null model gives everyone, by tissue and map: the population's, at ``field_strength`` [T].

    Raises
    ------
    FieldStrengthError
        If no population values exist for the field strength.
    """
    values = population(field_strength)
    return {
        tissue: {name: getattr(getattr(values, member), quantity) for name, quantity in _QUANTITIES.items()}
        for tissue, member in MEMBERS.items()
    }


def null_model(
    pure: Mapping[str, NDArray[np.bool_]], field_strength: float, where: NDArray[np.bool_]
) -> list[NDArray[np.float32]]:
    """T1, T2 and PD of `null_values` painted on known tissues, NaN elsewhere.

    Parameters
    ----------
    pure
        From `pure_tissues`, shape (z, y, x).
    field_strength
        Tesla.
    where
        Voxels to paint, of the same shape.
    """
    maps = []
    constants = null_values(field_strength)
    for name in MAPS:
        painted = np.full(where.shape, np.nan, dtype=np.float32)
        for tissue, values in constants.items():
            painted[pure[tissue] & where] = values[name]
        maps.append(painted)
    return maps


def compare_session(
    estimates: Mapping[str, Sequence[NDArray[np.float32]]],
    sd: Mapping[str, Sequence[NDArray[np.float32]]],
    truth: Truth,
    field_strength: float,
    affine: Affine,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compare a session's maps by one or more models with the truth, beside the null model.

    The null model paints the population's constants on the *true* tissue: it has the best segmentation there is.

    Parameters
    ----------
    estimates, sd
        T1, T2 and PD by model, each of shape (z, y, x), NaN where not computed; standard deviations where stated.
    field_strength
        Tesla, for the null model.
    affine
        Of the maps' grid, in the frame of the truth.

    Returns
    -------
    tuple
        Rows by voxels (model, map, tissue and the fields of `VoxelAgreement`), and by regions (model, map, region,
        estimated and true median over the same voxels): voxels of one tissue that lie in one region.
    """
    shape = next(iter(estimates.values()))[0].shape
    if len(shape) != 3:
        raise ValueError(f"maps of {len(shape)} axes; (z, y, x) is needed")
    true, fractions = truth_on_grid(truth, shape=shape, affine=affine)
    classes = np.stack([(truth.labels == CLASSES.index(name) + 1).astype(np.float32) for name in TRUTH_REGIONS])
    shares, _ = resample_truth(classes, np.ones_like(truth.pd), truth.affine, shape=shape, to=affine)
    pure = pure_tissues(fractions)
    shares = np.nan_to_num(shares)
    unmixed = np.logical_or.reduce(list(pure.values()))  # a label says which tissue is most of a voxel, not how much
    labels = np.where(unmixed & (shares.max(axis=0) >= PURITY), shares.argmax(axis=0) + 1, 0)
    null = null_model(pure, field_strength, np.isfinite(next(iter(estimates.values()))[0]))
    numbers = {region: index + 1 for index, region in enumerate(TRUTH_REGIONS)}
    by_voxel: list[dict[str, Any]] = []
    by_region: list[dict[str, Any]] = []
    for model, maps in {**estimates, "null model": null}.items():
        stated: Sequence[NDArray[np.float32] | None] = sd.get(model, [None] * len(MAPS))
        for name, estimated, deviation, reference in zip(MAPS, maps, stated, true, strict=True):
            start = {"model": model, "map": name}
            for tissue, inside in pure.items():
                figures = voxel_agreement(estimated, reference, inside, sd=deviation)
                row = {field: getattr(figures, field) for field in VoxelAgreement.__dataclass_fields__}
                by_voxel.append({**start, "tissue": tissue, **row})
            medians = region_medians(estimated, labels, numbers)
            known = region_medians(np.where(np.isfinite(estimated), reference, np.float32(np.nan)), labels, numbers)
            by_region += [
                {**start, "region": region, "estimated": medians[region], "true": known[region]}
                for region in TRUTH_REGIONS
            ]
    return by_voxel, by_region


def truth_on_grid(
    truth: Truth, *, shape: tuple[int, int, int], affine: Affine
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """T1, T2, PD and tissue fractions over each voxel of a grid of maps: what maps without error have there.

    Mixed as in the truth's own voxels (`qmri_core.simulation.anatomies.Anatomy`): PD is the mean over the brain, R1 and
    R2 are means weighted by PD.

    Returns
    -------
    tuple
        Maps of ``shape`` (z, y, x), NaN outside of the brain; fractions of CSF, grey and white matter, (3, z, y, x).
    """
    brain = np.clip(truth.fractions.sum(axis=0), 0, 1)
    rates = np.stack([1 / np.maximum(times, 1e-3) for times in (truth.t1, truth.t2)]).astype(np.float32)
    (r1, r2), _ = resample_truth(rates, brain * truth.pd, truth.affine, shape=shape, to=affine)
    (pd,), _ = resample_truth(truth.pd[None], brain, truth.affine, shape=shape, to=affine)
    fractions, _ = resample_truth(truth.fractions, np.ones_like(brain), truth.affine, shape=shape, to=affine)
    return [1 / r1, 1 / r2, pd], np.nan_to_num(fractions)


def on_truth_grid(maps: Sequence[NDArray[np.float32]], affine: Affine, truth: Truth) -> list[NDArray[np.float32]]:
    """Take maps of shape (z, y, x) to the grid of the truth, linearly; NaN where any neighbour is not computed."""
    z, y, x = np.meshgrid(*map(np.arange, truth.t1.shape), indexing="ij", sparse=True)
    index = np.linalg.inv(affine) @ truth.affine
    points = [row[0] * x + row[1] * y + row[2] * z + row[3] for row in index[2::-1]]
    return [ndimage.map_coordinates(each, points, order=1, cval=np.nan, output=np.float32) for each in maps]
