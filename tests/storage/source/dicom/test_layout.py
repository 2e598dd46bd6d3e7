"""Pixels by what the index noted: the same as by parsing each file, never by a note of a file that has changed."""

from __future__ import annotations

import gzip
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from storage.simulated.encoding import SYNTAXES, transcode
from storage.source.dicom import pixels
from storage.source.dicom.frames import scan_file
from storage.source.dicom.layout import layout_of
from storage.source.discovery import Series, discover, read_volume, scan_source
from storage.source.series import ReadError
from tests.storage.slices import add_private_scale, header, voxels, write, write_enhanced, write_series

KEY = bytes(32)
Change = Callable[[pydicom.FileDataset], None]


def the_series(folder: Path) -> Series:
    (series,) = discover(folder, key=KEY).series
    return series


def no_parser(patch: pytest.MonkeyPatch) -> None:
    """Let a read fail that parses a header."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a header was parsed")

    patch.setattr(pixels.pydicom, "dcmread", refuse)


def parsed(series: Series) -> NDArray[np.float32]:
    """Values without any note."""
    return read_volume(replace(series, known=None)).array


def by_pydicom(series: Series) -> NDArray[np.float32]:
    """Values as pydicom alone gives them, one file after the other; of classic files without a private scale."""
    result = []
    for file, _ in series.frames:
        dataset = pydicom.dcmread(series.paths[file])
        slope, intercept = (float(dataset.get(f"Rescale{name}", no)) for name, no in (("Slope", 1), ("Intercept", 0)))
        result.append(dataset.pixel_array.astype(np.float64) * slope + intercept)
    return np.asarray(result).astype(np.float32)


def every_file(folder: Path, change: Change) -> None:
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)


def coded(name: str) -> Change:
    def change(dataset: pydicom.FileDataset) -> None:
        transcode(dataset, name)

    return change


def big_endian(dataset: pydicom.FileDataset) -> None:
    list(dataset)  # what was not converted would be written as it was read
    dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=False)


def signed(dataset: pydicom.FileDataset) -> None:
    dataset.PixelRepresentation = 1
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "2000"
    dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2").astype("<i2") - 2000).tobytes()


def dirty_bits(dataset: pydicom.FileDataset) -> None:
    """Bits above those that are stored hold something else: an overlay, in old files."""
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") | np.uint16(0xA000)).tobytes()


def bytes_only(dataset: pydicom.FileDataset) -> None:
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") >> 4).astype(np.uint8).tobytes()


def long_words(dataset: pydicom.FileDataset) -> None:
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 32, 32, 31
    dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2").astype("<u4") * 1_000_003).tobytes()


def rescaled(dataset: pydicom.FileDataset) -> None:
    number = int(dataset.InstanceNumber)
    dataset.RescaleSlope, dataset.RescaleIntercept = str(0.1 + number / 7)[:16], str(-number)


NATIVE: dict[str, Change] = {
    "explicit": lambda _: None,
    "implicit": coded("implicit"),
    "big endian": big_endian,
    "signed": signed,
    "bits above": dirty_bits,
    "8 bits": bytes_only,
    "32 bits": long_words,
    "rescaled per slice": rescaled,
}


@pytest.mark.parametrize("kind", NATIVE)
def test_what_is_not_compressed_is_read_without_parsing(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path, voxels())
    every_file(tmp_path, NATIVE[kind])
    series = the_series(tmp_path)
    expected = by_pydicom(series)
    np.testing.assert_array_equal(parsed(series), expected)
    no_parser(monkeypatch)
    np.testing.assert_array_equal(read_volume(series).array, expected)


@pytest.mark.parametrize("name", [name for name, syntax in SYNTAXES.items() if syntax.is_compressed])
def test_what_is_compressed_is_read_without_parsing(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path, voxels(rows=24, columns=18), BitsStored=12, HighBit=11)
    plain = by_pydicom(the_series(tmp_path))
    every_file(tmp_path, coded(name))
    series = the_series(tmp_path)
    np.testing.assert_array_equal(parsed(series), plain)
    no_parser(monkeypatch)
    np.testing.assert_array_equal(read_volume(series).array, plain)


@pytest.mark.parametrize("name", ["explicit", "rle", "jpeg-2000"])
def test_frames_in_any_order_are_read_without_parsing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = voxels(rows=24, columns=18)
    write_enhanced(tmp_path / "one", stored, [3, 0, 4, 1, 2])
    every_file(tmp_path, coded(name))
    series = the_series(tmp_path)
    expected = parsed(series)
    no_parser(monkeypatch)
    np.testing.assert_array_equal(read_volume(series).array, expected)
    order = np.argsort([(np.asarray(series.affine) @ (0, 0, z, 1))[2] for z in range(5)])
    np.testing.assert_array_equal(expected[order], stored * (1.0 + np.arange(5))[:, None, None])  # slopes of 1 to 5


def test_a_large_series_is_decoded_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path, voxels(23))
    series = the_series(tmp_path)
    sizes: list[int] = []
    whole = pixels.decode
    monkeypatch.setattr(pixels, "_BATCH", 10 * 48)
    monkeypatch.setattr(pixels, "decode", lambda slices, *shape: (sizes.append(len(slices)), whole(slices, *shape))[1])
    np.testing.assert_array_equal(read_volume(series).array, by_pydicom(series))
    assert sizes == [10, 10, 3]


def test_files_of_two_kinds_in_one_series_are_read_in_place(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(7), RescaleSlope="1")
    for change, path in zip((signed, dirty_bits, big_endian), sorted(tmp_path.iterdir()), strict=False):
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)
    series = the_series(tmp_path)
    np.testing.assert_array_equal(read_volume(series).array, by_pydicom(series))


@pytest.mark.parametrize("scale", [True, False])
def test_philips_scale_is_what_it_was(tmp_path: Path, scale: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = voxels()
    write_series(tmp_path, stored, Manufacturer="Philips Medical Systems", RescaleIntercept="5", RescaleSlope="2.5")
    if scale:
        every_file(tmp_path, lambda dataset: add_private_scale(dataset, 0.003 * int(dataset.InstanceNumber)))
    series = the_series(tmp_path)
    expected = parsed(series)
    no_parser(monkeypatch)
    np.testing.assert_array_equal(read_volume(series).array, expected)


@pytest.mark.parametrize("scale", [{}, {"RescaleSlope": "2.5", "RescaleIntercept": "-7"}])
def test_an_inverted_image_is_read_without_parsing(
    tmp_path: Path, scale: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = voxels(4, 20, 20)
    stored[:, [0, -1]], stored[:, :, [0, -1]] = 3990, 3990
    write_series(tmp_path, stored, PhotometricInterpretation="MONOCHROME1", **scale)
    series = the_series(tmp_path)
    expected = parsed(series)
    assert np.median(expected[:, 0]) < expected.mean()
    no_parser(monkeypatch)
    np.testing.assert_array_equal(read_volume(series).array, expected)


def deflated(dataset: pydicom.FileDataset) -> None:
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def in_another_block(dataset: pydicom.FileDataset) -> None:
    dataset.Manufacturer = "Philips Medical Systems"
    add_private_scale(dataset, 0.01, block=0x12)


def only_mapped(dataset: pydicom.FileDataset) -> None:
    """The scale depends on the manufacturer, whom an assume file may state."""
    mapping = pydicom.Dataset()
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 2.0, 1.0
    dataset.RealWorldValueMappingSequence = pydicom.Sequence([mapping])


def trailing(dataset: pydicom.FileDataset) -> None:
    dataset.add_new((0xFFFC, 0xFFFC), "OB", bytes(30))


UNUSUAL: dict[str, Change] = {
    "deflated": deflated,
    "another private block": in_another_block,
    "only mapped": only_mapped,
    "trailing": trailing,
    "no representation": lambda dataset: delattr(dataset, "PixelRepresentation"),
    "excess": lambda dataset: setattr(dataset, "PixelData", dataset.PixelData + bytes(20)),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_an_unusual_file_gets_no_note(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "one", header(), voxels(1)[0])
    every_file(tmp_path, UNUSUAL[kind])
    frames = scan_file(str(tmp_path / "one"))
    assert frames is not None
    assert not frames[0].instance.layout or frames[0].scale is None


@pytest.mark.parametrize("tag", [b"\x28\x00\x53\x10", b"\x28\x00\x01\x01"])
def test_what_stands_out_of_order_is_found(tmp_path: Path, tag: bytes) -> None:
    """Reading a header ends behind what is wanted of one in order; a slope that follows must not be lost."""
    write_series(tmp_path, voxels())
    value = b"3 " if tag.endswith(b"\x53\x10") else b"\x0c\x00"
    late = tag + (b"DS" if value == b"3 " else b"US") + b"\x02\x00" + value
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        place = data.rindex(b"\xe0\x7f\x10\x00")
        path.write_bytes(data[:place] + b"\x05\x30\x10\x00LO\x04\x00MINE" + late + data[place:])
    series = the_series(tmp_path)
    assert series.known is None
    factor = 3.0 if value == b"3 " else 1.0
    plain = np.asarray([pydicom.dcmread(series.paths[file]).pixel_array for file, _ in series.frames])
    np.testing.assert_array_equal(read_volume(series).array, plain * factor)


@pytest.mark.parametrize("tag", [b"\x28\x00\x20\x01", b"\x28\x00\x02\x01", b"\x05\x20\x0e\x10", b"\x05\x20\x11\x00"])
def test_padding_high_bit_and_a_private_slope_out_of_order_are_seen_too(tmp_path: Path, tag: bytes) -> None:
    write_series(tmp_path, voxels())
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        place = data.rindex(b"\xe0\x7f\x10\x00")
        path.write_bytes(data[:place] + b"\x05\x30\x10\x00LO\x04\x00MINE" + tag + b"US\x02\x00\x0b\x00" + data[place:])
    assert the_series(tmp_path).known is None


def rewritten(folder: Path, change: Change, *, keep: bool) -> None:
    """Change files in place, with size and time as before where that can be."""
    for path in sorted(folder.iterdir()):
        state = path.stat()
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert not keep or path.stat().st_size == state.st_size


def longer(dataset: pydicom.FileDataset) -> None:
    """Everything behind moves by 32 bytes."""
    dataset.StudyDescription = str(dataset.StudyDescription) + "x" * 32


def longer_and_cropped(dataset: pydicom.FileDataset) -> None:
    """A header that is 16 bytes longer and pixels that are 16 bytes shorter: the file keeps its size."""
    dataset.StudyDescription = str(dataset.StudyDescription) + "x" * 16
    dataset.PixelData = dataset.PixelData[:-16]


def another_slope(dataset: pydicom.FileDataset) -> None:
    dataset.RescaleSlope = "3"


STALE: dict[str, tuple[Change, bool]] = {
    "longer": (longer, False),
    "longer, pixels cropped": (longer_and_cropped, True),
    "another slope": (another_slope, True),
    "compressed": (coded("rle"), False),
    "signed": (lambda dataset: setattr(dataset, "PixelRepresentation", 1), True),
}


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("kind", STALE)
def test_a_file_that_has_changed_is_parsed_again(tmp_path: Path, kind: str, indexed: bool) -> None:
    """Changed between scan and reading, or since the index was made, with the same size and time."""
    folder, index = tmp_path / "source", tmp_path / "index" if indexed else None
    write_series(folder, voxels(rows=24, columns=18), RescaleSlope="1")

    def scanned() -> Series:
        with scan_source(folder, key=KEY, index=index) as found:
            ((series,), _) = found.session(next(iter(found.sessions)))
            return series

    before = scanned()
    change, keep = STALE[kind]
    rewritten(folder, change, keep=keep)
    series = scanned() if indexed else before
    if kind == "longer, pixels cropped":
        with pytest.raises(ReadError, match="cannot be decoded"):
            read_volume(series)
        return
    expected = np.asarray([pydicom.dcmread(series.paths[file]).pixel_array for file, _ in series.frames])
    np.testing.assert_array_equal(read_volume(series).array, expected * (3.0 if kind == "another slope" else 1.0))


def outcome(series: Series) -> bytes:
    """Values, or the error that is told."""
    try:
        return read_volume(series).array.tobytes()
    except ReadError as error:
        return str(error).encode()


@pytest.mark.parametrize("left", [-1, -40, 700, 300, 0])
@pytest.mark.parametrize("name", ["explicit", "rle", "jpeg-2000"])
def test_a_file_cut_short_since_ends_as_by_parsing(tmp_path: Path, left: int, name: str) -> None:
    write_series(tmp_path, voxels(rows=24, columns=18))
    every_file(tmp_path, coded(name))
    series = the_series(tmp_path)
    assert series.known is not None
    path = Path(series.paths[2])
    path.write_bytes(path.read_bytes()[:left])
    told = outcome(series)
    assert told == outcome(replace(series, known=None))
    assert told.endswith((b"copy it again from its origin", b"export the series again")) or left == -1  # a bare end


@pytest.mark.parametrize("name", ["rle", "jpeg-ls", "jpeg-2000"])
@pytest.mark.parametrize("damage", [slice(-400, -20), slice(-200, -190)])
def test_damaged_pixels_end_as_by_parsing(tmp_path: Path, name: str, damage: slice) -> None:
    write_series(tmp_path, voxels(rows=24, columns=18))
    every_file(tmp_path, coded(name))
    series = the_series(tmp_path)
    path = Path(series.paths[1])
    data = bytearray(path.read_bytes())
    data[damage] = bytes(damage.stop - damage.start)
    path.write_bytes(bytes(data))
    assert outcome(series) == outcome(replace(series, known=None))


@pytest.mark.parametrize("kind", ["gz", "zip", "tar"])
def test_compressed_files_and_members_of_archives_are_read_without_parsing(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "plain", voxels())
    expected = by_pydicom(the_series(tmp_path / "plain"))
    packed = tmp_path / "packed"
    packed.mkdir()
    files = sorted((tmp_path / "plain").iterdir())
    if kind == "gz":
        for path in files:
            (packed / path.name).write_bytes(gzip.compress(path.read_bytes()))
    elif kind == "zip":
        with zipfile.ZipFile(packed / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                archive.write(path, path.name)
    else:
        with tarfile.open(packed / "all.tar.gz", "w:gz") as tar:
            for path in files:
                tar.add(path, path.name)
    series = the_series(packed)
    no_parser(monkeypatch)
    np.testing.assert_array_equal(read_volume(series).array, expected)


def test_a_note_says_where_pixels_lie(tmp_path: Path) -> None:
    stored = voxels(1)[0]
    write(tmp_path / "one", header(BitsStored=12, HighBit=11), stored)
    frames = scan_file(str(tmp_path / "one"))
    assert frames is not None
    layout, data = layout_of(frames[0].instance.layout), (tmp_path / "one").read_bytes()
    assert (layout.size, layout.bits_allocated, layout.bits_stored, layout.n_frames) == (len(data), 16, 12, 1)
    assert data[layout.begin :] == stored.astype("<u2").tobytes()
    assert len(frames[0].instance.layout) <= 40  # of each file of an archive
