"""Vessels, dura and choroid plexus of a simulated head, and what a contrast agent does to them and to lesions.

They are put into a head that is there already, so that heads without them stay what they are. Blood stands still: there
is neither inflow nor flow void.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.simulation.anatomies import Anatomy
from qmri_core.simulation.subjects import CLASSES, TissueValues

RELAXIVITY = (5.0, 7.1)
"""Increase of R1 and R2 by gadobutrol in plasma at 3 T, per second and mmol/l: Rohrer 2005, Invest Radiol 40:715 (not
checked against the paper)."""
CONCENTRATION: Mapping[str, float] = {"blood": 0.5, "dura": 0.3, "plexus": 0.4, "lesion": 0.25, "tumour": 0.3}
"""Agent in mmol per litre of tissue some five minutes after .1 mmol per kg: that dose in the .2 l/kg of plasma and
extracellular water is .5 mmol/l; what other tissues take up of it is assumed."""
ENHANCING_SHARE = 0.3
"""Share of people with lesions whose lesions enhance, and of those with a tumour; assumed."""
VALUES: Mapping[str, TissueValues] = {
    "blood": TissueValues(t1=1.65, t2=0.07, pd=0.90),
    "dura": TissueValues(t1=1.00, t2=0.03, pd=0.60),
    "plexus": TissueValues(t1=1.60, t2=0.12, pd=0.90),
}
"""T1 of venous blood at 3 T as in Lu 2004, Magn Reson Med 52:679 (1.62 s; not checked); all else is assumed."""
_TUBES: tuple[tuple[tuple[float, float, float], tuple[float, float, float], float], ...] = (
    ((0, -38, 4), (0, -72, -18), 2.5),  # straight sinus
    ((2, 8, 9), (2, -32, 11), 1.3),  # internal cerebral vein
    ((11, 22, -42), (11, 26, -24), 2.2),  # internal carotid
    ((11, 26, -24), (42, 22, -18), 1.5),  # middle cerebral artery
    ((2, 34, -20), (2, 52, 4), 1.2),  # anterior cerebral artery
    ((0, 4, -58), (0, 8, -32), 1.8),  # basilar artery
    ((42, 22, -18), (54, -10, 8), 1.2),  # a branch in the Sylvian fissure
)
"""Ends and radius in millimetres from the centre of the brain, right side and mirrored: rough places, read off nothing
but an atlas's pictures."""
_N_VEINS = 16


def with_vessels(anatomy: Anatomy, *, has_agent: bool = False) -> Anatomy:
    """Put vessels, dura and plexus into a head; with an agent, they and some people's lesions have short T1 and T2.

    Follows from the subject's seed. Labels and the tissue map stay; fractions, T1, T2 and PD change where a vessel is.

    Parameters
    ----------
    anatomy
        The head, whole.
    has_agent
        True for a series after an injection.
    """
    agent = CONCENTRATION if has_agent else dict.fromkeys(CONCENTRATION, 0.0)
    parts = _places(anatomy)
    left = 1 - np.clip(sum(parts.values(), np.zeros_like(anatomy.pd)), 0, 1)
    pd = anatomy.pd * left
    r1, r2 = pd / anatomy.t1, pd / anatomy.t2
    for name, weight in _taken_up(anatomy, agent).items():
        r1 += pd * weight * RELAXIVITY[0] * agent[name]
        r2 += pd * weight * RELAXIVITY[1] * agent[name]
    for name, weight in parts.items():
        values = VALUES[name]
        density = values.pd * weight
        pd = pd + density
        r1 += density * (1 / values.t1 + RELAXIVITY[0] * agent[name])
        r2 += density * (1 / values.t2 + RELAXIVITY[1] * agent[name])
    is_empty = pd < 1e-3
    return replace(
        anatomy,
        t1=np.where(is_empty, 1.0, pd / np.maximum(r1, 1e-9)).astype(np.float32),
        t2=np.where(is_empty, 0.1, pd / np.maximum(r2, 1e-9)).astype(np.float32),
        pd=np.where(is_empty, 0.0, pd).astype(np.float32),
        fractions=(anatomy.fractions * left).astype(np.float32),
    )


def _taken_up(anatomy: Anatomy, agent: Mapping[str, float]) -> dict[str, NDArray[np.float32]]:
    """Where lesions and tumours take up agent: a core of each that enhances."""
    rng = np.random.default_rng([anatomy.subject.seed, 17])
    result = {}
    for name in ("lesion", "tumour"):
        does_enhance = rng.random() < ENHANCING_SHARE
        if does_enhance and agent[name]:
            result[name] = (anatomy.labels == CLASSES.index(name) + 1).astype(np.float32)
    return result


