"""Archives, links and identifiers as hospitals have them: everything is read or counted, within bounds."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from qmri_core.series.classification import SkipReason
from storage.source import files, scans
from storage.source.discovery import Series, SourceError, decide, decide_session, discover, read_volume, scan_source
from tests.storage.slices import PATIENT_ID, STUDY, header, voxels, write, write_series

KEY = b"a key for tests, of thirty-two b"


def taken(root: Path) -> list[Series]:
    found = discover(root, key=KEY).series
    return [one for one, decision in zip(found, decide_session(found), strict=True) if decision.reason is None]


def reasons(root: Path) -> list[str]:
    return sorted(str(decision.reason) for decision in decide_session(discover(root, key=KEY).series))


def plain(tmp_path: Path) -> tuple[Path, np.ndarray]:
    write_series(tmp_path / "plain" / "study", voxels(), name="{z}")
    (one,) = taken(tmp_path / "plain")
    return tmp_path / "plain", read_volume(one).array


def pack(folder: Path, target: Path, *, gzipped: bool = False) -> None:
    """Write all files below a folder into a zip or tar archive, by the name of the target."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.name.endswith(".zip"):
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in paths:
                archive.writestr(f"in/{path.name}", gzip.compress(path.read_bytes()) if gzipped else path.read_bytes())
        return
    with tarfile.open(target, "w:gz" if target.name.endswith("gz") else "w") as tar:
        for path in paths:
            tar.add(path, arcname=f"in/{path.name}")


@pytest.mark.parametrize("name", ["a.zip", "b.tar.gz", "c.tgz", "d.tar", "no-name-at-all"])
def test_members_of_archives_read_as_files(tmp_path: Path, name: str) -> None:
    source, expected = plain(tmp_path)
    if name == "no-name-at-all":
        pack(source, tmp_path / "packed" / "x.tar.gz")
        (tmp_path / "packed" / "x.tar.gz").rename(tmp_path / "packed" / name)
    else:
        pack(source, tmp_path / "packed" / name)
    found = discover(tmp_path / "packed", key=KEY)
    assert (found.n_files, dict(found.unreadable)) == (5, {})
    (one,) = found.series
    np.testing.assert_array_equal(read_volume(one).array, expected)
    assert name not in repr(found)


def test_gzipped_members_read_as_files(tmp_path: Path) -> None:
    source, expected = plain(tmp_path)
    pack(source, tmp_path / "packed" / "a.zip", gzipped=True)
    (one,) = taken(tmp_path / "packed")
    np.testing.assert_array_equal(read_volume(one).array, expected)


def test_a_copy_in_an_archive_counts_once(tmp_path: Path) -> None:
    source, _ = plain(tmp_path)
    pack(source, source / "backup.zip")
    assert reasons(source) == ["None", "duplicate"]


def test_names_that_climb_out_of_an_archive_go_nowhere(tmp_path: Path) -> None:
    source, expected = plain(tmp_path)
    root = tmp_path / "in"
    root.mkdir()
    with zipfile.ZipFile(root / "evil.zip", "w") as archive, tarfile.open(root / "evil.tar", "w") as tar:
        for number, path in enumerate(sorted((source / "study").iterdir())):
            data = path.read_bytes()
            archive.writestr(f"../../../evil/{number}", data)
            member = tarfile.TarInfo(f"/tmp/../../evil{number}")  # noqa: S108
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    (one,) = taken(root)
    np.testing.assert_array_equal(read_volume(one).array, expected)
    assert sorted(tmp_path.rglob("*")) == before


def slice_bytes(tmp_path: Path, **changes: Any) -> bytes:
    write(tmp_path / "one", header(**changes), voxels(1)[0])
    return (tmp_path / "one").read_bytes()


