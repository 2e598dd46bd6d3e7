"""Simulated sessions as preprocessing has them before it checks them, and the same with a mistake planted.

The way is short, so that hundreds can be made: alignment and brain mask are the true ones with errors of the size that
those of preprocessing have, the bias field and the segmentation are its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.physics.header import acquisition_from_header
from qmri_core.preprocessing.alignment import resample
from qmri_core.preprocessing.bias_field import bias_field
from qmri_core.preprocessing.template.brain import tissue_templates
from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence
from qmri_core.series.geometry import Affine, Grid, Volume
from qmri_core.series.grouping import canonical_spacing, grid_of, protocol_keys
from qmri_core.simulation.acquisition import acquire, rigid
from qmri_core.simulation.anatomies import Anatomy, head_of
from qmri_core.simulation.atlas import Atlas, atlas_from_templates
from qmri_core.simulation.cohort import PlannedSession, plan_cohort
from qmri_core.simulation.effects import Effect, effects_of
from qmri_core.simulation.sessions import SimulatedSession, simulate_session
from qmri_core.simulation.signals import ideal_signal
from qmri_core.simulation.smooth_fields import random_field
from qmri_core.simulation.vessels import with_vessels

RESOLUTION = 3.0
_MARGIN = 10.0
FIELD_ERROR = 0.03
"""Standard deviation of the log of what is left of a bias field."""
_MODULE = "qmri_core.simulation.sessions"
NOT_T1W = ("after agent", "proton density", "reference scan", "T2*", "B1 map")
"""Images that are called the T1w, and are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A session on its grid. ``others`` holds images by the name of what they are, ``mirrored`` the three mirrored."""

    group: str
    images: dict[Contrast, NDArray[np.float32]]
    acquisitions: dict[Contrast, Acquisition]
    mask: NDArray[np.uint8]
    spacing: tuple[float, float, float]
    others: dict[str, NDArray[np.float32]]
    mirrored: dict[Contrast, NDArray[np.float32]]


@cache
def atlas() -> Atlas:
    """The template's atlas."""
    return atlas_from_templates(tissue_templates(), resolution=RESOLUTION)


def plan_at(index: int, *, seed: int, groups: int = 16) -> PlannedSession:
    """Plan of one session; every second one has all that a scan can suffer from."""
    effects = "all,vessels" if index // groups % 2 else "default,tumours,ageing,vessels"
    return plan_cohort(sessions=max(index + 1, groups), groups=groups, seed=seed, effects=effects_of(effects))[index]


def scan(
    plan: PlannedSession, head: Atlas, *, resolution: float
) -> tuple[SimulatedSession, dict[Contrast, Volume], dict[Contrast, Acquisition], Grid]:
    """A simulated session without localizer and further series; its volumes, acquisitions and its group's grid."""
    with patch(f"{_MODULE}.localizer", lambda *_, **__: None), patch(f"{_MODULE}.further_series", lambda *_: []):
        session = simulate_session(plan, head, resolution=resolution)
    session = replace(session, series=tuple(one for one in session.series if one is not None))
    volumes = {one.series.contrast: one.volumes[0] for one in session.images}
    acquisitions = {
        one.series.contrast: acquisition_from_header(
            one.series.header, one.series.contrast, one.series.acquisition.sequence
        )
        for one in session.images
    }
    spacings = {contrast: canonical_spacing(volume.affine) for contrast, volume in volumes.items()}
    return session, volumes, acquisitions, grid_of(protocol_keys(acquisitions, spacings)[0])


def prepared(plan: PlannedSession, *, has_mistakes: bool = True, has_own_field: bool = False) -> Prepared:
    """Simulate a session and bring it to its grid; with the images of mistakes, and N4's bias field, if asked for."""
    session, volumes, acquisitions, grid = scan(plan, atlas(), resolution=RESOLUTION)
    rng = plan.generator(77)
    poses = {one.series.contrast: one.pose for one in session.images}
    pose = poses[Contrast.T2W]
    affine = grid.affine(np.eye(3), pose[:3, 3])
    mask, near = _mask(session, grid, affine, pose, float(rng.normal(0, 0.5)))

    fields: dict[Contrast, NDArray[np.float32]] = {}
    receive = np.log(session.fields.receive_sensitivity(session.anatomy))
    log_field = resample(Volume(array=receive, affine=pose @ session.anatomy.affine), grid, affine)
    flattening = {
        one.series.contrast: 0.3
        if "NORM" in one.series.codes.image_type and Effect.NORMALISATION in plan.effects
        else 1.0
        for one in session.images
    }
    axes = tuple((np.arange(n) - n / 2) * step for n, step in zip(grid.shape[::-1], grid.spacing, strict=True))

    def brought(volume: Volume, contrast: Contrast, *, is_mirrored: bool = False) -> NDArray[np.float32]:
        error = rigid(rng.normal(0, 1.0 if is_mirrored else 0.15, 3), rng.normal(0, 0.8 if is_mirrored else 0.2, 3))
        mirror = np.diag([-1.0 if is_mirrored else 1.0, 1.0, 1.0, 1.0])
        image = resample(volume, grid, affine, poses[contrast] @ error @ mirror @ np.linalg.inv(pose))
        if contrast not in fields and has_own_field:  # what is not what it is called lies in the same field
            fields[contrast] = bias_field(image, mask, grid.spacing)
        elif contrast not in fields:
            left = random_field(rng, spacing=80.0, sd=FIELD_ERROR).evaluate(*axes)
            flat = np.exp(np.nan_to_num(log_field, nan=0.0) * flattening[contrast] + left)
            fields[contrast] = (flat / np.exp(np.log(flat[mask > 0]).mean())).astype(np.float32)
        return np.where(near, image / fields[contrast], np.nan).astype(np.float32)

    images = {contrast: brought(volume, contrast) for contrast, volume in volumes.items()}
    others: dict[str, NDArray[np.float32]] = {}
    mirrored: dict[Contrast, NDArray[np.float32]] = {}
    if has_mistakes:
        others = {name: brought(_instead(session, name), Contrast.T1W) for name in NOT_T1W}
        mirrored = {contrast: brought(volume, contrast, is_mirrored=True) for contrast, volume in volumes.items()}
    return Prepared(
        group=plan.group,
        images=images,
        acquisitions=acquisitions,
        mask=mask,
        spacing=grid.spacing,
        others=others,
        mirrored=mirrored,
    )


