"""What ingest decides on a session from the records of its series."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.cluster.boundary import Outcome
from flows.ingest.rows import row_of, values_of
from flows.ingest.session_plan import SessionPlan, plan_session, plan_sessions
from qmri_core.series.acquisition import Contrast, PulseSequence, SeriesHeader
from qmri_core.series.classification import Context, SkipReason
from qmri_core.series.remarks import Remark, RemarkKind, kinds_of
from storage.source.series import Series
from storage.store.schema import Reason, Status

SECRET = "/archive/Zyxwvut_Quentin/IM1"  # noqa: S105 - a path that must not show
COMMON = {"manufacturer": "Siemens", "model": "prisma", "magnetic_field_strength": 3.0}
HEADERS: Mapping[Contrast, SeriesHeader] = {
    Contrast.T1W: SeriesHeader(
        **COMMON,
        mr_acquisition_type="3D",
        scanning_sequence=("GR", "IR"),
        sequence_variant=("SK", "SP", "MP"),
        repetition_time=2.3,
        echo_time=0.00298,
        inversion_time=0.9,
        flip_angle=math.radians(9),
    ),
    Contrast.T2W: SeriesHeader(
        **COMMON,
        mr_acquisition_type="2D",
        scanning_sequence=("SE",),
        sequence_variant=("SK",),
        repetition_time=5.0,
        echo_time=0.1,
        flip_angle=math.radians(150),
        echo_train_length=15,
    ),
    Contrast.FLAIR: SeriesHeader(
        **COMMON,
        mr_acquisition_type="2D",
        scanning_sequence=("SE", "IR"),
        sequence_variant=("SK",),
        repetition_time=9.0,
        echo_time=0.09,
        inversion_time=2.5,
        flip_angle=math.radians(150),
        echo_train_length=16,
    ),
}


def series(kind: Contrast, *, session: str = "ses-1", number: int | None = None, **changes: object) -> Series:
    number = list(HEADERS).index(kind) + 1 if number is None else number
    one = Series(
        session=session,
        person="sub-1",
        device="1a2b3c",
        number=number,
        header=HEADERS[kind],
        shape=(180, 220, 60),
        spacing=(1.0, 1.0, 3.0),
        affine=((1.0, 0.0, 0.0, -90.0), (0.0, 1.0, 0.0, -110.0), (0.0, 0.0, 3.0, -90.0), (0.0, 0.0, 0.0, 1.0)),
        n_instances=60,
        digest=f"{session}{number}",
        kind="dicom",
        paths=(SECRET,),
        frames=tuple((0, frame) for frame in range(60)),
    )
    return replace(one, **changes)  # type: ignore[arg-type]


def plan(*members: Series) -> SessionPlan:
    return plan_session(members)


def test_three_contrasts_are_complete() -> None:
    made = plan(*(series(contrast) for contrast in Contrast))
    assert (made.status, made.reason, made.explanation) == (Status.COMPLETE, None, "")
    assert list(made.chosen) == list(made.acquisitions) == list(Contrast)
    assert made.acquisitions[Contrast.T2W].sequence is PulseSequence.TURBO_SPIN_ECHO
    assert made.placement is not None
    assert made.placement.session == made.session == "ses-1"
    assert made.placement.scanner.startswith("siemens-prisma-3t-")
    assert made.placement.grid.spacing == (1.0, 1.0, 3.0)


def test_slices_are_counted_and_are_no_part_of_the_group() -> None:
    """Coverage differs between people of one protocol. A NIfTI's slices lie along its widest spacing."""
    made = plan(*(series(contrast) for contrast in Contrast))
    assert {contrast: one.slices for contrast, one in made.acquisitions.items()} == {
        Contrast.T1W: 1,
        Contrast.T2W: 60,
        Contrast.FLAIR: 60,
    }
    smaller = [series(contrast, shape=(180, 220, 48), session="ses-2") for contrast in Contrast]
    turned = [replace(one, kind="nifti", shape=(48, 180, 220), spacing=(3.0, 1.0, 1.0)) for one in smaller]
    for other in (plan(*smaller), plan(*turned)):
        assert other.acquisitions[Contrast.T2W].slices == 48
        assert other.acquisitions == made.acquisitions
    assert plan(*smaller).group == made.group


