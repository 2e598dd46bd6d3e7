"""Which of its two transforms a NIfTI image is placed by."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from qmri_core.series.classification import SkipReason
from qmri_core.series.remarks import RemarkKind
from storage.source.discovery import decide, discover, read_volume
from storage.source.series import Series
from tests.storage.niftis import T1W, write_nifti

SCANNER = np.array([[-1.0, 0.0, 0.0, 30.0], [0.0, 1.2, 0.0, -40.0], [0.0, 0.0, 2.5, 7.0], [0.0, 0.0, 0.0, 1.0]])


def turned(degrees: float, scale: float = 1.0, move: tuple[float, float, float] = (0, 0, 0)) -> Any:
    """The scanner's affine, turned about x, scaled and moved."""
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = move
    return np.diag([scale, scale, scale, 1.0]) @ turn @ SCANNER


def sheared() -> Any:
    result = SCANNER.copy()
    result[:3, 1] = 0.3, math.sqrt(1.2**2 - 0.3**2), 0  # 14.5 degrees, and as long as before
    return result


MIRRORED = np.diag([-1.0, 1, 1, 1]) @ SCANNER


def series_of(tmp_path: Path, sform: tuple[Any, int], qform: tuple[Any, int]) -> Series:
    write_nifti(tmp_path / "sub-01_T1w.nii.gz", T1W, sform=sform, qform=qform)
    (series,) = discover(tmp_path, key=bytes(32)).series
    return series


@pytest.mark.parametrize("code", [2, 3, 4])
@pytest.mark.parametrize("template", [turned(12, 1.1, (4, 31, -26)), turned(25), sheared()])
def test_the_scanners_transform_is_taken_not_that_to_a_template(tmp_path: Path, code: int, template: Any) -> None:
    series = series_of(tmp_path, (template, code), (SCANNER, 1))
    np.testing.assert_allclose(series.affine, SCANNER, atol=1e-5)
    np.testing.assert_allclose(series.spacing, (1.0, 1.2, 2.5), rtol=1e-6)
    np.testing.assert_allclose(read_volume(series).affine, SCANNER, atol=1e-5)
    (remark,) = series.remarks
    assert remark.kind is RemarkKind.PLACED
    assert "the qform is taken" in remark.text


@pytest.mark.parametrize("template", [turned(0, 1.1), turned(5, 0.9), sheared()])
def test_a_transform_that_changes_sizes_is_refused_where_there_is_no_other(tmp_path: Path, template: Any) -> None:
    series = series_of(tmp_path, (template, 2), (SCANNER, 0))
    decision = decide(series)
    assert decision.reason is SkipReason.INCOMPLETE
    assert "and there is no other transform" in decision.explanation


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 2), (1, 2), (1, 4)])
def test_of_two_with_the_same_claim_the_sform_is_taken_and_it_is_said(tmp_path: Path, sform: int, qform: int) -> None:
    series = series_of(tmp_path, (turned(12), sform), (SCANNER, qform))
    np.testing.assert_allclose(series.affine, turned(12), atol=1e-5)
    assert "the sform is taken" in series.remarks[0].text


def test_a_sheared_sform_of_the_scanner_gives_way_to_the_qform(tmp_path: Path) -> None:
    series = series_of(tmp_path, (sheared(), 1), (SCANNER, 1))
    np.testing.assert_allclose(series.affine, SCANNER, atol=1e-5)
    assert "shears by 14.5 degrees" in series.remarks[0].text


@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (4, 1)])
def test_two_that_disagree_on_left_and_right_are_refused(tmp_path: Path, codes: tuple[int, int]) -> None:
    decision = decide(series_of(tmp_path, (MIRRORED, codes[0]), (SCANNER, codes[1])))
    assert decision.reason is SkipReason.INCOMPLETE
    assert "which side is left" in decision.explanation


@pytest.mark.parametrize("code", [3, 4])
def test_a_template_alone_is_taken_and_said(tmp_path: Path, code: int) -> None:
    series = series_of(tmp_path, (SCANNER, code), (SCANNER, 0))
    assert decide(series).reason is None
    assert "placed in a template alone" in series.remarks[0].text


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 0), (0, 1), (2, 1), (4, 1)])
def test_what_nothing_contradicts_needs_no_word(tmp_path: Path, sform: int, qform: int) -> None:
    series = series_of(tmp_path, (SCANNER, sform), (SCANNER, qform))
    np.testing.assert_allclose(series.affine, SCANNER, atol=1e-5)
    assert series.remarks == ()
    assert decide(series).reason is None


def test_without_a_code_an_image_is_nowhere(tmp_path: Path) -> None:
    decision = decide(series_of(tmp_path, (SCANNER, 0), (SCANNER, 0)))
    assert decision.reason is SkipReason.INCOMPLETE
    assert "no orientation in the header" in decision.explanation


@pytest.mark.parametrize(("scale", "unit", "stated"), [(1000.0, "micron", "micrometres"), (0.001, "meter", "metres")])
@pytest.mark.parametrize("qform", [0, 1])
def test_voxels_that_no_head_has_are_refused_with_the_unit(
    tmp_path: Path, scale: float, unit: str, stated: str, qform: int
) -> None:
    affine = np.diag([scale, scale, scale, 1.0]) @ SCANNER
    write_nifti(tmp_path / "sub-01_T1w.nii.gz", T1W, sform=(affine, 1), qform=(affine, qform))
    path = tmp_path / "sub-01_T1w.nii.gz"
    image = nibabel.load(path)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    (series,) = discover(tmp_path, key=bytes(32)).series
    decision = decide(series)
    assert decision.reason is SkipReason.INCOMPLETE
    assert f"with {stated} stated: convert the image to millimetres" in decision.explanation


@pytest.mark.parametrize("unit", ["micron", "unknown"])
def test_a_unit_that_the_numbers_contradict_counts_for_nothing(tmp_path: Path, unit: str) -> None:
    path = tmp_path / "sub-01_T1w.nii.gz"
    write_nifti(path, T1W, sform=(SCANNER, 1), qform=(SCANNER, 1))
    image = nibabel.load(path)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    (series,) = discover(tmp_path, key=bytes(32)).series
    np.testing.assert_allclose(series.spacing, (1.0, 1.2, 2.5), rtol=1e-6)
