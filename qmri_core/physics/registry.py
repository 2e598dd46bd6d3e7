"""From an acquisition to its signal: which model stands for which sequence, accurately and fast."""

from __future__ import annotations

import math

from torch import Tensor

from qmri_core.physics.lookup import Train, lookup, lookup_at
from qmri_core.physics.magnetization_transfer import share_of_shift
from qmri_core.physics.phase_graph import echo_train
from qmri_core.physics.sequences import ECHO_TRAINS, SPOILED, check
from qmri_core.physics.spoiling import rf_spoiled_gradient_echo, rf_spoiled_mprage
from qmri_core.physics.steady_state import mprage, spin_echo, spoiled_gradient_echo
from qmri_core.series.acquisition import Acquisition, PulseSequence


def signal(
    acquisition: Acquisition, pd: Tensor, t1: Tensor, t2: Tensor, *, transmit_scale: Tensor | float = 1.0
) -> Tensor:
    """Signed signal of an acquisition by the accurate model of its family.

    That is the phase graph for echo trains, the exact closed form for a spin echo, and for gradient echoes the closed
    form under ideal spoiling, or the slow phase graph of RF spoiling if the acquisition states its increment. What
    magnetization transfer does to grey over white matter is a factor that depends on T1 and T2, if it is known.

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
    return _transferred(acquisition, _signal(acquisition, pd, t1, t2, transmit_scale), t1, t2)


def _signal(acquisition: Acquisition, pd: Tensor, t1: Tensor, t2: Tensor, transmit_scale: Tensor | float) -> Tensor:
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
    return _transferred(acquisition, _fast_signal(acquisition, pd, t1, t2, transmit_scale), t1, t2)


def _fast_signal(
    acquisition: Acquisition, pd: Tensor, t1: Tensor, t2: Tensor, transmit_scale: Tensor | float
) -> Tensor:
    if acquisition.sequence in ECHO_TRAINS:
        train = echo_train_of(acquisition)
        if isinstance(transmit_scale, Tensor):
            return lookup(train, t1.dtype, t1.device).evaluate(pd, t1, t2, transmit_scale=transmit_scale)
        return lookup_at(train, float(transmit_scale), t1.dtype, t1.device).read(pd, t1, t2)
    return _closed_form(acquisition, pd, t1, t2, transmit_scale)


def _transferred(acquisition: Acquisition, value: Tensor, t1: Tensor, t2: Tensor) -> Tensor:
    """The signal with what magnetization transfer between slices does to it, relative to white matter."""
    if not acquisition.magnetization_transfer:
        return value
    share = share_of_shift(t1, t2, acquisition.field_strength)
    return value * (acquisition.magnetization_transfer * share).exp()


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


def _rf_spoiled(
    acquisition: Acquisition, increment: float, pd: Tensor, t1: Tensor, t2: Tensor, transmit_scale: Tensor | float
) -> Tensor:
    if acquisition.sequence is PulseSequence.MPRAGE:
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
    if acquisition.sequence is PulseSequence.MPRAGE:
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
    if acquisition.sequence is PulseSequence.SPIN_ECHO:
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
