"""Heads that do not come from the template: label maps of six people, scanned in simulation and taken as ingest does.

Where each region truly is follows from the label map and the way that the simulation took it by, and from nothing of
the template.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from qmri_core.analysis.regions import LOBES, regions_in
from qmri_core.preprocessing.alignment import resample
from qmri_core.preprocessing.session import Preprocessed, preprocess
from qmri_core.preprocessing.template.brain import template
from qmri_core.preprocessing.template.registration import Registered, labels_of
from qmri_core.preprocessing.template.segmentation import regions_of
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.series.geometry import Affine, Grid, Volume
from qmri_core.simulation.anatomies import Anatomy, _template_coordinates
from qmri_core.simulation.atlas import Atlas, atlas_from_labels, centre_of_brain
from qmri_core.simulation.cohort import plan_cohort
from storage.simulated.templates import label_maps, read_label_map
from tests.qmri_core.preprocessing.mistaken_sessions import scan

DATA = Path(os.environ.get("QMRI_DATA_DIR", Path(__file__).parents[4].parent / "shared" / "data"))
FOLDER = DATA / "anatomy" / "synthseg_labels"
RESOLUTION = 2.0
PROTOCOLS = {"3D": "G02", "6 mm": "G12"}
"""All series in 3D at the resolution of the head; all in slices of 5 mm with 1 mm between."""
BOTH_SIDES = {
    "superiorfrontal": (3, 42),
    "thalamusproper": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "accumbensarea": (26, 58),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "cerebellum": (8, 47),
}
CODES: Mapping[int, tuple[str, str]] = {
    code: (name, side) for name, codes in BOTH_SIDES.items() for code, side in zip(codes, "LR", strict=True)
} | {16: ("brainstem", "B")}
"""FreeSurfer's codes as the template names regions. All cortex of a side is one region, since label maps have no
lobes."""
VENTRICLES = (4, 5, 14, 15, 43, 44)
MAPS = ("T1", "T2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """A head that was scanned: what ingest has of it, and what it truly holds at the voxels of its grid."""

    name: str
    ventricles: float
    """Litres of the label map's ventricles over those of its brain."""
    spacing: tuple[float, float, float]
    found: Preprocessed
    acquisitions: dict[Contrast, Acquisition]
    maps: dict[str, NDArray[np.float32]]
    codes: NDArray[np.int32]
    tissue: NDArray[np.uint8]
    values: dict[str, dict[str, float]]
    """Medians of true values over regions at `RESOLUTION`, by map and region."""


@cache
def _atlas(path: Path) -> Atlas:
    return atlas_from_labels(read_label_map(path), resolution=RESOLUTION)


def scanned(number: int, protocol: str, *, seed: int = 28) -> Scanned:
    """Scan the head of one label map by a protocol, and take it as ingest does."""
    path = label_maps(FOLDER)[number]
    labels = read_label_map(path)
    plan = plan_cohort(sessions=number + 1, groups=1, seed=seed, protocols=[PROTOCOLS[protocol]])[number]
    session, volumes, acquisitions, grid = scan(plan, _atlas(path), resolution=RESOLUTION)
    found = preprocess(volumes, grid, acquisitions)
    codes = _codes_of(labels, _atlas(path), session.anatomy)
    codes[codes == 7], codes[codes == 46] = 8, 47  # white matter of the cerebellum goes with its cortex
    pose = session.pose @ session.anatomy.affine
    on_grid = {name: _averaged(values, pose, grid, found.affine) for name, values in _maps(session.anatomy).items()}
    of_head = regions_in(codes, session.anatomy.tissue, CODES, (RESOLUTION,) * 3)
    flat = np.rint(labels.array).astype(np.int32)
    return Scanned(
        name=path.name.split(".")[0],
        ventricles=float(np.isin(flat, VENTRICLES).sum() / np.isin(flat, [2, 3, 41, 42, *VENTRICLES]).sum()),
        spacing=grid.spacing,
        found=found,
        acquisitions=acquisitions,
        maps=on_grid,
        codes=_nearest(codes, pose, grid, found.affine).astype(np.int32),
        tissue=_nearest(session.anatomy.tissue, pose, grid, found.affine).astype(np.uint8),
        values={
            name: {region: float(np.median(values[where])) for region, where in united(of_head).items() if where.any()}
            for name, values in _maps(session.anatomy).items()
        },
    )


def _maps(anatomy: Anatomy) -> dict[str, NDArray[np.float32]]:
    return {"T1": anatomy.t1, "T2": anatomy.t2}


