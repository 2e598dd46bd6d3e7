"""Random protocols for training: every family over the range of clinical settings, with what headers get wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from qmri_core.physics.flip_trains import variable_flip_train
from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence

Protocol = dict[Contrast, Acquisition]


def random_protocol(rng: np.random.Generator, *, field_strength: float = 3.0) -> tuple[Protocol, Protocol]:
    """A protocol as inference would believe it, and as the scanner ran it.

    They differ in what headers hide or scanners miss: inversion efficiency, effective refocusing angle, timing of the
    inversion, echo spacing.
    """
    nominal = {
        Contrast.T1W: _t1w(rng, field_strength),
        Contrast.T2W: _t2w(rng, field_strength),
        Contrast.FLAIR: _flair(rng, field_strength),
    }
    return nominal, {contrast: _as_run(acquisition, rng) for contrast, acquisition in nominal.items()}


def _as_run(acquisition: Acquisition, rng: np.random.Generator) -> Acquisition:
    changes: dict[str, float] = {}
    if acquisition.inversion_time is not None:
        changes["inversion_time"] = acquisition.inversion_time * (1 + 0.02 * float(rng.standard_normal()))
        changes["inversion_efficiency"] = float(np.clip(0.96 + 0.03 * rng.standard_normal(), 0.85, 1.0))
    if acquisition.sequence in (PulseSequence.TURBO_SPIN_ECHO, PulseSequence.INVERSION_RECOVERY_TSE):
        changes["refocusing_factor"] = float(
            np.clip(acquisition.refocusing_factor + 0.08 * rng.standard_normal(), 0.5, 1.0)
        )
    if acquisition.sequence is PulseSequence.MPRAGE and acquisition.echo_spacing is not None:
        changes["echo_spacing"] = acquisition.echo_spacing * (1 + 0.03 * float(rng.standard_normal()))
    return replace(acquisition, **changes)  # type: ignore[arg-type]


def _t1w(rng: np.random.Generator, field: float) -> Acquisition:
    kind = str(rng.choice(list(_T1W), p=[share for _, share in _T1W.values()]))
    return _T1W[kind][0](rng, field)


def _mprage(rng: np.random.Generator, field: float) -> Acquisition:
    n = int(rng.integers(120, 240))
    inversion_time = float(rng.uniform(0.85, 1.15))
    longest = (inversion_time - 0.02) / (n // 2)  # the train begins after the inversion
    return Acquisition(
        contrast=Contrast.T1W,
        sequence=PulseSequence.MPRAGE,
        field_strength=field,
        repetition_time=float(rng.uniform(2.0, 3.0)),
        echo_time=float(rng.uniform(0.002, 0.0045)),
        flip_angle=math.radians(float(rng.uniform(6, 13))),
        inversion_time=inversion_time,
        echo_spacing=float(rng.uniform(0.0058, min(0.0084, longest))),
        echo_train_length=n,
        centre_index=n // 2,
    )


def _ir_spgr(rng: np.random.Generator, field: float) -> Acquisition:
    n = int(rng.integers(150, 180))
    spacing = float(rng.uniform(0.0066, 0.0082))
    to_centre = float(rng.uniform(0.38, 0.5)) + spacing * (n // 2 - 1)
    return Acquisition(
        contrast=Contrast.T1W,
        sequence=PulseSequence.MPRAGE,
        field_strength=field,
        repetition_time=to_centre + spacing * n / 2 + float(rng.uniform(0.15, 0.7)),
        echo_time=float(rng.uniform(0.0028, 0.0034)),
        flip_angle=math.radians(float(rng.uniform(9, 20))),
        inversion_time=to_centre,
        echo_spacing=spacing,
        echo_train_length=n,
        centre_index=n // 2,
    )


def _spgr(rng: np.random.Generator, field: float, *, three: bool) -> Acquisition:
    return Acquisition(
        contrast=Contrast.T1W,
        sequence=PulseSequence.SPOILED_GRADIENT_ECHO,
        field_strength=field,
        repetition_time=float(rng.uniform(0.006, 0.025) if three else rng.uniform(0.12, 0.40)),
        echo_time=float(rng.uniform(0.0022, 0.0048)),
        flip_angle=math.radians(float(rng.uniform(6, 25) if three else rng.uniform(55, 90))),
    )


def _spin_echo(rng: np.random.Generator, field: float) -> Acquisition:
    return Acquisition(
        contrast=Contrast.T1W,
        sequence=PulseSequence.SPIN_ECHO,
        field_strength=field,
        repetition_time=float(rng.uniform(0.38, 0.85)),
        echo_time=float(rng.uniform(0.006, 0.020)),
        flip_angle=math.radians(float(rng.uniform(65, 90))),
        refocusing_angle=math.radians(float(rng.uniform(140, 180))),
    )


def _little_contrast(rng: np.random.Generator, field: float) -> Acquisition:
    """A T1w that shows little of T1: a short angle, or a long repetition time."""
    if rng.random() < 0.5:
        return replace(_spgr(rng, field, three=True), flip_angle=math.radians(float(rng.uniform(3, 6))))
    return replace(_spin_echo(rng, field), repetition_time=float(rng.uniform(0.9, 1.5)))


def _tse(rng: np.random.Generator, field: float) -> Acquisition:
    return _echo_train(
        rng,
        Contrast.T1W,
        field,
        repetition_time=float(rng.uniform(0.45, 0.9)),
        echo_spacing=float(rng.uniform(0.007, 0.013)),
        centre_index=int(rng.integers(1, 3)),
        length=int(rng.integers(3, 7)),
    )


def _t1_flair(rng: np.random.Generator, field: float) -> Acquisition:
    return _echo_train(
        rng,
        Contrast.T1W,
        field,
        repetition_time=float(rng.uniform(1.7, 2.9)),
        inversion_time=float(rng.uniform(0.70, 1.0)),
        echo_spacing=float(rng.uniform(0.007, 0.010)),
        centre_index=int(rng.integers(2, 5)),
        length=int(rng.integers(5, 9)),
    )


_T1W: Mapping[str, tuple[Callable[[np.random.Generator, float], Acquisition], float]] = {
    "mprage": (_mprage, 0.28),
    "ir_spgr": (_ir_spgr, 0.17),
    "spgr_3d": (partial(_spgr, three=True), 0.10),
    "spgr_2d": (partial(_spgr, three=False), 0.10),
    "spin_echo": (_spin_echo, 0.14),
    "tse": (_tse, 0.09),
    "t1_flair": (_t1_flair, 0.09),
    "little_contrast": (_little_contrast, 0.03),
}
"""How a T1w series of each kind is drawn, and its share of protocols; assumed."""


def _t2w(rng: np.random.Generator, field: float) -> Acquisition:
    if rng.random() < 0.25:
        return _variable_flip(rng, Contrast.T2W, field, repetition_time=float(rng.uniform(2.3, 3.6)))
    spacing = float(rng.uniform(0.009, 0.015))
    centre = max(4, round(float(rng.uniform(0.074, 0.125)) / spacing))
    return _echo_train(
        rng,
        Contrast.T2W,
        field,
        repetition_time=float(rng.uniform(2.3, 8.0)),
        echo_spacing=spacing,
        centre_index=centre,
        length=centre + int(rng.integers(0, centre + 1)),
    )


def _flair(rng: np.random.Generator, field: float) -> Acquisition:
    if rng.random() < 0.4:
        long = rng.random() < 0.3
        return _variable_flip(
            rng,
            Contrast.FLAIR,
            field,
            repetition_time=float(rng.uniform(7.0, 8.5) if long else rng.uniform(4.6, 5.4)),
            inversion_time=float(rng.uniform(2.1, 2.4) if long else rng.uniform(1.5, 1.85)),
            t2_preparation_time=0.125 if rng.random() < 0.35 else 0.0,
        )
    spacing = float(rng.uniform(0.0085, 0.0130))
    centre = max(4, round(float(rng.uniform(0.078, 0.150)) / spacing))
    return _echo_train(
        rng,
        Contrast.FLAIR,
        field,
        repetition_time=float(rng.uniform(7.0, 12.0)),
        inversion_time=float(rng.uniform(2.1, 2.85)),
        echo_spacing=spacing,
        centre_index=centre,
        length=centre + int(rng.integers(0, centre + 1)),
    )


def _echo_train(
    rng: np.random.Generator,
    contrast: Contrast,
    field: float,
    *,
    repetition_time: float,
    echo_spacing: float,
    centre_index: int,
    length: int,
    inversion_time: float | None = None,
) -> Acquisition:
    return Acquisition(
        contrast=contrast,
        sequence=PulseSequence.TURBO_SPIN_ECHO if inversion_time is None else PulseSequence.INVERSION_RECOVERY_TSE,
        field_strength=field,
        repetition_time=repetition_time,
        echo_time=centre_index * echo_spacing,
        flip_angle=math.pi / 2,
        inversion_time=inversion_time,
        refocusing_angle=math.radians(float(rng.uniform(110, 180))),
        echo_spacing=echo_spacing,
        echo_train_length=length,
        centre_index=centre_index,
        refocusing_factor=float(rng.uniform(0.6, 1.0)),
    )


def _variable_flip(
    rng: np.random.Generator,
    contrast: Contrast,
    field: float,
    *,
    repetition_time: float,
    inversion_time: float | None = None,
    t2_preparation_time: float = 0.0,
) -> Acquisition:
    length = int(rng.integers(110, 280))
    spacing = float(rng.uniform(0.0032, 0.0042))
    centre_index = int(length * rng.uniform(0.3, 0.5))
    train = variable_flip_train(
        length,
        centre_index,
        minimum=math.radians(float(rng.uniform(18, 45))),
        centre=math.radians(float(rng.uniform(45, 80))),
        maximum=math.radians(float(rng.uniform(90, 150))),
    )
    return Acquisition(
        contrast=contrast,
        sequence=PulseSequence.VARIABLE_FLIP_TSE,
        field_strength=field,
        repetition_time=repetition_time,
        echo_time=centre_index * spacing,
        flip_angle=math.pi / 2,
        inversion_time=inversion_time,
        refocusing_angle=max(train),
        echo_spacing=spacing,
        echo_train_length=length,
        centre_index=centre_index,
        flip_train=train,
        t2_preparation_time=t2_preparation_time,
    )
