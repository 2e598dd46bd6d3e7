"""Servers that maps are stored on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from pydicom.dataset import Dataset

from storage.exports.dicom.export import Planned, Receiver
from storage.source.origin import Server


@contextmanager
def server_receiver(server: Server) -> Iterator[Receiver]:
    """Connect to a server that is to store maps, with the credentials of the environment.

    Raises
    ------
    ServerError
        If that cannot be done.
    """
    # libraries that a folder does not need
    if server.url.startswith("dimse"):
        from storage.exports.dicom.dimse import DimseReceiver

        with DimseReceiver(server) as receiver:
            yield receiver
        return
    from storage.exports.dicom.web import WebReceiver

    with WebReceiver(server) as web:
        yield web


def bytes_of(dataset: Dataset) -> int:
    """Size of the pixels of an object."""
    return len(dataset.get("PixelData") or dataset.get("FloatPixelData") or b"")


def newest(told: Iterable[Sequence[str]], planned: Planned) -> str:
    """Identifier of the newest of the series that a study has of another version of a map; empty if there is none.

    Parameters
    ----------
    told
        Of each series its identifier, description, date and time.
    """
    others = [
        (date, clock, uid)
        for uid, description, date, clock in told
        if uid != planned.series and description.strip() == planned.quantity.description
    ]
    return max(others, default=("", "", ""))[2]