@pytest.mark.parametrize("absent", [Contrast.T2W, Contrast.FLAIR])
def test_t1w_and_one_other_are_partial_and_another_group(absent: Contrast) -> None:
    made = plan(*(series(contrast) for contrast in Contrast if contrast is not absent))
    assert (made.status, made.reason) == (Status.PARTIAL, Reason.MISSING_CONTRAST)
    assert made.explanation == f"no {absent}"
    whole = plan(*(series(contrast) for contrast in Contrast))
    assert made.placement is not None
    assert whole.placement is not None
    assert made.placement.scanner == whole.placement.scanner
    assert made.placement.protocol != whole.placement.protocol


@pytest.mark.parametrize(
    "present", [(Contrast.T1W,), (Contrast.T2W,), (Contrast.FLAIR,), (Contrast.T2W, Contrast.FLAIR)]
)
def test_without_t1w_or_with_one_contrast_alone_it_is_skipped(present: tuple[Contrast, ...]) -> None:
    made = plan(*(series(contrast) for contrast in present))
    assert (made.status, made.reason, made.placement) == (Status.SKIPPED, Reason.MISSING_CONTRAST, None)
    absent = [contrast for contrast in Contrast if contrast not in present]
    assert f"found {' and '.join(present)}, but no {' and no '.join(absent)}" in made.explanation
    assert "maps need T1w and one of T2w and FLAIR" in made.explanation


def test_a_session_of_other_series_says_what_they_are() -> None:
    localizers = [series(Contrast.T1W, number=number, problem=SkipReason.NOT_MR) for number in (1, 2)]
    broken = series(Contrast.T2W, problem=SkipReason.INCOMPLETE, explanation="5.00 mm, not 2.50 mm")
    made = plan(*localizers, broken)
    assert (made.status, made.reason) == (Status.SKIPPED, Reason.MISSING_CONTRAST)
    assert "found none of the contrasts" in made.explanation
    assert "other series: 1 incomplete, 2 not_mr" in made.explanation


def test_a_series_whose_slices_are_missing_leaves_the_session_partial() -> None:
    made = plan(series(Contrast.T1W), series(Contrast.T2W), series(Contrast.FLAIR, problem=SkipReason.INCOMPLETE))
    assert (made.status, made.explanation.partition(";")[0]) == (Status.PARTIAL, "no FLAIR")


def test_one_of_two_alike_is_taken() -> None:
    made = plan(series(Contrast.T1W), series(Contrast.T1W, number=7), series(Contrast.T2W), series(Contrast.FLAIR))
    assert made.status is Status.COMPLETE
    assert made.chosen[Contrast.T1W].number == 7
    assert [decision.reason for decision in made.decisions].count(SkipReason.DUPLICATE) == 1


@pytest.mark.parametrize("named", [Contrast.T1W, None])
def test_a_series_without_any_number_counts_for_nothing_until_it_is_stated(named: Contrast | None) -> None:
    silent = series(Contrast.T1W, header=SeriesHeader(), contrast=named)
    made = plan(silent, series(Contrast.T2W), series(Contrast.FLAIR))
    assert (made.status, made.reason, made.placement) == (Status.SKIPPED, Reason.MISSING_CONTRAST, None)
    assert "found T2w and FLAIR, but no T1w" in made.explanation
    assert "1 no_parameters; state with --assume what they are" in made.explanation


