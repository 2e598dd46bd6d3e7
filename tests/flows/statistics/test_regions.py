"""Regions of sessions in a store, against what a simulated head truly has there."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from distributed import Client

from flows.statistics.own_regions import find_masks, read_atlas
from flows.statistics.regions import COLUMNS, measure_regions
from flows.statistics.session_regions import NOTHING
from qmri_core.preprocessing.template.brain import template
from qmri_core.series.geometry import Grid
from storage.nifti_image import affine_image
from storage.source.labels import LabelsError
from storage.store.acquisitions import acquisition_values
from storage.store.cohort import Cohort
from storage.store.lifecycle.forget import remove_from_table
from storage.store.opened.values import LEAST_PLACED, STATISTICS, are_believed, long_table, session_values
from storage.store.repository import writing
from storage.store.slots import Placement
from storage.store.tables import change
from storage.store.waves import begin_append, begin_update, commit, write_arrays
from tests.protocols import plain_protocol
from tests.qmri_core.preprocessing.template.test_registration import RESOLUTION, head, images_of
from tests.storage.cohorts import row
from tests.storage.store.opened.analysed import make_store

NUCLEI = {"caudate": 4, "putamen": 5, "thalamus": 6, "pallidum": 7}
"""Labels of a simulated head."""


def with_the_head(location: Path) -> Path:
    """Add a session of a simulated head of 80 years at 4 mm, whose maps are true."""
    anatomy = head()
    grid = Grid(shape=anatomy.tissue.shape, spacing=(RESOLUTION,) * 3)
    place = Placement(session="ses-head", scanner="scanner-h", protocol="protocol-h", grid=grid)
    arrays = {str(contrast): image for contrast, image in images_of(anatomy).items()}
    arrays |= {"tissue": anatomy.tissue, "brain_mask": (anatomy.tissue > 0).astype(np.uint8), "affine": anatomy.affine}
    maps = {"T1map": anatomy.t1, "T2map": anatomy.t2, "PDmap": anatomy.pd}
    maps |= {f"{name}_sd": np.full_like(values, 0.01) for name, values in maps.items()}
    values = {name: value for one in plain_protocol().values() for name, value in acquisition_values(one).items()}
    with writing(location) as repository:
        wave = begin_append(repository, [place])
        fork = write_arrays(wave.session.fork(), wave.slots["ses-head"], arrays)
        kept = {"ses-head": {**values, "magnetic_field_strength": 3.0}}
        commit(repository, wave, [fork], values=kept, rows=[row("ses-head")], message="Ingest", metadata={})
        update = begin_update(repository, ["ses-head"])
        fork = write_arrays(update.session.fork(), update.slots["ses-head"], maps)
        done = [row("ses-head", checkpoint_digest="c0ffee")]
        commit(repository, update, [fork], values={}, rows=done, message="Infer", metadata={})
    return location


def own_atlas_and_masks(location: str, folder: Path, before: pd.DataFrame) -> None:
    """The template's labels as an atlas of one's own give its regions, and masks the voxels that they hold."""
    at = template()
    names = [f"{number}\t{name} {side}" for number, (name, side) in at.names.items()]
    (folder / "dseg.tsv").write_text("\n".join(["index\tname", *names]))
    image = folder / "tpl-MNI_atlas-own_dseg.nii.gz"
    nibabel.save(affine_image(at.labels.array, at.labels.affine), image)
    caudate = (head().labels == NUCLEI["caudate"]).astype(np.uint8)
    finer = head().affine @ np.diag([0.5, 0.5, 0.5, 1.0])
    finer[:3, 3] = head().affine[:3, 3] - head().affine[:3, :3].sum(axis=1) / 4
    (folder / "masks" / "anat").mkdir(parents=True)
    drawn = {"caudate": (caudate, head().affine), "fine": (caudate.repeat(2, 0).repeat(2, 1).repeat(2, 2), finer)}
    drawn["air"] = ((head().tissue == 0).astype(np.uint8), head().affine)
    for name, (voxels, affine) in drawn.items():
        file = folder / "masks" / "anat" / f"sub-1_ses-head_label-{name}_mask.nii.gz"
        nibabel.save(affine_image(voxels, affine), file)
    atlas = read_atlas(image, folder / "dseg.tsv")
    masks = find_masks(folder / "masks", Cohort.open(location).slots)
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        first = measure_regions(location, client=client, atlas=atlas, masks=masks)
        again = measure_regions(location, client=client)
        assert (first.measured, first.outside) == (5, (("ses-head", "masks.air"),))
        assert (again.measured, again.snapshot) == (0, None)  # an atlas and masks stay as long as the maps do
        cohort = Cohort.open(location)
        assert cohort.regions is not None
        table = cohort.regions[cohort.regions["session"] == "ses-head"].set_index(["region", "map"])
        values = list(STATISTICS)
        for region, label in {"caudate_L": "caudate_L", "brain_stem": "brainstem_B"}.items():
            own = table.loc[(f"own.{label}", "T2map"), values]
            assert own.tolist() == table.loc[(region, "T2map"), values].tolist()
        kept = cohort.regions[cohort.regions["atlas"] == "template"].reset_index(drop=True)
        pd.testing.assert_frame_equal(kept, before.reset_index(drop=True))
        for name in ("caudate", "fine"):
            of_mask = table.loc[(f"masks.{name}", "T1map")]
            assert of_mask["n"] == caudate.sum()
            assert of_mask["median"] == pytest.approx(np.median(head().t1[caudate > 0]), rel=1e-3)  # as it is stored
        long = long_table(cohort, session_values(cohort, ["sex"]), ["median"])
        assert {"own.caudate_L", "masks.caudate"} <= set(long["region"])
        (folder / "masks" / "anat" / "sub-1_ses-head_label-air_mask.nii.gz").unlink()
        masks = find_masks(folder / "masks", cohort.slots)
        assert measure_regions(location, client=client, masks=masks).measured == 1
    regions = Cohort.open(location).regions
    assert regions is not None
    assert set(regions[regions["atlas"] == "masks"]["region"]) == {"masks.caudate", "masks.fine"}


def test_an_atlas_elsewhere_and_masks_of_nobody_are_refused(tmp_path: Path) -> None:
    names = tmp_path / "dseg.tsv"
    names.write_text("index\tname\n1\tone\n")
    corner = np.zeros((20, 20, 20), np.uint8)
    corner[:3] = 1
    image, mask = tmp_path / "other_dseg.nii.gz", tmp_path / "sub-1_ses-9_label-lesion_mask.nii.gz"
    nibabel.save(affine_image(corner, np.diag([5.0, 5.0, 5.0, 1.0]) + np.eye(4, k=3) * 200), image)
    with pytest.raises(LabelsError, match="Montreal"):
        read_atlas(image, names)
    nibabel.save(affine_image(corner * 2, np.eye(4)), image)
    with pytest.raises(LabelsError, match="no name of label 2"):
        read_atlas(image, names)
    with pytest.raises(LabelsError, match="no mask"):
        find_masks(tmp_path, ["ses-1"])
    nibabel.save(affine_image(corner, np.eye(4)), mask)
    with pytest.raises(LabelsError, match="1 masks are of sessions"):
        find_masks(tmp_path, ["ses-1"])
    (tmp_path / "again").mkdir()
    nibabel.save(affine_image(corner, np.eye(4)), tmp_path / "again" / mask.name)
    with pytest.raises(LabelsError, match="two masks"):
        find_masks(tmp_path, ["ses-9"])


@pytest.mark.walk
def test_regions_are_those_of_the_head_and_measured_once(tmp_path: Path) -> None:
    location = str(with_the_head(make_store(tmp_path / "store")))
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        first = measure_regions(location, client=client)
        again = measure_regions(location, client=client)
        assert (first.measured, first.unchanged) == (5, 0)
        assert (again.measured, again.unchanged, again.snapshot) == (0, 5, None)
        cohort = Cohort.open(location)
        table = cohort.regions
        assert table is not None
        tiny = table[table["session"] != "ses-head"]
        assert set(tiny["region"]) == {NOTHING}  # 1,344 voxels are too few to bring a template to
        assert are_believed(first.quality).sort_index().tolist() == [False] * 4 + [True]
        assert tuple(table.columns) == COLUMNS
        of_head = table[table["session"] == "ses-head"].set_index(["region", "map"])
        for name, label in NUCLEI.items():
            true = np.median(head().t1[head().labels == label])
            for side in ("L", "R"):
                assert of_head.loc[(f"{name}_{side}", "T1map"), "median"] == pytest.approx(true, rel=0.12), (name, side)
        cortex = [of_head.loc[(f"{lobe}_cortex_L", "T1map"), "mode"] for lobe in ("frontal", "parietal", "temporal")]
        white = [of_head.loc[(f"{lobe}_white_L", "T1map"), "mode"] for lobe in ("frontal", "parietal", "temporal")]
        assert min(cortex) > 1.3 * max(white)
        assert of_head.loc[("thalamus_L", "T1map"), "stated_sd"] == pytest.approx(0.01, rel=1e-3)
        long = long_table(cohort, session_values(cohort, ["sex"]), ["median"])
        assert {"thalamus_L", "frontal_white_R"} <= set(long["region"])
        assert NOTHING not in set(long["region"])
        assert of_head.loc[("accumbens_L", "T1map"), "placed"] < LEAST_PLACED
        assert "accumbens_L" not in set(long["region"])
    own_atlas_and_masks(location, tmp_path, table)
    with writing(location) as repository:
        change(repository, lambda root: remove_from_table(root, "regions", "ses-head"), "Forget", {})
    left = Cohort.open(location).regions
    assert left is not None
    assert "ses-head" not in set(left["session"])
