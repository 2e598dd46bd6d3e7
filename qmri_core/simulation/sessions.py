"""One simulated session: the head, its three series and what else a scanner hands out with them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qmri_core.physics.sequences import ECHO_TRAINS, SPOILED
from qmri_core.series.acquisition import Contrast
from qmri_core.series.geometry import Affine, Volume
from qmri_core.simulation.acquired import DESCRIPTIONS, AcquiredSeries, Role, series_number
from qmri_core.simulation.acquisition import (
    UNIFORM,
    Fields,
    acquire,
    draw_fields,
    field_of_view,
    received,
    rigid,
    series_affine,
)
from qmri_core.simulation.anatomies import Anatomy, head_of
from qmri_core.simulation.atlas import Atlas
from qmri_core.simulation.cohort import PlannedSession, uid
from qmri_core.simulation.effects import Effect
from qmri_core.simulation.extras import further_series, localizer
from qmri_core.simulation.faults import Fault
from qmri_core.simulation.kspace import draw_distortion
from qmri_core.simulation.protocols import SimulatedSeries
from qmri_core.simulation.signals import ideal_signal
from qmri_core.simulation.vessels import with_vessels

SCALE_SPREAD = 0.03
"""Standard deviation of the log of a series' scale between sessions of one group; assumed."""

_SPOILING_DEGREES = {"Siemens": 50.0, "Philips": 150.0, "GE": 117.0}
"""Increments of the RF phase in degrees by vendor. 50, 117 and 150 degrees are usual values; which vendor has which is
assumed, and not checked against a source."""
_USUAL_POWER = 40 * 15 * math.radians(150) ** 2 / 4.0
"""Refocusing power of a usual multi-slice T2w, slices x echoes x angle squared, in rad^2 per second; assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSession:
    """A session with its truth. ``pose`` takes the head's frame to scanner RAS, as the T2w series saw it."""

    plan: PlannedSession
    anatomy: Anatomy
    pose: Affine
    fields: Fields
    series: tuple[AcquiredSeries, ...]

    @property
    def images(self) -> tuple[AcquiredSeries, ...]:
        """The series that ingest should take."""
        return tuple(series for series in self.series if series.role is Role.IMAGE)


def simulate_session(plan: PlannedSession, atlas: Atlas, *, resolution: float) -> SimulatedSession:
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
    anatomy = head_of(plan, atlas, resolution=resolution)
    anatomy, enhanced = _with_and_without_agent(plan, anatomy)
    rng = plan.generator(1)
    fields = draw_fields(rng)
    if Effect.FIELDS not in plan.effects:
        fields = UNIFORM
    pose = rigid(rng.normal(0, [5.0, 2.5, 2.5]).clip(-10, 10), rng.normal(0, [3.0, 5.0, 5.0]).clip(-10, 10))
    tilt = float(rng.uniform(-8, 8))
    series = [localizer(plan, atlas, pose, fields, resolution=resolution)]
    numbers = _series_numbers(plan)
    for index, one in enumerate(plan.protocol.series):
        moved = pose
        if one.contrast != Contrast.T2W:
            step = rigid(rng.normal(0, 0.6, 3), rng.normal(0, 0.8, 3))
            moved = pose @ step if Effect.MOTION in plan.effects else pose
        if plan.fault is Fault.GROSS_MOTION and one.contrast is Contrast.FLAIR:
            moved = pose @ rigid(np.array([8.0, -4.0, 11.0]), np.array([12.0, -10.0, 13.0]))
        if (plan.fault, one.contrast) in _NOT_ACQUIRED:
            continue
        head = enhanced if one.contrast is Contrast.T1W and _follows_agent(plan) else anatomy
        taken = _series(plan, one, head, moved, fields, tilt=tilt, number=numbers[index], resolution=resolution)
        if plan.fault is Fault.CONTRAST_AGENT_TOO and enhanced is not anatomy:
            again = _series(plan, one, enhanced, moved, fields, tilt=tilt, number=numbers[index], resolution=resolution)
            taken = [*taken[:1], *again[1:]]
        series += taken
    if plan.fault is None:
        series += further_series(plan, series, atlas, pose, fields)
    return SimulatedSession(plan=plan, anatomy=anatomy, pose=pose, fields=fields, series=tuple(series))