def test_parameters_that_contradict_each_other_are_told() -> None:
    impossible = replace(HEADERS[Contrast.FLAIR], echo_time=9.5)
    stated = series(
        Contrast.FLAIR, header=impossible, contrast=Contrast.FLAIR, sequence=PulseSequence.INVERSION_RECOVERY_TSE
    )
    made = plan(series(Contrast.T1W), series(Contrast.T2W), stated)
    assert (made.status, made.reason) == (Status.SKIPPED, Reason.NO_PARAMETERS)
    assert "echo_time" in made.explanation
    assert "--assume" in made.explanation


@settings(deadline=None)
@given(order=st.permutations(list(range(6))))
def test_the_order_of_discovery_does_not_matter(order: list[int]) -> None:
    everything = [series(contrast, session=session) for session in ("ses-1", "ses-2") for contrast in Contrast]
    expected = plan_sessions(everything)
    assert [one.session for one in expected] == ["ses-1", "ses-2"]
    assert plan_sessions(everything[place] for place in order) == expected


def test_the_digest_follows_every_series() -> None:
    members = [series(contrast) for contrast in Contrast]
    digests = {plan_session(tuple(kept)).input_digest for n in (1, 2, 3) for kept in itertools.combinations(members, n)}
    assert len(digests) == 7
    changed = plan(members[0], members[1], replace(members[2], digest="changed"))
    assert changed.input_digest not in digests


def test_no_plan_tells_a_path() -> None:
    complete = plan(*(series(contrast) for contrast in Contrast))
    skipped = plan(series(Contrast.T1W))
    for made in (complete, skipped):
        assert "Zyxwvut" not in f"{made!r} {made.explanation} {[one.explanation for one in made.decisions]}"


def test_series_beside_the_one_that_is_taken_are_remarked_on() -> None:
    members = [series(kind) for kind in HEADERS]
    [plan] = plan_sessions([*members, series(Contrast.T1W, number=9), series(Contrast.T1W, number=8)])
    taken = plan.chosen[Contrast.T1W].number
    others = ", ".join(str(number) for number in (1, 8, 9) if number != taken)
    assert plan.remarks == (
        Remark(kind=RemarkKind.REPEATED, text=f"T1w: series {taken} is taken, beside it lie series {others}"),
    )
    [plain] = plan_sessions(members)
    assert plain.remarks == ()
    assert row_of(plain)["remarks"] == ""
    text = str(row_of(plan)["remarks"])
    assert kinds_of([text, "", text]) == {"repeated": 2}


def test_series_without_their_scale_factor_are_remarked_on_where_they_are_taken() -> None:
    unscaled = Context(unscaled=True)
    members = [series(kind, context=unscaled if kind is not Contrast.FLAIR else Context()) for kind in HEADERS]
    assert [(one.kind, one.text) for one in plan(*members).remarks] == [
        (RemarkKind.SCALE_UNKNOWN, "T1w: series 1 lacks its scale factor"),
        (RemarkKind.SCALE_UNKNOWN, "T2w: series 2 lacks its scale factor"),
    ]
    [left] = [one for one in plan(*members, series(Contrast.T1W, number=9)).remarks if one.text.startswith("T2w")]
    assert left.kind is RemarkKind.SCALE_UNKNOWN


def test_repeats_are_alternates_of_the_one_taken() -> None:
    others = [series(contrast) for contrast in (Contrast.T2W, Contrast.FLAIR)]
    early, late = series(Contrast.T1W, number=4), series(Contrast.T1W, number=5)
    coarse = series(Contrast.T1W, number=6, spacing=(1.0, 1.0, 4.0))
    made = plan(*others, early, late, coarse)
    assert made.chosen[Contrast.T1W] == late
    assert made.alternates == {Contrast.T1W: (early,), Contrast.T2W: (), Contrast.FLAIR: ()}


def test_a_session_without_native_t1w_says_why() -> None:
    named = Context(named_agent=True)
    made = plan(series(Contrast.T2W), series(Contrast.FLAIR), series(Contrast.T1W, number=24, context=named))
    assert (made.status, made.reason) == (Status.SKIPPED, Reason.MISSING_CONTRAST)
    assert made.explanation.endswith("; T1w series 24 is left out: after a contrast agent, as its name or a note says")


