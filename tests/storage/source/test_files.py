"""Trees and archives as disks hold them: what cannot be read is counted, and the rest is read as it is."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import socket
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmri_core.series.remarks import RemarkKind
from storage.source.discovery import (
    Discovery,
    ReadError,
    Series,
    SourceError,
    decide_session,
    discover,
    read_volume,
    scan_source,
)
from storage.source.files import folder_of, relative
from tests.storage.slices import STUDY, header, voxels, write, write_series

KEY = b"a key for tests, of thirty-two b"
APPLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \x00\x02" + bytes(4070)


def images(found: Discovery) -> list[np.ndarray]:
    """Stored values of the series that are volumes, in the order of their numbers."""
    series = sorted((one for one in found.series if one.problem is None), key=lambda one: one.number)
    return [read_volume(one).array[::-1] for one in series]  # slices are kept from top to bottom


def series_bytes(folder: Path, number: int) -> list[bytes]:
    """Files of a series, of which nothing but numbers and pixels differs from another one, in the order of z."""
    write_series(folder, voxels(seed=number), series=number, name="{z}", SeriesNumber=str(number))
    content = [path.read_bytes() for path in sorted(folder.iterdir(), key=lambda path: int(path.name) * 29 % 101)]
    shutil.rmtree(folder)
    return content


def as_zip(path: Path, files: list[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # of the duplicate name
        for name, content in files:
            archive.writestr(name, content)


def as_tar(path: Path, files: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


PACKERS = pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])


def pack(path: Path, files: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(exist_ok=True)
    (as_zip if path.name.endswith("zip") else as_tar)(path, files)


@PACKERS
@pytest.mark.parametrize("order", ["one after the other", "in turn", "thrice"])
def test_a_name_that_occurs_twice_in_an_archive_is_two_files(tmp_path: Path, name: str, order: str) -> None:
    numbers = [1, 2, 3] if order == "thrice" else [1, 2]
    parts = [
        [(f"DICOM/IM{z}", data) for z, data in enumerate(series_bytes(tmp_path / "part", number))] for number in numbers
    ]
    files = (
        [file for files in zip(*parts, strict=True) for file in files] if order == "in turn" else list(chain(*parts))
    )
    pack(tmp_path / "in" / name, files)
    found = discover(tmp_path / "in", key=KEY)
    assert (found.n_files, dict(found.unreadable)) == (5 * len(numbers), {})
    for image, number in zip(images(found), numbers, strict=True):
        np.testing.assert_array_equal(image, voxels(seed=number))


def test_names_that_differ_in_case_alone_are_two_files(tmp_path: Path) -> None:
    for number, name in enumerate(("im{z}", "IM{z}"), 1):
        write_series(tmp_path / "in", voxels(seed=number), series=number, name=name, SeriesNumber=str(number))
    found = discover(tmp_path / "in", key=KEY)
    if found.n_files == 5:
        pytest.skip("this file system knows no case")
    for image, number in zip(images(found), (1, 2), strict=True):
        np.testing.assert_array_equal(image, voxels(seed=number))


@pytest.mark.parametrize("name", [b"M\xfcller \xe4", b"\x81\xff\xfe", "Müller".encode(), b"a\nb\t'\"\\c"])
def test_a_name_that_is_no_text_is_a_name(tmp_path: Path, name: bytes) -> None:
    write_series(tmp_path / "plain", voxels(), name="{z}")
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    shutil.copytree(tmp_path / "plain", root / root.name / "study")
    for path in sorted((root / root.name / "study").iterdir()):
        path.rename(path.with_name(root.name + path.name))
    expected = discover(tmp_path / "plain", key=KEY)
    for _ in range(2):
        with scan_source(root, key=KEY, index=tmp_path / "index" / root.name) as scanned:
            series, linkage = scanned.session(scanned.sessions[0])
            assert (scanned.n_files, dict(scanned.unreadable)) == (5, {})
    assert [one.digest for one in series] == [one.digest for one in expected.series]
    assert linkage.path == f"{root.name}/study"
    np.testing.assert_array_equal(read_volume(series[0]).array[::-1], voxels())


@pytest.mark.parametrize("encoding", ["cp437", "latin-1", "cp932", "utf-8"])
@pytest.mark.parametrize("packer", ["zip", "zip that lies", "tar"])
def test_a_name_in_an_archive_in_any_encoding_is_a_name(tmp_path: Path, encoding: str, packer: str) -> None:
    """A zip may say that a name is UTF-8 where it is not; then Python's own reader refuses the whole archive."""
    text = "検査" if encoding == "cp932" else "Prüfung ä"
    raw = text.encode(encoding)
    stand_in = "@" * len(raw)
    files = [(f"{stand_in}/IM{z}", data) for z, data in enumerate(series_bytes(tmp_path / "part", 1))]
    path = tmp_path / "in" / ("a.tar" if packer == "tar" else "a.zip")
    pack(path, files)
    content = bytearray(path.read_bytes().replace(stand_in.encode(), raw))
    if packer == "zip that lies":
        for magic, flags in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
            start = content.find(magic)
            while start >= 0:
                content[start + flags] |= 0x08
                start = content.find(magic, start + 1)
    if packer == "tar":
        content = bytearray(with_checksums(bytes(content)))
    path.write_bytes(content)
    found = discover(tmp_path / "in", key=KEY)
    assert (found.n_files, dict(found.unreadable)) == (5, {})
    np.testing.assert_array_equal(images(found)[0], voxels())


