"""Which bits of stored values count, whatever the header says of them, and which values are no signal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.uid import DeflatedExplicitVRLittleEndian
from scipy import ndimage

from storage.source.dicom.bits import check_sign, padded, read_bits
from storage.source.discovery import discover, read_volume
from storage.source.series import ReadError
from tests.storage.slices import write_series

KEY = bytes(32)


def image(top: int) -> NDArray[np.int64]:
    """A smooth head with noise in dark air, from 0 to ``top``."""
    random = np.random.default_rng(3)
    head = ndimage.gaussian_filter(random.normal(size=(48, 40)), 3)
    y, x = np.indices(head.shape)
    values = np.where((y - 24) ** 2 + (x - 20) ** 2 < 260, 0.6 + head / np.abs(head).max() * 0.4, 0.0)
    values += np.abs(random.normal(0, 0.01, values.shape))
    return np.rint(values / values.max() * top).astype(np.int64)


@pytest.mark.parametrize("bits", [7, 8, 9, 10])
def test_more_bits_than_stated_are_read(bits: int) -> None:
    true = image(4000)
    np.testing.assert_array_equal(read_bits(true.astype(np.uint16), bits, bits - 1), true)


@pytest.mark.parametrize("bits", [8, 12])
def test_values_counted_from_the_highest_bit_are_put_in_place(bits: int) -> None:
    true = image(2**bits - 1)
    stored = (true << (16 - bits)).astype(np.uint16)
    np.testing.assert_array_equal(read_bits(stored, bits, 15), true)


@pytest.mark.parametrize("bit", [12, 15])
def test_an_overlay_in_unused_bits_is_no_signal(bit: int) -> None:
    true = image(4000)
    stored = true.astype(np.uint16)
    stored[10:30:4, 8:30] |= np.uint16(1 << bit)  # lines of letters
    np.testing.assert_array_equal(read_bits(stored, 12, 11), true)


@pytest.mark.parametrize("offset", [0, 300])
@pytest.mark.parametrize("bits", [12, 16])
def test_signs_are_read_whether_they_reach_the_highest_bit_or_not(bits: int, offset: int) -> None:
    true = image(2000) - offset
    stored = (true & (2**bits - 1)).astype(np.uint16).view(np.int16)
    np.testing.assert_array_equal(read_bits(stored, bits, bits - 1), true)


@pytest.mark.parametrize("top", [255, 4095, 32_767, 65_535])
def test_what_is_right_stays(top: int) -> None:
    true = image(top).astype(np.uint16)
    np.testing.assert_array_equal(read_bits(true, int(top).bit_length(), int(top).bit_length() - 1), true)
    np.testing.assert_array_equal(read_bits(true, 16, 15), true)


@pytest.mark.parametrize(
    "stated",
    [
        {"BitsStored": 9, "HighBit": 8},
        {"FloatPixelData": True},
        {"RescaleSlope": "0"},
        {"NumberOfFrames": "1"},
    ],
)
def test_headers_that_contradict_the_pixels_of_files_change_none(tmp_path: Path, stated: dict[str, Any]) -> None:
    true = np.stack([image(4000) + z for z in range(4)])
    write_series(tmp_path, true[::-1].astype(np.uint16), **{k: v for k, v in stated.items() if k != "FloatPixelData"})
    for path in tmp_path.iterdir() if "FloatPixelData" in stated else ():
        ds = pydicom.dcmread(path)
        ds.FloatPixelData = ds.pixel_array.astype("<f4").tobytes()
        ds.BitsAllocated = 32
        for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            delattr(ds, name)
        ds.save_as(path)
    (series,) = discover(tmp_path, key=KEY).series
    np.testing.assert_array_equal(read_volume(series).array, true)


def written(folder: Path, stored: NDArray[np.int64], way: str, **header: Any) -> NDArray[np.float32]:
    """What is read of a series whose slices lie in memory as ``stored``, whose files are parsed or not."""
    changes = header | ({"PixelPaddingValue": 30_000} if way == "parsed" else {})
    write_series(folder, (stored & 0xFFFF).astype(np.uint16)[::-1], **changes)
    for path in folder.iterdir() if way == "deflated" else ():
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        ds.save_as(path)
    (series,) = discover(folder, key=KEY).series
    return read_volume(series).array


WAYS = ["noted", "parsed", "deflated"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("inverted", [False, True])
def test_dark_slices_are_put_in_place_with_the_others(tmp_path: Path, way: str, bits: int, inverted: bool) -> None:
    """They use so few bits that alone they look as if they lay in place."""
    top = 2**bits - 1
    true = np.stack([image(top), image(top), image(top) // 100, 0 * image(top), image(top)])
    stored = (top - true if inverted else true) << (16 - bits)
    kind = "MONOCHROME1" if inverted else "MONOCHROME2"
    read = written(tmp_path, stored, way, BitsStored=bits, HighBit=15, PhotometricInterpretation=kind)
    np.testing.assert_array_equal(read, true)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("bits", "signed"), [(8, 0), (10, 0), (10, 1), (9, 1)])
def test_more_bits_than_stated_are_read_of_all_slices(tmp_path: Path, way: str, bits: int, signed: int) -> None:
    """Signed, the slice up to 900 is below zero by its header, and nothing in it says that it is not."""
    true = np.stack([image(top) for top in (4000, 900, 4000, 90, 4000)])
    read = written(tmp_path, true, way, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=signed)
    np.testing.assert_array_equal(read, true)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bit", [12, 15])
def test_overlays_in_unused_bits_of_files_are_no_signal(tmp_path: Path, way: str, bit: int) -> None:
    true = np.stack([image(4000) for _ in range(4)])
    stored = true.copy()
    stored[1:3, 10:30:4, 8:30] |= 1 << bit
    np.testing.assert_array_equal(written(tmp_path, stored, way, BitsStored=12, HighBit=11), true)


@pytest.mark.parametrize("value", [63_536, 0x8000])
@pytest.mark.parametrize("top", [3000, 255])
def test_padding_in_bits_that_no_value_has_is_no_signal(tmp_path: Path, value: int, top: int) -> None:
    true = np.stack([image(3000), image(top), image(3000), image(3000)])
    true[:, :12, :10] = 0
    stored = true.copy()
    stored[:, :12, :10] = value
    read = written(tmp_path, stored, "noted", BitsStored=12, HighBit=11, PixelPaddingValue=value)
    np.testing.assert_array_equal(read, true)


@pytest.mark.parametrize(("stored", "stated"), [(-2000, -2000), (-2000, 63_536), (4095, 4095), (-32_768, 32_768)])
def test_padding_beside_the_image_is_no_signal(tmp_path: Path, stored: int, stated: int) -> None:
    true = np.stack([image(3000) for _ in range(4)])
    true[:, :12, :10] = stored
    write_series(tmp_path, true.astype(np.int16).view(np.uint16), PixelRepresentation=1)
    for path in tmp_path.iterdir():
        ds = pydicom.dcmread(path)
        ds.add_new("PixelPaddingValue", "US" if stated > 0 else "SS", stated)
        ds.save_as(path)
    (series,) = discover(tmp_path, key=KEY).series
    np.testing.assert_array_equal(read_volume(series).array, np.where(true == stored, 0, true))


@pytest.mark.parametrize("value", [0, 1500, 5000])
def test_a_padding_value_within_the_image_or_nowhere_pads_nothing(value: int) -> None:
    true = image(3000)
    true[0, 0] = true[20, 20] = 1500
    assert not padded(true.astype(np.uint16), value).any()
    assert not padded(true.astype(np.uint16), None).any()


@pytest.mark.parametrize(
    ("slope", "offset", "is_refused"), [(1.0, 0.0, False), (1.0, -20.0, False), (-1.0, 0.0, True), (1.0, -1024.0, True)]
)
def test_an_image_below_zero_is_refused(slope: float, offset: float, is_refused: bool) -> None:
    values = (slope * image(3000) + offset).astype(np.float32)
    if not is_refused:
        check_sign(values, "series 1")
        return
    with pytest.raises(ReadError, match="of its voxels are negative"):
        check_sign(values, "series 1")


def test_values_that_wrap_around_are_refused(tmp_path: Path) -> None:
    """Unsigned values that the header calls signed."""
    stored = np.stack([image(60_000) for _ in range(4)])
    write_series(tmp_path, stored.astype(np.uint16), PixelRepresentation=1)
    (series,) = discover(tmp_path, key=KEY).series
    with pytest.raises(ReadError, match="negative"):
        read_volume(series)


def test_a_normalised_image_is_refused_with_its_reason(tmp_path: Path) -> None:
    stored = np.stack([image(3000) for _ in range(4)])
    write_series(tmp_path, stored.astype(np.uint16), RescaleSlope="0.001", RescaleIntercept="-1")
    (series,) = discover(tmp_path, key=KEY).series
    with pytest.raises(ReadError, match="normalisation"):
        read_volume(series)
