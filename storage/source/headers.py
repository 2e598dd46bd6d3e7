"""Headers of a series' files once more, with what says whose they are: for objects that are to name the same people."""

from __future__ import annotations

import io
import warnings

import pydicom
from pydicom.dataset import Dataset

from storage.source.damage import PYDICOM, DamagedError, library_errors
from storage.source.files import Reader
from storage.source.series import ReadError, Series
from storage.source.server.spool import retrieved


def read_headers(series: Series) -> tuple[Dataset, ...]:
    """Headers of all files of a DICOM series, in the order of their paths, as they are and without pixels.

    Raises
    ------
    ReadError
        If a file cannot be read any more.
    ServerError
        If a server does not give the files.
    """
    with retrieved(series) as local, Reader(local.paths) as reader:
        return tuple(_header(reader, path, number, series) for number, path in enumerate(local.paths, 1))


def _header(reader: Reader, path: str, number: int, series: Series) -> Dataset:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with library_errors(PYDICOM):
                content = io.BytesIO(reader.read(path))
                return pydicom.dcmread(content, stop_before_pixels=True, force=True)
    except (DamagedError, OSError, MemoryError):
        raise ReadError(
            f"session {series.session}, series {series.number}, file {number}: its header cannot be read any more"
        ) from None
