"""Atlases: what fraction of each voxel is which tissue, from probability templates or from a label map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.series.geometry import Affine, Volume, spacing_of
from qmri_core.simulation.subjects import CLASSES, PATHOLOGY

ATLAS_CLASSES = tuple(name for name in CLASSES if name not in ("lesion", *PATHOLOGY))
_HALF_EXTENT = (100.0, 122.0, 112.0)
_ICBM_CENTRE = (0.0, -17.0, 5.0)
_ICBM_VENTRICLES = (0.0, -12.0, 16.0)
_ICBM_SIZE = 0.905
"""The ICBM152 average is larger than an average head."""

# Montreal coordinates and semi-axes in millimetres, right side; the left one mirrors it
_NUCLEI = {
    "caudate": ((12.0, 12.0, 8.0), (5.0, 11.0, 8.0)),
    "putamen": ((26.0, 4.0, 0.0), (6.0, 15.0, 10.0)),
    "thalamus": ((11.0, -18.0, 8.0), (9.0, 14.0, 8.0)),
    "pallidum": ((18.0, -3.0, -1.0), (5.0, 8.0, 6.0)),
}

# FreeSurfer codes, and the extra-cerebral codes of the SynthSeg training maps
_LABEL_CLASSES: Mapping[str, tuple[int, ...]] = {
    "csf": (4, 5, 14, 15, 24, 43, 44, 72),
    "gm": (3, 8, 17, 18, 26, 42, 47, 53, 54, 58, 136, 137, 163, 164, 31, 63, *range(1000, 1036), *range(2000, 2036)),
    "wm": (2, 7, 16, 28, 41, 46, 60, 77, 85, 192, 250, 251, 252, 253, 254, 255),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "thalamus": (9, 10, 48, 49),
    "pallidum": (13, 52),
    "skull": (515,),
    "marrow": (514, 516),
    "fat": (511,),
    "muscle": (25, 30, 57, 62, 502, 507, 508, 509, 512, 530),
    "fluid": (506,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Atlas:
    """Tissue fractions of a head on an isotropic RAS grid whose origin is the centre of the brain.

    Parameters
    ----------
    fractions
        Shape (class, z, y, x) in the order of `ATLAS_CLASSES`; what is missing to 1 is air.
    origin
        Millimetres (x, y, z) of the first voxel.
    spacing
        Millimetres.
    size
        Typical head size over the atlas's.
    sharpness
        Exponent that turns probabilities into fractions; 1 leaves them.
    ventricles
        Centre of the lateral ventricles, millimetres.
    lesion_sites
        Points deep in white matter, shape (n, 3), the same for every ``spacing``.
    """

    fractions: torch.Tensor
    origin: tuple[float, float, float]
    spacing: float
    size: float
    sharpness: float
    ventricles: tuple[float, float, float]
    lesion_sites: NDArray[np.float32]


def atlas_from_templates(templates: Mapping[str, Volume], *, resolution: float) -> Atlas:
    """Atlas from grey- and white-matter probabilities in Montreal space.

    CSF is what the probabilities leave of the brain's envelope, ventricles included. Nuclei are ellipsoids within it;
    skull, marrow, fat, muscle and skin are shells around it, thicker below; eyes and nose are placed by coordinates.

    Parameters
    ----------
    templates
        ``gm`` and ``wm``, probabilities from 0 to 1, and ``t1``, an image of the stripped brain that is 0 outside.
        Axis-aligned, increasing in RAS.
    resolution
        Spacing of the atlas in millimetres.
    """
    axes = _axes(resolution)
    centred = tuple(axis + shift for axis, shift in zip(axes, _ICBM_CENTRE, strict=True))
    reduced = {name: _reduced(volume, int(resolution)) for name, volume in templates.items()}
    envelope = ndimage.binary_fill_holes((reduced["t1"].array > 0) | (reduced["gm"].array + reduced["wm"].array > 0.1))
    outline = Volume(array=envelope.astype(np.float32), affine=reduced["gm"].affine)
    brain, gm, wm = (
        _sampled(volume, centred, blur=_blur(resolution, volume)) for volume in (outline, reduced["gm"], reduced["wm"])
    )
    total = np.maximum(gm + wm, 1e-6)
    gm, wm = (part * np.minimum(1.0, brain / total) for part in (gm, wm))
    parts = {"csf": np.maximum(brain - gm - wm, 0.0), "gm": gm, "wm": wm}
    grids = np.meshgrid(*reversed(centred), indexing="ij", sparse=True)
    z, y, x = (grid.astype(np.float32) for grid in grids)
    for name, (centre, semi_axes) in _NUCLEI.items():
        weight = _ellipsoid(np.abs(x), y, z, centre, semi_axes)
        parts[name] = weight * (parts["gm"] + (parts["wm"] if name in ("thalamus", "pallidum") else 0.0))
        parts["gm"] = parts["gm"] * (1 - weight)
        if name in ("thalamus", "pallidum"):
            parts["wm"] = parts["wm"] * (1 - weight)
    _add_head(parts, brain, x, y, z, resolution)
    fractions = np.empty((len(ATLAS_CLASSES), *brain.shape), dtype=np.float32)
    for index, name in enumerate(ATLAS_CLASSES):
        fractions[index] = parts.pop(name)  # one copy of each at a time: at 1 mm all of them take half a gigabyte
    return Atlas(
        fractions=torch.from_numpy(fractions),
        origin=(float(axes[0][0]), float(axes[1][0]), float(axes[2][0])),
        spacing=resolution,
        size=_ICBM_SIZE,
        sharpness=2.5,
        ventricles=tuple(np.subtract(_ICBM_VENTRICLES, _ICBM_CENTRE).tolist()),
        lesion_sites=_lesion_sites(templates["wm"], np.asarray(_ICBM_CENTRE)),
    )


def atlas_from_labels(labels: Volume, *, resolution: float) -> Atlas:
    """Atlas from a map of FreeSurfer codes, whole head if it has the codes 502 to 530 of SynthSeg's training maps.

    ``labels`` is axis-aligned, increasing in RAS. Codes that are not known are air. Borders are softened by 0.5 mm,
    so that voxels on them are mixtures.

    Raises
    ------
    ValueError
        If the map has no white matter, grey matter or CSF.
    """
    codes = np.rint(labels.array).astype(np.int32)
    missing = [name for name in ("csf", "gm", "wm") if not np.isin(codes, _LABEL_CLASSES[name]).any()]
    if missing:
        raise ValueError(f"label map without {', '.join(missing)}; FreeSurfer codes expected (2, 3, 24, 41, 42, ...)")
    origin, spacing = labels.affine[:3, 3], spacing_of(labels.affine)
    centre = centre_of_brain(labels)
    axes = _axes(resolution)
    centred = tuple(axis + shift for axis, shift in zip(axes, centre, strict=True))
    fractions = np.zeros((len(ATLAS_CLASSES), *(len(axis) for axis in reversed(axes))), dtype=np.float32)
    for index, name in enumerate(ATLAS_CLASSES):
        one = Volume(array=np.isin(codes, _LABEL_CLASSES[name]).astype(np.float32), affine=labels.affine)
        if one.array.any():
            fractions[index] = _sampled(one, centred, blur=max(0.5, _blur(resolution, one)))
    ventricles = np.argwhere(np.isin(codes, (4, 43)))
    where = origin + spacing * ventricles.mean(axis=0)[::-1] - centre if len(ventricles) else np.array([0.0, 5.0, 11.0])
    wm = Volume(array=np.isin(codes, (2, 41)).astype(np.float32), affine=labels.affine)
    return Atlas(
        fractions=torch.from_numpy(fractions),
        origin=(float(axes[0][0]), float(axes[1][0]), float(axes[2][0])),
        spacing=resolution,
        size=1.0,
        sharpness=1.0,
        ventricles=(float(where[0]), float(where[1]), float(where[2])),
        lesion_sites=_lesion_sites(wm, centre),
    )


def centre_of_brain(labels: Volume) -> NDArray[np.float64]:
    """RAS mm (x, y, z) of the middle of the box around a label map's brain: the origin of `atlas_from_labels`."""
    codes = np.rint(labels.array).astype(np.int32)
    brain = np.isin(codes, [code for name in ATLAS_CLASSES[:7] for code in _LABEL_CLASSES[name] if code != 24])
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    middle = [(part.start + part.stop - 1) / 2 for part in box[::-1]]
    return np.asarray(labels.affine[:3, 3] + spacing_of(labels.affine) * middle)


