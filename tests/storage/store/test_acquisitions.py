import math
from dataclasses import asdict

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from qmri_core.series.acquisition import MARKS, Acquisition, Contrast, PulseSequence
from storage.store.acquisitions import acquisition_of, acquisition_values, acquisitions_of
from storage.store.schema import SESSION_VARIABLES
from storage.store.tables import cell

angles = st.floats(1e-3, math.pi)


@st.composite
def acquisitions(draw: st.DrawFn) -> Acquisition:
    repetition_time = draw(st.floats(0.005, 15.0))
    return Acquisition(
        contrast=draw(st.sampled_from(list(Contrast))),
        sequence=draw(st.sampled_from(list(PulseSequence))),
        field_strength=draw(st.floats(0.1, 10.0)),
        repetition_time=repetition_time,
        echo_time=draw(st.floats(1e-3, 0.9)) * min(repetition_time, 1.0),
        flip_angle=draw(angles),
        inversion_time=draw(st.none() | st.floats(1e-3, 0.99).map(lambda part: part * repetition_time)),
        refocusing_angle=draw(st.none() | angles),
        echo_spacing=draw(st.none() | st.floats(1e-4, 0.09)),
        echo_train_length=draw(st.none() | st.integers(1, 400)),
        centre_index=draw(st.none() | st.integers(1, 400)),
        flip_train=tuple(draw(st.lists(angles, max_size=20))),
        ramp=draw(st.booleans()),
        t2_preparation_time=draw(st.floats(0.0, 0.2)),
        inversion_efficiency=draw(st.floats(0.5, 1.0)),
        refocusing_factor=draw(st.floats(0.5, 1.0)),
        slices=draw(st.none() | st.integers(1, 400)),
        b1_rms=draw(st.none() | st.floats(1e-7, 9e-6)),
        marks=tuple(
            draw(st.dictionaries(st.sampled_from(["echo_spacing", "flip_angle"]), st.sampled_from(MARKS))).items()
        ),
    )


@given(acquisitions())
def test_an_acquisition_survives_the_store_without_loss(acquisition: Acquisition) -> None:
    values = acquisition_values(acquisition)
    assert set(values) <= set(SESSION_VARIABLES)
    stored = {name: cell(SESSION_VARIABLES[name], value) for name, value in values.items()}
    again = acquisition_of(stored, acquisition.contrast)
    assert again is not None
    assert asdict(again) == asdict(acquisition)  # of the session's own values too, in which equal ones may differ
    as_row = pd.Series(stored | {"session": "ses-1"}, dtype=object)
    assert acquisitions_of(as_row.to_dict()) == {acquisition.contrast: acquisition}


def test_a_contrast_that_is_not_there_has_no_acquisition() -> None:
    assert acquisition_of({"T2w_sequence": "", "T2w_echo_time": np.nan}, Contrast.T2W) is None
    assert acquisitions_of({}) == {}


def test_unknown_numbers_are_nan_and_defaults_take_no_room() -> None:
    values = acquisition_values(
        Acquisition(
            contrast=Contrast.T1W,
            sequence=PulseSequence.SPIN_ECHO,
            field_strength=3.0,
            repetition_time=0.6,
            echo_time=0.01,
            flip_angle=1.5,
        )
    )
    assert math.isnan(values["T1w_inversion_time"])  # type: ignore[arg-type]
    assert values["T1w_model_parameters"] == '{"field_strength":3.0}'
