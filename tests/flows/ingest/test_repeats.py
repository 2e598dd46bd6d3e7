"""What a worker takes of equal series, what it does when one cannot be used, and that the records say so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from flows.cluster.boundary import Outcome
from flows.ingest.repeats import Pick, Repeat, by_looks, first_usable, is_enhanced, read_repeats
from flows.ingest.rows import is_done, row_of, values_of
from flows.ingest.session_plan import SessionPlan, taken_plan
from qmri_core.preprocessing.alignment import AlignmentError
from qmri_core.preprocessing.brain_mask import BrainMaskError
from qmri_core.preprocessing.checks import ImageMismatchError
from qmri_core.preprocessing.session import FieldOfViewError
from qmri_core.preprocessing.tissue import TissueError
from qmri_core.series.acquisition import Contrast
from qmri_core.series.classification import Context
from qmri_core.series.geometry import Grid, Volume
from qmri_core.series.remarks import Remark, RemarkKind
from storage.source.series import ReadError, Series
from storage.store.schema import Status
from tests.flows.ingest.test_session_plan import HEADERS, plan, series
from tests.qmri_core.preprocessing.heads import head, noisy

T1W, T2W, FLAIR = Contrast
GRID = Grid(shape=(4, 4, 4), spacing=(3.0, 3.0, 3.0))
STILL, BRAIN = head()
GOOD = noisy(STILL, 3.0)
GHOSTED = noisy(0.6 * STILL + 0.25 * np.roll(STILL, 9, axis=0) + 0.15 * np.roll(STILL, -17, axis=0), 3.0)


def repeat(place: int, array: np.ndarray, *, is_judged: bool = True) -> Repeat:
    volume = Volume(array=array, affine=np.diag([3.0, 3.0, 3.0, 1.0]))
    return Repeat(place=place, number=4 + 10 * place, volume=volume, is_judged=is_judged)


def picked(repeats: Mapping[Contrast, list[Repeat]], *, mask: object = BRAIN) -> tuple[dict[Contrast, list[int]], Any]:
    def found(_volume: Volume) -> np.ndarray:
        if isinstance(mask, Exception):
            raise mask
        return BRAIN

    with (
        patch("flows.ingest.repeats.brain_mask", found),
        patch("qmri_core.preprocessing.repeats.align", return_value=(np.eye(4), 1.0)),
    ):
        ordered, picks = by_looks(repeats)
    return {contrast: [one.place for one in equal] for contrast, equal in ordered.items()}, picks


@pytest.mark.parametrize("contrast", [T1W, FLAIR])
def test_the_repeat_that_looks_best_is_taken(contrast: Contrast) -> None:
    single = {one: [repeat(0, GOOD)] for one in Contrast}
    order, picks = picked(single | {contrast: [repeat(0, GHOSTED), repeat(1, GOOD)]})
    assert order[contrast] == [1, 0]
    assert picks[contrast].place == 1
    assert "looks better" in picks[contrast].why
    order, picks = picked(single | {contrast: [repeat(0, GOOD), repeat(1, GHOSTED)]})
    assert order[contrast] == [0, 1]
    assert picks == dict.fromkeys(Contrast, Pick(place=0))


def test_what_may_not_be_judged_is_not_put_before_the_preferred_one() -> None:
    order, _ = picked({T1W: [repeat(0, GHOSTED), repeat(1, GOOD, is_judged=False)]})
    assert order[T1W] == [0, 1]


@pytest.mark.parametrize(
    "change",
    [{"header": replace(HEADERS[T1W], image_type=("ORIGINAL", "PRIMARY", "FIL"))}, {"context": Context(lossy=True)}],
    ids=["filtered", "lossy"],
)
def test_looks_decide_between_reconstructions_of_one_kind(change: dict[str, Any]) -> None:
    assert [may for _, may in repeated((5, 14)).equals_of(T1W)] == [True, True]
    made = plan(series(T1W, number=5, digest="a", **change), series(T1W, number=14), series(T2W))
    assert [may for _, may in made.equals_of(T1W)] in ([True, False], [True])
    later = series(T1W, number=14, digest="b", context=Context(named_agent=True))
    made = plan(series(T1W, number=5), later, series(T2W), series(FLAIR))
    assert made.chosen[T1W].number == 5
    assert len(made.equals_of(T1W)) == 1 or not any(may for _, may in made.equals_of(T1W))


def test_where_no_brain_is_found_headers_decide() -> None:
    order, _ = picked({T1W: [repeat(0, GHOSTED), repeat(1, GOOD)]}, mask=BrainMaskError("none"))
    assert order[T1W] == [0, 1]


@pytest.mark.parametrize("error", [AlignmentError, BrainMaskError, FieldOfViewError, ImageMismatchError, TissueError])
@pytest.mark.parametrize("contrast", [T1W, T2W])
def test_the_next_repeat_is_tried_where_the_best_one_fails(contrast: Contrast, error: type[ValueError]) -> None:
    bad, good = repeat(0, GHOSTED), repeat(1, GOOD)
    repeats = {one: [repeat(0, GOOD)] for one in Contrast} | {contrast: [bad, good]}

    def preprocess(volumes: Mapping[Contrast, Volume], _grid: Grid, _acquisitions: object) -> str:
        if volumes[contrast] is bad.volume:
            raise error("it fails")
        return SimpleNamespace(remarks=())

    with patch("flows.ingest.repeats.preprocess", preprocess):
        _, picks, remarks = first_usable(repeats, {one: Pick(place=0) for one in Contrast}, GRID, {})
    assert {one: pick.place for one, pick in picks.items()} == {one: int(one is contrast) for one in Contrast}
    (remark,) = remarks
    assert remark.text == f"{contrast}: series 4 could not be aligned or segmented; a repeat of it was taken"


def test_the_first_error_is_told_where_all_fail() -> None:
    repeats = {T1W: [repeat(0, GOOD), repeat(1, GOOD)], T2W: [repeat(0, GOOD)]}
    errors = iter([AlignmentError("first"), BrainMaskError("second")])
    with (
        patch("flows.ingest.repeats.preprocess", side_effect=lambda *_: (_ for _ in ()).throw(next(errors))),
        pytest.raises(AlignmentError, match="first"),
    ):
        first_usable(repeats, {T1W: Pick(place=0), T2W: Pick(place=0)}, GRID, {})


@pytest.mark.parametrize(
    ("looks", "taken"),
    [("en", 1), ("een", 2), ("ee", 0), ("fen", 2), ("ne", 0), ("fe", 1)],
    ids=["then native", "third native", "none native", "failed, enhanced, native", "native", "failed, enhanced"],
)
def test_a_t1w_that_looks_enhanced_gives_way_to_one_that_does_not(looks: str, taken: int) -> None:
    repeats = {T1W: [repeat(n, GOOD + n) for n in range(len(looks))], T2W: [repeat(n, GOOD) for n in range(2)]}
    tried: list[int] = []

    def preprocess(volumes: Mapping[Contrast, Volume], *_: object) -> object:
        place = next(n for n, one in enumerate(repeats[T1W]) if one.volume is volumes[T1W])
        tried.append(place)
        if looks[place] == "f":
            raise AlignmentError("failed")
        remark = Remark(kind=RemarkKind.AGENT, text="T1w: enhanced")
        return SimpleNamespace(remarks=(remark,) if looks[place] == "e" else (), place=place)

    with patch("flows.ingest.repeats.preprocess", preprocess):
        result, picks, remarks = first_usable(repeats, {T1W: Pick(place=0), T2W: Pick(place=0)}, GRID, {})
    assert result.place == taken  # type: ignore[attr-defined]
    assert picks[T1W].place == taken
    assert picks[T2W].place == 0
    assert is_enhanced(result) is ("n" not in looks)
    assert all(tried.count(place) == 1 for place in tried if looks[place] == "e")
    if looks.startswith("e") and taken:
        assert picks[T1W].why == "series 4 looks like one after a contrast agent"
        assert remarks == []


def test_a_repeat_that_cannot_be_read_is_left_out_and_told() -> None:
    members = {T1W: ((series(T1W, number=14), True), (series(T1W, number=5), True)), T2W: ((series(T2W), True),)}

    def read(one: Series) -> Volume:
        if one.number == 14:
            raise ReadError("cut")
        return Volume(array=GOOD, affine=np.eye(4))

    with patch("flows.ingest.repeats.read_volume", read):
        repeats, remarks = read_repeats(members)
        assert [(one.place, one.number) for one in repeats[T1W]] == [(1, 5)]
        assert by_looks(repeats)[1][T1W] == Pick(place=1, why="the other one cannot be read")
        assert [remark.text for remark in remarks] == ["T1w: series 14 cannot be read; a repeat of it was taken"]
        with pytest.raises(ReadError, match="cut"):
            read_repeats({T1W: members[T1W][:1], T2W: members[T2W]})


def decided(made: SessionPlan) -> dict[int, str]:
    return {number: what for number, what, _ in json.loads(made.series_text)}


def repeated(numbers: Sequence[int]) -> SessionPlan:
    return plan(*(series(T1W, number=number, digest=f"d{number}") for number in numbers), series(T2W), series(FLAIR))


@pytest.mark.parametrize("numbers", [(5, 14), (4, 5, 14)])
def test_the_catalogue_says_what_was_taken(numbers: tuple[int, ...]) -> None:
    made = repeated(numbers)
    preferred, best = made.chosen[T1W].number, made.alternates[T1W][-1].number
    place = len(made.alternates[T1W])
    outcome = Outcome(
        session=made.session, status=Status.COMPLETE, taken={T1W: (place, "it looks better")}, fork=object()  # type: ignore[arg-type]
    )  # fmt: skip
    done = taken_plan(made, outcome.taken)
    row, values = row_of(done, outcome), values_of(done, outcome)
    assert decided(made)[preferred] == "T1w"
    assert decided(done) == {number: "duplicate" for number in numbers if number != best} | {
        best: "T1w", made.chosen[T2W].number: "T2w", made.chosen[FLAIR].number: "FLAIR",
    }  # fmt: skip
    texts = {number: text for number, _, text in json.loads(str(row["series"]))}
    assert f"taken before series {preferred}: it looks better" in texts[best]
    assert texts[preferred] == f"series {best} is taken: it looks better"
    remarks = dict(json.loads(str(row["remarks"])))
    assert remarks["better_repeat"] == f"T1w: series {best} is taken instead of series {preferred}: it looks better"
    assert f"series {best} is taken" in remarks["repeated"]
    assert row["input_digest"] == made.input_digest
    assert values["T1w_repetition_time"] == made.acquisitions[T1W].repetition_time
    written = {**row, "group": done.group}
    assert is_done(made, written), "nothing is left to do for a run that decides by headers again"


def test_a_plan_that_was_followed_stays_as_it_is() -> None:
    made = repeated((5, 14))
    assert taken_plan(made, {}) is made
