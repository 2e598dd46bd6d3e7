"""What a scanner makes of a simulated head: fields, position, slices, scale, noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from qmri_core.series.acquisition import Acquisition
from qmri_core.series.geometry import Affine, Volume
from qmri_core.simulation.anatomies import Anatomy
from qmri_core.simulation.kspace import Distortion
from qmri_core.simulation.protocols import SliceGeometry
from qmri_core.simulation.signals import head_signal, ideal_signal
from qmri_core.simulation.smooth_fields import SmoothField, random_field

_FIELD_OF_VIEW = {"axial": (216.0, 240.0, 176.0), "sagittal": (240.0, 240.0, 184.0), "coronal": (240.0, 240.0, 208.0)}
"""Millimetres along columns, rows and slices."""
# directions of increasing column, row and slice index in RAS
_AXES = {
    "axial": np.array([[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]),
    "sagittal": np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]]),
    "coronal": np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]]),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Transmit and receive field of one head in one scanner, in the head's own frame.

    The transmit scale is ``level`` times a bump that is ``contrast`` higher at ``centre`` (millimetres) than 90 mm
    away, times one plus ``transmit``; the receive sensitivity is the exponential of ``receive`` plus ``rim`` times
    the squared distance in units of 90 mm.
    """

    level: float
    contrast: float
    centre: tuple[float, float, float]
    transmit: SmoothField
    receive: SmoothField
    rim: float

    def transmit_scale(self, anatomy: Anatomy) -> NDArray[np.float32]:
        """Actual over nominal flip angle at every voxel."""
        squared = self._squared_distance(anatomy)
        bump = 1 + np.float32(self.contrast) * (np.exp(-squared) - np.float32(0.7))
        scale = np.float32(self.level) * bump * (1 + self.transmit.evaluate(*_axes_of(anatomy)))
        return np.asarray(np.clip(scale, 0.65, 1.35), dtype=np.float32)

    def receive_sensitivity(self, anatomy: Anatomy, *, flattening: float = 1.0) -> NDArray[np.float32]:
        """Relative sensitivity, about 1 in the middle; ``flattening`` below 1 is what a normalisation leaves of it."""
        log_field = self.receive.evaluate(*_axes_of(anatomy)) + np.float32(self.rim) * self._squared_distance(anatomy)
        return np.asarray(np.exp(np.clip(np.float32(flattening) * log_field, -0.8, 0.8)), dtype=np.float32)

    def _squared_distance(self, anatomy: Anatomy) -> NDArray[np.float32]:
        x, y, z = (axis - c for axis, c in zip(_axes_of(anatomy), self.centre, strict=True))
        total = x[None, None, :] ** 2 + y[None, :, None] ** 2 + z[:, None, None] ** 2
        return np.asarray(total / 90.0**2, dtype=np.float32)


def draw_fields(rng: np.random.Generator) -> Fields:
    """Fields of a 3 T head: transmit +-10 to 15 %, highest in the middle; receive +-20 to 30 %, highest at the rim."""
    return Fields(
        level=float(1 + 0.02 * np.clip(rng.standard_normal(), -2.5, 2.5)),
        contrast=float(rng.uniform(0.25, 0.38)),
        centre=(float(rng.normal(0, 4)), float(rng.normal(0, 6)), float(rng.normal(5, 6))),
        transmit=random_field(rng, spacing=80.0, sd=0.02),
        receive=random_field(rng, spacing=90.0, sd=0.10),
        rim=float(rng.uniform(0.05, 0.25)),
    )


UNIFORM = Fields(
    level=1.0,
    contrast=0.0,
    centre=(0.0, 0.0, 0.0),
    transmit=SmoothField(control=np.zeros((9, 9, 9), dtype=np.float32), spacing=60.0),
    receive=SmoothField(control=np.zeros((9, 9, 9), dtype=np.float32), spacing=60.0),
    rim=0.0,
)
"""Fields that are the same everywhere."""


def field_of_view(plane: str) -> tuple[float, float, float]:
    """Millimetres along columns, rows and slices."""
    return _FIELD_OF_VIEW[plane]


def rigid(rotation_degrees: NDArray[np.float64], translation: NDArray[np.float64]) -> Affine:
    """Homogeneous matrix of a rotation about x, y, z through the origin and a translation in millimetres."""
    result = np.eye(4)
    result[:3, :3] = Rotation.from_euler("xyz", rotation_degrees, degrees=True).as_matrix()
    result[:3, 3] = translation
    return result


def series_affine(geometry: SliceGeometry, *, resolution: float, tilt: float, centre: NDArray[np.float64]) -> Affine:
    """Voxel index (column, row, slice) to scanner RAS for a series of the given geometry.

    No voxel is finer than ``resolution``; ``tilt`` (degrees) turns the stack about the left-right axis; ``centre`` is
    the middle of the field of view in millimetres.
    """
    spacing = _spacing(geometry, resolution)
    affine = np.eye(4)
    affine[:3, :3] = (rigid(np.array([tilt, 0.0, 0.0]), np.zeros(3))[:3, :3] @ _AXES[geometry.plane].T) * spacing
    middle = (np.asarray(_counts(geometry, resolution)) - 1) / 2
    affine[:3, 3] = centre - affine[:3, :3] @ middle
    return affine