def _with_and_without_agent(plan: PlannedSession, anatomy: Anatomy) -> tuple[Anatomy, Anatomy]:
    """The head before and after a contrast agent; the same one where there are no vessels to see it in."""
    if not plan.effects & {Effect.VESSELS, Effect.CONTRAST_AGENT}:
        return anatomy, anatomy
    native = with_vessels(anatomy)
    is_given = _follows_agent(plan) or plan.fault is Fault.CONTRAST_AGENT_TOO
    return native, with_vessels(anatomy, has_agent=True) if is_given else native


def _follows_agent(plan: PlannedSession) -> bool:
    """Whether the first T1w of the session follows an agent, with or without a header that says so."""
    return Effect.CONTRAST_AGENT in plan.effects or plan.fault is Fault.CONTRAST_AGENT_ONLY


_NOT_ACQUIRED = {(Fault.NO_FLAIR, Contrast.FLAIR), (Fault.NO_T1W, Contrast.T1W)}


def _series(
    plan: PlannedSession,
    one: SimulatedSeries,
    anatomy: Anatomy,
    pose: Affine,
    fields: Fields,
    *,
    tilt: float,
    number: int,
    resolution: float,
) -> list[AcquiredSeries]:
    """The series, and perhaps a worse one of the same contrast.

    Long by the one order in which everything of a series is drawn: another order is another cohort of the same seed.
    """
    rng = plan.generator(2, number)
    tilt = tilt if one.geometry.plane == "axial" else 0.0
    centre = _centre(plan, one, pose, rng)
    affine = series_affine(one.geometry, resolution=resolution, tilt=tilt, centre=centre)
    snr, scale = float(rng.uniform(30, 70)), _scale(plan, one, rng)
    one = _as_run(plan, one)
    is_normalised = "NORM" in one.codes.image_type and Effect.NORMALISATION in plan.effects
    distortion = draw_distortion(
        plan.generator(7, number),
        has_ringing=Effect.RINGING in plan.effects,
        has_ghosts=Effect.GHOSTS in plan.effects,
    )
    power = _mt_power(one) if Effect.MAGNETIZATION_TRANSFER in plan.effects else 0.0
    values = received(anatomy, one.acquisition, fields, flattening=0.3 if is_normalised else 1.0, mt_power=power)
    image = partial(
        acquire,
        anatomy,
        pose=pose,
        fields=fields,
        resolution=resolution,
        scale=scale,
        snr=snr if Effect.NOISE in plan.effects else math.inf,
        distortion=distortion,
    )
    volume = image(one.acquisition, one.geometry, affine=affine, rng=rng, values=values)
    if plan.fault is Fault.EMPTY_IMAGE and one.contrast is Contrast.FLAIR:
        volume = Volume(array=np.zeros_like(volume.array), affine=volume.affine)
    description = str(rng.choice(DESCRIPTIONS))
    taken = AcquiredSeries(
        series=one, volumes=(volume,), number=number, description=description, scale=scale, snr=snr, pose=pose
    )
    result = _with_contrast_agent(plan, taken)
    if has_rival(plan, one):
        coarse = _quick(one, resolution)
        if "NORM" in one.codes.image_type and plan.fault is None:
            coarse = _not_normalised(one)
            values = values / fields.receive_sensitivity(anatomy, flattening=0.3 if is_normalised else 1.0)
            values *= fields.receive_sensitivity(anatomy)
        else:
            affine = series_affine(coarse.geometry, resolution=resolution, tilt=tilt, centre=centre)
        again = plan.generator(8, number)
        volume = image(coarse.acquisition, coarse.geometry, affine=affine, rng=again, values=values)
        rival = replace(result[0], series=coarse, volumes=(volume,), number=series_number(plan, 5), role=Role.RIVAL)
        result.append(rival)
    return result


def _centre(plan: PlannedSession, one: SimulatedSeries, pose: Affine, rng: np.random.Generator) -> NDArray[np.float64]:
    """Centre of the slices in the scanner, near that of the head."""
    centre = pose[:3, 3] + rng.uniform(-3, 3, 3) + np.array([0.0, 0.0, 0.0 if one.geometry.plane == "axial" else -8.0])
    if plan.fault is Fault.FIELD_OF_VIEW and one.contrast is Contrast.T2W:
        centre = centre + np.array([0.0, 0.0, 95.0])
    return np.asarray(np.round(centre, 3), dtype=np.float64)


