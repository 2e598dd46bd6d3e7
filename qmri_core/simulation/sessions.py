"""One simulated session: the head, its three series and a localizer, as a scanner hands them out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from qmri_core.acquisition import Acquisition, Contrast, Sequence
from qmri_core.geometry import Affine, Volume
from qmri_core.simulation.acquisition import Fields, acquire, draw_fields, rigid, series_affine
from qmri_core.simulation.anatomies import Anatomy, make_anatomy
from qmri_core.simulation.atlas import Atlas
from qmri_core.simulation.cohort import SessionPlan, uid
from qmri_core.simulation.protocols import Codes, SimulatedSeries, SliceGeometry
from qmri_core.simulation.signals import reference_signal

SCALE_SPREAD = 0.03
"""Standard deviation of the log of a series' scale between sessions of one group."""

_LOCALIZER_SPACING = 4.0
_DESCRIPTIONS = (
    "HEAD ROUTINE", "Serie", "obl", "neuro std", "WIP brain", "s3D", "ax", "Schaedel", "brain^library", "copy of 4",
)  # fmt: skip
_LOCALIZER_CODES = {
    "Siemens": Codes(
        scanning_sequence=("GR",), sequence_variant=("SP", "OSP"), sequence_name="*fl2d1",
        image_type=("ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D"),
    ),
    "Philips": Codes(
        scanning_sequence=("GR",), sequence_variant=("SS",), scan_options=("OTHER",),
        image_type=("ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"),
    ),
    "GE": Codes(
        scanning_sequence=("GR",), sequence_variant=("SS", "SK"), scan_options=("FAST_GEMS",),
        image_type=("ORIGINAL", "PRIMARY", "OTHER"),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquiredSeries:
    """Images of one series: one volume, or several of different orientation for a localizer.

    ``scale`` is grey values per unit signal; ``description`` is free text that says nothing.
    """

    series: SimulatedSeries
    volumes: tuple[Volume, ...]
    number: int
    description: str
    scale: float
    snr: float
    is_localizer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSession:
    """A session with its truth. ``pose`` takes the head's frame to scanner RAS, as the T2w series saw it."""

    plan: SessionPlan
    anatomy: Anatomy
    pose: Affine
    fields: Fields
    series: tuple[AcquiredSeries, ...]


def simulate_session(plan: SessionPlan, atlas: Atlas, *, resolution: float) -> SimulatedSession:
    """Simulate the session of ``plan``; the same plan, atlas and resolution give the same arrays.

    The head lies a little differently in each series (0.6 degrees, 0.8 mm), and quite differently in each session.

    Parameters
    ----------
    plan
        From `plan_cohort`.
    atlas
        Anatomy to start from.
    resolution
        Spacing of the anatomy in millimetres and finest voxel spacing of any series.
    """
    anatomy = make_anatomy(atlas, seed=plan.subject_seed, resolution=resolution)
    rng = plan.generator(1)
    fields = draw_fields(rng)
    pose = rigid(rng.normal(0, [5.0, 2.5, 2.5]).clip(-10, 10), rng.normal(0, [3.0, 5.0, 5.0]).clip(-10, 10))
    tilt = float(rng.uniform(-8, 8))
    coarse = make_anatomy(atlas, seed=plan.subject_seed, resolution=max(resolution, _LOCALIZER_SPACING))
    series = [_localizer(plan, coarse, pose, fields)]
    numbers = _series_numbers(plan)
    for index, one in enumerate(plan.protocol.series):
        moved = pose @ rigid(rng.normal(0, 0.6, 3), rng.normal(0, 0.8, 3)) if one.contrast != Contrast.T2W else pose
        series.append(
            _series(plan, one, anatomy, moved, fields, tilt=tilt, number=numbers[index], resolution=resolution)
        )
    return SimulatedSession(plan=plan, anatomy=anatomy, pose=pose, fields=fields, series=tuple(series))


def _series(
    plan: SessionPlan,
    one: SimulatedSeries,
    anatomy: Anatomy,
    pose: Affine,
    fields: Fields,
    *,
    tilt: float,
    number: int,
    resolution: float,
) -> AcquiredSeries:
    rng = plan.generator(2, number)
    is_axial = one.geometry.plane == "axial"
    centre = pose[:3, 3] + rng.uniform(-3, 3, 3) + np.array([0.0, 0.0, 0.0 if is_axial else -8.0])
    affine = series_affine(
        one.geometry, resolution=resolution, tilt=tilt if is_axial else 0.0, centre=np.round(centre, 3)
    )
    snr, scale = float(rng.uniform(30, 70)), _scale(plan, one, rng)
    volume = acquire(
        anatomy,
        one.acquisition,
        one.geometry,
        affine=affine,
        pose=pose,
        fields=fields,
        rng=rng,
        resolution=resolution,
        scale=scale,
        snr=snr,
        flattening=0.3 if "NORM" in one.codes.image_type else 1.0,
    )
    description = str(rng.choice(_DESCRIPTIONS))
    return AcquiredSeries(series=one, volumes=(volume,), number=number, description=description, scale=scale, snr=snr)


def _scale(plan: SessionPlan, one: SimulatedSeries, rng: np.random.Generator) -> float:
    """Grey values per unit signal: arbitrary per scanner, protocol and contrast, with a spread between sessions."""
    owner = uid(plan.seed, plan.group, plan.serial_number, one.contrast)
    typical = np.random.default_rng(int(owner.rsplit(".", 1)[1]) % 2**63)
    white_matter = math.exp(typical.uniform(math.log(180), math.log(450)))
    if plan.protocol.vendor == "Philips":
        white_matter *= 100
    deviation = float(np.clip(rng.standard_normal(), -3, 3))
    return float(white_matter / reference_signal(one.acquisition) * math.exp(SCALE_SPREAD * deviation))


def _series_numbers(plan: SessionPlan) -> list[int]:
    """Distinct numbers from 2, in an order of the day; the vendor's way of counting."""
    order = plan.generator(3).permutation(3)
    step = {"Siemens": 1, "Philips": 100, "GE": 1}[plan.protocol.vendor]
    return [int(position + 2) * step + (1 if step > 1 else 0) for position in order]


def _localizer(plan: SessionPlan, anatomy: Anatomy, pose: Affine, fields: Fields) -> AcquiredSeries:
    """Three slices, one per plane, in one series."""
    resolution = _LOCALIZER_SPACING
    template = plan.protocol.series[0]
    acquisition = Acquisition(
        contrast=Contrast.T1W,
        sequence=Sequence.SPOILED_GRADIENT_ECHO,
        field_strength=template.acquisition.field_strength,
        repetition_time=8.6e-3,
        echo_time=4.0e-3,
        flip_angle=math.radians(20),
    )
    header = replace(
        template.header,
        repetition_time=8.6e-3,
        echo_time=4.0e-3,
        inversion_time=None,
        flip_angle=math.radians(20),
        echo_train_length=1,
        mr_acquisition_type="2D",
    )
    rng = plan.generator(4)
    scale = 300 / reference_signal(acquisition)
    volumes = []
    for plane in ("axial", "sagittal", "coronal"):
        geometry = SliceGeometry(plane=plane, in_plane=resolution, thickness=8.0, gap=232.0)
        affine = series_affine(geometry, resolution=resolution, tilt=0.0, centre=pose[:3, 3])
        volumes.append(
            acquire(
                anatomy, acquisition, geometry, affine=affine, pose=pose, fields=fields, rng=rng,
                resolution=resolution, scale=scale, snr=30.0,
            )
        )  # fmt: skip
    codes = _LOCALIZER_CODES[plan.protocol.vendor]
    series = SimulatedSeries(
        header=replace(
            header,
            scanning_sequence=codes.scanning_sequence,
            sequence_variant=codes.sequence_variant,
            scan_options=codes.scan_options,
            image_type=codes.image_type,
        ),
        acquisition=acquisition,
        geometry=geometry,
        codes=codes,
    )
    number = 101 if plan.protocol.vendor == "Philips" else 1
    return AcquiredSeries(
        series=series, volumes=tuple(volumes), number=number, description=str(rng.choice(_DESCRIPTIONS)),
        scale=scale, snr=30.0, is_localizer=True,
    )  # fmt: skip