def with_checksums(tar: bytes) -> bytes:
    blocks = bytearray(tar)
    start = 0
    while blocks[start : start + 1] != b"\0" and start < len(blocks):
        head = bytearray(blocks[start : start + 512])
        head[148:156] = b" " * 8
        blocks[start + 148 : start + 156] = b"%06o\0 " % sum(head)
        start += 512 * (1 + -(-int(head[124:135], 8) // 512))
    return bytes(blocks)


def test_a_name_that_is_written_otherwise_before_the_member_than_in_the_directory_is_read(tmp_path: Path) -> None:
    pack(tmp_path / "in" / "a.zip", [(f"@{z}", data) for z, data in enumerate(series_bytes(tmp_path / "part", 1))])
    path = tmp_path / "in" / "a.zip"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"@3", b"\x843", 1))
    found = discover(tmp_path / "in", key=KEY)
    assert dict(found.unreadable) == {}
    np.testing.assert_array_equal(images(found)[0], voxels())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (slice(8, 10), b"\x01\x00"),  # encrypted
        (slice(10, 12), b"\x63\x00"),  # a method that Python does not know
        (slice(16, 20), b"1234"),  # a wrong checksum
        (slice(42, 46), b"\x01\x00\x00\x00"),  # nothing begins there
    ],
)
def test_a_member_of_a_zip_that_cannot_be_read_leaves_the_others(tmp_path: Path, field: slice, value: bytes) -> None:
    pack(tmp_path / "in" / "a.zip", [(str(z), data) for z, data in enumerate(series_bytes(tmp_path / "part", 1))])
    path = tmp_path / "in" / "a.zip"
    content = bytearray(path.read_bytes())
    start = content.find(b"PK\x01\x02")
    content[start + field.start : start + field.stop] = value
    path.write_bytes(content)
    found = discover(tmp_path / "in", key=KEY)
    assert (found.n_files, dict(found.unreadable)) == (5, {"unreadable": 1})
    np.testing.assert_array_equal(images(found)[0], voxels()[1:])


def test_twins_that_a_mac_leaves_are_no_images_whatever_their_names_promise(tmp_path: Path) -> None:
    files = [(f"Für {z}", data) for z, data in enumerate(series_bytes(tmp_path / "part", 1))]
    twins = [f"__MACOSX/._{name}" for name in ("a", "b.nii", "c.nii.gz", "d.zip", "e.tar")]
    pack(tmp_path / "in" / "a.zip", files + [(name, APPLE) for name in twins])
    for name in ("a", "b.nii", "c.nii.gz", "d.zip", "e.tar", "f.7z", "g.dcm.gz"):
        (tmp_path / "in" / f"._{name}").write_bytes(APPLE)
    found = discover(tmp_path / "in", key=KEY)
    assert (found.n_files, dict(found.unreadable)) == (17, {"not_image": 12})
    np.testing.assert_array_equal(images(found)[0], voxels())


def test_a_file_whose_name_only_begins_like_a_twins_is_read(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels(), name="._{z}")
    assert discover(tmp_path / "in", key=KEY).series[0].shape == (4, 6, 5)


