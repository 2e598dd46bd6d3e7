"""From an acquisition to its signal: which model stands for which sequence, accurately and fast."""

from __future__ import annotations

import math

from torch import Tensor

from qmri_core.acquisition import Acquisition, AcquisitionError, Sequence
from qmri_core.physics.lookup import Train, lookup
from qmri_core.physics.phase_graph import echo_train
from qmri_core.physics.spoiling import rf_spoiled_gradient_echo, rf_spoiled_mprage
from qmri_core.physics.steady_state import mprage, spin_echo, spoiled_gradient_echo

ECHO_TRAINS = frozenset({Sequence.TURBO_SPIN_ECHO, Sequence.INVERSION_RECOVERY_TSE, Sequence.VARIABLE_FLIP_TSE})
"""Sequences whose model is the phase graph of an echo train."""

SPOILED = frozenset({Sequence.SPOILED_GRADIENT_ECHO, Sequence.MPRAGE})
"""Sequences whose model is a closed form under ideal spoiling, and a phase graph with an RF spoiling increment."""

REQUIRED: dict[Sequence, tuple[str, ...]] = {
    Sequence.SPIN_ECHO: ("refocusing_angle",),
    Sequence.TURBO_SPIN_ECHO: ("refocusing_angle", "echo_spacing", "echo_train_length", "centre_index"),
    Sequence.SPOILED_GRADIENT_ECHO: (),
    Sequence.MPRAGE: ("inversion_time", "echo_spacing", "echo_train_length", "centre_index"),
    Sequence.INVERSION_RECOVERY_TSE: (
        "inversion_time",
        "refocusing_angle",
        "echo_spacing",
        "echo_train_length",
        "centre_index",
    ),
    Sequence.VARIABLE_FLIP_TSE: ("flip_train", "echo_spacing", "centre_index"),
}
"""Optional fields of `Acquisition` that each sequence's model needs. Every sequence is in it."""


def signal(
    acquisition: Acquisition, pd: Tensor, t1: Tensor, t2: Tensor, *, transmit_scale: Tensor | float = 1.0
) -> Tensor:
    """Signed signal of an acquisition by the accurate model of its family.

    That is the phase graph for echo trains, the exact closed form for a spin echo, and for gradient echoes the closed
    form under ideal spoiling, or the slow phase graph of RF spoiling if the acquisition states its increment.

    Parameters
    ----------
    acquisition
        Complete parameters of the series.
    pd, t1, t2
        Maps that broadcast; ``pd`` relative, ``t1`` and ``t2`` in seconds. NaN in gives NaN out.
    transmit_scale
        Actual over nominal angle of all pulses but inversions, which are adiabatic.

    Returns
    -------
    Tensor
        Signal in the unit of ``pd``; negative before the null of an inversion recovery.

    Raises
    ------
    AcquisitionError
        If a parameter that the family needs is missing, or the timings contradict each other.
    """
    check(acquisition)
    if acquisition.sequence in ECHO_TRAINS:
        train = echo_train_of(acquisition)
        return echo_train(
            pd,
            t1,
            t2,
            repetition_time=train.repetition_time,
            echo_spacing=train.echo_spacing,
            centre_index=train.centre_index,
            refocusing_angles=train.refocusing_angles,
            flip_angle=train.flip_angle,
            inversion_time=train.inversion_time,
            second_inversion_time=train.second_inversion_time,
            inversion_efficiency=train.inversion_efficiency,
            t2_preparation_time=train.t2_preparation_time,
            refocusing_factor=train.refocusing_factor,
            transmit_scale=transmit_scale,
        )
    if acquisition.spoiling_increment is not None and acquisition.sequence in SPOILED:
        return _rf_spoiled(acquisition, acquisition.spoiling_increment, pd, t1, t2, transmit_scale)
    return _closed_form(acquisition, pd, t1, t2, transmit_scale)


def fast_signal(
    acquisition: Acquisition, pd: Tensor, t1: Tensor, t2: Tensor, *, transmit_scale: Tensor | float = 1.0
) -> Tensor:
    """Signed signal as by `signal`, for training and inference: echo trains from a table made on first use.

    Echo trains are within 0.2 % of ``max(|signal|, 0.01)`` of `signal` for T1 0.2-5 s, T2 0.02-2.5 s, transmit scale
    0.7-1.3, and clamped outside of the ranges of `qmri_core.physics.lookup`. Spoiling is always ideal. Parameters and
    errors as `signal`.
    """
    check(acquisition)
    if acquisition.sequence in ECHO_TRAINS:
        table = lookup(echo_train_of(acquisition), t1.dtype, t1.device)
        return table.evaluate(pd, t1, t2, transmit_scale=transmit_scale)
    return _closed_form(acquisition, pd, t1, t2, transmit_scale)


