"""What a scanner says of a series, and what a signal model needs to know of it. SI units throughout."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

MARKS = ("measured", "derived", "assumed")
"""Where a parameter comes from: a header, a computation from headers, or imputation."""

SETTING_DIGITS = 6
"""Significant digits of a parameter that are a setting: what headers have beyond differs from file to file."""


class Contrast(StrEnum):
    """Contrasts that the system uses, by their BIDS suffixes."""

    T1W = "T1w"
    T2W = "T2w"
    FLAIR = "FLAIR"


CONTRASTS: tuple[Contrast, ...] = tuple(Contrast)


class PulseSequence(StrEnum):
    """Pulse-sequence families; a 3D FLAIR is a variable-flip TSE with an inversion time."""

    SPIN_ECHO = "spin_echo"
    TURBO_SPIN_ECHO = "turbo_spin_echo"
    SPOILED_GRADIENT_ECHO = "spoiled_gradient_echo"
    MPRAGE = "mprage"
    INVERSION_RECOVERY_TSE = "inversion_recovery_tse"
    VARIABLE_FLIP_TSE = "variable_flip_tse"


class AcquisitionError(ValueError):
    """An acquisition parameter is missing, out of range, or contradicts another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesHeader:
    """Allow-listed technical header values of one series, after unit conversion, before interpretation.

    Everything here may enter the store: numbers and coded strings only, no free text, no identity.
    Times in seconds, angles in radians, field strength in tesla. ``None`` means not in the header.
    ``repetition_time``, ``echo_time``, ``inversion_time``, ``flip_angle`` and ``echo_train_length`` are the header's
    values with the vendor's own meaning; `qmri_core.physics.header` turns them into an `Acquisition`.
    """

    manufacturer: str = ""
    """``Siemens``, ``Philips``, ``GE``, ``Canon``, ``UIH``, ``Hitachi`` or empty when unknown."""
    model: str = ""
    """Model name reduced to lower-case letters, digits and hyphens."""
    software: str = ""
    """Short keyed digest of the software version, to tell an upgrade; never the text."""
    magnetic_field_strength: float | None = None
    mr_acquisition_type: str = ""
    """``2D``, ``3D`` or empty."""
    scanning_sequence: tuple[str, ...] = ()
    """DICOM codes: ``SE``, ``IR``, ``GR``, ``EP``, ``RM``."""
    sequence_variant: tuple[str, ...] = ()
    scan_options: tuple[str, ...] = ()
    image_type: tuple[str, ...] = ()
    repetition_time: float | None = None
    echo_time: float | None = None
    inversion_time: float | None = None
    flip_angle: float | None = None
    echo_train_length: int | None = None
    b1_rms: float | None = field(default=None, compare=False)
    """Root mean square of the transmit field over the acquisition in tesla; may differ between slices and people."""
    assumed: frozenset[str] = frozenset()
    """Names of the fields above that a user's assume file supplied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """Parameters of a signal model for one series, interpreted and completed.

    Parameters
    ----------
    contrast, sequence, field_strength
        What was acquired, by which family, in tesla.
    repetition_time
        Full cycle in seconds: between excitations of one slice, or between inversions.
    echo_time
        Of the echo at the centre of k-space; for variable flip trains the physical time of that echo.
    flip_angle
        Excitation angle in radians.
    inversion_time
        Centre of the inversion to the excitation (echo trains), or to the readout pulse ``centre_index`` (MPRAGE).
    second_inversion_time
        Of double inversion recovery: centre of the second inversion to the excitation; shorter than the first.
    refocusing_angle
        Nominal refocusing angle in radians; for variable flip trains the largest of the train.
    echo_spacing
        Between echoes of a train, or the inner repetition time of MPRAGE.
    echo_train_length, centre_index
        Echoes or readout pulses per train; the one (from 1) at the centre of k-space.
    flip_train
        Refocusing angles in radians of a variable flip train; empty for a constant train.
    ramp
        True if the first refocusing pulse is 90 degrees + half of the angle.
    t2_preparation_time, inversion_efficiency, refocusing_factor
        Nuisances: ideal T2 preparation before the inversion; Mz after = -efficiency * Mz before; effective over
        nominal refocusing angle from the slice profile.
    spoiling_increment
        Quadratic RF phase increment in radians of a spoiled gradient echo or MPRAGE; ``None`` for ideal spoiling.
    magnetization_transfer
        Log by which slices that are acquired in turn raise the signal of the population's grey over that of its white
        matter (`qmri_core.physics.magnetization_transfer`); what calibration finds, in no header.
    slices, b1_rms
        Slices that are acquired in turn, 1 for a slab, ``None`` where unknown; root mean square of the transmit field
        in tesla. They tell what magnetization transfer to expect, change no signal, and belong to a session: one
        protocol covers larger heads with more slices. So acquisitions that differ in them alone are equal.
    marks
        Pairs of parameter name and one of `MARKS`; a parameter without a mark was measured.

    Raises
    ------
    AcquisitionError
        If a value is missing for its family or out of range.
    """

    contrast: Contrast
    sequence: PulseSequence
    field_strength: float
    repetition_time: float
    echo_time: float
    flip_angle: float
    inversion_time: float | None = None
    second_inversion_time: float | None = None
    refocusing_angle: float | None = None
    echo_spacing: float | None = None
    echo_train_length: int | None = None
    centre_index: int | None = None
    flip_train: tuple[float, ...] = ()
    ramp: bool = False
    t2_preparation_time: float = 0.0
    inversion_efficiency: float = 1.0
    refocusing_factor: float = 1.0
    spoiling_increment: float | None = None
    magnetization_transfer: float = 0.0
    slices: int | None = field(default=None, compare=False)
    b1_rms: float | None = field(default=None, compare=False)
    marks: tuple[tuple[str, str], ...] = field(default=())

    def __post_init__(self) -> None:
        _in_range(self, "field_strength", 0.0, 20.0, "tesla", "was millitesla or MHz passed?")
        _in_range(self, "repetition_time", 0.0, 30.0, "s", "were milliseconds passed?")
        _in_range(self, "echo_time", 0.0, min(self.repetition_time, 1.0), "s", "were milliseconds passed?")
        _in_range(self, "flip_angle", 0.0, math.pi, "rad", "were degrees passed?", closed=True)
        _in_range(self, "inversion_time", 0.0, self.repetition_time, "s", "were milliseconds passed?")
        _in_range(self, "second_inversion_time", 0.0, self.inversion_time or 0.0, "s", "it follows the first inversion")
        _in_range(self, "refocusing_angle", 0.0, math.pi, "rad", "were degrees passed?", closed=True)
        _in_range(self, "echo_spacing", 0.0, 0.1, "s", "were milliseconds passed?")
        _in_range(self, "magnetization_transfer", -0.5, 0.5, "", "it is a logarithm")
        _in_range(self, "slices", 0, 10_000, "", "it is a number of slices")
        _in_range(self, "b1_rms", 0.0, 1e-4, "tesla", "were microtesla passed?")
        for name, mark in self.marks:
            if mark not in MARKS:
                raise AcquisitionError(f"{self.contrast}: mark {mark!r} of {name} is none of {MARKS}")

    def mark(self, name: str) -> str:
        """Where the parameter ``name`` comes from: one of `MARKS`."""
        return dict(self.marks).get(name, "measured")


def without_jitter(acquisition: Acquisition) -> Acquisition:
    """With numbers to `SETTING_DIGITS` digits."""
    changes: dict[str, Any] = {}
    for one in fields(acquisition):
        value = getattr(acquisition, one.name)
        if isinstance(value, float):
            changes[one.name] = _rounded(value)
    flips = tuple(map(_rounded, acquisition.flip_train))
    return replace(acquisition, **changes, flip_train=flips)


def _rounded(value: float) -> float:
    return float(f"{value:.{SETTING_DIGITS}g}")


def _in_range(
    acquisition: Acquisition, name: str, low: float, high: float, unit: str, hint: str, *, closed: bool = False
) -> None:
    value = getattr(acquisition, name)
    if value is None:
        return
    inside = low < value <= high if closed else low < value < high
    if not (math.isfinite(value) and inside):
        bracket = "]" if closed else ")"
        raise AcquisitionError(
            f"{acquisition.contrast} {acquisition.sequence}: {name} {value:g} {unit} not in "
            f"({low:g}, {high:g}{bracket}; {hint}"
        )
