"""Every signal model against every row of independent phase-graph simulations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qmri_core.physics.registry import fast_signal, signal
from qmri_core.physics.sequences import ECHO_TRAINS, SPOILED
from qmri_core.series.acquisition import PulseSequence
from tests.qmri_core.physics.oracle_tables import FAMILIES, FOLDER, Table, read_tables

TABLES = read_tables()
pytestmark = pytest.mark.skipif(not TABLES, reason=f"no oracle tables in {FOLDER.name} (QMRI_ORACLE_DIR)")


def tables(*families: str, slow_from: int | None = None) -> pytest.MarkDecorator:
    """One test per protocol of the families."""
    chosen = [table for table in TABLES if table.family in families]
    seen: dict[str, int] = {}
    parameters = []
    for table in chosen:
        seen[table.family] = seen.get(table.family, 0) + 1
        is_slow = slow_from is not None and seen[table.family] > slow_from
        parameters.append(pytest.param(table, id=table.protocol, marks=[pytest.mark.walk] if is_slow else []))
    return pytest.mark.parametrize("table", parameters)


TRAINS = ("tse2d_t1w", "tse2d_t2w", "tse3d_t2w", "flair2d", "t1flair2d", "flair3d")
LONG = ("tse3d_t2w", "flair3d")


def evaluate(model: object, table: Table, dtype: torch.dtype = torch.float64) -> Tensor:
    maps = (torch.ones_like(table.t1), table.t1, table.t2)
    pd, t1, t2 = (each.to(dtype) for each in maps)
    return model(table.acquisition, pd, t1, t2, transmit_scale=table.transmit_scale.to(dtype))  # type: ignore[operator]


def test_every_table_of_the_folder_is_of_a_known_family() -> None:
    assert {table.family for table in TABLES} <= set(FAMILIES)
    assert sum(len(table.tissues) for table in TABLES) > 0


@tables(*TRAINS)
def test_phase_graph_in_double_precision(table: Table) -> None:
    # atol: the tables carry 8 decimals
    torch.testing.assert_close(evaluate(signal, table), table.signed, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(evaluate(signal, table).abs(), table.signal, rtol=1e-5, atol=1e-8)


@tables(*TRAINS)
def test_phase_graph_in_single_precision(table: Table) -> None:
    # atol: near the null of an inversion recovery nothing is left of a relative tolerance
    single = evaluate(signal, table, torch.float32).double()
    torch.testing.assert_close(single, table.signed, rtol=1e-3, atol=1e-5)


@tables("se2d_t1w")
def test_spin_echo_is_exact(table: Table) -> None:
    torch.testing.assert_close(evaluate(signal, table), table.signed, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(evaluate(signal, table, torch.float32).double(), table.signed, rtol=1e-3, atol=1e-6)


@tables("spgr_t1w", "mprage_t1w")
def test_closed_form_is_exact_under_ideal_spoiling(table: Table) -> None:
    assert table.ideal is not None
    torch.testing.assert_close(evaluate(signal, table), table.ideal, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(evaluate(signal, table, torch.float32).double(), table.ideal, rtol=1e-3, atol=1e-5)


@tables("spgr_t1w", "mprage_t1w")
def test_rf_spoiled_phase_graph(table: Table) -> None:
    # gradient echoes with T1 above 2 s: the tables had not reached the steady state, as their README says
    keep = torch.ones_like(table.t1, dtype=torch.bool) if table.family == "mprage_t1w" else table.t1 <= 2.0
    acquisition = replace(table.acquisition, spoiling_increment=table.spoiling_increment)
    found = signal(
        acquisition,
        torch.ones_like(table.t1[keep]),
        table.t1[keep],
        table.t2[keep],
        transmit_scale=table.transmit_scale[keep],
    )
    # atol: the slowest tissues of the tables are up to 6e-6 short of the steady state in 3D
    torch.testing.assert_close(found, table.signed[keep], rtol=1e-5, atol=1e-5)


@tables("tse2d_t1w", "tse2d_t2w", "flair2d", "t1flair2d")
def test_lookup_of_short_trains(table: Table) -> None:
    check_lookup(table)


@tables(*LONG, slow_from=3)
def test_lookup_of_long_trains(table: Table) -> None:
    check_lookup(table)


def check_lookup(table: Table) -> None:
    """At the tissues of the table and at random ones."""
    generator = torch.Generator().manual_seed(7)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(500, generator=generator, dtype=torch.float64)

    t1 = between(-1.609, 1.609).exp()  # 0.2-5 s
    t2 = between(-3.912, 0.916).exp()  # 0.02-2.5 s
    scale = between(0.7, 1.3)
    pd = torch.ones_like(t1)
    exact = signal(table.acquisition, pd, t1, t2, transmit_scale=scale)
    for dtype in (torch.float32, torch.float64):
        fast = fast_signal(
            table.acquisition, pd.to(dtype), t1.to(dtype), t2.to(dtype), transmit_scale=scale.to(dtype)
        ).double()
        assert relative_error(fast, exact).max() < 2e-3
        assert relative_error(evaluate(fast_signal, table, dtype).double(), table.signed).max() < 2e-3


@tables("se2d_t1w", "spgr_t1w", "mprage_t1w")
def test_closed_form_keeps_the_contrast_of_white_and_grey_matter(table: Table) -> None:
    if not {"wm", "gm_cortex"} <= set(table.tissues) or not (table.transmit_scale - 1).abs().lt(1e-9).any():
        pytest.skip("the table has no white and cortical grey matter at transmit scale 1")
    # against RF spoiling the closed form is stated to be within 3.1 % at most, against ideal spoiling exact
    assert abs(table.ratio(evaluate(fast_signal, table)) / table.ratio(table.signed) - 1) < 0.031
    reference = table.signed if table.ideal is None else table.ideal
    assert abs(table.ratio(evaluate(fast_signal, table)) / table.ratio(reference) - 1) < 1e-5


def test_only_families_with_a_good_closed_form_use_one() -> None:
    # closed forms of the fast path: exact spin echo, and gradient echoes (0.26 % and 0.30 % mean ratio error)
    assert set(PulseSequence) - ECHO_TRAINS == SPOILED | {PulseSequence.SPIN_ECHO}


def relative_error(found: Tensor, exact: Tensor) -> Tensor:
    return (found - exact).abs() / exact.abs().clamp(min=0.01)
