"""Compressed files that end before their time: told from the lengths in them before anything is decoded."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_frames

from qmri_core.series.remarks import RemarkKind
from storage.simulated.encoding import transcode
from storage.source import files
from storage.source.discovery import Discovery, ReadError, decide_session, discover, read_volume
from storage.source.series import Series
from tests.storage.niftis import T1W
from tests.storage.slices import voxels, write_series

KEY = bytes(32)
MARK = 8
"""Bytes of the item that ends the fragments: a tag, and a length of 0."""


def only(found: Discovery) -> Series:
    (one,) = found.series
    return one


def write_compressed(folder: Path, syntax: str, change: Callable[[Any], None] = lambda _: None) -> Path:
    """A series of five slices; the file of the third."""
    write_series(folder, voxels(), name="{z}")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        transcode(dataset, syntax)
        change(dataset)
        dataset.save_as(path, enforce_file_format=True)
    return folder / "14"


def in_fragments(dataset: Any) -> None:
    """Several fragments a frame, without a table of where they begin."""
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([frame], fragments_per_frame=3, has_bot=False)


def more_behind(dataset: Any) -> None:
    dataset.DataSetTrailingPadding = bytes(64)


@pytest.mark.parametrize("change", [lambda _: None, in_fragments], ids=["one fragment", "several"])
@pytest.mark.parametrize("syntax", ["rle", "jpeg-ls", "jpeg"])
@pytest.mark.parametrize("n_bytes", [MARK - 3, MARK, MARK + 1, MARK + 20])
def test_a_compressed_file_that_is_cut(
    tmp_path: Path, syntax: str, n_bytes: int, change: Callable[[Any], None]
) -> None:
    path = write_compressed(tmp_path / "in", syntax, change)
    path.write_bytes(path.read_bytes()[:-n_bytes])
    one = only(discover(tmp_path, key=KEY))
    assert (one.n_instances, one.context.n_cut) == (5, 1)
    (decision,) = decide_session([one])
    assert [doubt.kind for doubt in decision.doubts] == [RemarkKind.CUT_SHORT]
    with pytest.raises(ReadError, match="cannot be decoded"):
        read_volume(one)


@pytest.mark.parametrize("n_bytes", [0, 1, 4])
@pytest.mark.parametrize("change", [lambda _: None, in_fragments, more_behind], ids=["plain", "several", "more behind"])
@pytest.mark.parametrize("syntax", ["rle", "jpeg-ls"])
def test_a_compressed_file_that_can_be_read_is_not_called_cut(
    tmp_path: Path, syntax: str, n_bytes: int, change: Callable[[Any], None]
) -> None:
    path = write_compressed(tmp_path / "in", syntax, change)
    if change is not more_behind:
        path.write_bytes(path.read_bytes()[: -n_bytes or None])
    one = only(discover(tmp_path, key=KEY))
    assert one.context.n_cut == 0
    np.testing.assert_array_equal(read_volume(one).array[::-1], voxels())


def write_image(folder: Path, ending: str) -> Path:
    image = nibabel.Nifti1Image(np.arange(24000, dtype=np.int16).reshape(20, 30, 40), np.diag([8.0, 6.0, 5.0, 1.0]))
    path = folder / f"sub-01_T1w{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    (folder / "sub-01_T1w.json").write_text(json.dumps(T1W))
    return path


def by_bytes(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(share * len(content))]


def by_some_bytes(content: bytes) -> bytes:
    return content[:-20]


def whole_around_less(content: bytes) -> bytes:
    """A sound gzip file of a NIfTI file that was cut before."""
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    cut = plain[:-100]
    return gzip.compress(cut) if content[:2] == b"\x1f\x8b" else cut


@pytest.mark.parametrize("cut", [by_bytes(0.5), by_bytes(0.95), by_some_bytes, whole_around_less])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_a_nifti_file_that_is_cut(tmp_path: Path, ending: str, cut: Callable[[bytes], bytes]) -> None:
    path = write_image(tmp_path, ending)
    path.write_bytes(cut(path.read_bytes()))
    one = only(discover(tmp_path, key=KEY))
    assert one.context.n_cut == 1
    (decision,) = decide_session([one])
    assert [doubt.kind for doubt in decision.doubts] == [RemarkKind.CUT_SHORT]
    with pytest.raises(ReadError, match="cannot be read"):
        read_volume(one)


def in_two_members(content: bytes) -> bytes:
    """As tools that compress in blocks write it: the last size is that of the last block."""
    return gzip.compress(content[:20000]) + gzip.compress(content[20000:]) + gzip.compress(b"")


@pytest.mark.parametrize(
    ("change", "n_decompressed"),
    [
        (gzip.compress, 0),
        (in_two_members, 1),
        (lambda content: gzip.compress(content + bytes(512)), 1),
        (lambda content: gzip.compress(content)[:-5], 1),
    ],
    ids=["plain", "in blocks", "more behind", "all voxels"],
)
def test_a_whole_nifti_file_is_not_called_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes], n_decompressed: int
) -> None:
    path = write_image(tmp_path, ".nii.gz")
    path.write_bytes(change(gzip.decompress(path.read_bytes())))
    opened: list[object] = []
    real = files.read_some

    def counted(stream: Any, size: int) -> bytes:
        opened.append(stream)
        return real(stream, size)

    monkeypatch.setattr(files, "read_some", counted)
    one = only(discover(tmp_path, key=KEY))
    monkeypatch.undo()
    assert one.context.n_cut == 0
    assert len(opened) == n_decompressed  # pieces: only what the size at the end does not fit is decompressed for it
    assert read_volume(one).array.shape == (40, 30, 20)
