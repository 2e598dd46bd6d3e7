"""Deformable registration of maps of tissues: where each point of a session lies in a template.

Maps of probabilities are compared, not images, so that no contrast is expected: an affine by Gauss-Newton, then
diffeomorphic demons over all maps together (Vercauteren et al. 2009, NeuroImage 45:S61), from coarse to fine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.series.geometry import Affine, spacing_of

AFFINE_STEPS = 25
"""Most steps of Gauss-Newton; most need ten."""
_ENOUGH = 0.02
"""Millimetres of motion of the brain's rim below which the affine has been found."""
_RIM = 80.0
"""Millimetres from the middle of a brain to its rim."""
_LARGEST_STEP = 0.4
"""Voxels that one step of the demons moves at most: steps are then invertible, and so are chains of them."""
_FINISHED = 0.02
"""Voxels; mean motion per step below which a level of the demons has done its part."""
_BACK_STEPS, _BACK_ENOUGH = 50, 0.01
"""Steps of the search for the inverse of a warp, at most, and the millimetres of a step that end it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warp:
    """Where each point of a session lies in a template.

    Parameters
    ----------
    affine
        From displaced RAS mm of the session to RAS mm of the template.
    displacement
        Millimetres (x, y, z) in the session's frame that are added to a point before, at nodes, shape (3, z, y, x).
    nodes
        From index (x, y, z) of the nodes to RAS mm of the session; axes at right angles, evenly spaced.
    """

    affine: Affine
    displacement: NDArray[np.float32]
    nodes: Affine

    def points(self, places: NDArray[np.floating]) -> NDArray[np.float32]:
        """RAS mm of the template, shape (3, ...), of RAS mm ``places`` of the session, shape (3, ...)."""
        index = _moved(np.linalg.inv(self.nodes), torch.from_numpy(places.astype(np.float32)))
        field = _sampled(torch.from_numpy(self.displacement), index, beyond="border")
        moved = torch.from_numpy(places.astype(np.float32)) + field
        return np.asarray(_moved(self.affine, moved).numpy())

    def back(self, places: NDArray[np.floating]) -> NDArray[np.float32]:
        """RAS mm of the session, shape (3, ...), of RAS mm ``places`` of the template: the inverse of `points`.

        By fixed-point iteration, which ends where displacements change by less than a millimetre per millimetre.
        """
        displaced = _moved(np.linalg.inv(self.affine), torch.from_numpy(places.astype(np.float32)))
        field, to_node = torch.from_numpy(self.displacement), np.linalg.inv(self.nodes)
        found = displaced
        for _ in range(_BACK_STEPS):
            before, found = found, displaced - _sampled(field, _moved(to_node, found), beyond="border")
            if float((found - before).abs().max()) < _BACK_ENOUGH:
                break
        return np.asarray(found.numpy())

    def jacobian(self) -> NDArray[np.float32]:
        """Volume of the template's brain over that of the session's, over what the affine makes of it, at the nodes."""
        gradients = _gradients(torch.from_numpy(self.displacement), self.nodes)  # (of, along, z, y, x)
        matrix = gradients.permute(2, 3, 4, 0, 1) + torch.eye(3)
        return np.asarray(torch.linalg.det(matrix).numpy(), dtype=np.float32)


def sampled(
    values: NDArray[np.floating], affine: Affine, places: NDArray[np.floating], *, is_nearest: bool = False
) -> NDArray[np.float32]:
    """Values of maps (map, z, y, x) at RAS mm ``places`` (3, ...): linear, or of the nearest voxel; 0 beyond."""
    index = _moved(np.linalg.inv(affine), torch.from_numpy(places.astype(np.float32)))
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(_sampled(tensor, index, mode="nearest" if is_nearest else "bilinear").numpy())


def places_of(shape: Sequence[int], affine: Affine) -> NDArray[np.float32]:
    """RAS mm of the voxels of a grid of a shape (z, y, x), shape (3, z, y, x)."""
    index = np.stack(np.meshgrid(*(np.arange(size, dtype=np.float32) for size in shape), indexing="ij")[::-1])
    return np.asarray(_moved(affine, torch.from_numpy(index)).numpy())


def identity(shape: Sequence[int], nodes: Affine, affine: Affine) -> Warp:
    """A warp that is its affine."""
    return Warp(affine=affine, displacement=np.zeros((3, *shape), dtype=np.float32), nodes=nodes)


def fit_affine(
    fixed: NDArray[np.floating],
    nodes: Affine,
    moving: NDArray[np.floating],
    affine: Affine,
    start: Affine,
    *,
    blur: float,
) -> Affine:
    """Affine from RAS mm of ``fixed`` to those of ``moving`` under which their maps differ least.

    Gauss-Newton with Levenberg's damping on the sum of squares over all maps.

    Parameters
    ----------
    fixed, moving
        Maps of the same things, shape (map, z, y, x), from 0 to 1, 0 beyond.
    nodes, affine
        Of the voxels of ``fixed`` and of ``moving``.
    start
        Where the search starts.
    blur
        Standard deviation in mm by which both are blurred before.
    """
    target = _blurred(fixed, nodes, blur)
    source = _blurred(moving, affine, blur)
    slopes = _gradients(source, affine)  # (map, along, z, y, x), per mm of the template
    places = torch.from_numpy(places_of(fixed.shape[1:], nodes)).reshape(3, -1)
    centre = places.mean(dim=1, keepdim=True)
    offsets = torch.cat([(places - centre) / _RIM, torch.ones((1, places.shape[1]))])
    flat = target.reshape(target.shape[0], -1)
    to_index = np.linalg.inv(affine)

    def residual(matrix: Affine) -> tuple[torch.Tensor, torch.Tensor]:
        index = _moved(to_index @ matrix, places)
        return _sampled(source, index) - flat, index

    def parameters(matrix: Affine) -> torch.Tensor:
        shift = matrix[:3, :3] @ centre[:, 0].double().numpy() + matrix[:3, 3]
        return torch.from_numpy(np.column_stack([matrix[:3, :3] * _RIM, shift]).reshape(-1))

    def matrix_of(values: torch.Tensor) -> Affine:
        rows = values.reshape(3, 4).numpy()
        result = np.eye(4)
        result[:3, :3] = rows[:, :3] / _RIM
        result[:3, 3] = rows[:, 3] - result[:3, :3] @ centre[:, 0].double().numpy()
        return result

    current = parameters(start)
    left, index = residual(matrix_of(current))
    cost = float((left.double() ** 2).sum())
    damping = 1e-3
    for _ in range(AFFINE_STEPS):
        along = _sampled(slopes.flatten(0, 1), index).reshape(left.shape[0], 3, -1)
        design = (along[:, :, None] * offsets[None, None]).reshape(left.shape[0], 12, -1)
        normal = torch.einsum("kan,kbn->ab", design, design).double()
        right = torch.einsum("kan,kn->a", design, left).double()
        step = torch.linalg.solve(normal + damping * torch.diag(normal.diagonal() + 1e-6), right)
        proposed = current - step
        other, places_there = residual(matrix_of(proposed))
        new = float((other.double() ** 2).sum())
        if new < cost:
            current, left, index, cost, damping = proposed, other, places_there, new, damping / 3
            if float(step.abs().max()) < _ENOUGH:
                break
        else:
            damping *= 10
            if damping > 1e3:
                break
    return matrix_of(current)


def fit_displacement(
    fixed: NDArray[np.floating],
    moving: NDArray[np.floating],
    affine: Affine,
    start: Warp,
    *,
    n_steps: int,
    blur: float,
    fluid: float,
    elastic: float,
) -> Warp:
    """Displacement at the nodes of ``start`` under which maps of a session and of a template differ less.

    Parameters
    ----------
    fixed
        Maps at the nodes, shape (map, z, y, x), from 0 to 1.
    moving, affine
        Maps of the template, and of its voxels.
    start
        Where the search starts; its affine stays.
    n_steps
        At most.
    blur
        Standard deviation in mm by which ``fixed`` is blurred before.
    fluid, elastic
        Standard deviations in mm of the smoothing of a step and of the whole displacement.
    """
    spacing = spacing_of(start.nodes)
    places = torch.from_numpy(places_of(fixed.shape[1:], start.nodes))
    target = _blurred(fixed, start.nodes, blur)
    source = torch.from_numpy(np.ascontiguousarray(moving, dtype=np.float32))
    to_index, to_node = np.linalg.inv(affine) @ start.affine, np.linalg.inv(start.nodes)
    rotation = torch.from_numpy((start.nodes[:3, :3] / spacing).astype(np.float32))  # of the nodes' axes
    field = torch.from_numpy(start.displacement)
    fixed_slopes = _gradients(target, start.nodes)
    scale = float(spacing.mean()) ** 2
    for _ in range(n_steps):
        warped = _sampled(source, _moved(to_index, places + field))
        left = warped - target
        slopes = (_gradients(warped, start.nodes) + fixed_slopes) / 2
        force = -(left[:, None] * slopes).sum(dim=0)
        weight = (slopes**2).sum(dim=(0, 1)) + (left**2).sum(dim=0) / scale
        step = force / weight.clamp_min(1e-4 / scale)
        step = _smoothed(step, fluid / spacing)
        longest = float(torch.linalg.vector_norm(torch.einsum("ji,j...->i...", rotation, step), dim=0).max())
        limit = _LARGEST_STEP * float(spacing.min())
        step *= min(1.0, limit / max(longest, 1e-9)) if longest > limit else 1.0
        field = step + _sampled(field, _moved(to_node, places + step), beyond="border")
        field = _smoothed(field, elastic / spacing)
        if float(step.abs().mean()) < _FINISHED * float(spacing.min()) * 0.1:
            break
    return replace(start, displacement=np.ascontiguousarray(field.numpy(), dtype=np.float32))


def on_nodes(warp: Warp, shape: Sequence[int], nodes: Affine) -> Warp:
    """The same warp with its displacement at other nodes, of a shape (z, y, x)."""
    index = _moved(np.linalg.inv(warp.nodes), torch.from_numpy(places_of(shape, nodes)))
    field = _sampled(torch.from_numpy(warp.displacement), index, beyond="border")
    return Warp(affine=warp.affine, displacement=np.asarray(field.numpy(), dtype=np.float32), nodes=nodes)


def overlap(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Dice of two maps of probabilities: twice the sum of the lesser over the sum of both."""
    total = float(one.sum() + other.sum())
    return 2 * float(np.minimum(one, other).sum()) / total if total > 0 else math.nan


