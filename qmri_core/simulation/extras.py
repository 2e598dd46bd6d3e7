"""Series beside the three contrasts, which ingest must leave out: localizer, phase image, reformat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence
from qmri_core.series.geometry import Affine, Volume
from qmri_core.simulation.acquired import DESCRIPTIONS, AcquiredSeries, Role, series_number
from qmri_core.simulation.acquisition import Fields, acquire, series_affine
from qmri_core.simulation.anatomies import head_of
from qmri_core.simulation.atlas import Atlas
from qmri_core.simulation.cohort import PlannedSession
from qmri_core.simulation.effects import Effect
from qmri_core.simulation.protocols import Codes, SimulatedSeries, SliceGeometry
from qmri_core.simulation.signals import ideal_signal

_SPACING = 4.0
_SHARE = 0.4
"""Of sessions that have a phase image, and of those that have a reformat."""
_GRADIENT_ECHO = {
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
_PHASE_TYPE = {
    "Siemens": ("ORIGINAL", "PRIMARY", "P", "ND"),
    "Philips": ("ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"),
    "GE": ("ORIGINAL", "PRIMARY", "P", "OTHER"),
}
_REFORMAT_TYPE = {
    "Siemens": ("DERIVED", "SECONDARY", "MPR", "CSA MPR", "", "CSAPARALLEL"),
    "Philips": ("DERIVED", "SECONDARY", "MPR", "M", "FFE"),
    "GE": ("DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"),
}


def localizer(plan: PlannedSession, atlas: Atlas, pose: Affine, fields: Fields, *, resolution: float) -> AcquiredSeries:
    """Three slices, one per plane, in one series."""
    anatomy = head_of(plan, atlas, resolution=max(resolution, _SPACING))
    series, scale = _gradient_echo(plan, SliceGeometry(plane="coronal", in_plane=_SPACING, thickness=8.0, gap=232.0))
    rng = plan.generator(4)
    volumes = []
    for plane in ("axial", "sagittal", "coronal"):
        geometry = replace(series.geometry, plane=plane)
        affine = series_affine(geometry, resolution=_SPACING, tilt=0.0, centre=pose[:3, 3])
        volumes.append(
            acquire(
                anatomy, series.acquisition, geometry, affine=affine, pose=pose, fields=fields, rng=rng,
                resolution=_SPACING, scale=scale, snr=30.0 if Effect.NOISE in plan.effects else math.inf,
            )
        )  # fmt: skip
    return AcquiredSeries(
        series=series, volumes=tuple(volumes), number=series_number(plan, 0), description=str(rng.choice(DESCRIPTIONS)),
        scale=scale, snr=30.0, pose=pose, role=Role.LOCALIZER,
    )  # fmt: skip


def further_series(
    plan: PlannedSession, series: Sequence[AcquiredSeries], atlas: Atlas, pose: Affine, fields: Fields
) -> list[AcquiredSeries]:
    """Phase image of a field map and coronal reformat of the T1w, each on some sessions."""
    has_phase, has_reformat = plan.generator(9).random(2) < _SHARE
    result = []
    if has_phase:
        result.append(_phase(plan, atlas, pose, fields))
    source = next((one for one in series if one.role is Role.IMAGE and one.series.contrast is Contrast.T1W), None)
    if has_reformat and source is not None:
        result.append(_reformat(plan, source))
    return result


def _phase(plan: PlannedSession, atlas: Atlas, pose: Affine, fields: Fields) -> AcquiredSeries:
    """Phase of a gradient echo, in steps of -4096 to 4094 in the head and of noise outside."""
    anatomy = head_of(plan, atlas, resolution=_SPACING)
    geometry = SliceGeometry(plane="axial", in_plane=_SPACING, thickness=_SPACING, gap=0.0)
    series, scale = _gradient_echo(plan, geometry)
    affine = series_affine(geometry, resolution=_SPACING, tilt=0.0, centre=np.round(pose[:3, 3], 3))
    rng = plan.generator(10)
    magnitude = acquire(
        anatomy, series.acquisition, geometry, affine=affine, pose=pose, fields=fields, rng=rng, resolution=_SPACING,
        scale=scale, snr=30.0,
    )  # fmt: skip
    z, y, x = (np.linspace(-1, 1, size) for size in magnitude.array.shape)
    hertz = (
        40 * x[None, None, :] ** 2
        - 90 * y[None, :, None] * z[:, None, None]
        + 60 * np.exp(-8 * ((y[None, :, None] + 0.6) ** 2 + (z[:, None, None] + 0.2) ** 2))
    )
    angle = 2 * math.pi * hertz * 4.0e-3
    inside = magnitude.array > 0.15 * scale * ideal_signal(series.acquisition)
    angle = np.where(inside, angle, rng.uniform(-math.pi, math.pi, angle.shape))
    wrapped = (angle + math.pi) % (2 * math.pi) / (2 * math.pi)
    codes = replace(series.codes, image_type=_PHASE_TYPE[plan.protocol.vendor])
    return AcquiredSeries(
        series=_coded(series, codes),
        volumes=(Volume(array=np.rint(wrapped * 4095).astype(np.float32), affine=affine),),
        number=series_number(plan, 6),
        description=str(rng.choice(DESCRIPTIONS)),
        scale=1.0,
        snr=30.0,
        pose=pose,
        role=Role.PHASE,
    )


def _reformat(plan: PlannedSession, source: AcquiredSeries) -> AcquiredSeries:
    """Every fifth row of the T1w as a slice: coronal or axial images without interpolation."""
    volume = source.volumes[0]
    rows = np.arange(0, volume.array.shape[1], 5)
    affine = volume.affine[:, [0, 2, 1, 3]].copy()
    affine[:3, 2] *= 5
    codes = replace(source.series.codes, image_type=_REFORMAT_TYPE[plan.protocol.vendor])
    return replace(
        source,
        series=_coded(source.series, codes),
        volumes=(Volume(array=np.ascontiguousarray(volume.array[:, rows].transpose(1, 0, 2)), affine=affine),),
        number=series_number(plan, 7),
        role=Role.REFORMAT,
    )


def _gradient_echo(plan: PlannedSession, geometry: SliceGeometry) -> tuple[SimulatedSeries, float]:
    """Quick gradient echo of the scanner, and its grey values per unit signal."""
    template = plan.protocol.series[0]
    acquisition = Acquisition(
        contrast=Contrast.T1W,
        sequence=PulseSequence.SPOILED_GRADIENT_ECHO,
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
    codes = _GRADIENT_ECHO[plan.protocol.vendor]
    series = SimulatedSeries(header=header, acquisition=acquisition, geometry=geometry, codes=codes)
    return _coded(series, codes), 300 / ideal_signal(acquisition)


def _coded(series: SimulatedSeries, codes: Codes) -> SimulatedSeries:
    header = replace(
        series.header,
        scanning_sequence=codes.scanning_sequence,
        sequence_variant=codes.sequence_variant,
        scan_options=codes.scan_options,
        image_type=codes.image_type,
    )
    return replace(series, header=header, codes=codes)
