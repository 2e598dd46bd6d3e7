"""Decisions by numbers over clinical protocols, and what never depends on anything else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmri_core.series.acquisition import Contrast, PulseSequence, SeriesHeader
from qmri_core.series.classification import Context, Decision, SkipReason, classify

SHAPE, SPACING = (256, 256, 40), (0.9, 0.9, 4.0)


def header(
    codes: str,
    kind: str,
    tr: float | None,
    echo: float | None,
    ti: float | None = None,
    angle: float | None = None,
    length: int | None = None,
    variant: str = "",
) -> SeriesHeader:
    """Milliseconds and degrees, as protocols are written."""
    return SeriesHeader(
        scanning_sequence=tuple(codes.split()),
        sequence_variant=tuple(variant.split()),
        mr_acquisition_type=kind,
        repetition_time=None if tr is None else tr / 1000,
        echo_time=None if echo is None else echo / 1000,
        inversion_time=None if ti is None else ti / 1000,
        flip_angle=None if angle is None else math.radians(angle),
        echo_train_length=length,
        image_type=("ORIGINAL", "PRIMARY", "M"),
    )


def decide(one: SeriesHeader, **options: object) -> Decision:
    return classify(one, shape=SHAPE, spacing=SPACING, **options)  # type: ignore[arg-type]


T1W, T2W, FLAIR = Contrast.T1W, Contrast.T2W, Contrast.FLAIR


@pytest.mark.parametrize(
    ("one", "contrast", "sequence"),
    [
        (header("GR IR", "3D", 2300, 2.98, 900, 9, 1), T1W, PulseSequence.MPRAGE),
        (header("GR", "3D", 6.5, 2.9, None, 9, 256, "MP"), T1W, PulseSequence.MPRAGE),
        (header("GR", "3D", 7.3, 3.0, 400, 11, 1, "SS SP SK"), T1W, PulseSequence.MPRAGE),
        (header("RM IR", "3D", 2217.66, 3.172, 1000, 8, 1), T1W, PulseSequence.MPRAGE),
        (header("GR", "3D", 20, 4.6, None, 25, 1, "SP"), T1W, PulseSequence.SPOILED_GRADIENT_ECHO),
        (header("GR", "2D", 250, 2.5, None, 70, 1, "SP"), T1W, PulseSequence.SPOILED_GRADIENT_ECHO),
        (header("SE", "2D", 500, 12, None, 90, 1), T1W, PulseSequence.SPIN_ECHO),
        (header("SE", "2D", 650, 9, None, 150, 3), T1W, PulseSequence.TURBO_SPIN_ECHO),
        (header("SE", "3D", 700, 11, None, 120, 40), T1W, PulseSequence.VARIABLE_FLIP_TSE),
        (header("SE IR", "2D", 2000, 12, 800, 150, 8), T1W, PulseSequence.INVERSION_RECOVERY_TSE),
        (header("SE", "2D", 6000, 100, None, 150, 16), T2W, PulseSequence.TURBO_SPIN_ECHO),
        (header("SE", "2D", 3000, 80, None, 90, 15), T2W, PulseSequence.TURBO_SPIN_ECHO),
        (header("RM", "2D", 4500, 102, None, 111, 24), T2W, PulseSequence.TURBO_SPIN_ECHO),
        (header("SE", "2D", 2500, 90, None, 90, 1), T2W, PulseSequence.SPIN_ECHO),
        (header("SE", "3D", 3200, 408, None, 120, 282), T2W, PulseSequence.VARIABLE_FLIP_TSE),
        (header("SE", "3D", 2500, 250, None, 90, 110), T2W, PulseSequence.VARIABLE_FLIP_TSE),
        (header("SE IR", "2D", 9000, 90, 2500, 150, 16), FLAIR, PulseSequence.INVERSION_RECOVERY_TSE),
        (header("IR", "2D", 11000, 125, 2800, 90, 24), FLAIR, PulseSequence.INVERSION_RECOVERY_TSE),
        (header("SE IR", "3D", 5000, 388, 1800, 120, 251), FLAIR, PulseSequence.VARIABLE_FLIP_TSE),
        (header("IR", "3D", 4800, 340, 1650, 90, 182), FLAIR, PulseSequence.VARIABLE_FLIP_TSE),
        (header("SE IR", "3D", 7000, 110, 1950, 90, 200), FLAIR, PulseSequence.VARIABLE_FLIP_TSE),
    ],
)
def test_clinical_protocols(one: SeriesHeader, contrast: Contrast, sequence: PulseSequence) -> None:
    decision = decide(one)
    assert (decision.contrast, decision.sequence, decision.reason) == (contrast, sequence, None)
    assert not decision.assumed


@pytest.mark.parametrize(
    "one",
    [
        header("SE", "2D", 3000, 15, None, 150, 5),  # proton density
        header("SE IR", "2D", 4000, 30, 150, 150, 8),  # STIR
        header("SE IR", "2D", 4000, 30, None, 150, 8),  # inversion recovery of unknown TI
        header("GR", "2D", 600, 20, None, 20, 1, "SP"),  # T2*
        header("GR", "3D", 28, 20, None, 15, 1, "SP"),  # susceptibility
        header("GR", "3D", 20, 2.3, None, 4, 1, "SP"),  # proton density gradient echo
        header("GR", "3D", 5.2, 2.4, None, 50, 1, "SS"),  # balanced
        header("GR IR", "3D", 5000, 2.98, 2500, 5, 1),  # second MP2RAGE inversion
        header("GR IR", "3D", 5000, 2.98, 700, 4, 1),  # first MP2RAGE inversion
        header("RM", "", 6.2, 3.4),  # a research sequence without flip angle
        header("SE", "2D", 1000, 30, None, 90, 1),  # between T1w and PD
    ],
)
def test_what_the_numbers_do_not_determine_is_left_out(one: SeriesHeader) -> None:
    decision = decide(one)
    assert (decision.contrast, decision.reason) == (None, SkipReason.CONTRAST_UNKNOWN)


@pytest.mark.parametrize(
    ("one", "context", "spacing", "reason"),
    [
        # an unprepared gradient echo may be much else than a T1w image
        (header("GR", "3D", 3.15, 1.37, None, 8, 1, "SP"), Context(), (1.6, 1.6, 1.6), SkipReason.LOCALIZER),
        (header("GR", "2D", 8.6, 4.0, None, 20, 1, "SP"), Context(), SPACING, SkipReason.LOCALIZER),
        (header("GR", "3D", 5.6, 2.4, None, 12, 1), Context(named_localizer=True), SPACING, SkipReason.LOCALIZER),
        (header("GR", "2D", 24, 6.0, None, 60, 1, "SP"), Context(), SPACING, SkipReason.CONTRAST_UNKNOWN),
        (header("GR", "3D", 5.7, 2.5, None, 70, 1, "SP SS"), Context(), SPACING, SkipReason.CONTRAST_UNKNOWN),
        (header("GR", "3D", 3.1, 1.2, None, 38, 1, "SP"), Context(), SPACING, SkipReason.CONTRAST_UNKNOWN),
        (header("GR", "3D", 21, 3.6, None, 20, 1, "SP MTC"), Context(), SPACING, SkipReason.CONTRAST_UNKNOWN),
        (header("GR", "3D", 21, 3.6, None, 20, 1, "SP"), Context(named_angiography=True), SPACING,
         SkipReason.CONTRAST_UNKNOWN),
        (replace(header("GR", "3D", 21, 3.6, None, 20, 1, "SP"), scan_options=("FC",)), Context(), (0.4, 0.4, 0.6),
         SkipReason.CONTRAST_UNKNOWN),
        (header("GR", "2D", 500, 4.9, None, 60, 1, "SP"), Context(has_phase=True), SPACING, SkipReason.FIELD_MAP),
        (header("GR", "2D", 500, 4.9, None, 60, 1, "SP"), Context(field_map=True), SPACING, SkipReason.FIELD_MAP),
        (header("GR", "3D", 15, 2.2, None, 18, 1, "SP"), Context(n_flip_angles=4), SPACING,
         SkipReason.CONTRAST_UNKNOWN),
        (header("GR", "3D", 30, 4.6, None, 25, 1, "SP"), Context(n_sibling_echoes=3), SPACING,
         SkipReason.CONTRAST_UNKNOWN),
    ],
)  # fmt: skip
def test_what_a_gradient_echo_may_be_beside_t1w(
    one: SeriesHeader, context: Context, spacing: tuple[float, float, float], reason: SkipReason
) -> None:
    assert classify(one, shape=SHAPE, spacing=spacing, context=context).reason is reason


@pytest.mark.parametrize(
    ("one", "contrast"),
    [
        (header("GR", "3D", 7.3, 3.0, 400, 11, 1), Contrast.T1W),
        (header("GR", "3D", 9.8, 4.6, None, 15, 1, "SP"), Contrast.T1W),
        (header("SE", "2D", 4000, 90, 180, 150, 16), Contrast.T2W),  # TI of a fat-selective pulse
        (header("SE IR", "2D", 10000, 110, 2000, 150, 16), Contrast.FLAIR),  # fluid a little early
        (header("SE IR", "2D", 10000, 120, 1900, 150, 16), Contrast.FLAIR),
    ],
)
def test_names_of_angiography_and_early_fluid_do_not_hide_anatomy(one: SeriesHeader, contrast: Contrast) -> None:
    context = Context(named_localizer=True, named_angiography=one.inversion_time is not None)
    if one.inversion_time is None:
        context = Context()
    assert decide(one, context=context).contrast is contrast


T2_TSE = header("SE", "2D", 6000, 100, None, 150, 16)


@pytest.mark.parametrize(
    ("change", "context", "reason"),
    [
        ({"image_type": ("DERIVED", "PRIMARY", "MPR")}, Context(), SkipReason.DERIVED),
        ({"image_type": ("ORIGINAL", "PRIMARY", "P")}, Context(), SkipReason.PHASE),
        ({"image_type": ("ORIGINAL", "PRIMARY", "M", "MOSAIC")}, Context(), SkipReason.MOSAIC),
        ({"scanning_sequence": ("SE", "EP")}, Context(), SkipReason.EPI),
        ({}, Context(diffusion=True), SkipReason.DIFFUSION),
        ({}, Context(n_orientations=3), SkipReason.LOCALIZER),
        ({}, Context(contrast_agent=True), SkipReason.CONTRAST_UNKNOWN),
        ({}, Context(angiography=True), SkipReason.CONTRAST_UNKNOWN),
        ({"image_type": ("ORIGINAL", "PRIMARY", "DIXON", "FAT")}, Context(), SkipReason.CONTRAST_UNKNOWN),
        ({"image_type": ("ORIGINAL", "PRIMARY", "MAP")}, Context(), SkipReason.DERIVED),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, Context(), SkipReason.LOCALIZER),
        ({}, Context(n_echoes=8), SkipReason.CONTRAST_UNKNOWN),
        ({}, Context(n_inversion_times=6), SkipReason.CONTRAST_UNKNOWN),
        ({}, Context(n_volumes=40), SkipReason.CONTRAST_UNKNOWN),
        ({"repetition_time": None, "echo_time": None}, Context(), SkipReason.NO_PARAMETERS),
    ],
)
def test_every_reason_to_skip(change: dict[str, object], context: Context, reason: SkipReason) -> None:
    assert decide(replace(T2_TSE, **change), context=context).reason is reason  # type: ignore[arg-type]


@pytest.mark.parametrize("problem", [SkipReason.NOT_MR, SkipReason.NOT_IMAGE, SkipReason.MR_SPECTROSCOPY])
def test_an_object_of_another_kind_stays_one_whatever_is_stated(problem: SkipReason) -> None:
    assert decide(T2_TSE, problem=problem, contrast=Contrast.T2W).reason is problem


def test_a_defect_wins_over_contrast_and_keeps_it() -> None:
    decision = decide(T2_TSE, problem=SkipReason.INCOMPLETE)
    assert (decision.contrast, decision.reason) == (Contrast.T2W, SkipReason.INCOMPLETE)
    thin = classify(T2_TSE, shape=(256, 256, 2), spacing=SPACING)
    assert thin.reason is SkipReason.INCOMPLETE


def test_a_stated_contrast_is_trusted_and_marked() -> None:
    decision = decide(header("", "", 3000, 15), contrast=Contrast.T2W)
    assert (decision.contrast, decision.reason, decision.assumed) == (Contrast.T2W, None, True)
    assert decision.sequence is PulseSequence.TURBO_SPIN_ECHO


def optional(low: float, high: float) -> st.SearchStrategy[float | None]:
    return st.none() | st.floats(low, high)


HEADERS = st.builds(
    SeriesHeader,
    manufacturer=st.sampled_from(["", "Siemens", "Philips", "GE"]),
    mr_acquisition_type=st.sampled_from(["", "2D", "3D"]),
    scanning_sequence=st.lists(st.sampled_from(["SE", "IR", "GR", "EP", "RM"]), unique=True, max_size=2).map(tuple),
    sequence_variant=st.lists(st.sampled_from(["SK", "SP", "MP", "SS"]), unique=True).map(tuple),
    repetition_time=optional(1e-3, 20.0),
    echo_time=optional(1e-4, 0.6),
    inversion_time=optional(1e-3, 5.0),
    flip_angle=optional(0.01, math.pi),
    echo_train_length=st.none() | st.integers(1, 300),
)


@given(one=HEADERS)
def test_any_header_gets_a_contrast_and_family_or_a_reason(one: SeriesHeader) -> None:
    decision = decide(one)
    assert (decision.reason is None) == (decision.contrast is not None and decision.sequence is not None)
    assert decision.explanation
    assert decision == decide(one)


@given(one=HEADERS, scale=st.floats(0.9995, 1.0005))
def test_flair_is_only_where_fluid_is_nulled(one: SeriesHeader, scale: float) -> None:
    decision = decide(one)
    if decision.contrast is not Contrast.FLAIR or one.repetition_time is None or one.inversion_time is None:
        return
    t1 = 4.3 * scale
    fluid = 1 - 2 * math.exp(-one.inversion_time / t1) + math.exp(-one.repetition_time / t1)
    assert -0.26 < fluid < 0.16