def check(acquisition: Acquisition) -> None:
    """Raise `AcquisitionError` if the model of the acquisition's sequence cannot be evaluated."""
    where = f"{acquisition.contrast} {acquisition.sequence}"
    for name in REQUIRED[acquisition.sequence]:
        if not getattr(acquisition, name):
            raise AcquisitionError(f"{where}: {name} is missing; its signal model cannot be evaluated without it")
    length = len(acquisition.flip_train) or acquisition.echo_train_length
    centre = acquisition.centre_index
    if centre is not None and length is not None and not 1 <= centre <= length:
        raise AcquisitionError(f"{where}: centre_index {centre} not in [1, {length}], the length of the train")
    for name, low, high, hint in (
        ("inversion_efficiency", 0.5, 1.0, "was a percentage passed?"),
        ("refocusing_factor", 0.3, 1.5, "was a percentage passed?"),
        ("t2_preparation_time", 0.0, 1.0, "were milliseconds passed?"),
    ):
        value = getattr(acquisition, name)
        if not low <= value <= high:
            raise AcquisitionError(f"{where}: {name} {value:g} not in [{low:g}, {high:g}]; {hint}")
    for value in acquisition.flip_train:
        if not 0 < value <= math.pi:
            raise AcquisitionError(f"{where}: flip_train angle {value:g} rad not in (0, pi]; were degrees passed?")
    rest = acquisition.repetition_time - _busy_time(acquisition)
    if rest < 0:
        raise AcquisitionError(
            f"{where}: repetition_time {acquisition.repetition_time:g} s is {-rest:g} s shorter than what it must hold "
            "(inversion, train, T2 preparation); was the inner repetition time taken for the cycle?"
        )


def echo_train_of(acquisition: Acquisition) -> Train:
    """Return the train that an acquisition describes, with every refocusing angle spelled out."""
    angles = acquisition.flip_train
    if not angles:
        angle = acquisition.refocusing_angle or math.pi
        angles = (angle,) * (acquisition.echo_train_length or 1)
        if acquisition.ramp:
            angles = (math.pi / 2 + angle / 2, *angles[1:])
    return Train(
        repetition_time=acquisition.repetition_time,
        echo_spacing=acquisition.echo_spacing or 0.0,
        centre_index=acquisition.centre_index or 1,
        refocusing_angles=angles,
        flip_angle=acquisition.flip_angle,
        inversion_time=acquisition.inversion_time,
        second_inversion_time=acquisition.second_inversion_time,
        inversion_efficiency=acquisition.inversion_efficiency,
        t2_preparation_time=acquisition.t2_preparation_time,
        refocusing_factor=acquisition.refocusing_factor,
    )


def _busy_time(acquisition: Acquisition) -> float:
    """Seconds of the cycle that are not free recovery."""
    spacing = acquisition.echo_spacing or 0.0
    length = len(acquisition.flip_train) or acquisition.echo_train_length or 1
    inversion = acquisition.inversion_time or 0.0
    if acquisition.sequence is Sequence.MPRAGE:
        before = inversion - ((acquisition.centre_index or 1) - 1) * spacing
        if before < 0:
            raise AcquisitionError(
                f"{acquisition.contrast} {acquisition.sequence}: inversion_time {inversion:g} s is too short for "
                f"{acquisition.centre_index} readout pulses of {spacing:g} s before the centre of k-space"
            )
        return before + length * spacing
    if acquisition.sequence in ECHO_TRAINS:
        return inversion + length * spacing + acquisition.t2_preparation_time
    return acquisition.echo_time


def _rf_spoiled(
    acquisition: Acquisition, increment: float, pd: Tensor, t1: Tensor, t2: Tensor, transmit_scale: Tensor | float
) -> Tensor:
    if acquisition.sequence is Sequence.MPRAGE:
        return rf_spoiled_mprage(
            pd,
            t1,
            t2,
            cycle_time=acquisition.repetition_time,
            inversion_time=acquisition.inversion_time or 0.0,
            echo_time=acquisition.echo_time,
            flip_angle=acquisition.flip_angle,
            inner_repetition_time=acquisition.echo_spacing or 0.0,
            n_readouts=acquisition.echo_train_length or 1,
            centre_index=acquisition.centre_index or 1,
            spoiling_increment=increment,
            inversion_efficiency=acquisition.inversion_efficiency,
            transmit_scale=transmit_scale,
        )
    return rf_spoiled_gradient_echo(
        pd,
        t1,
        t2,
        repetition_time=acquisition.repetition_time,
        echo_time=acquisition.echo_time,
        flip_angle=acquisition.flip_angle,
        spoiling_increment=increment,
        transmit_scale=transmit_scale,
    )


def _closed_form(
    acquisition: Acquisition, pd: Tensor, t1: Tensor, t2: Tensor, transmit_scale: Tensor | float
) -> Tensor:
    if acquisition.sequence is Sequence.MPRAGE:
        return mprage(
            pd,
            t1,
            t2,
            cycle_time=acquisition.repetition_time,
            inversion_time=acquisition.inversion_time or 0.0,
            echo_time=acquisition.echo_time,
            flip_angle=acquisition.flip_angle,
            inner_repetition_time=acquisition.echo_spacing or 0.0,
            n_readouts=acquisition.echo_train_length or 1,
            centre_index=acquisition.centre_index or 1,
            inversion_efficiency=acquisition.inversion_efficiency,
            transmit_scale=transmit_scale,
        )
    if acquisition.sequence is Sequence.SPIN_ECHO:
        return spin_echo(
            pd,
            t1,
            t2,
            repetition_time=acquisition.repetition_time,
            echo_time=acquisition.echo_time,
            flip_angle=acquisition.flip_angle,
            refocusing_angle=acquisition.refocusing_angle or math.pi,
            refocusing_factor=acquisition.refocusing_factor,
            transmit_scale=transmit_scale,
        )
    return spoiled_gradient_echo(
        pd,
        t1,
        t2,
        repetition_time=acquisition.repetition_time,
        echo_time=acquisition.echo_time,
        flip_angle=acquisition.flip_angle,
        transmit_scale=transmit_scale,
    )
