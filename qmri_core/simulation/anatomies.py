"""Maps of T1, T2 and proton density of simulated heads, from an atlas and a seed, at any resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from qmri_core.series.geometry import Affine
from qmri_core.simulation.atlas import ATLAS_CLASSES, Atlas
from qmri_core.simulation.cohort import PlannedSession
from qmri_core.simulation.effects import Effect
from qmri_core.simulation.faults import Fault
from qmri_core.simulation.subjects import (
    BRAIN_CLASSES,
    CLASSES,
    DEEP_GREY,
    ISLAND,
    PATHOLOGY,
    Island,
    Subject,
    draw_subject,
    for_training,
    of_clinic,
)
from qmri_core.tissues import TISSUES

_HALF_EXTENT = (94.0, 116.0, 100.0)
_VENTRICLE_REACH = 22.0
_SLAB = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """A simulated head without a scanner.

    Arrays have shape (z, y, x). Where there is nothing, ``pd`` is 0 and ``t1``, ``t2`` are 1 s and 0.1 s.

    Parameters
    ----------
    t1, t2, pd
        Seconds, seconds, relative to CSF = 1. In a mixed voxel PD is the sum, R1 and R2 are the means weighted by PD;
        this is how the truth is defined there, not how signals mix (`qmri_core.simulation.signals`).
    fractions
        CSF, grey and white matter of each voxel, shape (3, z, y, x); nuclei count as grey, lesions as white matter.
    tissue
        0 none, 1 CSF (ventricles and sulci), 2 grey matter, 3 white matter: the largest fraction where the brain
        fills half of the voxel.
    labels
        Index into `CLASSES`, followed by `ISLAND`, plus 1 of the largest fraction; 0 for air.
    affine
        From voxel index x, y, z to the head's own frame: RAS millimetres, origin at the centre of the brain.
    subject
        Who it is.
    """

    t1: NDArray[np.float32]
    t2: NDArray[np.float32]
    pd: NDArray[np.float32]
    fractions: NDArray[np.float32]
    tissue: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    affine: Affine
    subject: Subject

    def without_fluid(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """T1, T2 and PD of what is not CSF in each voxel; PD is 0 where less than 0.1 % is left."""
        csf = self.subject.values["csf"]
        fluid = self.fractions[0] * np.float32(csf.pd)
        pd = self.pd - fluid
        empty = pd < 1e-3
        pd[empty] = 1.0
        r1 = (self.pd / self.t1 - fluid / np.float32(csf.t1)) / pd
        r2 = (self.pd / self.t2 - fluid / np.float32(csf.t2)) / pd
        pd[empty] = 0.0
        return 1 / np.clip(r1, 0.15, 20.0), 1 / np.clip(r2, 0.3, 300.0), pd


def make_anatomy(
    atlas: Atlas,
    *,
    seed: int,
    resolution: float = 1.0,
    axes: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None = None,
    has_lesions: bool = True,
    has_tumour: bool = False,
    age: float | None = None,
    clinic: tuple[float, ...] = (),
) -> Anatomy:
    """Simulate the head of the subject with ``seed``.

    The atlas is scaled, deformed smoothly, its ventricles and sulci widened or narrowed, its folding perturbed; R1 and
    R2 get a smooth texture of about 3 %, PD one of 1 %. The same seed gives the same person at every resolution.

    Parameters
    ----------
    atlas
        Where what is. Use one of about the same spacing as the result.
    seed
        Non-negative.
    resolution
        Isotropic spacing in millimetres.
    axes
        Coordinates x, y, z in millimetres in the head's frame, each evenly spaced, instead of the whole head: for
        slabs and slices.
    has_lesions
        False keeps white matter normal.
    has_tumour
        Put a tumour with oedema into white matter.
    age
        Years that ventricles, sulci, cortex and tissue values follow; ``None`` leaves age out.
    clinic
        What the person's tissue differs by as that of all people of a clinic does, see `of_clinic`; empty for nothing.
    """
    sites = atlas.lesion_sites if has_lesions else None
    subject = draw_subject(seed, lesion_sites=sites, tumour_sites=atlas.lesion_sites if has_tumour else None, age=age)
    if clinic:
        subject = of_clinic(subject, clinic)
    return _anatomy(atlas, subject, axes if axes is not None else _head_axes(resolution), resolution)


def _anatomy(
    atlas: Atlas,
    subject: Subject,
    axes: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    resolution: float,
) -> Anatomy:
    x, y, z = axes
    shape = (len(z), len(y), len(x))
    maps = {name: np.empty(shape, dtype=np.float32) for name in ("t1", "t2", "pd")}
    fractions = np.empty((3, *shape), dtype=np.float32)
    tissue, labels = (np.empty(shape, dtype=np.uint8) for _ in range(2))
    for start in range(0, len(z), _SLAB):
        part = slice(start, start + _SLAB)
        classes = _class_fractions(atlas, subject, x, y, z[part])
        t1, t2, pd = _mix(subject, classes, x, y, z[part])
        maps["t1"][part], maps["t2"][part], maps["pd"][part] = t1.numpy(), t2.numpy(), pd.numpy()
        merged = _three_tissues(classes)
        fractions[:, part] = merged.numpy()
        brain = merged.sum(dim=0) >= 0.5
        tissue[part] = torch.where(brain, merged.argmax(dim=0) + 1, 0).to(torch.uint8).numpy()
        largest, index = classes.max(dim=0)
        index = index.clamp_max(len(CLASSES))  # one label for all islands
        labels[part] = torch.where(largest >= 1 - classes.sum(dim=0), index + 1, 0).to(torch.uint8).numpy()
    affine = np.eye(4)
    for k, axis in enumerate((x, y, z)):
        affine[k, k] = axis[1] - axis[0] if len(axis) > 1 else resolution
        affine[k, 3] = axis[0]
    return Anatomy(**maps, fractions=fractions, tissue=tissue, labels=labels, affine=affine, subject=subject)


def random_slab(
    atlas: Atlas, *, seed: int, shape: tuple[int, int, int], resolution: float = 1.0, slice_spacing: float | None = None
) -> Anatomy:
    """Part of a random subject's head for training: ``shape`` (z, y, x) around a random point of the brain.

    Axial slices ``slice_spacing`` millimetres apart (``resolution`` if not given); in plane the slab is centred within
    10 mm, in half of the slabs 20 mm around the nuclei in height. The subject is varied by `for_training`. Without
    files once the atlas is in memory.
    """
    rng = np.random.default_rng([seed, 23])
    step = resolution if slice_spacing is None else slice_spacing
    n_z, n_y, n_x = shape
    free = max(0.0, 130.0 - n_z * step) / 2
    if rng.random() < 0.5:
        free = min(free, 20.0)
    centre = (rng.uniform(-10, 10), rng.uniform(-10, 10), rng.uniform(-free, free))
    x, y, z = (
        (np.arange(count, dtype=np.float64) - (count - 1) / 2) * spacing + middle
        for count, spacing, middle in zip((n_x, n_y, n_z), (resolution, resolution, step), centre, strict=True)
    )
    low, high = (np.array([axis[end] for axis in (x, y, z)]) for end in (0, -1))
    subject = for_training(draw_subject(seed, lesion_sites=atlas.lesion_sites), rng, low, high)
    return _anatomy(atlas, subject, (x, y, z), resolution)


def head_of(plan: PlannedSession, atlas: Atlas, *, resolution: float) -> Anatomy:
    """Head of the person of a session, or the bottle that lies there instead."""
    anatomy = make_anatomy(
        atlas,
        seed=plan.subject_seed,
        resolution=resolution,
        has_lesions=Effect.LESIONS in plan.effects,
        has_tumour=plan.has_tumour,
        age=plan.age_of_anatomy,
        clinic=plan.clinic,
    )
    return bottle_of(anatomy) if plan.fault is Fault.PHANTOM else anatomy


def bottle_of(anatomy: Anatomy) -> Anatomy:
    """Replace a head by a bottle of doped water of its size: no tissue anywhere."""
    x, y, z = (anatomy.affine[k, 3] + anatomy.affine[k, k] * np.arange(anatomy.pd.shape[2 - k]) for k in range(3))
    inside = (x[None, None, :] ** 2 + y[None, :, None] ** 2 < 80.0**2) & (np.abs(z[:, None, None]) < 75.0)
    return Anatomy(
        t1=np.where(inside, 0.3, 1.0).astype(np.float32),
        t2=np.where(inside, 0.2, 0.1).astype(np.float32),
        pd=inside.astype(np.float32),
        fractions=np.zeros_like(anatomy.fractions),
        tissue=np.zeros_like(anatomy.tissue),
        labels=np.zeros_like(anatomy.labels),
        affine=anatomy.affine,
        subject=anatomy.subject,
    )


def tissue_summary(anatomy: Anatomy, *, purity: float = 0.95) -> dict[str, dict[str, float]]:
    """Median, mean and count of T1, T2 and PD per tissue, over voxels of which at least ``purity`` is that tissue.

    Returns
    -------
    dict
        By tissue (``CSF``, ``GM``, ``WM``): ``n``, and ``T1_median``, ``T1_mean``, ``T2_median`` and so on; NaN
        where no voxel is pure enough.
    """
    result = {}
    for name, label in TISSUES.items():
        pure = anatomy.fractions[label - 1] >= purity
        row = {"n": float(pure.sum())}
        for quantity, values in (("T1", anatomy.t1), ("T2", anatomy.t2), ("PD", anatomy.pd)):
            inside = values[pure]
            row[f"{quantity}_median"] = float(np.median(inside)) if inside.size else float("nan")
            row[f"{quantity}_mean"] = float(inside.mean(dtype=np.float64)) if inside.size else float("nan")
        result[name] = row
    return result


def _head_axes(
    resolution: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    counts = (int(extent // resolution) for extent in _HALF_EXTENT)
    x, y, z = (np.arange(-count, count + 1, dtype=np.float64) * resolution for count in counts)
    return x, y, z


def _class_fractions(
    atlas: Atlas, subject: Subject, x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]
) -> torch.Tensor:
    """Fractions of `CLASSES`, then of the islands, on the grid, shape (class, z, y, x)."""
    points = _template_coordinates(atlas, subject, x, y, z)
    counts = atlas.fractions.shape[:0:-1]
    normalised = torch.stack(
        [(points[k] - atlas.origin[k]) * (2 / (atlas.spacing * (counts[k] - 1))) - 1 for k in range(3)],
        dim=-1,
    )
    sampled = torch.nn.functional.grid_sample(
        atlas.fractions[None], normalised[None], mode="bilinear", padding_mode="zeros", align_corners=True
    )[0]
    result = torch.zeros((len(CLASSES), *sampled.shape[1:]))
    result[[CLASSES.index(name) for name in ATLAS_CLASSES]] = sampled
    n_brain = len(BRAIN_CLASSES)
    brain = result[:n_brain]
    whole = brain.sum(dim=0)
    csf_noise, gm_noise = (torch.from_numpy(field.evaluate(x, y, z)) for field in subject.folding)
    strength = 1.0 if atlas.sharpness > 1 else 0.3
    weights = brain.clamp(min=0) ** atlas.sharpness
    weights[0] *= torch.exp(strength * (csf_noise + subject.atrophy))
    weights[1] *= torch.exp(strength * (gm_noise - subject.thinning))
    result[:n_brain] = weights * (whole / weights.sum(dim=0).clamp(min=1e-12))
    _add_lesions(result, subject, points)
    _add_tumour(result, subject, points)
    others = []
    for island in subject.islands:
        taken = _taken_by(island, result, points)
        if island.name == ISLAND:
            others.append(taken)
        else:
            result[CLASSES.index(island.name)] += taken
    return torch.stack([*result, *others])


def _template_coordinates(
    atlas: Atlas, subject: Subject, x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]
) -> list[torch.Tensor]:
    """Where in the atlas each grid point comes from: x, y, z in millimetres, each of shape (z, y, x)."""
    axes = (x[None, None, :], y[None, :, None], z[:, None, None])
    points = [
        torch.from_numpy(
            (axis / (scale * atlas.size) + large.evaluate(x, y, z) + small.evaluate(x, y, z)).astype(np.float32)
        )
        for axis, scale, (large, small) in zip(axes, subject.scale, subject.displacement, strict=True)
    ]
    offsets = [point - centre for point, centre in zip(points, atlas.ventricles, strict=True)]
    squared = sum((offset**2 for offset in offsets), torch.zeros(()))
    shrink = 1 - subject.ventricles / (1 + subject.ventricles) * torch.exp(-squared / (2 * _VENTRICLE_REACH**2))
    return [centre + offset * shrink for offset, centre in zip(offsets, atlas.ventricles, strict=True)]


def _add_lesions(classes: torch.Tensor, subject: Subject, points: list[torch.Tensor]) -> None:
    """Turn white matter within the radius of each lesion into lesion, in place."""
    if len(subject.lesions) == 0:
        return
    weight = torch.zeros(classes.shape[1:])
    low, high = points[2].amin(), points[2].amax()
    for cx, cy, cz, radius in subject.lesions.tolist():
        if not low - radius - 3 < cz < high + radius + 3:
            continue
        distance = torch.sqrt((points[0] - cx) ** 2 + (points[1] - cy) ** 2 + (points[2] - cz) ** 2)
        weight = torch.maximum(weight, torch.sigmoid((radius - distance) / 0.6))
    wm, lesion = CLASSES.index("wm"), CLASSES.index("lesion")
    classes[lesion] = classes[wm] * weight
    classes[wm] *= 1 - weight


def _add_tumour(classes: torch.Tensor, subject: Subject, points: list[torch.Tensor]) -> None:
    """Turn all tissue of the brain around the tumour's centre into tumour, and white matter around that into oedema."""
    if subject.tumour is None:
        return
    x, y, z, radius, reach = subject.tumour
    offsets = [point - centre for point, centre in zip(points, (x, y, z), strict=True)]
    distance = torch.sqrt(sum((offset**2 for offset in offsets), torch.zeros(())))
    wave = 1 + 0.15 * torch.sin(offsets[0] / 4.0) * torch.cos(offsets[1] / 5.0 + offsets[2] / 6.0)  # no sphere
    core = torch.sigmoid((radius * wave - distance) / 0.8)
    halo = torch.sigmoid((reach * wave - distance) / 1.5)
    tumour, oedema, wm = CLASSES.index("tumour"), CLASSES.index("oedema"), CLASSES.index("wm")
    solid = classes[1 : len(BRAIN_CLASSES)]
    classes[tumour] = solid.sum(dim=0) * core
    solid *= 1 - core
    classes[oedema] = classes[wm] * halo
    classes[wm] *= 1 - halo