def _with_contrast_agent(plan: PlannedSession, taken: AcquiredSeries) -> list[AcquiredSeries]:
    """The series; a T1w as a session with a contrast agent has it: with agent, or without and then with."""
    if taken.series.contrast is not Contrast.T1W:
        return [taken]
    if plan.fault is Fault.CONTRAST_AGENT_ONLY:
        return [replace(taken, contrast_agent="Gadovist")]
    if plan.fault is Fault.CONTRAST_AGENT_TOO:
        again = replace(taken, number=series_number(plan, 4), contrast_agent="Gadovist", role=Role.RIVAL)
        return [taken, again]
    return [taken]


def _not_normalised(one: SimulatedSeries) -> SimulatedSeries:
    """The same acquisition without the vendor's normalisation."""
    kinds = tuple("ND" if kind == "NORM" else kind for kind in one.codes.image_type)
    return replace(one, codes=replace(one.codes, image_type=kinds), header=replace(one.header, image_type=kinds))


def _quick(one: SimulatedSeries, resolution: float) -> SimulatedSeries:
    """A quick one of thick slices."""
    thick = max(one.geometry.thickness, resolution) + 2.0
    return replace(one, geometry=replace(one.geometry, thickness=thick, gap=one.geometry.gap + 0.5))


def has_rival(plan: PlannedSession, one: SimulatedSeries) -> bool:
    """Whether a second, worse series of the contrast is there: on one session in four, of T1w or T2w."""
    if plan.fault is not None:
        return plan.fault is Fault.SEVERAL_CANDIDATES and one.contrast is Contrast.T1W
    is_there, is_t1w = plan.generator(6).random(2) < (0.25, 0.5)
    return bool(is_there) and one.contrast is (Contrast.T1W if is_t1w else Contrast.T2W)


def _as_run(plan: PlannedSession, one: SimulatedSeries) -> SimulatedSeries:
    """What the scanner did in this session: the protocol's acquisition with the effects that are asked for."""
    acquisition = one.acquisition
    if Effect.SLICE_PROFILE not in plan.effects:
        acquisition = replace(acquisition, refocusing_factor=1.0)
    if Effect.RF_SPOILING in plan.effects and acquisition.sequence in SPOILED:
        acquisition = replace(acquisition, spoiling_increment=math.radians(_SPOILING_DEGREES[plan.protocol.vendor]))
    header = one.header
    if plan.fault is Fault.SEVEN_TESLA:
        header = replace(header, magnetic_field_strength=7.0)
    return replace(one, acquisition=acquisition, header=header)


def _mt_power(one: SimulatedSeries) -> float:
    """Power of the refocusing pulses of all slices, relative to a usual T2w; 0 where one slab is excited."""
    acquisition, geometry = one.acquisition, one.geometry
    if acquisition.sequence not in ECHO_TRAINS or one.header.mr_acquisition_type != "2D":
        return 0.0
    n_slices = field_of_view(geometry.plane)[2] / (geometry.thickness + geometry.gap)
    angle = acquisition.refocusing_angle or math.pi
    train = acquisition.echo_train_length or 1
    return n_slices * train * angle**2 / acquisition.repetition_time / _USUAL_POWER


def _scale(plan: PlannedSession, one: SimulatedSeries, rng: np.random.Generator) -> float:
    """Grey values per unit signal: arbitrary per scanner, protocol and contrast, with a spread between sessions."""
    owner = uid(plan.seed, plan.group, plan.serial_number, one.contrast)
    typical = np.random.default_rng(int(owner.rsplit(".", 1)[1]) % 2**63)
    white_matter = math.exp(typical.uniform(math.log(180), math.log(450)))
    if plan.protocol.vendor == "Philips":
        white_matter *= 100
    deviation = float(np.clip(rng.standard_normal(), -3, 3))
    return float(white_matter / ideal_signal(one.acquisition) * math.exp(SCALE_SPREAD * deviation))


def _series_numbers(plan: PlannedSession) -> list[int]:
    """Distinct numbers from 2, in an order of the day; the vendor's way of counting."""
    return [series_number(plan, int(position) + 1) for position in plan.generator(3).permutation(3)]
