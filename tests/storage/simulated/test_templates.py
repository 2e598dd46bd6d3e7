"""Label maps of a folder."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from storage.simulated.templates import label_maps, read_label_map


def test_label_maps_come_in_order_and_in_ras(tmp_path: Path) -> None:
    codes = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.array([[-1.0, 0, 0, 5], [0, 0, 2.0, 0], [0, -3.0, 0, 7], [0, 0, 0, 1]])  # LIA
    for name in ("b.nii.gz", "a.nii.gz"):
        nib.save(nib.Nifti1Image(codes, affine), tmp_path / name)
    (tmp_path / "notes.txt").write_text("no map")
    paths = label_maps(tmp_path)
    assert [path.name for path in paths] == ["a.nii.gz", "b.nii.gz"]
    volume = read_label_map(paths[0])
    assert_array_equal(np.argmax(np.abs(volume.affine[:3, :3]), axis=0), [0, 1, 2])
    assert np.all(np.diag(volume.affine) > 0)
    for index in np.ndindex(codes.shape):
        world = affine @ [*index, 1]
        x, y, z = np.rint(np.linalg.inv(volume.affine) @ world)[:3].astype(int)
        assert volume.array[z, y, x] == codes[index]


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_maps_is_refused(tmp_path: Path, exists: bool) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \.nii or \.nii\.gz"):
        label_maps(tmp_path if exists else tmp_path / "nowhere")
