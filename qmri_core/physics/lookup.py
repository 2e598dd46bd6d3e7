"""Lookup of echo trains over (T1, T2, transmit scale): the phase graph at the price of a few gathers.

A table is built once per train. The phase graph runs at a few hundred to a few thousand Chebyshev nodes, whose
interpolant fills a fine table. Two smooth factors are stored: the echo per unit of Mz, after division by an
exponential in 1/T1 and 1/T2 that takes most of its variation, and Mz at the end of the train. What varies fast with
T1 (recovery, inversion, T2 preparation) is computed, so no null is interpolated across.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qmri_core.physics.phase_graph import echo_amplitude, longitudinal_after_train, scaled_angles
from qmri_core.physics.steady_state import longitudinal_at_excitation

T1_RANGE = (0.05, 6.0)
"""Seconds; `Lookup` clamps T1 to this range."""
T2_RANGE = (0.005, 3.0)
"""Seconds; `Lookup` clamps T2 to this range."""
SCALE_RANGE = (0.6, 1.4)
"""Transmit scales; `Lookup` clamps to this range."""

# below these the stored factors are continued as constants and the divided-out exponentials alone go on: short times
# make the stored factors steep, and no brain tissue is there
_T1_TABLE = (0.15, T1_RANGE[1])
_T2_TABLE = (0.018, T2_RANGE[1])
# coordinates 1/(t + offset): even in the rate for short times, even in its effect on the signal for long ones
_T1_OFFSET = 0.7
_T2_OFFSET = 0.05
_T2_GRID_OFFSET = 0.02
_SIZE = (72, 112, 160)
# Chebyshev nodes over (T1, T2, scale). Short trains are cheap and their echo may change its sign at short T2 or come
# close to zero; long variable trains have positive echoes, and their logarithm needs few nodes
_SHORT = 40
_NODES_PLAIN = (14, 48, 60)
_NODES_LOGARITHM = (14, 14, 40)
# share of the fitted exponential to divide out where the logarithm is not taken, lest short T2 blow the echo up
_PLAIN_SHARE = 0.7
_NODES_REMAINDER = (9, 10, 130)
# tables kept, 10 MB each in single precision
_KEPT = 64
# tables at one scale kept, 70 kB each: those of all trains of a large cohort
_KEPT_REDUCED = 512
# voxels at a time: such that the caches of a processor hold them; on a GPU, where a pass costs its start, many more
_BLOCKS = {"cpu": 1 << 16, "cuda": 1 << 22}


def _coordinates(times: tuple[float, float], offset: float) -> tuple[float, float]:
    """Interval of the coordinate ``1 / (time + offset)``, ascending."""
    return 1 / (times[1] + offset), 1 / (times[0] + offset)


_INTERVALS = (_coordinates(_T1_TABLE, _T1_OFFSET), _coordinates(_T2_TABLE, _T2_OFFSET), SCALE_RANGE)
_GRID_INTERVALS = (_INTERVALS[0], _coordinates(_T2_TABLE, _T2_GRID_OFFSET), SCALE_RANGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Settings of an echo train at steady state; hashable, so that a table is kept per train. SI units."""

    repetition_time: float
    echo_spacing: float
    centre_index: int
    refocusing_angles: tuple[float, ...]
    flip_angle: float = math.pi / 2
    inversion_time: float | None = None
    second_inversion_time: float | None = None
    inversion_efficiency: float = 1.0
    t2_preparation_time: float = 0.0
    refocusing_factor: float = 1.0

    @property
    def duration(self) -> float:
        """Seconds from the excitation to the end of the train."""
        return self.echo_spacing * len(self.refocusing_angles)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lookup:
    """Table of one train: call `lookup` to make or reuse one, `evaluate` to read it.

    Parameters
    ----------
    train
        Settings the table was made for.
    echo, remainder
        Flattened tables over (T1, T2, scale) of the echo factor and of Mz at the end of the train.
    rate_weights
        Seconds that multiply 1/T1 and 1/T2 in the exponential that was divided out of ``echo``.
    """

    train: Train
    echo: Tensor
    remainder: Tensor
    rate_weights: tuple[float, float]

    def evaluate(self, pd: Tensor, t1: Tensor, t2: Tensor, *, transmit_scale: Tensor | float = 1.0) -> Tensor:
        """Signed signal, as `qmri_core.physics.phase_graph.echo_train` of the train; NaN in gives NaN out.

        Parameters
        ----------
        pd, t1, t2
            Maps of broadcasting shapes; ``t1`` and ``t2`` in seconds, clamped to `T1_RANGE` and `T2_RANGE`.
        transmit_scale
            Actual over nominal angle, clamped to `SCALE_RANGE`.

        Returns
        -------
        Tensor
            Signal in the unit of ``pd``.
        """
        if isinstance(transmit_scale, Tensor):
            return self.read(pd, t1, t2, transmit_scale.to(t1))
        return _at_scale(self, float(transmit_scale)).read(pd, t1, t2)

    def read(self, *maps: Tensor) -> Tensor:
        """The same of ``pd``, ``t1``, ``t2`` and the scale; of a table from `lookup_at`, without the scale."""
        shape = np.broadcast_shapes(*(each.shape for each in maps))
        flat = [each.expand(shape).reshape(-1) for each in maps]
        # several times faster than whole volumes
        step = _BLOCKS.get(maps[1].device.type, 1 << 16)
        blocks = [slice(start, start + step) for start in range(0, max(1, flat[0].numel()), step)]
        return torch.cat([self._evaluate_block(*(each[block] for each in flat)) for block in blocks]).reshape(shape)

    def _evaluate_block(self, pd: Tensor, t1: Tensor, t2: Tensor, scale: Tensor | None = None) -> Tensor:
        t1 = t1.clamp(*T1_RANGE)
        t2 = t2.clamp(*T2_RANGE)
        corner, first = _position((t1 + _T1_OFFSET).reciprocal(), 0)
        cell, second = _position((t2 + _T2_GRID_OFFSET).reciprocal(), 1)
        corner = corner * _SIZE[1] + cell
        parts, strides = [first, second], [_SIZE[1], 1]
        if scale is not None:
            cell, third = _position(scale, 2)
            corner = corner * _SIZE[2] + cell
            parts, strides = [first, second, third], [_SIZE[1] * _SIZE[2], _SIZE[2], 1]
        echo = _interpolate(self.echo, corner, parts, strides)
        remainder = _interpolate(self.remainder, corner, parts, strides)
        echo = echo * torch.exp(self.rate_weights[0] / t1 + self.rate_weights[1] / t2)
        return pd * _at_excitation(self.train, remainder, t1, t2) * echo


