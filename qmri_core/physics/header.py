"""From header values, with the vendor's own meaning, to the complete parameters of a signal model.

`qmri_core.physics.vendors.RULES` lists the meanings and their evidence. Every parameter of the result carries a mark:
measured (in the header), derived (computed from headers) or assumed (imputed, or stated by a user).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache

from qmri_core.physics.flip_trains import START, variable_flip_train
from qmri_core.physics.sequences import ECHO_TRAINS, check
from qmri_core.physics.vendors import (
    INVERSION_EFFICIENCY,
    T2_PREPARATION_TIME,
    Typical,
    slice_profile_factor,
    typical,
)
from qmri_core.series.acquisition import Acquisition, AcquisitionError, Contrast, PulseSequence, SeriesHeader
from qmri_core.tissues import REFERENCE_VALUES, TRAIN_DESIGN_GREY

_INNER_REPETITION = 0.1
"""Seconds; a repetition time of MPRAGE below it is the one between readout pulses."""
_EXCITATION = math.radians(100)
"""A flip angle of an echo train above it is the refocusing angle."""
_FIRST_PULSE = 0.65
"""Seconds; a GE inversion time below it runs to the first readout pulse."""
_CSF_T1 = REFERENCE_VALUES[3.0]["CSF"]["t1"].value
_GREY_T1, _GREY_T2 = TRAIN_DESIGN_GREY
_COUNTS = frozenset({"echo_train_length", "centre_index", "slices"})
_SHAPE = ("flip_train_minimum", "flip_train_centre", "flip_train_maximum")
_NOT_STATED = frozenset({"contrast", "sequence", "flip_train", "marks", "magnetization_transfer"})
OVERRIDES: frozenset[str] = frozenset({each.name for each in fields(Acquisition)} - _NOT_STATED) | frozenset(_SHAPE)
"""Names that ``overrides`` of `acquisition_from_header` may hold: fields of `Acquisition`, and the angles that shape a
variable flip train."""


def acquisition_from_header(
    header: SeriesHeader,
    contrast: Contrast,
    sequence: PulseSequence,
    overrides: Mapping[str, float] | None = None,
    *,
    planes: int | None = None,
) -> Acquisition:
    """Interpret and complete a header.

    Parameters
    ----------
    header
        Values as the vendor wrote them, in SI units.
    contrast, sequence
        What the series was classified as.
    overrides
        Values to use whatever the header says, by the names in `OVERRIDES`, SI units and radians; marked assumed.
    planes
        Of the image; those of a 2D acquisition are slices that were acquired in turn.

    Returns
    -------
    Acquisition
        Complete for its family, every parameter marked.

    Raises
    ------
    AcquisitionError
        If a value that cannot be imputed is missing, a value is out of range, timings contradict each other, or an
        override is not known.
    """
    stated = dict(overrides or {})
    unknown = sorted(set(stated) - OVERRIDES)
    if unknown:
        raise AcquisitionError(
            f"{contrast} {sequence}: override {unknown[0]!r} is none of {', '.join(sorted(OVERRIDES))}"
        )
    for name in ("centre_index", "echo_train_length", "echo_spacing"):
        if name in stated and not stated[name] > 0:
            raise AcquisitionError(f"{contrast} {sequence}: override {name} {stated[name]:g} is not above 0")
    draft = _Draft(
        header=header, contrast=contrast, sequence=sequence, stated=stated, typical=typical(header.manufacturer)
    )
    draft.take("field_strength", "magnetic_field_strength")
    if sequence is PulseSequence.MPRAGE:
        _mprage(draft)
    elif sequence is PulseSequence.VARIABLE_FLIP_TSE:
        _variable_flip(draft)
    elif sequence in ECHO_TRAINS:
        _echo_train(draft)
    elif sequence is PulseSequence.SPIN_ECHO:
        _spin_echo(draft)
    else:
        for name in ("repetition_time", "echo_time", "flip_angle"):
            draft.take(name)
    acquisition = draft.finish()
    slices = {"2D": planes, "3D": 1}.get(header.mr_acquisition_type)
    acquisition = replace(
        acquisition,
        slices=slices if acquisition.slices is None else acquisition.slices,
        b1_rms=draft.read("b1_rms") if acquisition.b1_rms is None else acquisition.b1_rms,
    )
    check(acquisition)
    return acquisition


@dataclass(kw_only=True)
class _Draft:
    """Parameters found so far, with their marks; an override beats whatever is set."""

    header: SeriesHeader
    contrast: Contrast
    sequence: PulseSequence
    stated: dict[str, float]
    typical: Typical
    values: dict[str, float] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    flip_train: tuple[float, ...] = ()

    def put(self, name: str, value: float, mark: str) -> float:
        """Set a parameter unless it was overridden; return what holds."""
        if name in self.stated:
            value, mark = self.stated[name], "assumed"
        self.values[name], self.marks[name] = value, mark
        return value

    def read(self, name: str) -> float | None:
        """Header value; zero and NaN, which some exports write for "none", count as missing."""
        value = getattr(self.header, name)
        return None if value is None or not value > 0 else float(value)

    def mark_of(self, name: str) -> str:
        """Mark of a value taken as it stands in the header."""
        return "assumed" if name in self.header.assumed else "measured"

    def take(self, name: str, header_name: str | None = None) -> float:
        """Set a parameter from the header, or raise an error that names it."""
        header_name = header_name or name
        value = self.read(header_name)
        if value is None and name not in self.stated:
            doubt = ", or it may be gauss as well as millitesla," if name == "field_strength" else ""
            raise AcquisitionError(
                f"{self.contrast} {self.sequence}: {header_name} is not in the header{doubt} and cannot be imputed; "
                "state it for this group (--assume)"
            )
        return self.put(name, value or 0.0, self.mark_of(header_name))

    def finish(self) -> Acquisition:
        """Build the acquisition; counts become whole numbers."""
        extra = {name: value for name, value in self.stated.items() if name not in self.values and name not in _SHAPE}
        self.values.update(extra)
        self.marks.update(dict.fromkeys(extra, "assumed"))
        values: dict[str, float | int | bool] = {
            name: round(value) if name in _COUNTS else value for name, value in self.values.items()
        }
        if "ramp" in values:
            values["ramp"] = bool(values["ramp"])
        return Acquisition(
            contrast=self.contrast,
            sequence=self.sequence,
            flip_train=self.flip_train,
            marks=tuple(sorted(self.marks.items())),
            **values,  # type: ignore[arg-type]
        )


def _spin_echo(draft: _Draft) -> None:
    for name in ("repetition_time", "echo_time"):
        draft.take(name)
    _excitation_and_refocusing(draft, math.pi)


def _mprage(draft: _Draft) -> None:
    header = draft.header
    # an override states the cycle, whatever the header's repetition time is
    cycle = draft.take("repetition_time")
    repetition = draft.read("repetition_time")
    echo_time = draft.take("echo_time")
    draft.take("flip_angle")
    is_inner = repetition is not None and repetition < _INNER_REPETITION
    if is_inner:
        spacing = draft.put("echo_spacing", repetition or 0.0, draft.mark_of("repetition_time"))
    else:
        # symmetric echoes need about twice the echo time
        spacing = draft.put("echo_spacing", max(draft.typical.inner_repetition_time, 2 * echo_time), "assumed")
    readouts = header.echo_train_length or 0
    if readouts > 32:
        length = draft.put("echo_train_length", readouts, draft.mark_of("echo_train_length"))
    else:
        length = draft.put("echo_train_length", draft.typical.n_readouts, "assumed")
    inversion = draft.read("inversion_time")
    to_first = (header.manufacturer == "GE" or header.manufacturer not in ("Siemens", "Philips")) and is_inner
    if inversion is None:
        inversion, mark = draft.typical.inversion_time, "assumed"
    else:
        mark = draft.mark_of("inversion_time")
    to_first = to_first and inversion < _FIRST_PULSE
    if not to_first and draft.marks["echo_train_length"] == "assumed" and "echo_train_length" not in draft.stated:
        # a shorter readout where the typical one does not fit before or after the centre
        room = 2 * inversion / spacing if is_inner else 2 * min(inversion, cycle - inversion) / spacing
        length = draft.put("echo_train_length", max(2, min(length, math.floor(room) - 2)), "assumed")
    centre = draft.put("centre_index", max(1, length // 2), "assumed")
    if to_first:
        inversion += (centre - 1) * spacing
        mark = "derived" if mark == "measured" else mark
    inversion = draft.put("inversion_time", inversion, mark)
    if is_inner:
        shortest = inversion + (length - centre + 1) * spacing
        draft.put("repetition_time", max(draft.typical.cycle_time, shortest + 0.1), "assumed")
    draft.put("inversion_efficiency", INVERSION_EFFICIENCY, "assumed")


def _echo_train(draft: _Draft) -> None:
    draft.take("repetition_time")
    echo_time = draft.take("echo_time")
    if draft.sequence is PulseSequence.INVERSION_RECOVERY_TSE:
        draft.take("inversion_time")
        draft.put("inversion_efficiency", INVERSION_EFFICIENCY, "assumed")
    angle = _excitation_and_refocusing(draft, draft.typical.refocusing_angle)
    length = draft.header.echo_train_length or 0
    spacing = {
        Contrast.T1W: draft.typical.t1w_spacing,
        Contrast.T2W: draft.typical.t2w_spacing,
        Contrast.FLAIR: draft.typical.flair_spacing,
    }[draft.contrast]
    guess = max(1, round(echo_time / draft.stated.get("echo_spacing", spacing)))
    if length > 1:
        length = round(draft.put("echo_train_length", length, draft.mark_of("echo_train_length")))
    else:
        length = round(draft.put("echo_train_length", max(2, 2 * guess - 1), "assumed"))
    centre = draft.put("centre_index", min(guess, length), "assumed")
    draft.put("echo_spacing", echo_time / centre, "derived")
    is_3d = draft.header.mr_acquisition_type == "3D"
    draft.put("refocusing_factor", 1.0 if is_3d else slice_profile_factor(angle), "assumed")
    draft.put("ramp", float(draft.contrast is not Contrast.T1W), "assumed")


def _variable_flip(draft: _Draft) -> None:
    repetition = draft.take("repetition_time")
    echo_time = draft.take("echo_time")
    maximum = _excitation_and_refocusing(draft, draft.typical.variable_maximum)
    maximum = draft.stated.get("flip_train_maximum", maximum)
    spacing = draft.stated.get("echo_spacing", draft.typical.variable_spacing)
    length = draft.header.echo_train_length or 0
    if length > 2 * START:
        length = round(draft.put("echo_train_length", length, draft.mark_of("echo_train_length")))
    else:
        length = round(draft.put("echo_train_length", draft.typical.variable_length, "assumed"))
    latest = max(1, math.floor(draft.typical.variable_centre * length))
    if draft.header.manufacturer == "GE":
        centre = round(draft.put("centre_index", _centre_of_contrast(echo_time, spacing, length, latest), "assumed"))
        draft.put("echo_time", centre * spacing, "derived")
    else:
        centre = round(draft.put("centre_index", min(latest, max(1, round(echo_time / spacing))), "assumed"))
        if centre < latest:
            spacing = echo_time / centre
        else:
            # so late a centre is not plausible: the echo time is more likely to be no physical one
            draft.put("echo_time", centre * spacing, "derived")
    draft.put("echo_spacing", spacing, "derived")
    draft.flip_train = _train(draft, length, centre, maximum)
    draft.put("refocusing_angle", max(draft.flip_train), "assumed")
    for name in _SHAPE:
        if name in draft.stated:
            draft.marks[name] = "assumed"
    inversion = draft.read("inversion_time")
    if inversion is None and "inversion_time" not in draft.stated:
        if draft.contrast is Contrast.FLAIR:
            draft.take("inversion_time")
        return
    inversion = draft.put("inversion_time", inversion or 0.0, draft.mark_of("inversion_time"))
    draft.put("inversion_efficiency", INVERSION_EFFICIENCY, "assumed")
    is_prepared = draft.header.manufacturer in ("Philips", "GE") and draft.contrast is Contrast.FLAIR
    if is_prepared and inversion < _null_of_fluid(repetition, inversion, length * spacing) - 0.1:
        draft.put("t2_preparation_time", T2_PREPARATION_TIME, "assumed")


def _excitation_and_refocusing(draft: _Draft, default: float) -> float:
    """Sort the header's flip angle into excitation or refocusing; return the refocusing angle."""
    angle = draft.read("flip_angle")
    mark = draft.mark_of("flip_angle")
    if angle is not None and angle > _EXCITATION and draft.header.manufacturer != "Philips":
        draft.put("flip_angle", math.pi / 2, "assumed")
        return draft.put("refocusing_angle", angle, mark)
    if angle is None or angle > _EXCITATION:
        draft.put("flip_angle", math.pi / 2, "assumed")
    else:
        draft.put("flip_angle", angle, mark)
    return draft.put("refocusing_angle", default, "assumed")