def _axes(resolution: float) -> tuple[NDArray[np.float64], ...]:
    """Coordinates x, y, z of the atlas grid, symmetric about the centre of the brain."""
    counts = [int(np.ceil(half / resolution)) for half in _HALF_EXTENT]
    return tuple(np.arange(-count, count + 1, dtype=np.float64) * resolution for count in counts)


def _reduced(volume: Volume, target: int) -> Volume:
    """Averages of blocks, as large as fit into ``target`` millimetres; the same volume if it is that coarse already."""
    factor = int(target / float(spacing_of(volume.affine).max()) + 1e-6)
    if factor < 2:
        return volume
    sizes = [size // factor for size in volume.array.shape]
    array = volume.array[: sizes[0] * factor, : sizes[1] * factor, : sizes[2] * factor]
    blocks = array.reshape(sizes[0], factor, sizes[1], factor, sizes[2], factor).mean(axis=(1, 3, 5))
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.full(3, (factor - 1) / 2)
    affine[:3, :3] *= factor
    return Volume(array=np.ascontiguousarray(blocks, dtype=np.float32), affine=affine)


def _blur(resolution: float, volume: Volume) -> float:
    """Gaussian standard deviation in millimetres that takes ``volume`` to ``resolution`` without aliasing."""
    return 0.42 * float(np.sqrt(max(resolution**2 - float(spacing_of(volume.affine).min()) ** 2, 0.0)))


def _sampled(volume: Volume, axes: tuple[NDArray[np.float64], ...], *, blur: float) -> NDArray[np.float32]:
    """Linear interpolation at a rectilinear grid, one axis after the other; zero outside."""
    values = volume.array.astype(np.float32)
    spacing = spacing_of(volume.affine)
    if blur > 0:
        values = ndimage.gaussian_filter(values, blur / spacing[::-1], mode="constant", truncate=3.0)
    for k, axis in enumerate(axes):
        matrix = _linear_weights((axis - volume.affine[k, 3]) / spacing[k], values.shape[2 - k])
        values = np.moveaxis(np.tensordot(values, matrix, axes=(2 - k, 1)), -1, 2 - k)
    return np.ascontiguousarray(values, dtype=np.float32)


def _linear_weights(index: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    matrix = np.zeros((len(index), size), dtype=np.float32)
    for offset in (0, 1):
        where = np.floor(index).astype(int) + offset
        inside = (where >= 0) & (where < size)
        rows = np.flatnonzero(inside)
        matrix[rows, where[inside]] = (1 - np.abs(index - where))[inside]
    return matrix


def _lesion_sites(white_matter: Volume, centre: NDArray[np.float64]) -> NDArray[np.float32]:
    """Every fourth point in each direction that is well inside white matter, relative to ``centre``."""
    affine: Affine = white_matter.affine
    deep = ndimage.gaussian_filter(white_matter.array, 2.0)[::4, ::4, ::4] > 0.85
    indices = np.argwhere(deep)[:, ::-1] * 4
    return (indices * spacing_of(affine) + affine[:3, 3] - centre).astype(np.float32)


def _sigmoid(values: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -30, 30))), dtype=np.float32)


