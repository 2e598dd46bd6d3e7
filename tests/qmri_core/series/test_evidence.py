"""What the series of one session say against each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from qmri_core.series.acquisition import Contrast, SeriesHeader
from qmri_core.series.choice import choose
from qmri_core.series.classification import Context, Decision, SkipReason, classify
from qmri_core.series.evidence import Candidate
from qmri_core.series.remarks import RemarkKind

TIMES: Mapping[str, Mapping[str, Any]] = {
    "T1w": {"mr_acquisition_type": "3D", "scanning_sequence": ("GR", "IR"), "repetition_time": 2.3,
            "echo_time": 0.003, "inversion_time": 0.9, "flip_angle": math.radians(9)},
    "T2w": {"mr_acquisition_type": "2D", "scanning_sequence": ("SE",), "repetition_time": 4.2, "echo_time": 0.093,
            "flip_angle": math.radians(120), "echo_train_length": 15},
    "FLAIR": {"mr_acquisition_type": "2D", "scanning_sequence": ("SE", "IR"), "repetition_time": 9.0,
              "echo_time": 0.09, "inversion_time": 2.5, "flip_angle": math.radians(150), "echo_train_length": 16},
    "GRE": {"mr_acquisition_type": "3D", "scanning_sequence": ("GR",), "repetition_time": 0.02, "echo_time": 0.004,
            "flip_angle": math.radians(25)},
    "map": {"mr_acquisition_type": "2D", "scanning_sequence": ("GR",), "repetition_time": 0.488, "echo_time": 0.0049,
            "flip_angle": math.radians(60)},
}  # fmt: skip
SAGITTAL = ((0.0, 0.0, 1.0, -88.0), (1.0, 0.0, 0.0, -128.0), (0.0, 1.0, 0.0, -128.0), (0.0, 0.0, 0.0, 1.0))


def volume(
    kind: str,
    number: int,
    *,
    header: Mapping[str, Any] | None = None,
    shape: tuple[int, int, int] = (220, 220, 40),
    spacing: tuple[float, float, float] = (1.0, 1.0, 4.0),
    content: str = "",
    **context: Any,
) -> Candidate:
    values = SeriesHeader(**{"image_type": ("ORIGINAL", "PRIMARY", "M"), **TIMES[kind], **(header or {})})
    if kind == "T1w":
        shape, spacing, affine = (256, 256, 176), (1.0, 1.0, 1.0), SAGITTAL
    else:
        x, y, z = spacing
        affine = ((x, 0.0, 0.0, -110.0), (0.0, y, 0.0, -110.0), (0.0, 0.0, z, -80.0), (0.0, 0.0, 0.0, 1.0))
    around = Context(**context)
    return Candidate(
        decision=classify(values, shape=shape, spacing=spacing, context=around),
        header=values,
        shape=shape,
        spacing=spacing,
        number=number,
        affine=affine,
        content=content,
        context=around,
    )


def decided(*candidates: Candidate) -> dict[int, Decision]:
    return {one.number: decision for one, decision in zip(candidates, choose(candidates), strict=True)}


def taken(*candidates: Candidate) -> dict[str, int]:
    return {str(one.contrast): number for number, one in decided(*candidates).items() if one.reason is None}


def kinds(decision: Decision) -> set[RemarkKind]:
    return {remark.kind for remark in decision.doubts}


T2W, FLAIR = volume("T2w", 2, acquired=0.0), volume("FLAIR", 3, acquired=240.0)


@pytest.mark.parametrize("numbers", [(4, 24), (24, 4)])
def test_of_two_t1w_of_which_a_name_says_agent_the_other_is_taken(numbers: tuple[int, int]) -> None:
    before, after = numbers
    found = decided(
        T2W, FLAIR, volume("T1w", before, acquired=480.0), volume("T1w", after, acquired=2400.0, named_agent=True)
    )
    assert found[before].reason is None
    assert found[after].reason is SkipReason.CONTRAST_UNKNOWN
    assert "contrast agent" in found[after].explanation
    assert found[after].contrast is Contrast.T1W


def test_a_t1w_after_a_series_with_agent_is_none_though_its_own_fields_are_empty() -> None:
    native, late = volume("T1w", 9, acquired=100.0), volume("T1w", 5, acquired=900.0)
    with_agent = volume("T2w", 7, acquired=600.0, contrast_agent=True)
    found = decided(T2W, FLAIR, native, with_agent, late)
    assert found[9].reason is None
    assert found[5].explanation == "acquired after series 7, which has a contrast agent"
    perfusion = volume("GRE", 8, header={"image_type": ("ORIGINAL", "PRIMARY", "M", "PERFUSION")}, acquired=600.0)
    assert taken(T2W, FLAIR, native, perfusion, late)["T1w"] == 9


def test_the_only_t1w_after_an_agent_is_not_taken_and_says_why() -> None:
    found = decided(T2W, FLAIR, volume("T1w", 4, acquired=900.0, named_agent=True))
    assert found[4].reason is SkipReason.CONTRAST_UNKNOWN
    assert "its name or a note says" in found[4].explanation


def test_a_name_of_before_and_after_or_of_the_whole_examination_takes_the_earlier_or_says_nothing() -> None:
    both = {"named_agent": True, "named_native": True}
    pair = (volume("T1w", 4, acquired=480.0, **both), volume("T1w", 24, acquired=2400.0, **both))
    assert taken(T2W, FLAIR, *pair)["T1w"] == 4
    everywhere = [replace(one, context=replace(one.context, named_agent=True)) for one in (T2W, FLAIR)]
    found = decided(*everywhere, volume("T1w", 4, acquired=480.0, named_agent=True))
    assert found[4].reason is None


def test_what_is_named_native_is_taken_after_all_and_marked() -> None:
    found = decided(T2W, volume("T2w", 7, acquired=50.0, contrast_agent=True),
                    volume("T1w", 4, acquired=480.0, named_native=True))  # fmt: skip
    assert found[4].reason is None
    assert kinds(found[4]) == {RemarkKind.AGENT}


def test_a_flair_of_post_contrast_name_gives_way_to_the_native_one() -> None:
    late = volume("FLAIR", 13, acquired=999.0, named_agent=True)
    assert taken(T2W, FLAIR, late)["FLAIR"] == 3
    assert kinds(decided(T2W, late)[13]) == {RemarkKind.AGENT}


@pytest.mark.parametrize(
    ("context", "beside", "expected"),
    [
        ({"odd_inversion_time": True}, False, "inversion times"),
        ({"named_flair": True}, False, "named FLAIR"),
        ({}, True, "beside series 2"),
    ],
)
def test_a_long_cycle_without_inversion_time_may_be_a_flair(
    context: dict[str, bool], beside: bool, expected: str
) -> None:
    doubtful = volume("T2w", 3, header={"repetition_time": 9.0}, acquired=240.0, **context)
    found = decided(*([T2W] if beside else []), doubtful, volume("T1w", 4))
    assert found[3].reason is SkipReason.CONTRAST_UNKNOWN
    assert expected in found[3].explanation
    if beside:
        assert found[2].reason is None


@pytest.mark.parametrize(("cycle", "number"), [(9.0, 7), (6.5, 2)])
def test_a_long_cycle_beside_a_known_flair_of_another_cycle_is_a_t2w(cycle: float, number: int) -> None:
    """Of 9 s and a FLAIR of 9 s it may be a second FLAIR; of 6.5 s it is a T2w, and thinner."""
    long = volume("T2w", 7, header={"repetition_time": cycle}, shape=(220, 220, 80), spacing=(1.0, 1.0, 2.0))
    assert taken(T2W, FLAIR, long)["T2w"] == (2 if cycle == 9.0 else 7)
    alone = volume("T2w", number, header={"repetition_time": cycle})
    assert taken(alone)["T2w"] == number


@pytest.mark.parametrize("coarse", [("GRE", (4.0, 4.0, 4.0), (64, 64, 48)), ("map", (3.0, 3.0, 3.0), (72, 72, 48))])
def test_a_coarse_gradient_echo_is_a_calibration_scan(
    coarse: tuple[str, tuple[float, float, float], tuple[int, int, int]],
) -> None:
    kind, spacing, shape = coarse
    found = decided(T2W, FLAIR, volume(kind, 6, spacing=spacing, shape=shape))
    fine = volume("T2w", 2, spacing=(0.5, 0.5, 4.0), shape=(440, 440, 40))
    found = decided(fine, volume(kind, 6, spacing=spacing, shape=shape))
    assert found[6].reason is SkipReason.LOCALIZER
    assert volume(kind, 6).decision.contrast is Contrast.T1W  # by its own numbers it is one
    assert taken(fine, volume(kind, 6, spacing=(0.9, 0.9, 1.2), shape=(240, 240, 140)))["T1w"] == 6


def test_half_a_flair_is_incomplete_beside_a_whole_t2w() -> None:
    found = decided(T2W, volume("FLAIR", 3, shape=(220, 220, 22)), volume("T1w", 4))
    assert found[3].reason is SkipReason.INCOMPLETE
    assert found[3].explanation == "its 22 slices cover 88 mm, where series 2 covers 160 mm"
    alone = decided(volume("FLAIR", 3, shape=(220, 220, 22), n_missing=18))
    assert alone[3].reason is SkipReason.INCOMPLETE
    assert "18 images are missing" in alone[3].explanation


def test_a_few_missing_images_are_remarked_on_and_thick_whole_slices_are_whole() -> None:
    found = decided(T2W, volume("FLAIR", 3, shape=(220, 220, 36), n_missing=4))
    assert found[3].reason is None
    assert kinds(found[3]) == {RemarkKind.MISSING}
    assert taken(T2W, volume("FLAIR", 3, shape=(220, 220, 20), spacing=(1.0, 1.0, 6.0)))["FLAIR"] == 3


@pytest.mark.parametrize(("first", "second"), [(14, 5), (5, 14)])
def test_the_repeat_that_was_acquired_later_is_taken_whatever_its_number(first: int, second: int) -> None:
    found = decided(T2W, FLAIR, volume("T1w", first, acquired=480.0), volume("T1w", second, acquired=2400.0))
    assert found[second].reason is None
    assert found[first].explanation == f"series {second} is taken: it was acquired later"
    assert (found[second].place, found[first].place) == (0, 1)


def test_without_times_the_number_decides_and_nothing_is_said_of_later() -> None:
    for moments in ((None, None), (480.0, None), (480.0, 480.0)):
        pair = [volume("T1w", n, acquired=moment) for n, moment in zip((5, 14), moments, strict=True)]
        found = decided(T2W, FLAIR, *pair)
        assert found[14].reason is None
        assert "acquired later" not in found[5].explanation.removesuffix("which was acquired later")


@pytest.mark.parametrize(
    ("better", "why"),
    [("NORM", "intensity-normalised"), ("DIS3D", "corrected for distortion"), ("MOCO", "corrected for motion")],
)
def test_reconstructions_of_one_acquisition_count_once(better: str, why: str) -> None:
    plain = volume("T1w", 9, acquired=480.0, header={"image_type": ("ORIGINAL", "PRIMARY", "M", "ND")})
    other = volume("T1w", 8, acquired=480.0, header={"image_type": ("ORIGINAL", "PRIMARY", "M", better)})
    found = decided(T2W, FLAIR, plain, other)
    assert found[8].reason is None
    assert found[9].place is None
    expected = f"series 8 is taken: another reconstruction of the same acquisition, it is {why}"
    assert found[9].explanation == expected
    unfiltered = volume("T1w", 7, acquired=480.0)
    filtered = volume("T1w", 9, acquired=480.0, header={"image_type": ("ORIGINAL", "PRIMARY", "M", "FIL")})
    assert taken(T2W, FLAIR, unfiltered, filtered)["T1w"] == 7


def test_reconstructions_are_known_by_their_place_where_no_time_is() -> None:
    plain, normalised = volume("T1w", 9), volume("T1w", 8, header={"image_type": ("ORIGINAL", "PRIMARY", "M", "NORM")})
    found = decided(T2W, FLAIR, plain, normalised)
    assert "same acquisition" in found[9].explanation


@pytest.mark.parametrize("change", [{"converted": True}, {"lossy": True}, {"processed": True}])
def test_the_scanners_own_images_are_taken_before_copies(change: dict[str, bool]) -> None:
    copy = volume("T1w", 40, acquired=480.0, **change)
    assert taken(T2W, FLAIR, volume("T1w", 4, acquired=480.0), copy)["T1w"] == 4
    alone = decided(T2W, FLAIR, copy)[40]
    assert alone.reason is None
    expected = {"lossy": {RemarkKind.LOSSY}, "processed": {RemarkKind.PROCESSED}, "converted": set()}
    assert kinds(alone) == expected[next(iter(change))]


def test_a_copy_of_equal_pixels_is_another_copy_and_no_repeat() -> None:
    found = decided(T2W, FLAIR, volume("T1w", 4, acquired=480.0, content="a"), volume("T1w", 9, content="a"))
    assert "another copy of the same images" in found[4].explanation
    assert found[4].place is None


def test_a_copy_by_other_software_is_not_the_scanners_own() -> None:
    own = {"software": "aa"}
    members = [
        replace(one, header=replace(one.header, **own)) for one in (T2W, FLAIR, volume("T1w", 4, acquired=480.0))
    ]
    copy = volume("T1w", 40, acquired=480.0, header={"software": "bb"})
    found = decided(*members, copy)
    assert found[4].reason is None
    assert "it is as the scanner made it" in found[40].explanation