def _mask(
    session: SimulatedSession, grid: Grid, affine: Affine, pose: Affine, widened: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The brain, widened by so many millimetres, and all within 10 mm of it."""
    inside = session.anatomy.fractions.sum(axis=0) > 0.5
    spacing = abs(float(session.anatomy.affine[0, 0]))
    inside = ndimage.binary_opening(inside, iterations=2)
    depth = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    volume = Volume(array=(depth * spacing).astype(np.float32), affine=pose @ session.anatomy.affine)
    distance = np.nan_to_num(resample(volume, grid, affine), nan=np.inf)
    return (distance < widened).astype(np.uint8), distance < _MARGIN


def _instead(session: SimulatedSession, name: str) -> Volume:
    """What was acquired in the T1w's place."""
    taken = next(one for one in session.images if one.series.contrast is Contrast.T1W)
    acquisition, anatomy, snr, fields = taken.series.acquisition, session.anatomy, taken.snr, session.fields
    rng = session.plan.generator(78, NOT_T1W.index(name))
    if name == "after agent":
        anatomy = with_vessels(_without_vessels(session), has_agent=True)
    elif name == "proton density":
        acquisition = Acquisition(
            contrast=Contrast.T1W, sequence=PulseSequence.SPIN_ECHO, field_strength=3.0, repetition_time=2.5,
            echo_time=0.012, flip_angle=math.pi / 2, refocusing_angle=math.pi,
        )  # fmt: skip
    elif name in ("reference scan", "B1 map"):
        acquisition = Acquisition(
            contrast=Contrast.T1W, sequence=PulseSequence.SPOILED_GRADIENT_ECHO, field_strength=3.0,
            repetition_time=4e-3, echo_time=0.75e-3, flip_angle=math.radians(1.0 if name == "B1 map" else 3.0),
        )  # fmt: skip
    elif name == "T2*":  # a spoiled gradient echo's numbers, but of a long echo time; T2 stands for T2*
        acquisition = Acquisition(
            contrast=Contrast.T1W, sequence=PulseSequence.SPOILED_GRADIENT_ECHO, field_strength=3.0,
            repetition_time=0.7, echo_time=0.02, flip_angle=math.radians(20),
        )  # fmt: skip
    volume = acquire(
        anatomy, acquisition, taken.series.geometry, affine=taken.volumes[0].affine, pose=taken.pose, fields=fields,
        rng=rng, resolution=RESOLUTION, scale=300 / ideal_signal(acquisition), snr=snr,
        flattening=0.3 if "NORM" in taken.series.codes.image_type else 1.0,
    )  # fmt: skip
    if name in ("reference scan", "B1 map"):  # of few and large voxels
        return replace(volume, array=ndimage.gaussian_filter(volume.array, 1.0 if name == "reference scan" else 2.5))
    return volume


def _without_vessels(session: SimulatedSession) -> Anatomy:
    plan = session.plan
    bare = replace(plan, effects=plan.effects - {Effect.VESSELS, Effect.CONTRAST_AGENT})
    return head_of(bare, atlas(), resolution=RESOLUTION)


def inverted(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bright and dark exchanged."""
    return np.asarray(np.maximum(np.nanquantile(image, 0.999) - image, 0), dtype=np.float32)


def as_t2w(flair: Acquisition) -> Acquisition:
    """What headers make of a FLAIR that lost its inversion time."""
    is_2d = flair.sequence is PulseSequence.INVERSION_RECOVERY_TSE
    sequence = PulseSequence.TURBO_SPIN_ECHO if is_2d else flair.sequence
    return replace(flair, contrast=Contrast.T2W, sequence=sequence, inversion_time=None)


def mistakes(
    session: Prepared, index: int
) -> Iterator[tuple[str, dict[Contrast, NDArray[np.float32]], dict[Contrast, Acquisition]]]:
    """Images and acquisitions with one mistake of each kind; which contrasts are concerned changes with ``index``."""
    images, stated = session.images, session.acquisitions
    t1w, t2w, flair = Contrast
    for name, image in session.others.items():
        yield name, {**images, t1w: image}, stated
    one, other = ((t1w, t2w), (t2w, flair), (t1w, flair))[index % 3]
    yield "names swapped", {**images, one: images[other], other: images[one]}, stated
    yield "FLAIR without TI", {t1w: images[t1w], t2w: images[flair]}, {**stated, t2w: as_t2w(stated[flair])}
    wrong = (t1w, t2w, flair)[index // 3 % 3]
    yield "inverted", {**images, wrong: inverted(images[wrong])}, stated
    twice, called = ((t2w, flair), (flair, t2w), (t1w, t2w), (t1w, flair), (t2w, t1w))[index % 5]
    yield "one contrast twice", {**images, called: images[twice]}, stated
    turned = (t1w, t2w, flair)[index % 3]
    yield "mirrored", {**images, turned: session.mirrored[turned]}, stated
