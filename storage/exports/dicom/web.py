"""Maps stored on a server by DICOMweb: QIDO-RS says what it has, STOW-RS stores what it lacks."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from pydicom.dataset import Dataset

from storage.exports.dicom.export import Planned
from storage.exports.dicom.receiver import bytes_of, newest
from storage.source.origin import Server
from storage.source.server.failures import ServerChangedError, ServerError
from storage.source.server.pace import keep_to
from storage.source.server.web import client_of, failures, text_of

_TELLS = {"SeriesDescription": "0008103E", "SeriesDate": "00080021", "SeriesTime": "00080031"}


class WebReceiver:
    """A server by DICOMweb; see `storage.exports.dicom.export.Receiver`."""

    def __init__(self, server: Server) -> None:
        self._session, self._client = client_of(server)
        self._rate = server.limits.rate

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._session.close()

    def lacking(self, planned: Planned) -> frozenset[str]:
        """Identifiers of the objects of a series that the server does not tell of."""
        try:
            with failures():
                found = self._client.search_for_instances(planned.study, planned.series, get_remaining=True)
        except ServerChangedError:  # 404: no such study or series
            found = []
        return frozenset(planned.instances) - {text_of(record, "00080018") for record in found}

    def replaced(self, planned: Planned) -> str:
        """Identifier of the newest series of the study with the same description, of another version."""
        try:
            with failures():
                found = self._client.search_for_series(
                    planned.study, fields=list(_TELLS), search_filters={"Modality": planned.modality}
                )
        except ServerChangedError:
            return ""
        told = [[text_of(record, tag) for tag in ("0020000E", *_TELLS.values())] for record in found]
        return newest(told, planned)

    def store(self, planned: Planned, made: Iterable[Dataset]) -> None:
        """Store objects one by one, no faster than the limits say."""
        for dataset in made:
            began = time.monotonic()
            with failures():
                answer = self._client.store_instances([dataset], planned.study)
            if failed := answer.get("FailedSOPSequence"):
                code = failed[0].get("FailureReason", 0)
                raise ServerError(
                    f"the server does not take the objects (reason {code:#06x}); see its log, or its rights"
                )
            keep_to(self._rate, bytes_of(dataset), since=began)