def test_half_a_flair_leaves_a_partial_session_that_says_why() -> None:
    half = series(Contrast.FLAIR, shape=(180, 220, 30))
    made = plan(series(Contrast.T1W), series(Contrast.T2W), half)
    assert made.status is Status.PARTIAL
    assert made.explanation == (
        "no FLAIR; FLAIR series 3 is left out: its 30 slices cover 90 mm, where series 1 covers 180 mm"
    )


def test_doubts_of_the_series_taken_are_remarks_and_those_of_others_are_not() -> None:
    lossy = Context(lossy=True)
    members = [series(contrast) for contrast in (Contrast.T2W, Contrast.FLAIR)]
    made = plan(*members, series(Contrast.T1W, context=lossy))
    assert [remark.kind for remark in made.remarks] == [RemarkKind.LOSSY]
    made = plan(*members, series(Contrast.T1W), series(Contrast.T1W, number=9, context=lossy))
    assert made.chosen[Contrast.T1W].number == 1
    assert [remark.kind for remark in made.remarks] == [RemarkKind.REPEATED]
    odd = plan(series(Contrast.T1W), members[0], series(Contrast.FLAIR, context=Context(odd_inversion_time=True),
               header=replace(HEADERS[Contrast.FLAIR], inversion_time=None)))  # fmt: skip
    assert [remark.kind for remark in odd.remarks] == [RemarkKind.ODD_TIME]


@pytest.mark.parametrize(
    ("ages", "age", "told"),
    [
        ((None, 67, 67), 67, 0),
        ((67, 66, None), 66, 0),  # a birthday, or a number that was rounded
        ((12, None, 67), None, 1),
        ((40, 45, 45), None, 1),
        ((None, None, 11), 11, 0),
    ],
)
def test_the_age_is_that_of_all_series_that_are_taken(ages: tuple[int | None, ...], age: int | None, told: int) -> None:
    made = plan(*(series(contrast, age=one) for contrast, one in zip(Contrast, ages, strict=True)))
    assert made.age == age
    assert sum(remark.kind is RemarkKind.AGE_UNKNOWN for remark in made.remarks) == told
    assert any(remark.kind is RemarkKind.NOT_ADULT for remark in made.remarks) == (age == 11)


@pytest.mark.parametrize(("sexes", "sex"), [(("F", "", "F"), "F"), (("", "M", ""), "M"), (("F", "M", "F"), "")])
def test_the_sex_is_that_of_all_series_that_are_taken(sexes: tuple[str, ...], sex: str) -> None:
    made = plan(*(series(contrast, sex=one) for contrast, one in zip(Contrast, sexes, strict=True)))
    assert made.sex == sex
    assert [remark.text for remark in made.remarks] == ["its series state different sexes; the sex is not known"] * (
        not sex
    )


@pytest.mark.parametrize(
    ("age", "is_child"), [(7, True), (17, True), (0, True), (18, False), (90, False), (None, False)]
)
@pytest.mark.parametrize("mark", ["", "coverage"])
def test_a_session_of_a_child_is_told_and_marked(age: int | None, mark: str, *, is_child: bool) -> None:
    made = plan(*(series(contrast, age=age) for contrast in Contrast))
    told = [remark.text for remark in made.remarks if remark.kind is RemarkKind.NOT_ADULT]
    assert told == ([f"age {age}: the maps rest on reference values of adults"] if is_child else [])
    outcome = Outcome(session="ses-1", status=Status.COMPLETE, values={"quality_marks": mark})
    expected = ",".join(text for text in (mark, "age" if is_child else "") if text)
    assert values_of(made, outcome)["quality_marks"] == expected
    assert values_of(made, outcome)["age"] == age
