"""Parts of sessions, and how parts of several share a device call so that nobody's maps depend on the company."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmri_core.calibration.expectation import UNTOLD
from qmri_core.calibration.session_model import PersonLevels
from qmri_core.mapping.network import MULTIPLE, REACH
from qmri_core.mapping.voxelwise import VoxelwiseEstimator, estimator
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.series.geometry import inside_of

WAITING = 2
"""Calls' worth of voxels that wait for company at most: beyond it the fullest call goes as it is."""
MANY_PLANES = 16
LARGE_PLANE = 1 << 14
"""PyTorch's choice of convolutions on a CPU changes at these numbers of planes, and of voxels of a plane that is alone
in its call (``use_mkldnn`` in its ``aten/src/ATen/native/Convolution.cpp``, version 2.8; the second with a margin).
Within them, a plane's result was found to be the same to the bit in every company."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Some slices of one session: the voxels inside its mask, packed, and what else their maps are made from."""

    owner: str
    """Whose it is."""
    where: slice
    """Its slices."""
    relative: Tensor
    """Signals relative to the reference white matter, shape (contrast, voxel), in the order of ``inside``."""
    inside: Tensor
    """Brain mask, cropped, shape (slice, y, x), y and x multiples of `MULTIPLE`."""
    acquisitions: Mapping[Contrast, Acquisition]
    physics: VoxelwiseEstimator
    to_median: Tensor
    """Brain median over the reference white matter, inverted, by contrast."""
    person: PersonLevels | None

    def halves(self) -> tuple[Part, ...]:
        """The part in two, by slices; itself alone if it has one slice."""
        middle = len(self.inside) // 2
        if middle == 0:
            return (self,)
        n = int(self.inside[:middle].sum())
        at = self.where.start + middle
        return (
            replace(
                self,
                where=slice(self.where.start, at),
                inside=self.inside[:middle],
                relative=self.relative[:, :n].contiguous(),
            ),
            replace(
                self,
                where=slice(at, self.where.stop),
                inside=self.inside[middle:],
                relative=self.relative[:, n:].contiguous(),
            ),
        )


def parts_of(
    owner: str,
    images: Mapping[Contrast, NDArray[np.float32]],
    inside: NDArray[np.bool_],
    acquisitions: Mapping[Contrast, Acquisition],
    scales: Mapping[Contrast, float],
    person: PersonLevels | None,
    *,
    slices: int,
) -> list[Part]:
    """Parts of so many slices of one session, those without brain left out.

    Parameters
    ----------
    owner
        Name of the session.
    images, acquisitions, scales, person
        As in `qmri_core.mapping.inference.session_maps`.
    inside
        Where maps are made, of the images' shape; somewhere.
    """
    physics = estimator(acquisitions, expected=UNTOLD if person is None else person.expectation)
    # of the images, per unit of signal relative to white matter; a median of zero ends the session with an error
    units = physics.units(scales)
    medians = [float(np.median(images[contrast][inside])) for contrast in physics.contrasts]
    to_median = torch.tensor([unit / median for unit, median in zip(units, medians, strict=True)])
    parts = []
    for start in range(0, inside.shape[0], slices):
        some = slice(start, min(start + slices, inside.shape[0]))
        where = inside[some]
        if not where.any():
            continue
        planes = [images[contrast][some][where] for contrast in physics.contrasts]
        signals = [plane / unit for plane, unit in zip(planes, units, strict=True)]
        parts.append(
            Part(
                owner=owner,
                where=some,
                relative=torch.from_numpy(np.stack(signals, dtype=np.float32)),
                inside=torch.from_numpy(cropped(where)),
                acquisitions=acquisitions,
                physics=physics,
                to_median=to_median,
                person=person,
            )
        )
    return parts


def mapped(images: Mapping[Contrast, NDArray[np.float32]], mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where maps are made: in the mask, where every contrast is finite."""
    return inside_of(images.values(), mask)


def cropped(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (slice, y, x) without what the network cannot see from within it, in y and x padded to `MULTIPLE`.

    The crop starts at a multiple of `MULTIPLE`: the network averages the same voxels as in the whole slice.
    """
    padding = [(0, -size % MULTIPLE) for size in inside.shape[1:]]
    spans = []
    for axis, (_, extra) in enumerate(padding, start=1):
        at = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        first = max(0, at[0] - REACH) // MULTIPLE * MULTIPLE
        end = min(inside.shape[axis] + extra, at[-1] + 1 + REACH)
        spans.append(slice(first, end + -end % MULTIPLE))
    return np.pad(inside, [(0, 0), *padding])[:, spans[0], spans[1]]


def in_calls(parts: Iterable[Part], voxels: Callable[[], int], *, same_to_the_bit: bool = True) -> Iterator[list[Part]]:
    """Parts in calls: those whose planes are of one shape together, until so many voxels of planes are full.

    Parts are taken one by one, and few wait for company (`WAITING`), however many there are.

    Parameters
    ----------
    voxels
        Asked before each part, since it can become less; a part that is larger is a call by itself.
    same_to_the_bit
        Let planes share only calls in which PyTorch computes them, on a CPU, as it does without the company.
    """
    waiting: dict[tuple[int, int, bool], list[Part]] = {}
    for part in parts:
        size = voxels()
        if same_to_the_bit and _is_alone(part):
            yield [part]
            continue
        y, x = part.inside.shape[1:]
        many = not same_to_the_bit or len(part.inside) >= MANY_PLANES
        room = max(1, size // (y * x))  # planes
        most = room if many else min(room, MANY_PLANES - 1)
        kind = (y, x, many)
        together = waiting.get(kind, [])
        if together and _planes(together) + len(part.inside) > most:
            yield waiting.pop(kind)
        waiting.setdefault(kind, []).append(part)
        if _planes(waiting[kind]) >= most:
            yield waiting.pop(kind)
        while waiting and sum(map(_voxels, waiting.values())) > WAITING * size:
            yield waiting.pop(max(waiting, key=lambda kind: _voxels(waiting[kind])))
    yield from waiting.values()


def _is_alone(part: Part) -> bool:
    return len(part.inside) == 1 and part.inside.numel() < LARGE_PLANE


def _planes(parts: Iterable[Part]) -> int:
    return sum(len(part.inside) for part in parts)


def _voxels(parts: Iterable[Part]) -> int:
    return sum(part.inside.numel() for part in parts)