def _moved(matrix: NDArray[np.floating], points: torch.Tensor) -> torch.Tensor:
    """Points (3, ...) under a homogeneous matrix."""
    turn = torch.from_numpy(matrix[:3, :3].astype(np.float32))
    shift = torch.from_numpy(matrix[:3, 3].astype(np.float32))
    return torch.einsum("ij,j...->i...", turn, points) + shift.reshape(3, *([1] * (points.dim() - 1)))


def _sampled(
    values: torch.Tensor, index: torch.Tensor, *, beyond: str = "zeros", mode: str = "bilinear"
) -> torch.Tensor:
    """Values (map, z, y, x) at voxel indices (3, ...) in the order x, y, z; shape (map, ...)."""
    size = torch.tensor(values.shape[:0:-1], dtype=torch.float32).clamp_min(2)
    grid = index.flatten(1).T * (2 / (size - 1)) - 1
    found = torch.nn.functional.grid_sample(
        values[None], grid[None, None, None], mode=mode, padding_mode=beyond, align_corners=True
    )
    return found.reshape(values.shape[0], *index.shape[1:])


def _gradients(values: torch.Tensor, affine: Affine) -> torch.Tensor:
    """Slopes per mm along x, y, z of the world, shape (map, 3, z, y, x)."""
    along = torch.stack(torch.gradient(values, dim=(3, 2, 1)), dim=1)  # per voxel along x, y, z
    turn = torch.from_numpy(np.linalg.inv(affine[:3, :3]).astype(np.float32))
    return torch.einsum("aw,ka...->kw...", turn, along)


def _smoothed(field: torch.Tensor, sigmas: NDArray[np.floating]) -> torch.Tensor:
    """Each map smoothed by a Gaussian of so many voxels along x, y, z; the edge goes on."""
    values = field.numpy()
    along = tuple(sigmas[::-1].tolist())
    parts = [ndimage.gaussian_filter(part, along, mode="nearest", truncate=3.0) for part in values]
    return torch.from_numpy(np.stack(parts))


def _blurred(maps: NDArray[np.floating], affine: Affine, blur: float) -> torch.Tensor:
    along = tuple((blur / spacing_of(affine)[::-1]).tolist())
    parts = [ndimage.gaussian_filter(np.asarray(part, dtype=np.float32), along, mode="constant") for part in maps]
    return torch.from_numpy(np.stack(parts))
