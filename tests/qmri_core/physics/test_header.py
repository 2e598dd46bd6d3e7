"""Headers of published clinical protocols, by vendor, and what a header must not get away with."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from qmri_core.physics.header import OVERRIDES, acquisition_from_header
from qmri_core.physics.registry import signal
from qmri_core.physics.vendors import RULES, slice_profile_factor
from qmri_core.series.acquisition import MARKS, Acquisition, AcquisitionError, Contrast, PulseSequence, SeriesHeader

T1W, T2W, FLAIR = Contrast.T1W, Contrast.T2W, Contrast.FLAIR
MPRAGE, TSE, FLAIR_TSE = PulseSequence.MPRAGE, PulseSequence.TURBO_SPIN_ECHO, PulseSequence.INVERSION_RECOVERY_TSE
VARIABLE, GRADIENT, SPIN = PulseSequence.VARIABLE_FLIP_TSE, PulseSequence.SPOILED_GRADIENT_ECHO, PulseSequence.SPIN_ECHO


def header(
    manufacturer: str,
    *,
    tr: float | None = None,
    te: float | None = None,
    ti: float | None = None,
    fa: float | None = None,
    etl: int | None = None,
    kind: str = "2D",
    field: float | None = 3.0,
) -> SeriesHeader:
    """Header from milliseconds and degrees."""
    return SeriesHeader(
        manufacturer=manufacturer,
        magnetic_field_strength=field,
        mr_acquisition_type=kind,
        repetition_time=None if tr is None else tr / 1e3,
        echo_time=None if te is None else te / 1e3,
        inversion_time=None if ti is None else ti / 1e3,
        flip_angle=None if fa is None else math.radians(fa),
        echo_train_length=etl,
    )


SIEMENS_MPRAGE = header("Siemens", tr=2300, te=2.98, ti=900, fa=9, etl=1, kind="3D")
SIEMENS_TSE = header("Siemens", tr=6000, te=100, fa=150, etl=18)
SIEMENS_FLAIR = header("Siemens", tr=9000, te=81, ti=2500, fa=150, etl=16)
SIEMENS_SPACE = header("Siemens", tr=5000, te=395, ti=1800, fa=120, etl=284, kind="3D")
ALL = {
    "siemens mprage": (SIEMENS_MPRAGE, T1W, MPRAGE),
    "siemens tse": (SIEMENS_TSE, T2W, TSE),
    "siemens flair": (SIEMENS_FLAIR, FLAIR, FLAIR_TSE),
    "siemens space flair": (SIEMENS_SPACE, FLAIR, VARIABLE),
    "siemens space t2": (header("Siemens", tr=3200, te=563, fa=120, etl=314, kind="3D"), T2W, VARIABLE),
    "siemens space t1": (header("Siemens", tr=700, te=11, fa=120, etl=42, kind="3D"), T1W, VARIABLE),
    "siemens flash": (header("Siemens", tr=250, te=2.46, fa=70), T1W, GRADIENT),
    "siemens se": (header("Siemens", tr=600, te=6.8, fa=90, etl=1), T1W, SPIN),
    "philips tfe": (header("Philips", tr=6.9, te=3.2, ti=830, fa=8, etl=225, kind="3D"), T1W, MPRAGE),
    "philips tfe hidden ti": (header("Philips", tr=6.5, te=2.9, ti=0, fa=9, kind="3D"), T1W, MPRAGE),
    "philips tse": (header("Philips", tr=3000, te=80, fa=90, etl=15), T2W, TSE),
    "philips tse t1": (header("Philips", tr=520, te=23, fa=90, etl=7), T1W, TSE),
    "philips flair": (header("Philips", tr=11000, te=125, ti=2800, fa=90, etl=24), FLAIR, FLAIR_TSE),
    "philips vista flair": (header("Philips", tr=4800, te=271, ti=1650, fa=90, etl=182, kind="3D"), FLAIR, VARIABLE),
    "ge ir-spgr": (header("GE", tr=7.7, te=3.1, ti=400, fa=11, etl=1, kind="3D"), T1W, MPRAGE),
    "ge mprage": (header("GE", tr=2428, te=2.2, ti=1000, fa=8, kind="3D"), T1W, MPRAGE),
    "ge tse": (header("GE", tr=5300, te=104, fa=125, etl=18), T2W, TSE),
    "ge t1 flair": (header("GE", tr=2500, te=24, ti=900, fa=111, etl=7), T1W, FLAIR_TSE),
    "ge cube flair": (header("GE", tr=4800, te=119, ti=1480, fa=90, etl=160, kind="3D"), FLAIR, VARIABLE),
    "unknown mprage": (header("", tr=2000, te=3, ti=900, fa=9), T1W, MPRAGE),
    "unknown tfe": (header("", tr=7, te=3, fa=9), T1W, MPRAGE),
    "unknown tse": (header("", tr=4000, te=100), T2W, TSE),
    "unknown flair": (header("", tr=9000, te=120, ti=2500), FLAIR, FLAIR_TSE),
    "unknown space": (header("", tr=5000, te=300, ti=1800), FLAIR, VARIABLE),
    "uih tfe": (header("UIH", tr=7.2, te=3.1, ti=1000, fa=10, kind="3D"), T1W, MPRAGE),
}


@pytest.mark.parametrize(("series", "contrast", "sequence"), ALL.values(), ids=list(ALL))
def test_every_header_gives_a_model_with_marks(
    series: SeriesHeader, contrast: Contrast, sequence: PulseSequence
) -> None:
    found = acquisition_from_header(series, contrast, sequence)
    marks = dict(found.marks)
    assert set(marks.values()) <= set(MARKS)
    for name in ("repetition_time", "echo_time", "flip_angle", "field_strength"):
        assert name in marks
    tissues = torch.tensor([[0.7, 0.8], [0.85, 1.4], [0.07, 0.1]], dtype=torch.float64)
    assert signal(found, *tissues).isfinite().all()


def test_siemens_mprage_times_are_the_cycle_and_the_centre() -> None:
    found = acquisition_from_header(SIEMENS_MPRAGE, T1W, MPRAGE)
    assert found.repetition_time == 2.3
    assert found.inversion_time == 0.9
    assert found.mark("inversion_time") == found.mark("repetition_time") == "measured"
    assert found.mark("echo_spacing") == found.mark("echo_train_length") == "assumed"
    assert found.echo_train_length is not None
    assert found.echo_train_length >= 128
    assert found.centre_index == found.echo_train_length // 2


def test_inner_repetition_time_of_philips_and_ge() -> None:
    for name in ("philips tfe", "ge ir-spgr", "uih tfe", "unknown tfe"):
        series, contrast, sequence = ALL[name]
        found = acquisition_from_header(series, contrast, sequence)
        assert found.echo_spacing == series.repetition_time
        assert found.mark("echo_spacing") == "measured"
        assert 1.5 < found.repetition_time < 3.5
        assert found.mark("repetition_time") == "assumed"


def test_ge_inversion_time_runs_to_the_first_readout() -> None:
    found = acquisition_from_header(*ALL["ge ir-spgr"])
    assert found.centre_index is not None
    assert found.echo_spacing is not None
    assert found.inversion_time == pytest.approx(0.4 + (found.centre_index - 1) * 0.0077)
    assert found.mark("inversion_time") == "derived"
    product = acquisition_from_header(*ALL["ge mprage"])
    assert product.inversion_time == 1.0


def test_philips_hides_the_inversion_time_and_shows_the_train() -> None:
    assert acquisition_from_header(*ALL["philips tfe hidden ti"]).mark("inversion_time") == "assumed"
    shown = acquisition_from_header(*ALL["philips tfe"])
    assert shown.echo_train_length == 225
    assert shown.inversion_time == pytest.approx(0.83)


def test_flip_angle_of_an_echo_train() -> None:
    siemens = acquisition_from_header(SIEMENS_TSE, T2W, TSE)
    assert siemens.refocusing_angle == pytest.approx(math.radians(150))
    assert siemens.mark("refocusing_angle") == "measured"
    assert siemens.flip_angle == pytest.approx(math.pi / 2)
    philips = acquisition_from_header(*ALL["philips tse"])
    assert philips.mark("flip_angle") == "measured"
    assert philips.refocusing_angle == pytest.approx(math.radians(120))
    assert philips.mark("refocusing_angle") == "assumed"


def test_centre_and_spacing_of_an_echo_train() -> None:
    # hidden values of published protocols: centre 9 at 11.1 ms; 9 at 9 ms; 3 at 8 ms
    for series, contrast, sequence, centre in (
        (SIEMENS_TSE, T2W, TSE, 9),
        (SIEMENS_FLAIR, FLAIR, FLAIR_TSE, 9),
        ALL["ge t1 flair"] + (3,),
    ):
        found = acquisition_from_header(series, contrast, sequence)
        assert found.centre_index == centre
        assert found.echo_spacing == pytest.approx((series.echo_time or 0) / centre)


def test_variable_flip_trains_reach_their_centre_at_the_echo_time() -> None:
    for name in ("siemens space flair", "siemens space t2", "philips vista flair", "ge cube flair"):
        found = acquisition_from_header(*ALL[name])
        assert found.centre_index is not None
        assert found.echo_spacing is not None
        assert found.echo_time == pytest.approx(found.centre_index * found.echo_spacing)
        assert len(found.flip_train) == found.echo_train_length
        assert found.refocusing_angle == max(found.flip_train)
    assert acquisition_from_header(*ALL["siemens space flair"]).centre_index == 113


def test_ge_effective_echo_time_is_not_the_physical_one() -> None:
    found = acquisition_from_header(*ALL["ge cube flair"])
    assert found.echo_time > 0.119
    assert found.mark("echo_time") == "derived"


def test_short_inversion_times_of_philips_and_ge_mean_t2_preparation() -> None:
    assert acquisition_from_header(*ALL["ge cube flair"]).t2_preparation_time > 0
    assert acquisition_from_header(*ALL["philips vista flair"]).t2_preparation_time > 0
    assert acquisition_from_header(SIEMENS_SPACE, FLAIR, VARIABLE).t2_preparation_time == 0
    long = header("GE", tr=8000, te=126, ti=2340, fa=90, etl=220, kind="3D")
    assert acquisition_from_header(long, FLAIR, VARIABLE).t2_preparation_time == 0


def test_slice_profile_lowers_the_refocusing_angle_in_2d_only() -> None:
    flat = acquisition_from_header(replace(SIEMENS_TSE, mr_acquisition_type="3D"), T2W, TSE)
    assert flat.refocusing_factor == 1.0
    assert acquisition_from_header(SIEMENS_TSE, T2W, TSE).refocusing_factor == pytest.approx(0.72)
    for degrees, low, high in ((120, 0.78, 0.80), (150, 0.70, 0.74), (180, 0.60, 0.64)):
        assert low <= slice_profile_factor(math.radians(degrees)) <= high


def test_field_strength_cannot_be_imputed() -> None:
    with pytest.raises(AcquisitionError, match="magnetic_field_strength"):
        acquisition_from_header(replace(SIEMENS_TSE, magnetic_field_strength=None), T2W, TSE)
    found = acquisition_from_header(
        replace(SIEMENS_TSE, magnetic_field_strength=None), T2W, TSE, {"field_strength": 3.0}
    )
    assert found.mark("field_strength") == "assumed"


@pytest.mark.parametrize("name", ["repetition_time", "echo_time", "inversion_time"])
@pytest.mark.parametrize("value", [None, 0.0, math.nan])
def test_what_decides_the_contrast_is_never_guessed(name: str, value: float | None) -> None:
    with pytest.raises(AcquisitionError, match=f"{name} is not in the header"):
        acquisition_from_header(replace(SIEMENS_FLAIR, **{name: value}), FLAIR, FLAIR_TSE)  # type: ignore[arg-type]


def test_gradient_echo_needs_its_flip_angle() -> None:
    with pytest.raises(AcquisitionError, match="flip_angle"):
        acquisition_from_header(header("Siemens", tr=250, te=2.5), T1W, GRADIENT)


def test_milliseconds_are_noticed() -> None:
    with pytest.raises(AcquisitionError, match="milliseconds"):
        acquisition_from_header(replace(SIEMENS_TSE, repetition_time=6000.0), T2W, TSE)


def test_overrides_beat_the_header_and_are_marked() -> None:
    found = acquisition_from_header(
        ALL["ge ir-spgr"][0],
        T1W,
        MPRAGE,
        {"repetition_time": 2.2, "centre_index": 70, "echo_train_length": 150, "inversion_efficiency": 0.9},
    )
    assert (found.repetition_time, found.centre_index, found.echo_train_length) == (2.2, 70, 150)
    assert isinstance(found.centre_index, int)
    for name in ("repetition_time", "centre_index", "echo_train_length", "inversion_efficiency"):
        assert found.mark(name) == "assumed"


def test_overrides_shape_the_flip_train() -> None:
    shaped = acquisition_from_header(
        SIEMENS_SPACE, FLAIR, VARIABLE, {"flip_train_minimum": 0.6, "flip_train_centre": 1.1, "flip_train_maximum": 2.4}
    )
    assert min(shaped.flip_train) == pytest.approx(0.6, abs=0.02)
    assert max(shaped.flip_train) == pytest.approx(2.4)
    assert shaped.flip_train[112] == pytest.approx(1.1)


def test_unknown_overrides_are_refused() -> None:
    with pytest.raises(AcquisitionError, match="TE"):
        acquisition_from_header(SIEMENS_TSE, T2W, TSE, {"TE": 0.1})
    assert "marks" not in OVERRIDES


def test_what_a_user_assumed_is_marked_assumed() -> None:
    stated = replace(SIEMENS_FLAIR, assumed=frozenset({"inversion_time", "magnetic_field_strength"}))
    found = acquisition_from_header(stated, FLAIR, FLAIR_TSE)
    assert found.mark("inversion_time") == found.mark("field_strength") == "assumed"
    assert found.mark("repetition_time") == "measured"


def test_acquisitions_are_hashable_and_repeatable() -> None:
    found: list[Acquisition] = [acquisition_from_header(*each) for each in ALL.values()]
    again = [acquisition_from_header(*each) for each in ALL.values()]
    assert len(set(found) | set(again)) == len(ALL)


def test_every_rule_has_evidence_and_a_mark() -> None:
    assert all(rule.evidence and rule.mark in MARKS for rule in RULES)


@pytest.mark.parametrize("name", ["centre_index", "echo_train_length", "echo_spacing"])
def test_an_override_of_zero_is_an_error_that_names_it(name: str) -> None:
    header = SeriesHeader(magnetic_field_strength=3.0, repetition_time=5.0, echo_time=0.1, flip_angle=2.6)
    with pytest.raises(AcquisitionError, match=name):
        acquisition_from_header(header, Contrast.T2W, PulseSequence.TURBO_SPIN_ECHO, {name: 0.0})