def test_bombs_are_counted_and_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE", 2**20)
    monkeypatch.setattr(files, "SLACK", 2**20)
    root = tmp_path / "in"
    root.mkdir()
    start = slice_bytes(tmp_path)
    with zipfile.ZipFile(root / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image", start + bytes(2**22))  # starts as an image and does not end
        archive.writestr("zeros", bytes(2**24))
        archive.writestr("inner.zip", b"PK\x03\x04")
    (root / "bomb.dcm.gz").write_bytes(gzip.compress(start + bytes(2**22)))
    with tarfile.open(root / "bomb.tar.gz", "w:gz") as tar:
        for name in ("a", "b"):
            member = tarfile.TarInfo(name)
            member.size = 2**27
            tar.addfile(member, io.BytesIO(bytes(2**27)))
    write_series(root, voxels())
    found = discover(root, key=KEY)
    assert dict(found.unreadable) == {"too_large": 3, "not_image": 1, "archive_in_archive": 1}
    assert [decide(one).reason for one in found.series] == [None]


@pytest.mark.parametrize("shape", ["many", "nested", "deflated"])
def test_a_zip_gives_no_more_than_its_size_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    """Each member is within the bound of a file, all of them together are not; as in a tar."""
    monkeypatch.setattr(files, "SLACK", 2**20)
    image = slice_bytes(tmp_path) + bytes(2**20)
    n_members = 60
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(n_members):
            content = {"many": image, "nested": gzip.compress(image), "deflated": deflated(tmp_path)}[shape]
            archive.writestr(f"{number}", content)
    (scan,) = scans.scan_files(scans.ScanTask(paths=(str(tmp_path / "bomb.zip"),), root=str(tmp_path), key=KEY))
    size = (tmp_path / "bomb.zip").stat().st_size
    assert (2**20 + files.MAX_RATIO * size) // 2**20 < n_members
    assert scan.other["too_large"] >= 1
    assert len(scan.records) < n_members  # those before the bound count


def deflated(tmp_path: Path) -> bytes:
    """An image of 1 MiB of zeros whose data set is deflated as a whole."""
    write(tmp_path / "flat", header(), np.zeros((1024, 512)))
    dataset = pydicom.dcmread(tmp_path / "flat")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "flat")
    return (tmp_path / "flat").read_bytes()


@pytest.mark.timeout(60)
def test_a_deflated_file_with_padding_is_read(tmp_path: Path) -> None:
    """Padding to an even length follows the deflated bytes; a file of more than 1 MiB was read for ever."""
    content = deflated(tmp_path)
    (tmp_path / "flat").unlink()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(content)
    (one,) = discover(tmp_path / "in", key=KEY).series
    assert one.problem is None


def test_a_zip_of_many_real_slices_is_within_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SLACK", 0)
    source, expected = plain(tmp_path)
    pack(source, tmp_path / "packed" / "a.zip")
    (one,) = taken(tmp_path / "packed")
    np.testing.assert_array_equal(read_volume(one).array, expected)


def test_a_header_that_declares_too_much_is_refused_before_reading(tmp_path: Path) -> None:
    source, _ = plain(tmp_path)
    (one,) = taken(source)
    with pytest.raises(ValueError, match="declares a volume of"):
        read_volume(replace(one, shape=(60_000, 60_000, 5)))


