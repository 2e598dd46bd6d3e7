"""Images of labels and tables of their names: what is taken as it stands, and what is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from storage.nifti_image import affine_image
from storage.source.labels import LabelsError, digest_of, read_label_names, read_labels

AFFINE = np.diag([-2.0, 2.0, 3.0, 1.0])


def saved(path: Path, array: NDArray[Any]) -> Path:
    nibabel.save(affine_image(array, AFFINE), path)
    return path


@pytest.mark.parametrize("kind", ["uint8", "int32", "float64"])
def test_labels_lie_where_and_as_they_are(tmp_path: Path, kind: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    volume = read_labels(saved(tmp_path / "a.nii.gz", array))
    assert np.array_equal(volume.array, array)
    assert np.array_equal(volume.affine, AFFINE)
    with_time = read_labels(saved(tmp_path / "b.nii", array[None]))
    assert np.array_equal(with_time.array, array)


WRONG = {
    "of two values": (np.zeros((2, 2, 3, 4), np.uint8), "shape"),
    "complex": (np.zeros((2, 3, 4), np.complex64), "complex"),
    "halves": (np.full((2, 3, 4), 0.5), "whole numbers"),
    "nothing known": (np.full((2, 3, 4), np.nan), "whole numbers"),
    "below zero": (np.full((2, 3, 4), -1, np.int16), "whole numbers"),
    "too large": (np.full((2, 3, 4), 2**24, np.int32), "whole numbers"),
    "empty": (np.zeros((2, 3, 4), np.uint8), "all of its labels are 0"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_image_of_labels_is_refused(tmp_path: Path, kind: str) -> None:
    array, reason = WRONG[kind]
    with pytest.raises(LabelsError, match=reason):
        read_labels(saved(tmp_path / "a.nii.gz", array))


def test_an_image_without_a_place_or_damaged_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", np.ones((2, 3, 4), np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[:355])
    with pytest.raises(LabelsError, match="cannot be read"):
        read_labels(path)
    path.write_bytes(content[:252] + bytes(4) + content[256:])  # the codes of both transforms
    with pytest.raises(LabelsError, match="orientation"):
        read_labels(path)


def test_names_are_read_as_bids_has_them_and_as_csv(tmp_path: Path) -> None:
    table = tmp_path / "dseg.tsv"
    table.write_text("index\tname\tcolor\n0\tBackground\t#000\n1\tLeft Thalamus\t#fff\n17\t7Networks_LH_Vis-1\t\n")
    expected = {1: "Left_Thalamus", 17: "7Networks_LH_Vis-1"}
    assert read_label_names(table) == expected
    other = tmp_path / "dseg.csv"
    other.write_text("\ufeffname,index\nLeft Thalamus,1\n7Networks_LH_Vis-1,17\n", encoding="utf-8")
    assert read_label_names(other) == expected
    assert digest_of(table, other) != digest_of(other, table)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("index\tlabel\n1\tone\n", "columns index and name"),
        ("index\tname\n", "columns index and name"),
        ("index\tname\none\tone\n", "line 2: the index"),
        ("index\tname\n1.5\tone\n", "line 2: the index"),
        ("index\tname\n1\tone\n1\ttwo\n", "line 3: label 1"),
        ("index\tname\n1\tone\n2\tone\n", "line 3: label 2"),
        ("index\tname\n1\t\n", "line 2: a name"),
        ("index\tname\n1\n", "line 2: a name"),
    ],
)
def test_a_table_that_names_nothing_plainly_is_refused(tmp_path: Path, lines: str, reason: str) -> None:
    table = tmp_path / "dseg.tsv"
    table.write_text(lines)
    with pytest.raises(LabelsError, match=reason):
        read_label_names(table)
