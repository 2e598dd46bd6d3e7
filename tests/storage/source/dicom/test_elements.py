"""Single elements of damaged and odd headers."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from storage.source.dicom.elements import get_code, get_text
from tests.storage.slices import header, voxels, write


@pytest.mark.parametrize("stated", ["1.2.3", "1.2.34", None, ""])
@pytest.mark.parametrize("first", [get_code, get_text])
def test_a_code_reads_as_the_text_does(tmp_path: Path, stated: str | None, first: object) -> None:
    """Also where the library has converted the element before; an odd length is padded with NUL in the file."""
    write(tmp_path / "one", header(FrameOfReferenceUID=stated, StudyDate="20240110"), voxels(1)[0])
    dataset = pydicom.dcmread(BytesIO((tmp_path / "one").read_bytes()))
    order = [first, get_code, get_text]
    assert {read(dataset, "FrameOfReferenceUID") for read in order} == {stated or ""}  # type: ignore[operator]
    assert {read(dataset, "StudyDate") for read in order} == {"20240110"}  # type: ignore[operator]
    assert get_code(dataset, "SeriesDate") == ""
