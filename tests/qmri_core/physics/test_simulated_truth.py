"""Without effects, a simulated series is what independent code computes from the truth, and inverts to the truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from qmri_core.physics.information import condition_number, jacobian
from qmri_core.series.acquisition import Acquisition
from qmri_core.simulation.acquisition import UNIFORM, acquire
from qmri_core.simulation.anatomies import Anatomy
from qmri_core.simulation.protocols import SliceGeometry, protocol_table
from qmri_core.simulation.subjects import TissueValues, draw_subject
from tests.phantoms import phantom_anatomy
from tests.qmri_core.physics.oracle_tables import Table, read_tables

GEOMETRY = SliceGeometry(plane="axial", in_plane=4.0, thickness=4.0, gap=0.0)
GRID = np.diag([4.0, 4.0, 4.0, 1.0])
SMALLEST = 5e-3
"""Below, and beyond a T1 of 2.2 s for long trains of pulses, the tables are not exact to a thousandth."""


def one_of_each() -> list[Table]:
    """One protocol of each family: the lookup of a long train takes seconds to make."""
    return list({table.family: table for table in reversed(read_tables())}.values())


def painted(t1: np.ndarray, t2: np.ndarray) -> Anatomy:
    """Slices of one tissue each, proton density 1; the last is CSF with the times of the last row."""
    shape = (len(t1), 5, 5)
    subject = draw_subject(0)
    csf = TissueValues(t1=float(t1[-1]), t2=float(t2[-1]), pd=1.0)
    fractions = np.zeros((3, *shape), dtype=np.float32)
    fractions[2, :-1], fractions[0, -1] = 1, 1
    return Anatomy(
        t1=np.broadcast_to(t1[:, None, None], shape).astype(np.float32),
        t2=np.broadcast_to(t2[:, None, None], shape).astype(np.float32),
        pd=np.ones(shape, dtype=np.float32),
        fractions=fractions,
        tissue=np.full(shape, 3, dtype=np.uint8),
        labels=np.full(shape, 3, dtype=np.uint8),
        affine=GRID,
        subject=replace(subject, values={**subject.values, "csf": csf}),
    )


def image(anatomy: Anatomy, acquisition: Acquisition, level: float = 1.0) -> np.ndarray:
    """Noise-free image of the anatomy on its own grid, in a uniform field."""
    volume = acquire(
        anatomy, acquisition, GEOMETRY, affine=anatomy.affine, pose=np.eye(4), fields=replace(UNIFORM, level=level),
        rng=np.random.default_rng(0), resolution=4.0, snr=np.inf,
    )  # fmt: skip
    return volume.array


@pytest.mark.skipif(not read_tables(), reason="needs the reference tables; set QMRI_ORACLE_DIR")
@pytest.mark.parametrize("table", one_of_each(), ids=lambda table: table.family)
def test_series_without_effects_are_those_of_independent_code(table: Table) -> None:
    expected = (table.signal if table.ideal is None else table.ideal.abs()).numpy()
    known = (expected > SMALLEST) & (table.t1.numpy() < 2.2)
    checked = 0
    for level in np.unique(table.transmit_scale.numpy()):
        rows = known & (table.transmit_scale.numpy() == level)
        anatomy = painted(table.t1.numpy()[rows], table.t2.numpy()[rows])
        got = image(anatomy, table.acquisition, float(level))[: rows.sum(), 2, 2]
        assert_allclose(got, expected[rows], rtol=1e-3)
        checked += rows.sum()
    assert checked > 20


@pytest.mark.parametrize("group", ["G08", "G14"])
def test_truth_comes_back_voxel_by_voxel(group: str) -> None:
    head = phantom_anatomy(0)
    protocol = next(p for p in protocol_table() if p.name == group)
    acquisitions = [series.acquisition for series in protocol.series]
    z, y, x = np.nonzero((head.fractions[0] < 1e-4) & (head.fractions[1] + head.fractions[2] > 0.999))
    # the series' field of view begins at the first voxel of the head's grid
    seen = (z < 44) & (y < 60) & (x < 54)
    chosen = np.random.default_rng(0).choice(np.flatnonzero(seen), 50, replace=False)
    at = z[chosen], y[chosen], x[chosen]
    data = torch.tensor(np.stack([image(head, a)[at] for a in acquisitions], axis=-1), dtype=torch.float64)
    truth = torch.tensor(np.stack([head.t1[at], head.t2[at], head.pd[at]], axis=-1), dtype=torch.float64)
    is_white = torch.tensor(head.fractions[2][at] > 0.5)
    start = torch.where(is_white[:, None], torch.tensor([0.85, 0.07, 0.69]), torch.tensor([1.4, 0.095, 0.82]))
    logs = start.double().log()
    for _ in range(14):
        t1, t2, pd = logs.exp().unbind(-1)
        signals, slopes = jacobian(acquisitions, pd, t1, t2)
        # Gauss-Newton on log signals, with steps of at most 20 %
        step = torch.linalg.lstsq(slopes / signals[..., None], (data / signals.abs()).log()[..., None]).solution
        logs = logs + step[..., 0].clamp(-0.2, 0.2)
    signals, slopes = jacobian(acquisitions, truth[:, 2], truth[:, 0], truth[:, 1])
    is_well_posed = condition_number(signals, slopes) < 50
    assert is_well_posed.sum() > 20
    assert_allclose(logs.exp()[is_well_posed], truth[is_well_posed], rtol=1e-2)
    assert math.isfinite(float(logs.sum()))