def _codes_of(labels: Volume, atlas: Atlas, anatomy: Anatomy) -> NDArray[np.int32]:
    """Code of the label map at each voxel of a simulated head, on the way that the simulation took."""
    axes = [anatomy.affine[k, 3] + anatomy.affine[k, k] * np.arange(anatomy.tissue.shape[2 - k]) for k in range(3)]
    places = torch.stack(_template_coordinates(atlas, anatomy.subject, *axes)).numpy()
    index = np.linalg.inv(labels.affine) @ np.concatenate(
        [
            (places.reshape(3, -1) + centre_of_brain(labels)[:, None]),
            np.ones((1, places[0].size)),
        ]
    )
    x, y, z = np.rint(index[:3]).astype(int)
    inside = np.all([(x >= 0), (y >= 0), (z >= 0)], axis=0)
    for values, size in zip((x, y, z), labels.array.shape[::-1], strict=True):
        inside &= values < size
    result = np.zeros(x.shape, dtype=np.int32)
    result[inside] = np.rint(labels.array[z[inside], y[inside], x[inside]]).astype(np.int32)
    return result.reshape(anatomy.tissue.shape)


def _nearest(values: NDArray[np.generic], pose: Affine, grid: Grid, affine: Affine) -> NDArray[np.float32]:
    volume = Volume(array=values.astype(np.float32), affine=pose)
    return np.nan_to_num(resample(volume, grid, affine, order=0))


def _averaged(values: NDArray[np.float32], pose: Affine, grid: Grid, affine: Affine) -> NDArray[np.float32]:
    """Values as voxels of a grid have them: means of rates over as many layers as a slice is thick."""
    rates = Volume(array=1 / values, affine=pose)
    steps = max(1, round(grid.spacing[2] / RESOLUTION))
    total = np.zeros(grid.shape)
    for step in range(steps):
        moved = affine.copy()
        moved[:3, 3] += affine[:3, 2] * ((step + 0.5) / steps - 0.5)
        total += np.nan_to_num(resample(rates, grid, moved, order=1), nan=1.0)
    return (steps / total).astype(np.float32)


def united(regions: Mapping[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
    """Regions with all lobes of a side as one."""
    result = {name: where for name, where in regions.items() if not name.startswith(tuple(LOBES))}
    for part in ("cortex", "white"):
        for side in ("L", "R"):
            lobes = [regions[f"{lobe}_{part}_{side}"] for lobe in LOBES if f"{lobe}_{part}_{side}" in regions]
            result[f"{part}_{side}"] = np.any(lobes, axis=0)
    return result


def measured(head: Scanned) -> pd.DataFrame:
    """One row per region: Dice with the true one and relative error of medians, by the deformation and by the affine.

    ``true labels``: errors that the grid alone makes.
    """
    found = head.found
    labels, registered = regions_of(found.images, found.brain_mask, found.affine, head.acquisitions)
    plain = replace(registered.warp, displacement=np.zeros_like(registered.warp.displacement))
    painted = labels_of(template().labels, plain, found.brain_mask.shape, found.affine)
    painted = np.where(found.brain_mask > 0, painted, 0).astype(np.uint8)
    x, y, z = head.spacing
    true = united(regions_in(head.codes, head.tissue, CODES, (z, y, x)))
    ways = {
        name: united(regions_in(drawn, found.tissue, template().names, (z, y, x)))
        for name, drawn in (("deformed", labels), ("affine", painted))
    }
    return pd.DataFrame(_rows(head, registered, true, ways))


def _rows(
    head: Scanned,
    registered: Registered,
    true: Mapping[str, NDArray[np.bool_]],
    ways: Mapping[str, Mapping[str, NDArray[np.bool_]]],
) -> Iterator[dict[str, object]]:
    for region, where in true.items():
        row: dict[str, object] = {"head": head.name, "ventricles": head.ventricles, "region": region}
        row |= {"overlap": registered.overlap, "stretch": registered.stretch, "n": int(where.sum())}
        for way, regions in {**ways, "true labels": true}.items():
            drawn = regions[region]
            row[f"{way} dice"] = 2 * float((drawn & where).sum()) / max(float(drawn.sum() + where.sum()), 1)
            for name, values in head.maps.items():
                truth = head.values[name].get(region, np.nan)
                median = float(np.median(values[drawn])) if drawn.any() else np.nan
                row[f"{way} {name}"] = median / truth - 1
        yield row
