"""Which images of a series make its volume: single ones among many, and positions that an exporter rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmri_core.series.classification import SkipReason
from storage.source.discovery import Series, decide_session, discover
from tests.storage.slices import STUDY, header, voxels, write, write_series

KEY = bytes(32)
AXIAL, SAGITTAL, CORONAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]


def found(folder: Path) -> list[Series]:
    return list(discover(folder, key=KEY).series)


def whole(folder: Path, n_slices: int) -> Series:
    """The only series of so many slices, which is taken."""
    members = found(folder)
    [place] = [index for index, one in enumerate(members) if one.shape[2] == n_slices]
    assert decide_session(members)[place].reason is None
    return members[place]


STRAYS: dict[str, dict[str, Any]] = {
    "orientation": {"ImageOrientationPatient": SAGITTAL},
    "timing": {"EchoTime": "5.1"},
    "pixel size": {"PixelSpacing": [1, 1]},
    "time": {"AcquisitionTime": "220000", "ImagePositionPatient": [-40, -50, 10]},
    "instance": {"InstanceNumber": "999"},
}


@pytest.mark.parametrize("kind", STRAYS)
def test_a_single_image_of_another_kind_is_left_out(tmp_path: Path, kind: str) -> None:
    stored = voxels(50)
    write_series(tmp_path / "a", stored, AcquisitionTime="185300")
    place = {"SOPInstanceUID": f"{STUDY}.9.9", "InstanceNumber": "51", "AcquisitionTime": "185300"}
    stray = header(**{**place, "ImagePositionPatient": [-40, -50, -10], **STRAYS[kind]})
    write(tmp_path / "a" / "ref", stray, stored[3] + 1)
    series = whole(tmp_path, 50)
    assert series.spacing == (3.0, 2.0, 2.5)
    assert series.context.n_strays == 1
    assert not any(path.endswith("ref") for path in series.paths)
    [other] = [one for one in found(tmp_path) if one.shape[2] != 50]
    assert decide_session([other])[0].reason is SkipReason.INCOMPLETE


@pytest.mark.parametrize("counts", [(1, 1, 1), (5, 5, 5), (20, 1, 1), (15, 3, 2)])
def test_a_localizer_of_three_orientations_stays_one(tmp_path: Path, counts: tuple[int, int, int]) -> None:
    number = 0
    for orientation, count in zip((AXIAL, SAGITTAL, CORONAL), counts, strict=True):
        normal = np.cross(orientation[:3], orientation[3:])
        for z in range(count):
            number += 1
            position = [float(value) for value in 5.0 * z * normal]
            image = header(
                SOPInstanceUID=f"{STUDY}.1.{number}", InstanceNumber=str(number),
                ImageOrientationPatient=orientation, ImagePositionPatient=position,
            )  # fmt: skip
            write(tmp_path / f"IM{number}", image, voxels(1)[0] + number)
    members = found(tmp_path)
    reasons = {decision.reason for decision in decide_session(members)}
    assert reasons <= {SkipReason.LOCALIZER, SkipReason.INCOMPLETE}
    assert SkipReason.LOCALIZER in reasons
    assert all(one.context.n_strays == 0 for one in members)


def test_two_images_of_another_kind_in_few_are_no_strays(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(12))
    for z in range(3):
        image = header(
            SOPInstanceUID=f"{STUDY}.9.{z}", ImageOrientationPatient=SAGITTAL, ImagePositionPatient=[5 * z, 0, 0]
        )
        write(tmp_path / f"ref{z}", image, voxels(1)[0] + z)
    assert {one.reason for one in decide_session(found(tmp_path))} <= {SkipReason.LOCALIZER, SkipReason.INCOMPLETE}


def tilted(step: float, rounding: float, n_slices: int, without: tuple[int, ...] = ()) -> list[list[float]]:
    """Positions of slices tilted by 20 degrees about x, rounded."""
    normal = np.array([0.0, np.sin(np.radians(20)), np.cos(np.radians(20))])
    exact = [np.array([-40.3, -50.2, -60.1]) + step * z * normal for z in range(n_slices) if z not in without]
    return [[round(float(v / rounding)) * rounding for v in position] for position in exact]


def write_tilted(folder: Path, positions: list[list[float]]) -> None:
    tilt = [1, 0, 0, 0, round(float(np.cos(np.radians(20))), 6), round(float(-np.sin(np.radians(20))), 6)]
    for z, (position, pixels) in enumerate(zip(positions, voxels(len(positions)), strict=True)):
        image = header(
            SOPInstanceUID=f"{STUDY}.1.{z}", InstanceNumber=str(z + 1), ImageOrientationPatient=tilt,
            ImagePositionPatient=[f"{value:.2f}" for value in position],
        )  # fmt: skip
        write(folder / f"IM{z}", image, pixels)


@pytest.mark.parametrize(("step", "rounding"), [(2.96, 0.1), (1.03, 0.1), (3.3, 1.0)])
def test_positions_rounded_by_an_exporter_make_a_volume_of_their_mean_step(
    tmp_path: Path, step: float, rounding: float
) -> None:
    write_tilted(tmp_path, tilted(step, rounding, 50))
    series = whole(tmp_path, 50)
    assert series.spacing[2] == pytest.approx(step, abs=1.5 * rounding / 49)  # both ends are rounded
    assert series.context.rounding == rounding


@pytest.mark.parametrize(("step", "rounding"), [(2.96, 0.1), (1.03, 0.1), (3.3, 1.0)])
@pytest.mark.parametrize("missing", [(25,), (10, 11)])
def test_missing_slices_are_found_among_rounded_positions(
    tmp_path: Path, step: float, rounding: float, missing: tuple[int, ...]
) -> None:
    write_tilted(tmp_path, tilted(step, rounding, 50, missing))
    [series] = found(tmp_path)
    assert series.problem is SkipReason.INCOMPLETE


def test_rounding_that_would_hide_a_missing_slice_is_not_allowed_for(tmp_path: Path) -> None:
    write_tilted(tmp_path, tilted(1.5, 1.0, 50))
    assert [one.problem for one in found(tmp_path)] == [SkipReason.INCOMPLETE]
