"""One complete acquisition per family, and variants, for the contract tests."""

from __future__ import annotations

import math

from qmri_core.physics.flip_trains import variable_flip_train
from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence

_TRAIN = variable_flip_train(100, 34, minimum=math.radians(32), centre=math.radians(62), maximum=math.radians(120))

EXAMPLES: dict[str, Acquisition] = {
    "spin_echo": Acquisition(
        contrast=Contrast.T1W,
        sequence=PulseSequence.SPIN_ECHO,
        field_strength=3.0,
        repetition_time=0.6,
        echo_time=0.012,
        flip_angle=math.pi / 2,
        refocusing_angle=math.radians(160),
    ),
    "turbo_spin_echo": Acquisition(
        contrast=Contrast.T2W,
        sequence=PulseSequence.TURBO_SPIN_ECHO,
        field_strength=3.0,
        repetition_time=4.0,
        echo_time=0.099,
        flip_angle=math.pi / 2,
        refocusing_angle=math.radians(150),
        echo_spacing=0.011,
        echo_train_length=15,
        centre_index=9,
        ramp=True,
        refocusing_factor=0.8,
    ),
    "spoiled_gradient_echo": Acquisition(
        contrast=Contrast.T1W,
        sequence=PulseSequence.SPOILED_GRADIENT_ECHO,
        field_strength=3.0,
        repetition_time=0.25,
        echo_time=0.0025,
        flip_angle=math.radians(70),
    ),
    "mprage": Acquisition(
        contrast=Contrast.T1W,
        sequence=PulseSequence.MPRAGE,
        field_strength=3.0,
        repetition_time=2.3,
        echo_time=0.003,
        flip_angle=math.radians(9),
        inversion_time=0.9,
        echo_spacing=0.0071,
        echo_train_length=176,
        centre_index=88,
        inversion_efficiency=0.96,
    ),
    "inversion_recovery_tse": Acquisition(
        contrast=Contrast.FLAIR,
        sequence=PulseSequence.INVERSION_RECOVERY_TSE,
        field_strength=3.0,
        repetition_time=9.0,
        echo_time=0.081,
        flip_angle=math.pi / 2,
        inversion_time=2.5,
        refocusing_angle=math.radians(130),
        echo_spacing=0.009,
        echo_train_length=16,
        centre_index=9,
        inversion_efficiency=0.97,
    ),
    "variable_flip_tse": Acquisition(
        contrast=Contrast.FLAIR,
        sequence=PulseSequence.VARIABLE_FLIP_TSE,
        field_strength=3.0,
        repetition_time=4.8,
        echo_time=34 * 0.0045,
        flip_angle=math.pi / 2,
        inversion_time=1.5,
        refocusing_angle=max(_TRAIN),
        echo_spacing=0.0045,
        echo_train_length=len(_TRAIN),
        centre_index=34,
        flip_train=_TRAIN,
        t2_preparation_time=0.1,
        inversion_efficiency=0.97,
    ),
}