def _ellipsoid(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    z: NDArray[np.float32],
    centre: tuple[float, float, float],
    semi_axes: tuple[float, float, float],
) -> NDArray[np.float32]:
    """Weight 1 inside, 0 outside, with a border of about a millimetre."""
    squared = [((v - c) / a) ** 2 for v, c, a in zip((x, y, z), centre, semi_axes, strict=True)]
    radius = np.sqrt(squared[0] + squared[1] + squared[2])
    return _sigmoid((1 - radius) * (min(semi_axes) / 0.7))


def _add_head(
    parts: dict[str, NDArray[np.float32]],
    brain: NDArray[np.float32],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    z: NDArray[np.float32],
    resolution: float,
) -> None:
    """Wrap the brain into liquor, skull with marrow, muscle, fat and skin; put in eyes and an airway."""
    depth = ndimage.distance_transform_edt(brain < 0.5, sampling=resolution).astype(np.float32)
    surface = 14 + 24 * _sigmoid((-35 - z) / 10) * _sigmoid((y + 90) / 15)
    width = np.float32(max(0.35, 0.3 * resolution))

    def shell(inner: float | NDArray[np.float32], outer: float | NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(_sigmoid((depth - inner) / width) - _sigmoid((depth - outer) / width), dtype=np.float32)

    outside = 1 - brain
    parts["marrow"] = shell(4.0, 6.0) * outside
    parts["skull"] = shell(2.0, 8.0) * outside - parts["marrow"]
    parts["csf"] = parts["csf"] + outside * (1 - _sigmoid((depth - 2.0) / width))
    parts["fat"] = shell(np.maximum(8.0, surface - 6.0), surface - 1.5) * outside
    parts["muscle"] = shell(8.0, surface) * outside - parts["fat"]
    eye = _ellipsoid(np.abs(x), y, z, (32.0, 62.0, -36.0), (12.0, 12.0, 12.0)) * outside
    orbit = _ellipsoid(np.abs(x), y, z, (31.0, 56.0, -36.0), (17.0, 20.0, 16.0)) * outside - eye
    nose = _ellipsoid(x, y, z, (0.0, 58.0, -52.0), (9.0, 18.0, 16.0)) * outside
    for name in ("csf", "skull", "marrow", "fat", "muscle"):
        inside = brain * parts[name] if name == "csf" else 0.0
        parts[name] = np.maximum(
            inside + (parts[name] - inside) * np.clip(1 - eye - np.maximum(orbit, 0) - nose, 0, 1), 0
        )
    parts["fat"] = parts["fat"] + np.maximum(orbit, 0) * (1 - nose)
    parts["fluid"] = eye * (1 - nose)
