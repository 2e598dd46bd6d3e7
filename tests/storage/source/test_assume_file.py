"""The two kinds of entries of an assume file, and which override a group gets."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from qmri_core.physics.header import OVERRIDES
from qmri_core.series.acquisition import Contrast
from storage.source.assume_file import (
    AssumptionError,
    Override,
    load_assumptions,
    load_entries,
    load_overrides,
    overriding,
)

MIXED = """
- {match: 'scan/*', contrast: T1w, parameters: {FlipAngle: 9}}
- group: "siemens-*/t1w-mprage-*"
  contrast: T1w
  model: {inversion_efficiency: 0.93, centre_index: 60, echo_time: 2.5e-3}
- {match: 'other/*'}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "assume.yaml"


def test_the_two_kinds_are_told_apart_and_keep_their_order(file: Path) -> None:
    file.write_text(MIXED)
    assert [entry.match for entry in load_assumptions(file)] == ["scan/*", "other/*"]
    (override,) = load_overrides(file)
    assert (override.group, override.contrast) == ("siemens-*/t1w-mprage-*", Contrast.T1W)
    assert override.model == {"inversion_efficiency": 0.93, "centre_index": 60.0, "echo_time": 0.0025}
    entries = load_entries(file)
    assert [isinstance(entry, Override) for entry in entries] == [False, True, False]


@pytest.mark.parametrize("text", ["", "[]", "# nothing yet"])
def test_an_empty_file_states_nothing(file: Path, text: str) -> None:
    file.write_text(text)
    assert load_assumptions(file) == load_overrides(file) == ()


def test_every_name_of_the_physics_is_accepted(file: Path) -> None:
    file.write_text(f"- {{group: '*', contrast: FLAIR, model: {{{', '.join(f'{name}: 1' for name in OVERRIDES)}}}}}")
    (override,) = load_overrides(file)
    assert override.model == dict.fromkeys(OVERRIDES, 1.0)


def test_an_unknown_name_is_answered_with_the_known_ones(file: Path) -> None:
    file.write_text(
        "- {match: a}\n- {group: '*', contrast: T1w, model: {inversion_time: 0.9, EchoTime: 0.1, zap: 2}}\n"
    )
    with pytest.raises(AssumptionError, match=r"entry 2: model: .*EchoTime, zap: not among") as caught:
        load_overrides(file)
    assert all(name in str(caught.value) for name in OVERRIDES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {match: a, group: b, contrast: T1w, model: {ramp: 1}}", "entry 1 must have exactly one of match"),
        ("- {contrast: T1w, model: {ramp: 1}}", "entry 1 must have exactly one of match"),
        ("- {match: a}\n- scan", "entry 2 must have exactly one of match"),
        ("{group: a, contrast: T1w, model: {ramp: 1}}", "must be a list"),
        ("- {group: a, model: {ramp: 1}}", "entry 1: contrast"),
        ("- {group: a, contrast: T1w}", "entry 1: model"),
        ("- {group: a, contrast: T1w, model: {}}", "entry 1: model"),
        ("- {group: '', contrast: T1w, model: {ramp: 1}}", "entry 1: group"),
        ("- {group: a, contrast: T3w, model: {ramp: 1}}", "entry 1: contrast"),
        ("- {group: a, contrast: T1w, model: {ramp: one}}", "entry 1: model.ramp"),
        ("- {group: a, contrast: T1w, model: {inversion_time: .nan}}", "entry 1: model.inversion_time"),
        ("- {group: a, contrast: T1w, model: {ramp: 1}, parameters: {EchoTime: 1}}", "entry 1: parameters"),
        ("- {match: a, model: {ramp: 1}}", "entry 1: model"),
    ],
)
def test_a_wrong_entry_is_named_with_its_field(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    for load in (load_assumptions, load_overrides):
        with pytest.raises(AssumptionError, match=message):
            load(file)


def test_the_first_override_that_matches_the_whole_key_and_the_contrast_counts() -> None:
    def stated(group: str, contrast: Contrast, angle: float) -> Override:
        return Override(group=group, contrast=contrast, model={"refocusing_angle": angle})

    flair = stated("*", Contrast.FLAIR, math.pi)
    narrow, wide = stated("ge-*/t1w-*_t2w-tse-*", Contrast.T2W, 2.0), stated("ge-*", Contrast.T2W, 2.5)
    overrides = [stated("t1w-*", Contrast.T2W, 1.0), flair, narrow, wide]
    assert overriding(overrides, "ge-x/t1w-a_t2w-tse-b", Contrast.T2W) is narrow
    assert overriding(overrides, "ge-x/t1w-a_t2w-vfl-b", Contrast.T2W) is wide
    assert overriding(overrides, "ge-x/t1w-a_t2w-vfl-b", Contrast.FLAIR) is flair
    assert overriding(overrides, "ge-x/t1w-a_t2w-vfl-b", Contrast.T1W) is None
    assert overriding(overrides, "GE-x/t1w-a", Contrast.T2W) is None