@dataclass(frozen=True, slots=True)
class _Head:
    """Coordinates (x, y, z) of every voxel, the depth below the brain's envelope in mm, and the spacing."""

    points: NDArray[np.float32]
    depth: NDArray[np.float32]
    spacing: float

    def within(self, distance: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
        """Fraction of each voxel within ``radius`` of where ``distance`` is 0."""
        return np.asarray(np.clip((radius - distance) / self.spacing + 0.5, 0, 1), dtype=np.float32) * np.float32(
            min(1.0, 2 * radius / self.spacing) ** 2  # thinner than a voxel
        )


def _places(anatomy: Anatomy) -> dict[str, NDArray[np.float32]]:
    """Fractions of blood, dura and plexus."""
    rng = np.random.default_rng([anatomy.subject.seed, 19])
    fluid = anatomy.fractions[0]
    inside = anatomy.fractions.sum(axis=0) > 0.5
    spacing = abs(float(anatomy.affine[0, 0]))
    depth = ndimage.distance_transform_edt(inside, sampling=spacing) - ndimage.distance_transform_edt(
        ~inside, sampling=spacing
    )
    axes = [anatomy.affine[k, 3] + anatomy.affine[k, k] * np.arange(anatomy.pd.shape[2 - k]) for k in range(3)]
    x, y, z = np.meshgrid(*reversed(axes), indexing="ij")[::-1]
    head = _Head(np.stack([x, y, z]).astype(np.float32), depth.astype(np.float32), spacing)
    blood = _sinuses(head)
    for start, end, radius in _TUBES:
        for side in (1, -1) if start[0] or end[0] else (1,):
            ends = np.array([start, end], dtype=float) * (side, 1, 1) * anatomy.subject.scale
            blood = np.maximum(blood, head.within(_to_segment(head.points, ends + rng.normal(0, 1.0, (2, 3))), radius))
    for _ in range(_N_VEINS):
        blood = np.maximum(blood, _cortical_vein(head, fluid, rng))
    shell = head.within(np.abs(head.depth + 0.5), 0.6) + head.within(np.abs(head.points[0]), 0.6) * (
        fluid * (head.points[2] > 0) * (head.depth > 0)
    )
    dura = np.clip(shell, 0, 1) * (1 - blood)
    plexus = np.zeros_like(blood)
    for side in (1, -1):
        offset = head.points - (np.array([22.0 * side, -24.0, 5.0]) * anatomy.subject.scale).reshape(3, 1, 1, 1)
        radius = np.sqrt(np.sum((offset / np.array([5.0, 10.0, 6.0]).reshape(3, 1, 1, 1)) ** 2, axis=0))
        plexus += np.asarray(np.clip((1 - radius) * 5 / spacing + 0.5, 0, 1), dtype=np.float32)
    plexus *= 0.7 * fluid * (head.depth > 15) * (1 - blood)
    return {"blood": blood, "dura": dura, "plexus": plexus}


def _sinuses(head: _Head) -> NDArray[np.float32]:
    """The superior sagittal and the transverse sinuses, on the brain's surface."""
    x, y, z = head.points
    outside = np.abs(head.depth + 2.5)
    sagittal = np.hypot(x, outside) + 100 * ((z < -20) | (y > 55) & (z < 20))
    transverse = np.hypot(z + 22, outside) + 100 * ((y > -45) | (z > 0))
    return np.maximum(head.within(sagittal, 3.5), head.within(transverse, 3.0))


def _cortical_vein(head: _Head, fluid: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A vein in the fluid over the convexity, from a random place to the middle."""
    side, y, z = rng.choice((-1, 1)), rng.uniform(-60, 50), rng.uniform(5, 40)
    plane = np.abs(head.points[1] - y - 0.3 * (np.abs(head.points[0]) - 20))
    along = np.hypot(plane, np.maximum(np.abs(head.depth - 1.0) - 0.5, 0))
    along = along + 100 * ((head.points[2] < z) | (head.points[0] * side < 0))
    return np.asarray(head.within(along, rng.uniform(0.9, 1.6)) * np.maximum(fluid, head.depth < 1.0), dtype=np.float32)


def _to_segment(points: NDArray[np.float32], ends: NDArray[np.float64]) -> NDArray[np.float32]:
    """Distance in mm of each point to the line between two ends."""
    start, along = ends[0], ends[1] - ends[0]
    offset = points - start.reshape(3, 1, 1, 1)
    share = np.clip(np.tensordot(along, offset, axes=1) / (along @ along), 0, 1)
    return np.asarray(np.linalg.norm(offset - share * along.reshape(3, 1, 1, 1), axis=0), dtype=np.float32)
