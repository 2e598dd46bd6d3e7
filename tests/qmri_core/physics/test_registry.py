"""Contracts that hold for the model of every sequence."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qmri_core.physics.lookup import lookup
from qmri_core.physics.registry import echo_train_of, fast_signal, signal
from qmri_core.physics.sequences import ECHO_TRAINS, REQUIRED, SPOILED, check
from qmri_core.series.acquisition import Acquisition, AcquisitionError, PulseSequence
from tests.qmri_core.physics.acquisitions import EXAMPLES

MODELS = {"signal": signal, "fast_signal": fast_signal}
each_example = pytest.mark.parametrize("acquisition", EXAMPLES.values(), ids=list(EXAMPLES))
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_every_sequence_has_an_example_and_a_model() -> None:
    assert {example.sequence for example in EXAMPLES.values()} == set(PulseSequence) == set(REQUIRED)


@each_example
@each_model
def test_signal_is_finite_bounded_and_of_the_broadcast_shape(acquisition: Acquisition, model: object) -> None:
    t1 = torch.logspace(math.log10(0.2), math.log10(5), 7, dtype=torch.float64)[:, None, None]
    t2 = torch.logspace(math.log10(0.02), math.log10(2.5), 5, dtype=torch.float64)[:, None]
    found = model(acquisition, double(0.8), t1, t2, transmit_scale=double(0.8, 1.0, 1.2))  # type: ignore[operator]
    assert found.shape == (7, 5, 3)
    assert found.isfinite().all()
    assert found.abs().max() <= 0.8


@each_example
@each_model
@settings(deadline=None, max_examples=15)
@given(pd=st.floats(0.0, 2.0), t1=st.floats(0.2, 5.0), t2=st.floats(0.02, 2.5), scale=st.floats(0.7, 1.3))
def test_signal_is_proportional_to_proton_density(
    acquisition: Acquisition, model: object, pd: float, t1: float, t2: float, scale: float
) -> None:
    one, scaled = (
        model(acquisition, double(value), double(t1), double(t2), transmit_scale=scale)  # type: ignore[operator]
        for value in (1.0, pd)
    )
    torch.testing.assert_close(scaled, pd * one)


@each_example
@each_model
def test_what_is_not_a_number_stays_so_and_spoils_nothing_else(acquisition: Acquisition, model: object) -> None:
    nan = math.nan
    found = model(acquisition, double(1, nan, 1, 1), double(1, 1, nan, 1), double(0.1, 0.1, 0.1, nan))  # type: ignore[operator]
    alone = model(acquisition, double(1), double(1), double(0.1))  # type: ignore[operator]
    assert found[1:].isnan().all()
    torch.testing.assert_close(found[:1], alone)


@each_example
@each_model
def test_single_precision_agrees_with_double(acquisition: Acquisition, model: object) -> None:
    maps = (double(0.7, 0.8, 1.0), double(0.85, 1.4, 4.0), double(0.07, 0.1, 1.8))
    precise = model(acquisition, *maps, transmit_scale=0.95)  # type: ignore[operator]
    single = model(acquisition, *(each.float() for each in maps), transmit_scale=0.95)  # type: ignore[operator]
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), precise, rtol=1e-3, atol=1e-5)


@each_example
def test_gradients(acquisition: Acquisition) -> None:
    if acquisition.sequence is PulseSequence.VARIABLE_FLIP_TSE:
        acquisition = replace(acquisition, flip_train=acquisition.flip_train[:20], centre_index=12)
    inputs = [
        value.requires_grad_() for value in (double(0.7, 1.0), double(0.85, 2.0), double(0.07, 0.4), double(0.9, 1.1))
    ]
    assert torch.autograd.gradcheck(
        lambda pd, t1, t2, scale: signal(acquisition, pd, t1, t2, transmit_scale=scale), inputs
    )
    assert torch.autograd.gradgradcheck(
        lambda pd, t1, t2, scale: signal(acquisition, pd, t1, t2, transmit_scale=scale), inputs
    )


@each_example
def test_gradients_of_the_fast_path_are_those_of_its_table(acquisition: Acquisition) -> None:
    inputs = [
        value.requires_grad_()
        for value in (double(0.7, 1.0), double(0.853, 2.01), double(0.0701, 0.4021), double(0.9013, 1.1017))
    ]
    # eps: a step must not leave the cell of the table
    assert torch.autograd.gradcheck(
        lambda pd, t1, t2, scale: fast_signal(acquisition, pd, t1, t2, transmit_scale=scale), inputs, eps=1e-7
    )
    fast = torch.autograd.grad(fast_signal(acquisition, *inputs[:3], transmit_scale=inputs[3]).sum(), inputs[:3])
    exact = torch.autograd.grad(signal(acquisition, *inputs[:3], transmit_scale=inputs[3]).sum(), inputs[:3])
    value = signal(acquisition, *inputs[:3], transmit_scale=inputs[3]).detach().abs().clamp(min=0.01)
    for found, expected, at in zip(fast, exact, inputs[:3], strict=True):
        # slopes of a piecewise linear table, as relative change of the signal per relative change of the map
        assert ((found - expected) * at.detach() / value).abs().max() < 0.02


@each_example
def test_longer_t2_never_gives_less_signal_of_white_and_grey_matter(acquisition: Acquisition) -> None:
    t2 = torch.linspace(0.04, 0.3, 30, dtype=torch.float64)
    for t1 in (0.85, 1.4):
        found = signal(acquisition, double(1.0), double(t1), t2)
        assert (found.diff() > 0).all()


@pytest.mark.parametrize("name", ["spin_echo", "turbo_spin_echo", "spoiled_gradient_echo", "mprage"])
def test_longer_t1_gives_less_signal_of_brain(name: str) -> None:
    t1 = torch.linspace(0.6, 2.0, 30, dtype=torch.float64)
    # with a long repetition time, stimulated echoes gain more from a long T1 than recovery loses
    repetition_time = min(EXAMPLES[name].repetition_time, 2.3)
    found = signal(replace(EXAMPLES[name], repetition_time=repetition_time), double(1.0), t1, double(0.09))
    # behind its null MPRAGE is negative, and falls on
    assert (found.diff() < 0).all()


def test_flair_nulls_fluid_and_shows_brain() -> None:
    brain, fluid = signal(EXAMPLES["inversion_recovery_tse"], double(1.0), double(1.4, 4.3), double(0.1, 1.8)).tolist()
    assert abs(fluid) < 0.1 * brain


def test_inversion_signals_are_negative_before_the_null() -> None:
    early = replace(EXAMPLES["inversion_recovery_tse"], inversion_time=0.1)
    assert float(signal(early, double(1.0), double(1.4), double(0.1))) < 0


@pytest.mark.parametrize("name", sorted(SPOILED))
def test_spoiling_increment_selects_the_phase_graph(name: str) -> None:
    ideal = EXAMPLES[name]
    spoiled = replace(ideal, spoiling_increment=math.radians(50))
    maps = (double(1.0), double(0.85, 1.4), double(0.07, 0.1))
    difference = signal(spoiled, *maps) / signal(ideal, *maps) - 1
    # stated: 1 % in the median, up to 12 % for brain
    assert 1e-6 < difference.abs().max() < 0.12
    torch.testing.assert_close(fast_signal(spoiled, *maps), signal(ideal, *maps))


@each_example
def test_missing_parameters_are_named(acquisition: Acquisition) -> None:
    for name in REQUIRED[acquisition.sequence]:
        lacking = replace(acquisition, **{name: () if name == "flip_train" else None})
        with pytest.raises(AcquisitionError, match=name):
            signal(lacking, double(1.0), double(1.0), double(0.1))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("turbo_spin_echo", {"repetition_time": 4000.0}, "repetition_time 4000 s .* milliseconds"),
        ("turbo_spin_echo", {"echo_time": 99.0}, "echo_time 99 s .* milliseconds"),
        ("turbo_spin_echo", {"echo_time": 0.0}, "echo_time 0 s"),
        ("spin_echo", {"echo_time": 0.7}, "echo_time 0.7 s .*0.6"),
        ("spin_echo", {"flip_angle": 90.0}, "flip_angle 90 rad .* degrees"),
        ("turbo_spin_echo", {"echo_spacing": 11.0}, "echo_spacing 11 s .* milliseconds"),
        ("inversion_recovery_tse", {"inversion_time": 2500.0}, "inversion_time 2500 s .* milliseconds"),
        ("inversion_recovery_tse", {"second_inversion_time": 2.6}, "second_inversion_time"),
        ("turbo_spin_echo", {"centre_index": 16}, r"centre_index 16 not in \[1, 15\]"),
        ("turbo_spin_echo", {"repetition_time": 0.12}, "repetition_time .* shorter than what it must hold"),
        ("mprage", {"inversion_time": 0.3}, "inversion_time 0.3 s is too short"),
        ("mprage", {"repetition_time": 1.2}, "shorter than what it must hold"),
        ("mprage", {"inversion_efficiency": 96.0}, "inversion_efficiency 96 .* percentage"),
        ("turbo_spin_echo", {"refocusing_factor": 0.0}, "refocusing_factor 0 "),
        ("turbo_spin_echo", {"t2_preparation_time": -0.1}, "t2_preparation_time"),
        ("variable_flip_tse", {"flip_train": (120.0,) * 100}, "flip_train .* degrees"),
        ("turbo_spin_echo", {"repetition_time": math.nan}, "repetition_time nan"),
    ],
)
def test_impossible_parameters_are_named_with_their_range(name: str, changes: dict[str, float], message: str) -> None:
    with pytest.raises(AcquisitionError, match=message):
        check(replace(EXAMPLES[name], **changes))  # type: ignore[arg-type]


def test_settings_are_never_trainable() -> None:
    found = signal(EXAMPLES["turbo_spin_echo"], double(1.0).requires_grad_(), double(1.0), double(0.1))
    leaves = set()
    stack = [found.grad_fn]
    while stack:
        node = stack.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):
            leaves.add(tuple(node.variable.shape))
        stack.extend(parent for parent, _ in node.next_functions)
    assert leaves == {(1,)}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@each_example
@each_model
def test_gpu_agrees_with_cpu(acquisition: Acquisition, model: object) -> None:
    maps = (double(0.7, 0.8, 1.0), double(0.85, 1.4, 4.0), double(0.07, 0.1, 1.8), double(0.9, 1.0, 1.1))
    here = model(acquisition, *maps[:3], transmit_scale=maps[3])  # type: ignore[operator]
    there = [each.cuda() for each in maps]
    found = model(acquisition, *there[:3], transmit_scale=there[3])  # type: ignore[operator]
    torch.testing.assert_close(found.cpu(), here, rtol=1e-9, atol=1e-12)


def test_echo_trains_and_the_others_make_up_all_sequences() -> None:
    assert ECHO_TRAINS | SPOILED | {PulseSequence.SPIN_ECHO} == set(PulseSequence)


@pytest.mark.parametrize("scale", [0.83, 1.0])
@pytest.mark.parametrize("sequence", [PulseSequence.TURBO_SPIN_ECHO, PulseSequence.INVERSION_RECOVERY_TSE])
def test_a_table_kept_at_one_scale_is_the_whole_table_at_it(sequence: PulseSequence, scale: float) -> None:
    acquisition = next(one for one in EXAMPLES.values() if one.sequence is sequence)
    maps = torch.rand(3, 1000, generator=torch.Generator().manual_seed(0)) + 0.1
    whole = lookup(echo_train_of(acquisition)).evaluate(*maps, transmit_scale=scale)
    assert torch.equal(fast_signal(acquisition, *maps, transmit_scale=scale), whole)


def test_whole_tables_are_kept_for_those_alone_who_ask_for_many_scales() -> None:
    """They take 10 MB each, and a large cohort has hundreds of trains."""
    lookup.cache_clear()
    maps = torch.full((3, 4), 0.5)
    for spacing in (0.0101, 0.0102):
        acquisition = next(one for one in EXAMPLES.values() if one.sequence is PulseSequence.TURBO_SPIN_ECHO)
        fast_signal(replace(acquisition, echo_spacing=spacing), *maps)
        assert lookup.cache_info().currsize == 0
    fast_signal(acquisition, *maps, transmit_scale=torch.ones(4))
    assert lookup.cache_info().currsize == 1
