"""When an image was acquired, as seconds on a clock whose zero means nothing; only differences leave the reader."""

from __future__ import annotations

import datetime
import re

from pydicom.dataset import Dataset

from storage.source.dicom.elements import first_value

_DAY = 86_400.0


def moment_of(sources: tuple[Dataset, ...]) -> float | None:
    """Seconds at which the acquisition began; None if nothing says.

    The time of the acquisition counts before that of the series, and that before the content's.
    """
    for keyword in ("FrameAcquisitionDateTime", "AcquisitionDateTime"):
        text = str(first_value(sources, keyword) or "")
        if (seconds := _clock(text[8:].partition("+")[0].partition("-")[0])) is not None:
            return _days(text[:8]) * _DAY + seconds
    for kind in ("Acquisition", "Series", "Content"):
        seconds = _clock(str(first_value(sources, f"{kind}Time") or ""))
        if seconds is not None:
            dates = (first_value(sources, f"{name}Date") for name in (kind, "Study"))
            return next((days for days in (_days(str(date or "")) for date in dates) if days), 0) * _DAY + seconds
    return None


def _days(text: str) -> int:
    text = text.replace(".", "").replace("-", "")
    try:
        return datetime.date(int(text[:4]), int(text[4:6]), int(text[6:8])).toordinal()
    except ValueError:
        return 0


def _clock(text: str) -> float | None:
    text = text.strip(" \0").replace(":", "")
    if not re.fullmatch(r"\d{4}(\d\d(\.\d*)?)?", text):
        return None
    return int(text[:2]) * 3600.0 + int(text[2:4]) * 60.0 + float(text[4:] or 0)