@functools.lru_cache(maxsize=_KEPT)
def lookup(train: Train, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Lookup:
    """Return the table of ``train``, made on first use and then kept."""
    return _converted(train, dtype, device)


@functools.lru_cache(maxsize=_KEPT_REDUCED)
def lookup_at(train: Train, scale: float, dtype: torch.dtype, device: torch.device | None = None) -> Lookup:
    """Return the table of ``train`` at one transmit scale, for `Lookup.read`; the whole table is not kept."""
    return _at_scale.__wrapped__(_converted(train, dtype, device), scale)


def _converted(train: Train, dtype: torch.dtype, device: torch.device | None) -> Lookup:
    table = _build(train)
    return Lookup(
        train=train,
        echo=table.echo.to(device=device, dtype=dtype),
        remainder=table.remainder.to(device=device, dtype=dtype),
        rate_weights=table.rate_weights,
    )


@functools.lru_cache(maxsize=2)
def _at_scale(table: Lookup, scale: float) -> Lookup:
    """Reduce a table to one transmit scale: two dimensions instead of three."""
    cell, part = _position(torch.tensor([scale], dtype=torch.float64), 2)
    corner = torch.arange(_SIZE[0] * _SIZE[1], dtype=torch.int32) * _SIZE[2] + cell
    corner, part = corner.to(table.echo.device), part.to(table.echo)
    echo, remainder = (_interpolate(each, corner, [part], [1]) for each in (table.echo, table.remainder))
    return Lookup(train=table.train, echo=echo, remainder=remainder, rate_weights=table.rate_weights)


@functools.lru_cache(maxsize=2)
@torch.no_grad()
def _build(train: Train) -> Lookup:
    """Make the table in double precision on the CPU."""
    is_long = len(train.refocusing_angles) > _SHORT
    echo, rates = _at_nodes(_echo, train, _NODES_LOGARITHM if is_long else _NODES_PLAIN)
    positive = is_long and bool((echo > 0).all())
    usual = (rates[0] < 1 / 0.3) & (rates[1] < 1 / 0.03)
    design = torch.stack([torch.ones_like(rates[0]), *rates], -1)[usual]
    target = echo[usual].clamp(min=1e-6).log()[:, None]
    weights = torch.linalg.lstsq(design, target).solution[1:, 0]
    weights = weights * (1.0 if positive else _PLAIN_SHARE)
    exponent = weights[0] * rates[0] + weights[1] * rates[1]
    fine = _on_grid(echo.log() - exponent if positive else echo * torch.exp(-exponent))
    remainder, _ = _at_nodes(_remainder, train, _NODES_REMAINDER)
    return Lookup(
        train=train,
        echo=(fine.exp() if positive else fine).flatten(),
        remainder=_on_grid(remainder).flatten(),
        rate_weights=(float(weights[0]), float(weights[1])),
    )


def _echo(train: Train, t1: Tensor, t2: Tensor, scale: Tensor) -> Tensor:
    """Echo at the centre of k-space per unit of Mz at the excitation."""
    angles = scaled_angles(train.refocusing_angles, scale * train.refocusing_factor)
    amplitude = echo_amplitude(
        t1, t2, refocusing_angles=angles, echo_spacing=train.echo_spacing, centre_index=train.centre_index
    )
    return torch.sin(train.flip_angle * scale) * amplitude


def _remainder(train: Train, t1: Tensor, t2: Tensor, scale: Tensor) -> Tensor:
    """Mz at the end of the train at steady state."""
    angles = scaled_angles(train.refocusing_angles, scale * train.refocusing_factor)
    offset, gain = longitudinal_after_train(t1, t2, refocusing_angles=angles, echo_spacing=train.echo_spacing)
    gain = gain * torch.cos(train.flip_angle * scale)
    start = _at_excitation(train, offset, t1, t2)
    return offset + gain * start / (1 - _at_excitation(train, offset + gain, t1, t2) + start)


def _at_excitation(train: Train, remainder: Tensor, t1: Tensor, t2: Tensor) -> Tensor:
    return longitudinal_at_excitation(
        remainder,
        t1,
        t2,
        repetition_time=train.repetition_time,
        train_duration=train.duration,
        inversion_time=train.inversion_time,
        second_inversion_time=train.second_inversion_time,
        inversion_efficiency=train.inversion_efficiency,
        t2_preparation_time=train.t2_preparation_time,
    )


def _at_nodes(
    factor: Callable[[Train, Tensor, Tensor, Tensor], Tensor], train: Train, counts: tuple[int, int, int]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Evaluate a factor at the Chebyshev nodes, row by row to stay in the cache; and 1/T1, 1/T2 there."""
    nodes = [_chebyshev_nodes(interval, count) for interval, count in zip(_INTERVALS, counts, strict=True)]
    t1 = (1 / nodes[0] - _T1_OFFSET)[:, None, None].expand(counts)
    t2 = (1 / nodes[1] - _T2_OFFSET)[None, :, None].expand(counts)
    scale = nodes[2][None, None, :].expand(counts)
    rows = [factor(train, t1[row], t2[row], scale[row]) for row in range(counts[0])]
    return torch.stack(rows), (1 / t1, 1 / t2)


def _on_grid(values: Tensor) -> Tensor:
    """Take values at the Chebyshev nodes to the fine grid of the table."""
    at_t2 = torch.linspace(*_GRID_INTERVALS[1], _SIZE[1], dtype=torch.float64)
    grids = (
        torch.linspace(*_GRID_INTERVALS[0], _SIZE[0], dtype=torch.float64),
        1 / (1 / at_t2 - _T2_GRID_OFFSET + _T2_OFFSET),
        torch.linspace(*_GRID_INTERVALS[2], _SIZE[2], dtype=torch.float64),
    )
    matrices = [_chebyshev_matrix(*each) for each in zip(_INTERVALS, values.shape, grids, strict=True)]
    return torch.einsum("ijk,ai,bj,dk->abd", values, *matrices).contiguous()


def _chebyshev_nodes(interval: tuple[float, float], count: int) -> Tensor:
    low, high = interval
    angle = torch.pi * (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return (low + high) / 2 - (high - low) / 2 * torch.cos(angle)


def _chebyshev_matrix(interval: tuple[float, float], count: int, grid: Tensor) -> Tensor:
    """Matrix (grid, count) from values at the nodes of the interval to the points of ``grid``."""
    order = torch.arange(count, dtype=torch.float64)
    at_nodes = torch.cos(order[None] * torch.pi * (order[:, None] + 0.5) / count)
    weight = torch.full((count,), 2.0 / count, dtype=torch.float64)
    weight[0] /= 2
    low, high = interval
    angle = torch.arccos(((low + high - 2 * grid) / (high - low)).clamp(-1, 1))
    return torch.cos(order[None] * angle[:, None]) @ (at_nodes * weight).T


def _position(coordinate: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Cell index along an axis of the table and the part of the cell passed; NaN gives cell 0 and part NaN."""
    low, high = _GRID_INTERVALS[axis]
    step = (_SIZE[axis] - 1) / (high - low)
    position = (coordinate * step - low * step).clamp(0, _SIZE[axis] - 1)
    cell = position.detach().to(torch.int32).clamp(0, _SIZE[axis] - 2)
    return cell, position - cell


def _interpolate(table: Tensor, corner: Tensor, parts: list[Tensor], strides: list[int]) -> Tensor:
    """Interpolate linearly in the cells that start at ``corner``; gathers carry no gradient, the parts do."""
    if not parts:
        return table.index_select(0, corner)
    low = _interpolate(table, corner, parts[1:], strides[1:])
    high = _interpolate(table[strides[0] :], corner, parts[1:], strides[1:])
    return torch.lerp(low, high, parts[0])
