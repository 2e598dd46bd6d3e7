"""A plain protocol that tests of everybody can use."""

from __future__ import annotations

import math

from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence


def plain_protocol(field_strength: float = 3.0) -> dict[Contrast, Acquisition]:
    """MPRAGE, 2D TSE T2w and 2D FLAIR at usual settings."""
    return {
        Contrast.T1W: Acquisition(
            contrast=Contrast.T1W,
            sequence=PulseSequence.MPRAGE,
            field_strength=field_strength,
            repetition_time=2.3,
            echo_time=0.003,
            flip_angle=math.radians(9),
            inversion_time=0.9,
            echo_spacing=0.007,
            echo_train_length=176,
            centre_index=88,
        ),
        Contrast.T2W: Acquisition(
            contrast=Contrast.T2W,
            sequence=PulseSequence.TURBO_SPIN_ECHO,
            field_strength=field_strength,
            repetition_time=5.0,
            echo_time=0.1,
            flip_angle=math.pi / 2,
            refocusing_angle=math.radians(150),
            echo_spacing=0.01,
            echo_train_length=15,
            centre_index=10,
        ),
        Contrast.FLAIR: Acquisition(
            contrast=Contrast.FLAIR,
            sequence=PulseSequence.INVERSION_RECOVERY_TSE,
            field_strength=field_strength,
            repetition_time=9.0,
            echo_time=0.1,
            flip_angle=math.pi / 2,
            inversion_time=2.5,
            refocusing_angle=math.radians(150),
            echo_spacing=0.01,
            echo_train_length=16,
            centre_index=10,
        ),
    }
