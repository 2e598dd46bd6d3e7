"""Decisions and volumes of real DICOM sets against the collected expectations and against dcm2niix."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import tarfile
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from qmri_core.series.classification import Decision, SkipReason
from storage.source.discovery import ReadError, Series, decide_session, discover, read_volume

DATA = Path(os.environ.get("QMRI_DATA_DIR", Path(__file__).parents[3].parent / "shared" / "data"))
KEY = bytes(32)

pytestmark = pytest.mark.skipif(
    not (DATA / "expected.json").exists(), reason="no real data: set QMRI_DATA_DIR to the folder with expected.json"
)


@cache
def expected() -> dict[str, Any]:
    path = DATA / "expected.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


SETS = sorted(expected())


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("sets")

    @cache
    def unpack(name: str) -> Path:
        target = root / name
        source = DATA / "dicom" / name
        archives = sorted(source.glob("*.tar.gz"))
        if not archives:
            shutil.copytree(source, target)
            return target
        with tarfile.open(archives[0]) as archive:
            archive.extractall(root, filter="data")
        return target

    return unpack


@cache
def decisions(folder: Path) -> list[tuple[Series, Decision]]:
    sessions: dict[str, list[Series]] = defaultdict(list)
    for series in discover(folder, key=KEY).series:
        if series.kind == "dicom":
            sessions[series.session].append(series)
    return [pair for members in sessions.values() for pair in zip(members, decide_session(members), strict=True)]


def code(decision: Decision) -> str:
    return str(decision.contrast) if decision.reason is None else f"skip:{decision.reason}"


def number_of(name: str) -> int:
    return int(name.split("_")[0])


def lies_in(series: Series, root: Path, folders: list[str]) -> bool:
    inside = {Path(path).relative_to(root).parent.as_posix() for path in series.paths}
    return any(
        folder in {"", "."} or any(one == folder or one.startswith(f"{folder}/") for one in inside)
        for folder in folders
    )


def is_phase(series: Series) -> bool:
    return bool({"P", "PHASE"} & set(series.header.image_type))


@pytest.mark.parametrize("name", SETS)
def test_every_decision_is_the_expected_one(name: str, unpacked: Any) -> None:
    root = unpacked(name)
    found = decisions(root)
    seen: set[int] = set()
    for folder, volumes in expected()[name]["dcm2niix"].items():
        for volume in volumes:
            allowed = {volume["decision"], *volume.get("decision_also", ())}
            mine = [
                (index, code(decision))
                for index, (series, decision) in enumerate(found)
                if series.number == number_of(volume["name"])
                and lies_in(series, root, [folder])
                and is_phase(series) == volume["name"].endswith("_ph")
                and not ("not_image" in volume.get("note", "") and decision.reason is SkipReason.NOT_IMAGE)
            ]
            assert mine, f"{volume['name']} was not found"
            wrong = [one for _, one in mine if one not in allowed]
            assert not wrong, f"{volume['name']} ({volume['why']}): {wrong}, not {sorted(allowed)}"
            seen.update(index for index, _ in mine)
    for entry in expected()[name]["series"]:
        if "decision" not in entry:
            continue
        allowed = {entry["decision"], *entry.get("decision_also", ())}
        mine = [
            (index, code(decision))
            for index, (series, decision) in enumerate(found)
            if series.number == int(entry["series_number"]) and lies_in(series, root, entry["folder"])
        ]
        assert any(one in allowed for _, one in mine), (entry["why"], mine)
        seen.update(index for index, one in mine if one in allowed)
    rest = [code(decision) for index, (_, decision) in enumerate(found) if index not in seen]
    assert set(rest) <= {"skip:not_image"}, f"nothing is expected for {rest}"


def test_one_acquisition_reconstructed_twice_counts_once_and_normalised(unpacked: Any) -> None:
    found = decisions(unpacked("siemens-xa30-mprage-enhanced"))
    assert {series.number: code(decision) for series, decision in found} == {5: "skip:duplicate", 6: "T1w"}
    assert [series.number for series, _ in found if "NORM" in series.header.image_type] == [6]


def test_copies_in_three_transfer_syntaxes_count_once(unpacked: Any) -> None:
    root = unpacked("dicom2nifti-matrix")
    folders = ["compressed_j2k", "compressed_jpeg", "compressed_rle"]
    codes = sorted(code(decision) for series, decision in decisions(root) if lies_in(series, root, folders))
    assert codes == ["FLAIR", "skip:duplicate", "skip:duplicate"]


def test_two_exports_under_one_identifier_are_never_mixed(unpacked: Any) -> None:
    found = decisions(unpacked("acr-siemens-skyra-sameuid"))
    assert [code(decision) for _, decision in found] == ["skip:contrast_unknown"] * 2
    assert [len({Path(path).parent for path in series.paths}) for series, _ in found] == [1, 1]
    assert [series.n_instances for series, _ in found] == [11, 11]


def dcm2niix(series: Series, folder: Path) -> list[Any]:
    """Volumes that dcm2niix makes of the files of one series alone; none of those that it refuses."""
    converter = pytest.importorskip("dcm2niix")
    inside, outside = folder / "in", folder / "out"
    inside.mkdir()
    outside.mkdir()
    for index, path in enumerate(series.paths):
        data = Path(path).read_bytes()
        (inside / f"{index:05}.dcm").write_bytes(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    command = [converter.bin, "-z", "n", "-b", "n", "-f", "v", "-o", str(outside), str(inside)]
    subprocess.run(command, check=False, capture_output=True)
    return [nibabel.as_closest_canonical(nibabel.load(path)) for path in sorted(outside.glob("*.nii"))]


LEFT_OUT = {SkipReason.MOSAIC, SkipReason.PHASE}
"""Series that dcm2niix turns into something else: slices of a mosaic apart, phases in another unit."""


@pytest.mark.parametrize("name", SETS)
def test_volumes_equal_those_of_dcm2niix(name: str, unpacked: Any, tmp_path: Path) -> None:
    """Every series that is a volume, also those that are not taken; dcm2niix refuses one of these."""
    n_refused = 0
    for index, (series, decision) in enumerate(decisions(unpacked(name))):
        if series.problem is not None or decision.reason in LEFT_OUT:
            continue
        try:
            volume = read_volume(series)
        except ReadError:
            assert decision.reason is not None  # what is no magnitude image
            continue
        folder = tmp_path / str(index)
        folder.mkdir()
        mine = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.array.T, volume.affine))
        values = mine.get_fdata()
        images = dcm2niix(series, folder)
        if not images and decision.reason is not None:
            n_refused += 1
            continue
        same_shape = [one for one in volumes_of(images) if one[1].shape == values.shape]
        if decision.reason is None:
            assert len(same_shape) == 1
        affine, oracle = min(same_shape, key=lambda one: float(np.abs(one[1] - values).max()))
        corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]).T
        corners[:3] *= np.array(mine.shape)[:, None] - 1
        np.testing.assert_allclose(
            mine.affine @ corners,
            affine @ corners,
            rtol=0,
            atol=0.0101,  # 0.01 mm, and what dcm2niix adds by extending the rounded first gap over 96 slices
        )
        np.testing.assert_allclose(values, oracle, rtol=1e-6, atol=1e-6 * np.abs(oracle).max())  # float32
    assert n_refused <= 1


def volumes_of(images: list[Any]) -> list[tuple[Any, Any]]:
    """Affine and values of each volume; images may have four dimensions."""
    parts = ((one.affine, np.asanyarray(one.dataobj, dtype=float)) for one in images)
    return [
        (affine, part) for affine, data in parts for part in (np.moveaxis(data, 3, 0) if data.ndim == 4 else [data])
    ]


@pytest.mark.parametrize("name", SETS)
def test_slices_lie_where_their_headers_say(name: str, unpacked: Any) -> None:
    """The affine against the positions of all slices, read here once more by pydicom."""
    pydicom = pytest.importorskip("pydicom")
    for series, decision in decisions(unpacked(name)):
        if decision.reason is not None or len(series.paths) == 1:
            continue
        affine = np.array(series.affine)
        for z, (file, _) in enumerate(series.frames):
            header = pydicom.dcmread(series.paths[file], stop_before_pixels=True)
            position = np.array(header.ImagePositionPatient, dtype=float) * (-1, -1, 1)
            np.testing.assert_allclose(affine @ (0, 0, z, 1), [*position, 1], atol=0.01)