def test_damaged_and_closed_archives_are_counted(tmp_path: Path) -> None:
    source, _ = plain(tmp_path)
    pack(source, source / "cut.zip")
    pack(source, source / "cut.tar.gz")
    for name in ("cut.zip", "cut.tar.gz"):
        (source / name).write_bytes((source / name).read_bytes()[:-200])
    (source / "other.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(600))
    found = discover(source, key=KEY)
    assert found.unreadable["archive_format"] == 1
    assert found.unreadable["unreadable"] >= 2
    assert [one.n_instances for one in found.series if decide(one).reason is None] == [5]


def test_links_in_circles_end_and_linked_folders_are_read_once(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_series(tmp_path / "elsewhere", voxels())
    root.mkdir()
    (root / "data").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (tmp_path / "elsewhere" / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    found = discover(root, key=KEY)
    assert (found.n_files, dict(found.unreadable)) == (6, {"unreadable": 1})
    assert [one.n_instances for one in found.series] == [5]


def test_a_file_that_may_not_be_read_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = plain(tmp_path)
    (source / "closed").write_bytes(b"x" * 300)
    opened = open

    def refuse(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(scans, "open", refuse, raising=False)
    assert dict(discover(source, key=KEY).unreadable) == {"unreadable": 1}


def test_a_scan_goes_on_where_it_was_cut_short(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels(), name="{z}")
    kept = tmp_path / "private" / "index.sqlite"
    scanned: list[str] = []

    def runner(tasks: Any) -> Any:
        for task in tasks:
            scanned.extend(task.paths)
            yield scans.scan_files(task)

    def cut(tasks: Any) -> Any:
        task = next(iter(tasks))
        yield scans.scan_files(replace(task, paths=task.paths[:2]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_source(tmp_path / "in", key=KEY, index=kept, runner=cut)
    with scan_source(tmp_path / "in", key=KEY, index=kept, runner=runner) as whole:
        assert (len(scanned), whole.n_files) == (3, 5)
        ((series,), _) = whole.session(whole.sessions[0])
    assert series == discover(tmp_path / "in", key=KEY).series[0]
    assert kept.stat().st_mode & 0o777 == 0o600
    scanned.clear()
    victim = tmp_path / "in" / "7"
    write(victim, header(SOPInstanceUID=f"{STUDY}.1.2", ImagePositionPatient=[-40, -50, -57.5]), voxels(1)[0])
    (tmp_path / "in" / "14").unlink()
    with scan_source(tmp_path / "in", key=KEY, index=kept, runner=runner) as whole:
        assert (scanned, whole.n_files) == ([str(victim)], 4)
    with scan_source(tmp_path / "in", key=bytes(32), index=kept, runner=runner) as whole:
        assert whole.sessions != [series.session]


def test_a_damaged_index_is_made_again(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels())
    kept = tmp_path / "index.sqlite"
    kept.write_bytes(b"no database" * 100)
    with scan_source(tmp_path / "in", key=KEY, index=kept) as whole:
        assert whole.n_files == 5


def test_one_acquisition_under_an_identifier_for_each_file_is_one_volume(tmp_path: Path) -> None:
    _, expected = plain(tmp_path)
    root = tmp_path / "split"
    for z, pixels in enumerate(voxels()):
        changes = {
            "SeriesInstanceUID": f"{STUDY}.5{z}", "SOPInstanceUID": f"{STUDY}.6{z}",
            "ImagePositionPatient": [-40, -50, -60 + 2.5 * z],
        }  # fmt: skip
        write(root / str(z), header(**changes), pixels)
    (one,) = taken(root)
    np.testing.assert_array_equal(read_volume(one).array, expected)


@pytest.mark.parametrize("part", [lambda z: z < 2, lambda z: z % 2 == 0, lambda z: z in {0, 3}])
def test_one_acquisition_split_over_two_series_is_one_volume(tmp_path: Path, part: Any) -> None:
    _, expected = plain(tmp_path)
    root = tmp_path / "split"
    for z, pixels in enumerate(voxels()):
        changes = {
            "SeriesInstanceUID": f"{STUDY}.{1 + part(z)}", "SeriesNumber": str(1 + part(z)),
            "SOPInstanceUID": f"{STUDY}.6{z}", "ImagePositionPatient": [-40, -50, -60 + 2.5 * z],
        }  # fmt: skip
        write(root / str(z), header(**changes), pixels)
    (one,) = taken(root)
    np.testing.assert_array_equal(read_volume(one).array, expected)


def test_two_heads_side_by_side_are_not_joined(tmp_path: Path) -> None:
    for series in (0, 1):
        for z, pixels in enumerate(voxels(6)):
            changes = {
                "SeriesInstanceUID": f"{STUDY}.{series}", "SeriesNumber": str(series + 1), "SliceThickness": "20",
                "SOPInstanceUID": f"{STUDY}.{series}.{z}",
                "ImagePositionPatient": [-40, -50, 20 * z + 120 * series],
            }  # fmt: skip
            write(tmp_path / f"{series}-{z}", header(**changes), pixels)
    assert reasons(tmp_path) == ["None", "duplicate"]


def test_two_acquisitions_under_one_identifier_are_two_volumes(tmp_path: Path) -> None:
    for repeat, clock in enumerate(("101500", "104500.25")):
        for z, pixels in enumerate(voxels(seed=repeat)):
            changes = {
                "SOPInstanceUID": f"{STUDY}.1.{100 * repeat + z}", "SeriesTime": clock,
                "ImagePositionPatient": [-40, -50, -60 + 2.5 * z],
            }  # fmt: skip
            write(tmp_path / f"{repeat}-{z}", header(**changes), pixels)
    found = discover(tmp_path, key=KEY).series
    assert [one.shape for one in found] == [(4, 6, 5)] * 2
    for one in found:
        stored = read_volume(one).array
        assert any(np.array_equal(np.sort(stored.ravel()), np.sort(voxels(seed=seed).ravel())) for seed in (0, 1))


def test_a_clock_of_passes_does_not_tear_a_gapped_volume_apart(tmp_path: Path) -> None:
    """Odd and even slices were acquired in two passes, and one slice of each is missing."""
    for z, pixels in enumerate(voxels(20)):
        if z not in {1, 18}:
            changes = {
                "SOPInstanceUID": f"{STUDY}.1.{z}", "AcquisitionTime": f"10000{z % 2}",
                "ImagePositionPatient": [-40, -50, 2.5 * z],
            }  # fmt: skip
            write(tmp_path / str(z), header(**changes), pixels)
    (one,) = discover(tmp_path, key=KEY).series
    assert decide(one).reason is SkipReason.INCOMPLETE


def test_one_instance_identifier_on_all_files_is_still_a_volume(tmp_path: Path) -> None:
    _, expected = plain(tmp_path)
    write_series(tmp_path / "same", voxels(), SOPInstanceUID=f"{STUDY}.1.1")
    (one,) = taken(tmp_path / "same")
    np.testing.assert_array_equal(read_volume(one).array, expected)


def test_a_missing_study_identifier_leaves_the_series_of_one_visit_together(tmp_path: Path) -> None:
    write_series(tmp_path / "a", voxels(), StudyInstanceUID=None)
    write_series(tmp_path / "b", voxels(), series=2, StudyInstanceUID=None)
    write_series(tmp_path / "c", voxels(), series=3, StudyInstanceUID=None, StudyDate="20250110")
    found = discover(tmp_path, key=KEY)
    assert sorted(len({s.number for s in found.series if s.session == row.session}) for row in found.linkage) == [1, 1]
    assert [row.patient_id for row in found.linkage] == [PATIENT_ID] * 2


def test_rewritten_identifiers_leave_the_content(tmp_path: Path) -> None:
    write_series(tmp_path / "a", voxels())
    write_series(tmp_path / "b", voxels(), StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.4", PatientID="other")
    write_series(tmp_path / "c", voxels(seed=2), StudyInstanceUID="1.2.5", SeriesInstanceUID="1.2.6")
    contents = [one.content for one in discover(tmp_path, key=KEY).series]
    assert sorted(contents.count(one) for one in contents) == [1, 2, 2]


def test_only_closed_archives_are_told(tmp_path: Path) -> None:
    (tmp_path / "all.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(600))
    with pytest.raises(SourceError, match="unpack what is no zip or tar"):
        discover(tmp_path, key=KEY)


def test_the_index_forgets_nothing_that_is_there(tmp_path: Path) -> None:
    """Files of the same name in another folder, and a changed time stamp alone."""
    write_series(tmp_path / "in", voxels(), name="{z}")
    kept = tmp_path / "index.sqlite"
    with scan_source(tmp_path / "in", key=KEY, index=kept) as first:
        (before, _) = first.session(first.sessions[0])
    shutil.copytree(tmp_path / "in", tmp_path / "in" / "more")
    os.utime(tmp_path / "in" / "7", (1, 1))
    with scan_source(tmp_path / "in", key=KEY, index=kept) as second:
        (after, _) = second.session(second.sessions[0])
        assert second.n_files == 10
    assert [one.digest for one in before] == [one.digest for one in after if one.problem is None]