@pytest.mark.timeout(60)
def test_pipes_sockets_and_devices_are_not_opened(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_series(root, voxels())
    os.mkfifo(root / "pipe")
    (root / "to pipe").symlink_to(root / "pipe")
    (root / "zeros").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(root)  # a socket's path is short
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
        found = discover(root, key=KEY)
    assert (found.n_files, dict(found.unreadable)) == (5, {})
    with pytest.raises(SourceError):
        discover(root / "pipe", key=KEY)


def test_links_out_of_the_source_and_to_nowhere(tmp_path: Path) -> None:
    write_series(tmp_path / "elsewhere", voxels())
    root = tmp_path / "in"
    root.mkdir()
    for path in (tmp_path / "elsewhere").iterdir():
        (root / path.name).symlink_to(path)
    (root / "nowhere").symlink_to(tmp_path / "gone")
    found = discover(root, key=KEY)
    assert (found.n_files, dict(found.unreadable)) == (6, {"unreadable": 1})
    np.testing.assert_array_equal(images(found)[0], voxels())


def test_a_path_too_long_for_the_system_is_counted(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_series(root, voxels())
    here = Path.cwd()
    os.chdir(root)
    try:
        for _ in range(20):
            Path("d" * 250).mkdir()
            os.chdir("d" * 250)
        Path("deep").write_bytes(b"x" * 200)
    finally:
        os.chdir(here)
    found = discover(root, key=KEY)
    shutil.rmtree(root)
    assert (found.n_files, dict(found.unreadable)) == (5, {"unreadable_folder": 1})


@contextmanager
def as_another_user() -> Iterator[None]:
    """Root may read everything; tests of rights are made as somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("mode", "unreadable"),
    [
        (0o000, {"unreadable": 1, "unreadable_folder": 1}),
        (0o311, {"unreadable": 1, "unreadable_folder": 1}),  # may be entered, not listed
        (0o444, {"unreadable": 6, "unreadable_folder": 1}),  # may be listed, not entered: so is what is in it
    ],
)
def test_what_may_not_be_read_is_counted_and_the_rest_is_read(
    disk: Path, mode: int, unreadable: dict[str, int]
) -> None:
    write_series(disk / "study", voxels())
    write_series(disk / "lost+found", voxels(seed=2), series=2)
    (disk / "lost+found" / "inner").mkdir()
    discover(disk, key=KEY)  # what is imported late is imported here
    (disk / "lost+found").chmod(mode)
    write(disk / "closed", header(SOPInstanceUID=f"{STUDY}.9"), voxels(1)[0])
    (disk / "closed").chmod(0)
    with as_another_user():
        found = discover(disk, key=KEY)
        assert dict(found.unreadable) == unreadable
        np.testing.assert_array_equal(images(found)[0], voxels())
    (disk / "closed").chmod(0o644)
    (disk / "lost+found").chmod(0o755)
    with as_another_user():
        assert dict(discover(disk, key=KEY).unreadable) == {}


def test_rights_that_are_given_later_count_with_an_index_too(disk: Path) -> None:
    write_series(disk / "in" / "a", voxels())
    write_series(disk / "in" / "b", voxels(seed=2), series=2)
    (disk / "mine").mkdir()
    (disk / "mine").chmod(0o777)

    def counted() -> tuple[int, dict[str, int], int]:
        with as_another_user(), scan_source(disk / "in", key=KEY, index=disk / "mine" / "index") as scanned:
            return scanned.n_files, dict(scanned.unreadable), len(scanned.session(scanned.sessions[0])[0])

    assert counted() == (10, {}, 2)
    (disk / "in" / "b").chmod(0)
    assert counted() == (5, {"unreadable_folder": 1}, 1)
    (disk / "in" / "b").chmod(0o755)
    assert counted() == (10, {}, 2)


def test_a_source_that_may_not_be_read_says_so(disk: Path) -> None:
    (disk / "in").mkdir()
    (disk / "in").chmod(0)
    with as_another_user(), pytest.raises(SourceError, match="give this user read access"):
        discover(disk / "in", key=KEY)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_vanishes_between_listing_and_reading_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    root = tmp_path / "in"
    write_series(root / "a", voxels())
    write_series(root / "b", voxels(seed=2), series=2)
    listed = os.scandir

    def vanishing(folder: Any) -> Any:
        if isinstance(folder, int):  # by rmtree
            return listed(folder)
        entries = list(listed(folder))
        if folder.endswith("/in" if what == "folder" else "/b"):
            shutil.rmtree(root / "b", ignore_errors=True)
        return listing(entries)

    @contextmanager
    def listing(entries: list[os.DirEntry[str]]) -> Iterator[list[os.DirEntry[str]]]:
        yield entries

    monkeypatch.setattr("storage.source.files.os.scandir", vanishing)
    found = discover(root, key=KEY)
    assert dict(found.unreadable) == ({"unreadable_folder": 1} if what == "folder" else {"unreadable": 5})
    np.testing.assert_array_equal(images(found)[0], voxels())


def test_places_in_archives_have_folders_and_names() -> None:
    root = Path("/a")
    for location, folder, name in (
        ("/a/b/c", "/a/b", "b/c"),
        ("/a/b.zip\0c", "/a/b.zip", "b.zip/c"),
        ("/a/b.zip\0c/d", "/a/b.zip/c", "b.zip/c/d"),
        ("/a/b.zip\0c/d\x003", "/a/b.zip/c", "b.zip/c/d"),
    ):
        assert (folder_of(location), relative(location, root)) == (folder, name)


def cut(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-n_bytes])


def only(found: Discovery) -> Series:
    (one,) = found.series
    return one


@pytest.mark.parametrize("n_bytes", [1, 4, 20, 48])
@pytest.mark.parametrize("z", [0, 2, 4])
def test_a_file_that_is_cut_short_is_told_before_pixels_are_read(tmp_path: Path, n_bytes: int, z: int) -> None:
    write_series(tmp_path / "in", voxels(), name="{z}")
    cut(tmp_path / "in" / str(z * 7 % 101), n_bytes)
    one = only(discover(tmp_path / "in", key=KEY))
    assert (one.n_instances, one.context.n_cut) == (5, 1)
    (decision,) = decide_session([one])
    assert [(doubt.kind, doubt.text) for doubt in decision.doubts] == [
        (RemarkKind.CUT_SHORT, "T1w: series 4 has 1 files that end within their pixels, and cannot be read")
    ]
    with pytest.raises(ReadError, match="cannot be decoded"):
        read_volume(one)


@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_series_the_whole_one_is_taken(tmp_path: Path, is_first: bool) -> None:
    for number in (1, 2):
        write_series(tmp_path / str(number), voxels(seed=number), series=number, name="{z}", SeriesNumber=str(number))
    cut(tmp_path / ("1" if is_first else "2") / "7", 9)
    found = discover(tmp_path, key=KEY).series
    taken = [one.number for one, decision in zip(found, decide_session(found), strict=True) if decision.reason is None]
    assert taken == [2 if is_first else 1]


@pytest.mark.parametrize("size", [0.5, "between two members"])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_series_of_an_archive_that_is_cut_short_say_so(tmp_path: Path, name: str, size: Any) -> None:
    """As one that is being written is. A zip has its directory at its end: without it nothing is read."""
    pack(tmp_path / "in" / name, [(str(z), data) for z, data in enumerate(series_bytes(tmp_path / "part", 1))])
    write_series(tmp_path / "in" / "whole", voxels(seed=2), series=2, SeriesNumber="2")
    path = tmp_path / "in" / name
    content = gzip.decompress(path.read_bytes()) if name == "a.tar.gz" else path.read_bytes()
    last = content.rfind(b"DICM") - 640  # there the last member begins
    if name == "a.tar.gz":
        content = gzip.compress(content, 0)[: last - 2000] if size == 0.5 else gzip.compress(content[:last])
    else:
        content = content[: last - 2000 if size == 0.5 else last]
    path.write_bytes(content)
    found = discover(tmp_path / "in", key=KEY)
    assert found.unreadable["unreadable"] in {1, 2}  # the archive, and the member that is cut
    told = {one.number: one.context.in_cut_archive for one in found.series}
    assert told == ({2: False} if name == "a.zip" else {1: True, 2: False})


def compressed_pixels(path: Path) -> None:
    import pydicom
    from pydicom.uid import RLELossless

    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(path)


def other_syntax(name: str) -> Callable[[Path], None]:
    def write_as(path: Path) -> None:
        import pydicom

        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = getattr(pydicom.uid, name)
        implicit, little = name == "ImplicitVRLittleEndian", name != "ExplicitVRBigEndian"
        pixels = np.frombuffer(dataset.PixelData, "<u2").astype("<u2" if little else ">u2")
        dataset.PixelData = pixels.tobytes()
        dataset._is_implicit_VR = implicit
        pydicom.dcmwrite(path, dataset, implicit_vr=implicit, little_endian=little)

    return write_as


def more_behind(path: Path) -> None:
    """Elements that follow the pixels."""
    import pydicom

    dataset = pydicom.dcmread(path)
    dataset.DataSetTrailingPadding = bytes(64)
    dataset.save_as(path)


def gzipped(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        compressed_pixels, other_syntax("ImplicitVRLittleEndian"), other_syntax("ExplicitVRBigEndian"), more_behind,
        gzipped,
    ],
    ids=["compressed", "implicit", "big endian", "more behind", "gzipped"],
)  # fmt: skip
def test_a_whole_file_of_another_form_is_not_called_cut(tmp_path: Path, change: Callable[[Path], None]) -> None:
    write_series(tmp_path / "in", voxels(), name="{z}")
    for path in (tmp_path / "in").iterdir():
        change(path)
    one = only(discover(tmp_path / "in", key=KEY))
    assert (one.problem, one.context.n_cut) == (None, 0)
    np.testing.assert_array_equal(read_volume(one).array[::-1], voxels())


@pytest.mark.parametrize("name", ["ImplicitVRLittleEndian", "ExplicitVRBigEndian"])
def test_a_cut_file_of_another_syntax_is_called_so(tmp_path: Path, name: str) -> None:
    write_series(tmp_path / "in", voxels(), name="{z}")
    for path in (tmp_path / "in").iterdir():
        other_syntax(name)(path)
    cut(tmp_path / "in" / "14", 10)
    assert only(discover(tmp_path / "in", key=KEY)).context.n_cut == 1
