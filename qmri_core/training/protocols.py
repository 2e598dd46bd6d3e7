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
        changes["inversion_time"] = acquisition.inversion_time * (1 + 0.015 * float(rng.standard_normal()))
        changes["inversion_efficiency"] = float(np.clip(0.97 + 0.02 * rng.standard_normal(), 0.9, 1.0))
    if acquisition.sequence in (PulseSequence.TURBO_SPIN_ECHO, PulseSequence.INVERSION_RECOVERY_TSE):
        changes["refocusing_factor"] = float(
            np.clip(acquisition.refocusing_factor + 0.06 * rng.standard_normal(), 0.5, 1.0)
        )
    if acquisition.sequence is PulseSequence.MPRAGE and acquisition.echo_spacing is not None:
        changes["echo_spacing"] = acquisition.echo_spacing * (1 + 0.02 * float(rng.standard_normal()))
    return replace(acquisition, **changes)  # type: ignore[arg-type]


def _t1w(rng: np.random.Generator, field: float) -> Acquisition:
    kind = str(rng.choice(list(_T1W), p=[share for _, share in _T1W.values()]))
    return _T1W[kind][0](rng, field)


def _mprage(rng: np.random.Generator, field: float) -> Acquisition:
    n = int(rng.integers(150, 232))
    return Acquisition(
        contrast=Contrast.T1W,
        sequence=PulseSequence.MPRAGE,
        field_strength=field,
        repetition_time=float(rng.uniform(2.0, 2.9)),
        echo_time=float(rng.uniform(0.002, 0.004)),
        flip_angle=math.radians(float(rng.uniform(7, 12))),
        inversion_time=float(rng.uniform(0.86, 1.1)),
        echo_spacing=float(rng.uniform(0.0064, 0.0080)),
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
        repetition_time=float(rng.uniform(0.007, 0.012) if three else rng.uniform(0.18, 0.32)),
        echo_time=float(rng.uniform(0.0022, 0.0048)),
        flip_angle=math.radians(float(rng.uniform(8, 18) if three else rng.uniform(60, 90))),
    )


def _spin_echo(rng: np.random.Generator, field: float) -> Acquisition:
    return Acquisition(
        contrast=Contrast.T1W,
        sequence=PulseSequence.SPIN_ECHO,
        field_strength=field,
        repetition_time=float(rng.uniform(0.45, 0.75)),
        echo_time=float(rng.uniform(0.006, 0.018)),
        flip_angle=math.radians(float(rng.uniform(70, 90))),
        refocusing_angle=math.radians(float(rng.uniform(150, 180))),
    )


def _tse(rng: np.random.Generator, field: float) -> Acquisition:
    return _echo_train(
        rng,
        Contrast.T1W,
        field,
        repetition_time=float(rng.uniform(0.5, 0.8)),
        echo_spacing=float(rng.uniform(0.008, 0.012)),
        centre_index=int(rng.integers(1, 3)),
        length=int(rng.integers(3, 6)),
    )


def _t1_flair(rng: np.random.Generator, field: float) -> Acquisition:
    return _echo_train(
        rng,
        Contrast.T1W,
        field,
        repetition_time=float(rng.uniform(1.8, 2.7)),
        inversion_time=float(rng.uniform(0.75, 0.98)),
        echo_spacing=float(rng.uniform(0.007, 0.010)),
        centre_index=int(rng.integers(2, 5)),
        length=int(rng.integers(5, 9)),
    )


_T1W: Mapping[str, tuple[Callable[[np.random.Generator, float], Acquisition], float]] = {
    "mprage": (_mprage, 0.30),
    "ir_spgr": (_ir_spgr, 0.18),
    "spgr_3d": (partial(_spgr, three=True), 0.10),
    "spgr_2d": (partial(_spgr, three=False), 0.10),
    "spin_echo": (_spin_echo, 0.14),
    "tse": (_tse, 0.09),
    "t1_flair": (_t1_flair, 0.09),
}
"""How a T1w series of each kind is drawn, and its share of protocols; assumed."""


def _t2w(rng: np.random.Generator, field: float) -> Acquisition:
    if rng.random() < 0.25:
        return _variable_flip(rng, Contrast.T2W, field, repetition_time=float(rng.uniform(2.3, 3.6)))
    spacing = float(rng.uniform(0.009, 0.015))
    centre = max(4, round(float(rng.uniform(0.078, 0.112)) / spacing))
    return _echo_train(
        rng,
        Contrast.T2W,
        field,
        repetition_time=float(rng.uniform(2.5, 7.0)),
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
    centre = max(4, round(float(rng.uniform(0.080, 0.140)) / spacing))
    return _echo_train(
        rng,
        Contrast.FLAIR,
        field,
        repetition_time=float(rng.uniform(8.0, 11.5)),
        inversion_time=float(rng.uniform(2.3, 2.8)),
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
        refocusing_factor=float(rng.uniform(0.65, 1.0)),
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
        minimum=math.radians(float(rng.uniform(22, 40))),
        centre=math.radians(float(rng.uniform(40, 70))),
        maximum=math.radians(float(rng.uniform(100, 130))),
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
