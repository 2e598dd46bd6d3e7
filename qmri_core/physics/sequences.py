"""What each sequence's signal model needs of an acquisition; free of torch, so that planning starts at once."""

from __future__ import annotations

import math

from qmri_core.series.acquisition import Acquisition, AcquisitionError, PulseSequence

ECHO_TRAINS = frozenset(
    {PulseSequence.TURBO_SPIN_ECHO, PulseSequence.INVERSION_RECOVERY_TSE, PulseSequence.VARIABLE_FLIP_TSE}
)
"""Sequences whose model is the phase graph of an echo train."""

SPOILED = frozenset({PulseSequence.SPOILED_GRADIENT_ECHO, PulseSequence.MPRAGE})
"""Sequences whose model is a closed form under ideal spoiling, and a phase graph with an RF spoiling increment."""

REQUIRED: dict[PulseSequence, tuple[str, ...]] = {
    PulseSequence.SPIN_ECHO: ("refocusing_angle",),
    PulseSequence.TURBO_SPIN_ECHO: ("refocusing_angle", "echo_spacing", "echo_train_length", "centre_index"),
    PulseSequence.SPOILED_GRADIENT_ECHO: (),
    PulseSequence.MPRAGE: ("inversion_time", "echo_spacing", "echo_train_length", "centre_index"),
    PulseSequence.INVERSION_RECOVERY_TSE: (
        "inversion_time",
        "refocusing_angle",
        "echo_spacing",
        "echo_train_length",
        "centre_index",
    ),
    PulseSequence.VARIABLE_FLIP_TSE: ("flip_train", "echo_spacing", "centre_index"),
}
"""Optional fields of `Acquisition` that each sequence's model needs. Every sequence is in it."""


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


def _busy_time(acquisition: Acquisition) -> float:
    """Seconds of the cycle that are not free recovery."""
    spacing = acquisition.echo_spacing or 0.0
    length = len(acquisition.flip_train) or acquisition.echo_train_length or 1
    inversion = acquisition.inversion_time or 0.0
    if acquisition.sequence is PulseSequence.MPRAGE:
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