def received(
    anatomy: Anatomy,
    acquisition: Acquisition,
    fields: Fields,
    *,
    flattening: float = 1.0,
    mt_power: float = 0.0,
) -> NDArray[np.float32]:
    """Signed signal of every voxel of the head times the receive sensitivity.

    Parameters
    ----------
    anatomy, acquisition, fields
        Who, how, and where in the fields.
    flattening
        See `Fields.receive_sensitivity`.
    mt_power
        Power of other slices' pulses that saturates the bound pool, 1 for a usual T2w; see
        `qmri_core.simulation.signals.bound_pool_factor`. 0 for no magnetization transfer.
    """
    transmit = fields.transmit_scale(anatomy)
    values = head_signal(anatomy, acquisition, transmit, mt_power=mt_power)
    values *= fields.receive_sensitivity(anatomy, flattening=flattening)
    return values


def acquire(
    anatomy: Anatomy,
    acquisition: Acquisition,
    geometry: SliceGeometry,
    *,
    affine: Affine,
    pose: Affine,
    fields: Fields,
    rng: np.random.Generator,
    resolution: float,
    scale: float = 1.0,
    snr: float = 50.0,
    flattening: float = 1.0,
    mt_power: float = 0.0,
    distortion: Distortion | None = None,
    values: NDArray[np.float32] | None = None,
) -> Volume:
    """Magnitude image of one series.

    The signal is computed at the anatomy's resolution with the local transmit scale, multiplied by the receive
    sensitivity, and averaged over each voxel's slice thickness: mixing of tissues across a thick slice is one of
    signals. Noise is Rician. The function is long by its parameters, each of which has its unit here.

    Parameters
    ----------
    anatomy, acquisition, geometry
        Who, how, and which slices.
    affine
        Voxel index (column, row, slice) to scanner RAS, from `series_affine` with the same ``resolution``.
    pose
        Head frame to scanner RAS at the time of this series.
    fields
        Transmit and receive field in the head.
    resolution
        Finest voxel spacing in millimetres.
    scale
        Grey values per unit signal.
    snr
        White-matter signal at the nominal angle over the standard deviation of each noise channel; infinity for none.
    flattening, mt_power
        See `received`.
    distortion
        What the path through k-space does to the image; ``None`` for nothing.
    values
        What `received` gives, if it is known already.

    Returns
    -------
    Volume
        Array (slice, row, column), grey values before integer storage.
    """
    if values is None:
        values = received(anatomy, acquisition, fields, flattening=flattening, mt_power=mt_power)
    image = _resampled(values, anatomy.affine, affine, pose, geometry, resolution)
    turned = None
    if distortion is not None:
        image, turned = distortion.apply(image)
    if np.isfinite(snr):
        sd = np.float32(ideal_signal(acquisition) / snr)
        real, imaginary = (rng.standard_normal(image.shape, dtype=np.float32) * sd for _ in range(2))
        image, turned = image + real, imaginary if turned is None else turned + imaginary
    magnitude = np.abs(image) if turned is None else np.hypot(image, turned)
    return Volume(array=magnitude * np.float32(scale), affine=affine)


def _resampled(
    values: NDArray[np.float32],
    source: Affine,
    target: Affine,
    pose: Affine,
    geometry: SliceGeometry,
    resolution: float,
) -> NDArray[np.float32]:
    """Linear interpolation, averaged over equidistant planes within the slice thickness."""
    n_x, n_y, n_z = _counts(geometry, resolution)
    spacing = _spacing(geometry, resolution)
    thickness = max(geometry.thickness, resolution)
    n_planes = max(1, round(thickness / resolution))
    offsets = ((np.arange(n_planes) + 0.5) / n_planes - 0.5) * thickness / spacing[2]
    to_source = np.linalg.inv(source) @ np.linalg.inv(pose) @ target
    size = np.asarray(values.shape[::-1], dtype=np.float64)
    # grid_sample's coordinates run from -1 to 1 between the centres of the outer voxels
    to_unit = np.diag([*(2 / (size - 1)), 1.0])
    to_unit[:3, 3] = -1.0
    theta = (to_unit @ to_source).astype(np.float32)
    image = torch.from_numpy(values)[None, None]
    column, row = (torch.arange(n, dtype=torch.float32) for n in (n_x, n_y))
    result = torch.empty((n_z, n_y, n_x))
    matrix = torch.from_numpy(theta)
    in_plane = column[None, :, None] * matrix[:3, 0] + row[:, None, None] * matrix[:3, 1] + matrix[:3, 3]
    for k in range(n_z):
        planes = torch.from_numpy((k + offsets).astype(np.float32))
        grid = in_plane[None] + planes[:, None, None, None] * matrix[:3, 2]
        sampled = torch.nn.functional.grid_sample(image, grid[None], padding_mode="zeros", align_corners=True)
        result[k] = sampled[0, 0].mean(dim=0)
    return np.asarray(result.numpy(), dtype=np.float32)


def _spacing(geometry: SliceGeometry, resolution: float) -> NDArray[np.float64]:
    """Spacing along columns, rows and slices in millimetres."""
    in_plane = max(geometry.in_plane, resolution)
    return np.array([in_plane, in_plane, max(geometry.thickness, resolution) + geometry.gap])


def _counts(geometry: SliceGeometry, resolution: float) -> tuple[int, int, int]:
    """Columns, rows, slices that fill the plane's field of view."""
    extent = np.asarray(_FIELD_OF_VIEW[geometry.plane])
    counts = np.maximum(1, np.round(extent / _spacing(geometry, resolution))).astype(int)
    return int(counts[0]), int(counts[1]), int(counts[2])


def _axes_of(anatomy: Anatomy) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    shape = anatomy.pd.shape[::-1]
    x, y, z = (anatomy.affine[k, 3] + anatomy.affine[k, k] * np.arange(shape[k]) for k in range(3))
    return x, y, z
