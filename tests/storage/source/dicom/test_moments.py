"""When an image was acquired, by whatever its header says."""

from __future__ import annotations

import pydicom.config
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from storage.source.dicom.moments import moment_of


def header(**values: str) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        tag = tag_for_keyword(name)
        assert tag is not None
        dataset.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=pydicom.config.IGNORE))
    return dataset


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ({"AcquisitionTime": "193000.5", "SeriesTime": "200000"}, 37 * 60 + 0.5),
        ({"AcquisitionDateTime": "20240110193000.50+0100"}, 37 * 60 + 0.5),
        ({"SeriesTime": "19:30:00", "SeriesDate": "2024.01.10"}, 37 * 60),
        ({"ContentTime": "1930", "StudyDate": "20240110"}, 37 * 60),
        ({"AcquisitionTime": "001000", "AcquisitionDate": "20240111"}, 5 * 3600 + 17 * 60),
        ({"AcquisitionTime": "", "SeriesTime": "nonsense", "ContentTime": "185301"}, 1),
    ],
)
def test_moments_are_apart_as_the_clock_says(values: dict[str, str], seconds: float) -> None:
    first = moment_of((header(StudyDate="20240110", AcquisitionTime="185300"),))
    other = moment_of((header(**({"StudyDate": "20240110"} | values)),))
    assert first is not None
    assert other is not None
    assert other - first == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize("values", [{}, {"AcquisitionTime": "late"}, {"AcquisitionDateTime": "20240110"}])
def test_without_a_time_there_is_no_moment(values: dict[str, str]) -> None:
    assert moment_of((header(StudyDate="20240110", **values),)) is None


def test_a_frame_counts_before_its_file() -> None:
    frame, top = header(FrameAcquisitionDateTime="20240110120000"), header(AcquisitionDateTime="20240110110000")
    one, other = moment_of((frame, top)), moment_of((top,))
    assert one is not None
    assert other is not None
    assert one - other == 3600