def _train(draft: _Draft, length: int, centre: int, maximum: float) -> tuple[float, ...]:
    """Imputed refocusing angles: the later the centre of k-space, the lower the angles before it."""
    minimum = draft.stated.get("flip_train_minimum", math.radians(min(40.0, max(25.0, 42.0 - 0.2 * centre))))
    middle = draft.stated.get("flip_train_centre", math.radians(min(70.0, max(40.0, 75.0 - 0.36 * centre))))
    middle = min(max(middle, minimum), maximum)
    turn = min(max(centre, START + 1), length - 1)
    try:
        return variable_flip_train(length, turn, minimum=minimum, centre=middle, maximum=maximum)
    except ValueError as error:
        raise AcquisitionError(f"{draft.contrast} {draft.sequence}: no flip train: {error}") from error


@lru_cache(maxsize=1024)
def _centre_of_contrast(echo_time: float, spacing: float, length: int, latest: int) -> int:
    """Echo at which grey matter has lost as much to relaxation as after ``echo_time`` of a plain spin echo."""
    import torch

    from qmri_core.physics.phase_graph import echo_amplitude

    low = variable_flip_train(
        length, max(START + 1, latest), minimum=math.radians(30), centre=math.radians(60), maximum=math.radians(120)
    )
    t1 = torch.tensor([_GREY_T1, 1e6], dtype=torch.float64)
    t2 = torch.tensor([_GREY_T2, 1e6], dtype=torch.float64)
    for centre in range(1, latest):
        echo, ideal = echo_amplitude(t1, t2, refocusing_angles=low, echo_spacing=spacing, centre_index=centre).tolist()
        if -_GREY_T2 * math.log(echo / ideal) >= echo_time:
            return centre
    return latest


def _null_of_fluid(repetition_time: float, inversion_time: float, train_duration: float) -> float:
    """Inversion time that would null cerebrospinal fluid without T2 preparation."""
    rest = max(repetition_time - inversion_time - train_duration, 0.0)
    before = 1 - 0.8 * math.exp(-rest / _CSF_T1)
    return _CSF_T1 * math.log(1 + INVERSION_EFFICIENCY * before)
