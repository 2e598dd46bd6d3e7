"""Stored values become signal, whatever their display was: inverted images, and syntaxes that nobody here decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from flows.ingest.session_plan import plan_sessions
from storage.source.dicom.extent import is_decodable
from storage.source.discovery import discover, read_volume
from tests.storage.slices import voxels, write_enhanced, write_series

KEY = bytes(32)


def head(n_slices: int = 6) -> NDArray[np.uint16]:
    """A bright head in dark air, stored values."""
    z, y, x = np.indices((n_slices, 24, 20))
    inside = (y - 12) ** 2 + (x - 10) ** 2 < 49
    noise = np.random.default_rng(0).integers(0, 30, inside.shape)
    return (np.where(inside, 1500 + 40 * z + 10 * y, 0) + noise).astype(np.uint16)


def read(folder: Path) -> NDArray[np.float32]:
    (series,) = discover(folder, key=KEY).series
    return read_volume(series).array


@pytest.mark.parametrize("scale", [{}, {"RescaleSlope": "2.5", "RescaleIntercept": "-7"}], ids=["plain", "rescaled"])
@pytest.mark.parametrize("by", ["largest", "bits", "slice"])
def test_an_inverted_image_is_the_image(tmp_path: Path, by: str, scale: dict[str, Any]) -> None:
    stored = head()
    top = {"largest": stored.max(), "bits": 4095, "slice": stored.max(axis=(1, 2), keepdims=True)}[by]
    write_series(tmp_path / "plain", stored, **scale)
    inverted = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    write_series(tmp_path / "inverted", (top - stored).astype(np.uint16), **inverted, **scale)
    expected, found = read(tmp_path / "plain"), read(tmp_path / "inverted")
    slope = float(scale.get("RescaleSlope", 1))
    # zero is where the least value was stored: noise leaves a few units of 1500
    np.testing.assert_allclose(found, expected, atol=3 * slope)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99999


def test_an_enhanced_image_is_inverted_too(tmp_path: Path) -> None:
    stored = head()
    write_enhanced(tmp_path / "plain" / "one", stored, list(range(6)))
    write_enhanced(tmp_path / "inverted" / "one", (stored.max() - stored).astype(np.uint16), list(range(6)))
    ds = pydicom.dcmread(tmp_path / "inverted" / "one")
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.save_as(tmp_path / "inverted" / "one")
    np.testing.assert_allclose(read(tmp_path / "inverted"), read(tmp_path / "plain"), atol=3 * 6)  # slopes of 1 to 6


@pytest.mark.parametrize("scale", [{}, {"RescaleSlope": "-1", "RescaleIntercept": "4095"}])
def test_values_that_are_signal_already_stay(tmp_path: Path, scale: dict[str, Any]) -> None:
    """Only the display is inverted, or the rescaling undoes it."""
    stored = head()
    inner = stored if not scale else (4095 - stored).astype(np.uint16)
    write_series(tmp_path / "plain", stored)
    write_series(tmp_path / "labelled", inner, PhotometricInterpretation="MONOCHROME1", **scale)
    np.testing.assert_array_equal(read(tmp_path / "labelled"), read(tmp_path / "plain"))


SYNTAXES = {
    "1.2.840.10008.1.2.4.100": "MPEG-2",
    "1.2.840.10008.1.2.4.94": "JPIP",
    "1.2.840.10008.1.2.4.204": "JPIP of HTJ2K",
    "1.2.840.113619.5.2": "General Electric's own",
}


@pytest.mark.parametrize("syntax", SYNTAXES, ids=list(SYNTAXES.values()))
@pytest.mark.parametrize("has_pixels", [True, False])
def test_what_nobody_decodes_is_told_before_anything_is_decoded(tmp_path: Path, syntax: str, has_pixels: bool) -> None:
    write_series(tmp_path, voxels())
    for path in tmp_path.iterdir():
        ds = pydicom.dcmread(path)
        if not has_pixels:
            del ds.PixelData
        ds.save_as(path)
        data = bytearray(path.read_bytes())
        old = b"1.2.840.10008.1.2.1\x00"
        place = data.index(old, 132)
        new = syntax.encode() + b"\x00" * (len(syntax) % 2)
        data[place - 2 : place + len(old)] = len(new).to_bytes(2, "little") + new
        length = int.from_bytes(data[140:144], "little") + len(new) - len(old)
        data[140:144] = length.to_bytes(4, "little")
        path.write_bytes(bytes(data))
    (series,) = discover(tmp_path, key=KEY).series
    (plan,) = plan_sessions([series])
    assert '"undecodable"' in plan.series_text
    assert "no decoder" in plan.series_text


def test_what_is_decoded_today_stays() -> None:
    readable = ("", *(f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".1.99", ".2", ".5", ".4.50", ".4.57", ".4.70")))
    assert all(map(is_decodable, (*readable, *(f"1.2.840.10008.1.2.4.{end}" for end in (80, 81, 90, 91)))))
    assert not any(map(is_decodable, SYNTAXES))
