"""Maps as a BIDS derivatives dataset, read back by nibabel alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from storage.exports.bids import export_bids
from storage.exports.selection import Exported, Selection
from storage.nifti_image import affine_image
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
    assert export_bids(Cohort.open(store), out).sessions == 2
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
    assert export_bids(Cohort.open(store, at="without"), tmp_path / "bids").sessions == 0
    assert (tmp_path / "bids" / "dataset_description.json").exists()
    with pytest.raises(StoreError, match="is there already"):
        export_bids(Cohort.open(store), tmp_path / "bids")


def test_an_export_that_was_cut_short_goes_on_and_one_of_something_else_begins_anew(
    store: Path, tmp_path: Path
) -> None:
    class CutError(Exception):
        pass

    def cut(done: int, total: int) -> None:
        if done < total:
            raise CutError

    out, part = tmp_path / "bids", tmp_path / ".bids.part"
    with pytest.raises(CutError):
        export_bids(Cohort.open(store), out, progress=cut)
    assert not out.exists()
    first = part / "sub-7f" / "ses-1" / "anat" / "sub-7f_ses-1_T1map.nii.gz"
    (part / ".sub-7f_ses-3" / "anat").mkdir(parents=True)  # as a kill within a session leaves it
    (part / ".sub-7f_ses-3" / "anat" / "half.nii.gz").touch()
    written = first.stat().st_mtime_ns
    assert export_bids(Cohort.open(store), out).sessions == 2
    assert (out / first.relative_to(part)).stat().st_mtime_ns == written
    assert not [path for path in out.rglob("*") if path.name.startswith(".") or path.name == "half.nii.gz"]

    other = tmp_path / "other"
    with pytest.raises(CutError):
        export_bids(Cohort.open(store), other, progress=cut)
    export_bids(Cohort.open(store), other, Selection(zeros=True))
    written_anew = nibabel.load(other / first.relative_to(part)).get_fdata()
    assert np.isfinite(written_anew).all()


def test_what_is_selected_is_there_and_what_is_left_out_is_counted(store: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(store)
    everything = export_bids(cohort, tmp_path / "all")
    assert everything == Exported(sessions=2, left_out={"no maps yet": 1})
    assert "- 1: no maps yet" in (tmp_path / "all" / "README.md").read_text()
    (key,) = {cohort.slots["ses-3"].group}
    by_label = export_bids(cohort, tmp_path / "label", Selection(groups=[cohort.labels[key]]))
    assert by_label == Exported(sessions=1, left_out={})
    by_key = export_bids(cohort, tmp_path / "key", Selection(groups=[key], sessions=["ses-1"]))
    assert by_key.sessions == 0
    with pytest.raises(StoreError, match=r"ses-9: the store has no such session"):
        export_bids(cohort, tmp_path / "none", Selection(sessions=["ses-9"]))
    with pytest.raises(StoreError, match=r"G99: the store has no such group"):
        export_bids(cohort, tmp_path / "none", Selection(groups=["G99"]))
    assert not (tmp_path / "none").exists()


def test_images_and_zeros_on_request(store: Path, tmp_path: Path) -> None:
    export_bids(Cohort.open(store), tmp_path / "bids", Selection(sessions=["ses-1"], images=True, zeros=True))
    anat = tmp_path / "bids" / "sub-7f" / "ses-1" / "anat"
    image = nibabel.load(anat / "sub-7f_ses-1_desc-preproc_T1w.nii.gz").get_fdata().T
    expected = images("ses-1")["T1w"]
    np.testing.assert_allclose(image, np.nan_to_num(expected, nan=0.0), rtol=2**-12)
    sources = json.loads((anat / "sub-7f_ses-1_T1map.json").read_text())["Sources"]
    assert [source.removeprefix("bids::sub-7f/ses-1/anat/sub-7f_ses-1_") for source in sources] == [
        *(f"desc-preproc_{name}.nii.gz" for name in ("T1w", "T2w", "FLAIR")),
        "desc-brain_mask.nii.gz",
    ]
    assert all((tmp_path / "bids" / source.removeprefix("bids::")).exists() for source in sources)


@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.tuples(*[st.floats(0.4, 6)] * 3),
    origin=st.tuples(*[st.floats(-200, 200)] * 3),
)
def test_both_forms_of_the_affine_are_equal_and_simpleitk_reads_the_same(
    tmp_path_factory: pytest.TempPathFactory, angles: Sequence[float], spacing: Sequence[float], origin: Sequence[float]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles).as_matrix() * np.asarray(spacing)
    affine[:3, 3] = origin
    path = tmp_path_factory.mktemp("affine") / "image.nii.gz"
    nibabel.save(affine_image(np.zeros((3, 4, 5), np.float32), affine), path)
    read = nibabel.load(path)
    for form, code in (read.get_sform(coded=True), read.get_qform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(form, affine, atol=2e-4)
    image = SimpleITK.ReadImage(path)
    voxel = np.array([4.0, 3.0, 2.0])
    physical = np.array(image.TransformContinuousIndexToPhysicalPoint(voxel)) * [-1, -1, 1]  # LPS
    np.testing.assert_allclose(physical, (affine @ [*voxel, 1.0])[:3], atol=2e-3)


def test_a_sheared_affine_has_the_one_form_that_can_hold_it(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[0, 2] = 0.5  # a gantry tilt
    nibabel.save(affine_image(np.zeros((3, 4, 5), np.float32), affine), tmp_path / "image.nii.gz")
    read = nibabel.load(tmp_path / "image.nii.gz")
    np.testing.assert_allclose(read.affine, affine, atol=1e-6)
    assert read.get_qform(coded=True)[1] == 0


@pytest.mark.walk
@pytest.mark.parametrize("selection", [Selection(), Selection(images=True, zeros=True)])
def test_the_validator_finds_no_error(store: Path, tmp_path: Path, selection: Selection) -> None:
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists():
        pytest.skip("bids-validator-deno is not installed")
    export_bids(Cohort.open(store), tmp_path / "bids", selection)

    def errors() -> list[str]:
        command = [validator, tmp_path / "bids", "--format", "json"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        issues = json.loads(run.stdout)["issues"]["issues"]
        return [f"{one['code']} {one.get('location')}" for one in issues if one["severity"] == "error"]

    assert errors() == []
    sidecar = next((tmp_path / "bids").rglob("*_T1map.json"))
    sidecar.write_text("{}")  # the validator does see what is wrong
    assert errors()
