"""Simulated cohorts as folders: nothing leaks, everything repeats."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose

from flows.simulate import SimulationSummary, simulate

SMALL = {"sessions": 4, "groups": 2, "resolution": 8.0, "seed": 5}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> SimulationSummary:
    return simulate(tmp_path_factory.mktemp("cohort") / "in", **SMALL)


def rows(summary: SimulationSummary) -> list[dict[str, str]]:
    with (summary.truth / "sessions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_summary_counts_what_is_there(cohort: SimulationSummary) -> None:
    assert (cohort.sessions, cohort.groups, cohort.scanners) == (4, 2, 2)
    assert cohort.files == len(content(cohort.out))
    assert cohort.truth == cohort.out.with_name("in-truth")


def test_truth_is_beside_and_never_inside(cohort: SimulationSummary) -> None:
    assert all(Path(name).name.startswith("IM") for name in content(cohort.out))
    names = {Path(name).name for name in content(cohort.truth)}
    kinds = ("T1map", "T2map", "PDmap", "tissue", "labels", "fractions", "transmit", "receive")
    maps = {f"{name}.nii.gz" for name in kinds}
    assert names == {"sessions.csv", "transforms.json", *maps}


def test_fractions_fields_and_transforms_agree_with_the_maps(cohort: SimulationSummary) -> None:
    folder = cohort.truth / rows(cohort)[0]["folder"]
    images = {name: nib.load(folder / f"{name}.nii.gz") for name in ("tissue", "fractions", "transmit", "receive")}
    tissue, fractions = (np.asarray(images[name].dataobj) for name in ("tissue", "fractions"))
    brain = tissue > 0
    assert_allclose(images["fractions"].affine, images["tissue"].affine)
    assert np.mean(fractions[brain].argmax(axis=-1) + 1 == tissue[brain]) > 0.99  # ties after rounding to 1/255
    transmit = np.asarray(images["transmit"].dataobj)
    assert 0.7 < transmit.min() < 1 < transmit.max() < 1.3
    assert np.asarray(images["receive"].dataobj).min() > 0.4
    transforms = json.loads((folder / "transforms.json").read_text(encoding="utf-8"))
    by_contrast = {one["contrast"]: one for one in transforms.values() if one["role"] == "image"}
    assert set(by_contrast) == {"T1w", "T2w", "FLAIR"}
    t2w, t1w = (np.array(by_contrast[name]["pose"]) for name in ("T2w", "T1w"))
    assert 0.1 < np.linalg.norm((t1w - t2w)[:3, 3]) < 5  # the head moved between them
    from_head = np.linalg.inv(t2w) @ images["tissue"].affine
    assert_allclose(from_head[:3, :3], np.diag([8.0, 8.0, 8.0]), atol=1e-4)  # the maps are those of the T2w's pose


def test_table_agrees_with_the_maps(cohort: SimulationSummary) -> None:
    table = rows(cohort)
    assert len({row["patient_id"] for row in table}) == 4
    for row in table:
        maps = {
            name: np.asarray(nib.load(cohort.truth / row["folder"] / f"{name}.nii.gz").dataobj)
            for name in ("T1map", "T2map", "PDmap", "tissue")
        }
        white = maps["tissue"] == 3
        # the table takes voxels that are 95 % white, the map's label those of which white is most: 8 mm are mixtures
        assert_allclose(np.median(maps["T1map"][white]), float(row["WM_T1_median"]), rtol=0.12)
        assert_allclose(np.median(maps["PDmap"][white]), float(row["WM_PD_median"]), rtol=0.06)
        assert float(row["WM_T1_median"]) < float(row["GM_T1_median"]) < 2.0
        assert_allclose(float(row["WM_T2_mean"]), float(row["WM_T2_median"]), rtol=0.05)
        assert float(row["T1w_scale"]) > 0


def test_truth_lies_where_the_t2w_series_saw_the_head(cohort: SimulationSummary) -> None:
    import pydicom

    for row in rows(cohort):
        tissue = nib.load(cohort.truth / row["folder"] / "tissue.nii.gz")
        brain = np.argwhere(np.asarray(tissue.dataobj) > 0)
        truth = (tissue.affine @ [*brain.mean(axis=0), 1])[:3]
        (study,) = cohort.out.glob(f"*_{row['patient_id']}/*")
        checked = 0
        for folder in study.iterdir():
            files = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
            if len(files) < 5 or float(files[0].EchoTime) < 50 or "InversionTime" in files[0]:
                continue
            # grey values of the T2w series weigh the head, the brain most
            total, centre = 0.0, np.zeros(3)
            for ds in files:
                pixels = ds.pixel_array.astype(float)
                total += pixels.sum()
                row_step = np.array(ds.ImageOrientationPatient[3:], float) * ds.PixelSpacing[0]
                column_step = np.array(ds.ImageOrientationPatient[:3], float) * ds.PixelSpacing[1]
                r, c = np.indices(pixels.shape)
                place = np.array(ds.ImagePositionPatient, float) * pixels.sum()
                centre += place + row_step * (r * pixels).sum() + column_step * (c * pixels).sum()
            assert_allclose(centre[:2] / total * [-1, -1], truth[:2], atol=12.0)
            checked += 1
        assert checked == 1


def test_same_seed_same_bytes_also_on_workers_and_with_more_sessions(cohort: SimulationSummary, tmp_path: Path) -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        again = simulate(tmp_path / "in", client=client, **(SMALL | {"sessions": 5}))
    first, second = content(cohort.out), content(again.out)
    assert len(second) > len(first)
    assert all(second[name] == data for name, data in first.items())
    truth = content(again.truth)
    assert all(truth[name] == data for name, data in content(cohort.truth).items() if name != "sessions.csv")


def test_bids_dataset_holds_the_three_images_of_each_session(tmp_path: Path) -> None:
    summary = simulate(tmp_path / "in", design="travelling-heads", output_format="bids", **SMALL)
    names = sorted(name for name in content(summary.out) if name.endswith(".nii.gz"))
    assert len(names) == summary.files == 12
    assert names[0] == "sub-0001/ses-01/anat/sub-0001_ses-01_FLAIR.nii.gz"
    table = rows(summary)
    assert sorted((r["patient_id"], r["study_instance_uid"]) for r in table) == [
        ("sub-0001", "ses-01"), ("sub-0001", "ses-02"), ("sub-0002", "ses-01"), ("sub-0002", "ses-02"),
    ]  # fmt: skip
    assert table[0]["WM_T1_median"] == table[1]["WM_T1_median"]  # the same head in two scanners
    image = nib.load(summary.out / names[0])
    assert float(np.asarray(image.dataobj).max()) > 100
    assert image.header.get_sform(coded=True)[1] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_format": "jpeg"}, "none of dicom, bids"),
        ({"resolution": 0.1}, "not in"),
        ({"design": "nonsense"}, "none of cohort"),
        ({"sessions": 1}, "do not fill"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(tmp_path / "in", **(SMALL | changes))  # type: ignore[arg-type]
    assert not (tmp_path / "in").exists()


def test_existing_files_and_truth_inside_the_input_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="contain each other"):
        simulate(tmp_path / "in", truth=tmp_path / "in" / "truth", **SMALL)
    (tmp_path / "in" / "file").write_text("here")
    with pytest.raises(ValueError, match="not an empty folder"):
        simulate(tmp_path / "in", **SMALL)