def _taken_by(island: Island, classes: torch.Tensor, points: list[torch.Tensor]) -> torch.Tensor:
    """Fraction of an island, shape (z, y, x), taken in place from the solid classes of the brain."""
    offsets = torch.stack([point - centre for point, centre in zip(points, island.centre.tolist(), strict=True)])
    scaled = torch.from_numpy((island.axes / island.semi_axes[:, None]).astype(np.float32))
    distance = torch.einsum("ij,j...->i...", scaled, offsets).norm(dim=0)
    wave = 1 + 0.12 * torch.sin(offsets[0] / 4.0) * torch.cos(offsets[1] / 5.0 + offsets[2] / 6.0)  # no ellipsoid
    weight = torch.sigmoid((wave - distance) * float(island.semi_axes.mean()) / 0.8)
    solid = classes[1 : len(BRAIN_CLASSES)]
    taken = solid.sum(dim=0) * weight
    solid *= 1 - weight
    return taken


def _mix(
    subject: Subject, classes: torch.Tensor, x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """T1, T2, PD of mixed voxels: PD adds up, rates are averaged by PD; texture in tissue, none in CSF and fluid."""
    textures = [
        torch.from_numpy(large.evaluate(x, y, z) + small.evaluate(x, y, z)).clamp(-0.15, 0.15)
        for large, small in subject.texture
    ]
    pd, r1, r2 = (torch.zeros(classes.shape[1:]) for _ in range(3))
    of_islands = [(island.name, island.values) for island in subject.islands if island.name == ISLAND]
    everything = (*((name, subject.values[name]) for name in CLASSES), *of_islands)
    for (name, values), fraction in zip(everything, classes, strict=True):
        if name in PATHOLOGY and subject.tumour is None:
            continue
        has_texture = 0.0 if name in ("csf", "fluid") else 1.0
        weight = fraction * values.pd * (1 + has_texture * (textures[2] - 0.35 * textures[0]))
        pd += weight
        r1 += weight / values.t1 * (1 + has_texture * textures[0])
        r2 += weight / values.t2 * (1 + has_texture * textures[1])
    empty = pd < 1e-3
    t1 = torch.where(empty, 1.0, pd / r1.clamp(min=1e-9))
    t2 = torch.where(empty, 0.1, pd / r2.clamp(min=1e-9))
    return t1, t2, torch.where(empty, 0.0, pd)


def _three_tissues(classes: torch.Tensor) -> torch.Tensor:
    """CSF, grey matter with nuclei and islands, white matter with lesions and tumours."""
    of = CLASSES.index
    grey = classes[of("gm")] + sum(classes[of(name)] for name in DEEP_GREY) + classes[len(CLASSES) :].sum(dim=0)
    white = classes[of("wm")] + classes[of("lesion")] + classes[of("tumour")] + classes[of("oedema")]
    return torch.stack([classes[of("csf")], grey, white])
