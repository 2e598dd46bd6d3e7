"""What of a BIDS tree is not taken, and what is told of images that are not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from qmri_core.series.remarks import RemarkKind
from storage.source.bids.tree import LeftOut
from storage.source.discovery import Discovery, SourceError, discover, scan_source
from tests.storage.niftis import write_nifti, write_visit
from tests.storage.slices import voxels, write_series

KEY = bytes(32)


def described(folder: Path, **content: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "a", "BIDSVersion": "1.9.0", **content}))


def paths(found: Discovery, root: Path) -> set[str]:
    return {Path(one.paths[0]).relative_to(root).parts[0] for one in found.series}


@pytest.mark.parametrize(
    ("folder", "content", "reason"),
    [
        ("derivatives/prep", None, "derivative"),
        ("derivatives/prep", {"DatasetType": "raw"}, "derivative"),
        ("prep", {"DatasetType": "derivative"}, "derivative"),
        ("old/prep", {"GeneratedBy": [{"Name": "fMRIPrep"}]}, "derivative"),
        ("old", {"PipelineDescription": {"Name": "fMRIPrep"}}, "derivative"),
        ("sourcedata", None, "sourcedata"),
        ("sourcedata/raw", {"DatasetType": "raw"}, "sourcedata"),
        (".git/annex/objects/1A", None, "repository"),
    ],
)
def test_processed_images_and_originals_are_not_taken(
    tmp_path: Path, folder: str, content: dict[str, object] | None, reason: str
) -> None:
    described(tmp_path, DatasetType="raw")
    write_visit(tmp_path, "sub-01")
    write_visit(tmp_path / folder, "sub-01", "ses-9")
    write_visit(tmp_path / folder, "sub-02")
    if content is not None:
        described(tmp_path / folder, **content)
    found = discover(tmp_path, key=KEY)
    assert len(found.series) == 3
    assert paths(found, tmp_path) == {"sub-01"}
    assert found.unreadable == {reason: 6}
    assert found.n_files == 9


@pytest.mark.parametrize("folder", ["derivatives/prep", "sourcedata", "prep"])
def test_who_gives_such_a_folder_as_the_source_gets_it(tmp_path: Path, folder: str) -> None:
    described(tmp_path)
    described(tmp_path / folder, DatasetType="derivative")
    write_visit(tmp_path, "sub-01")
    write_visit(tmp_path / folder, "sub-02")
    for source in (tmp_path / folder, tmp_path / folder / "sub-02"):
        found = discover(source, key=KEY)
        assert len(found.series) == 3
        assert {one.problem for one in found.series} == {None}


@pytest.mark.parametrize(
    ("folder", "content"),
    [
        ("raw", {"DatasetType": "raw", "GeneratedBy": [{"Name": "fMRIPrep"}]}),
        ("raw", {"GeneratedBy": [{"Name": "HeuDiConv"}]}),
        ("raw", {}),
        ("sourcedata", None),  # of a study, whose raw images lie there
    ],
)
def test_raw_data_are_taken_wherever_they_lie(tmp_path: Path, folder: str, content: dict[str, object] | None) -> None:
    write_visit(tmp_path / folder, "sub-01")
    if content is not None:
        described(tmp_path / folder, **content)
    else:
        described(tmp_path, DatasetType="study")
    assert len(discover(tmp_path, key=KEY).series) == 3


def test_dicom_in_sourcedata_is_no_second_person(tmp_path: Path) -> None:
    write_visit(tmp_path, "sub-01")
    write_series(tmp_path / "sourcedata" / "sub-01", voxels())
    found = discover(tmp_path, key=KEY)
    assert {one.kind for one in found.series} == {"nifti"}
    assert set(found.unreadable) == {"sourcedata"}
    shutil.rmtree(tmp_path / "sub-01")
    assert {one.kind for one in discover(tmp_path, key=KEY).series} == {"dicom"}


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        ("extra/\n", {"sub-01", "sub-02", "copy"}),
        ("/extra", {"sub-01", "sub-02", "copy"}),
        ("**/*_T2w.nii.gz\n# sub-01\n", set()),
        ("sub-02/**\nextra\n", {"sub-01", "copy"}),
        ("*/sub-02\n", {"sub-01", "sub-02", "extra"}),
        ("sub-0[12]*\n", {"extra"}),
        ("*_T2w*\n!*sub-01_T2w*\n", {"sub-01"}),
        ("anat/\n!sub-01/anat/\n", {"sub-01"}),
        ("\ufeffcopy\n\n[z-a\n", {"sub-01", "sub-02", "extra"}),
    ],
)
def test_bidsignore_has_the_syntax_of_gitignore(tmp_path: Path, lines: str, left: set[str]) -> None:
    for place, person in (("", "sub-01"), ("", "sub-02"), ("copy", "sub-02"), ("extra", "sub-03")):
        write_visit(tmp_path / place, person, contrasts={"T2w": {}})
    (tmp_path / ".bidsignore").write_text(lines, encoding="utf-8")
    everything = [str(path) for path in tmp_path.rglob("*.nii.gz")]
    tree = LeftOut(str(tmp_path))
    kept = set(tree.without(everything))
    assert {Path(path).relative_to(tmp_path).parts[0] for path in kept} == left
    assert sum(tree.counts.values()) == 4 - len(kept)
    assert set(tree.counts) <= {"bids_ignored"}


def test_what_is_ignored_is_judged_anew_each_time(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for person in ("sub-01", "sub-02", "sub-03"):
        write_visit(source, person)
    counts = []
    for lines in ("", "sub-02/\n", "sub-02/\nsub-01\n", ""):
        (source / ".bidsignore").write_text(lines)
        with scan_source(source, key=KEY, index=tmp_path / "index") as scanned:
            counts.append((len(scanned.sessions), scanned.unreadable.get("bids_ignored", 0), scanned.n_files))
    assert counts == [(3, 0, 10), (2, 3, 10), (1, 6, 10), (3, 0, 10)]
    (source / ".bidsignore").write_text("*")
    with pytest.raises(SourceError, match=r"\.bidsignore names some"):
        discover(source, key=KEY)


@pytest.mark.parametrize("kind", ["link to nothing", "cut"])
def test_images_that_cannot_be_read_are_told_with_their_sessions(tmp_path: Path, kind: str) -> None:
    for person in ("sub-01", "sub-02"):
        write_visit(tmp_path, person)
    write_nifti(tmp_path / "sub-03" / "func" / "sub-03_task-rest_bold.nii.gz")
    lost = [tmp_path / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz", *(tmp_path / "sub-02" / "anat").glob("*.nii.gz"),
            *(tmp_path / "sub-03").rglob("*.nii.gz")]  # fmt: skip
    for path in lost:
        path.unlink()
        if kind == "cut":
            path.write_bytes(b"\x1f\x8b\x08 cut")
        else:
            path.symlink_to(tmp_path / ".git" / "annex" / "objects" / path.name)
    for index in (None, tmp_path.parent / "index", tmp_path.parent / "index"):
        with scan_source(tmp_path, key=KEY, index=index) as scanned:
            assert len(scanned.sessions) == 1
            series, _ = scanned.session(scanned.sessions[0])
            assert [len(series), scanned.n_files] == [2, 7]
            remarks = [remark for one in series for remark in one.remarks]
            assert [(one.kind, one.text[:8]) for one in remarks] == [(RemarkKind.UNREAD, "1 images")]
            assert scanned.unreadable == {("unreadable" if kind != "cut" else "not_image"): 5, "unread_session": 1}
