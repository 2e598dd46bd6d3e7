"""Maps as a BIDS derivatives dataset, read back by nibabel alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from storage.exports.bids import export_bids
from storage.store.cohort import Cohort, StoreError, commit, tag, writing
from tests.storage.cohorts import GRID, images, infer, ingest, maps, placement

ANAT = re.compile(
    r"(sub-[0-9a-z]+)/(ses-[0-9a-z]+)/anat/\1_\2_(desc-(uncertainty|brain)_)?(T1map|T2map|PDmap|mask|dseg)"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    location = tmp_path_factory.mktemp("bids") / "store"
    ingest(location, [placement("ses-1"), placement("ses-2"), placement("ses-3", "scanner-b/protocol-2")])
    with writing(location) as repository:
        rows = [{"session": name, "person": "sub-7f"} for name in ("ses-1", "ses-2", "ses-3")]
        commit(repository, None, [], values={"ses-1": {"sex": "F"}}, rows=rows, message="persons")
        tag(repository, "without")
    infer(location, ["ses-1", "ses-3"])
    return location


def test_maps_come_with_units_geometry_and_nothing_else(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "bids"
    assert export_bids(Cohort.open(store), out) == 2
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    anat = out / "sub-7f" / "ses-1" / "anat"
    image = nibabel.load(anat / "sub-7f_ses-1_T1map.nii.gz")
    np.testing.assert_allclose(image.get_fdata().T, maps("ses-1")["T1map"], rtol=2**-13)  # what rounding costs
    np.testing.assert_array_equal(image.affine, np.diag([*GRID.spacing, 1.0]))
    assert image.header.get_xyzt_units()[0] == "mm"
    assert json.loads((anat / "sub-7f_ses-1_T1map.json").read_text())["Units"] == "s"
    assert json.loads((anat / "sub-7f_ses-1_PDmap.json").read_text())["Units"] == "arbitrary"
    labels = np.asarray(nibabel.load(anat / "sub-7f_ses-1_dseg.nii.gz").dataobj).T
    np.testing.assert_array_equal(labels, images("ses-1")["tissue"])
    assert np.isnan(nibabel.load(anat / "sub-7f_ses-1_desc-uncertainty_T2map.nii.gz").get_fdata()).all()  # none stored
    volumes = [path.relative_to(out).as_posix() for path in out.rglob("*.nii.gz")]
    assert len(volumes) == 2 * 8
    assert all(ANAT.match(path) for path in volumes)
    assert (out / "participants.tsv").read_text() == "participant_id\tsex\nsub-7f\tF\n"
    assert (out / "sub-7f" / "sub-7f_sessions.tsv").read_text().splitlines()[1].startswith("ses-1\t40\t")
    assert "2\tgrey_matter" in (out / "dseg.tsv").read_text()


def test_an_earlier_state_without_maps_gives_an_empty_dataset_and_nothing_is_overwritten(
    store: Path, tmp_path: Path
) -> None:
    assert export_bids(Cohort.open(store, at="without"), tmp_path / "bids") == 0
    assert (tmp_path / "bids" / "dataset_description.json").exists()
    with pytest.raises(StoreError, match="is there already"):
        export_bids(Cohort.open(store), tmp_path / "bids")
