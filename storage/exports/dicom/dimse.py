"""Maps stored on a server by DIMSE: C-FIND says what it has, C-STORE stores what it lacks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from pydicom.dataset import Dataset
from pynetdicom.association import Association

from storage.exports.dicom.export import Planned
from storage.exports.dicom.receiver import bytes_of, newest
from storage.source.origin import Server
from storage.source.server.association import ends_as_away, identifier_of, listed, raise_for, storing
from storage.source.server.failures import ServerRefusedError
from storage.source.server.pace import keep_to

_SENT = ("1.2.840.10008.5.1.4.1.1.30", "1.2.840.10008.5.1.4.1.1.4")
"""Parametric Map and MR image."""
_ALREADY_THERE = 0x0111
"""Status of some servers for an object that they have."""


class DimseReceiver:
    """A server by DIMSE; see `storage.exports.dicom.export.Receiver`."""

    def __init__(self, server: Server) -> None:
        self._server, self._rate = server, server.limits.rate
        self._stack = ExitStack()
        self._open: Association | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stack.close()

    def lacking(self, planned: Planned) -> frozenset[str]:
        """Identifiers of the objects of a series that the server does not tell of."""
        found = self._find(
            "IMAGE",
            {"StudyInstanceUID": planned.study, "SeriesInstanceUID": planned.series, "SOPInstanceUID": ""},
        )
        return frozenset(planned.instances) - {str(one.get("SOPInstanceUID", "")) for one in found}

    def replaced(self, planned: Planned) -> str:
        """Identifier of the newest series of the study with the same description, of another version."""
        told = ("SeriesInstanceUID", "SeriesDescription", "SeriesDate", "SeriesTime")
        asked = {"StudyInstanceUID": planned.study, "Modality": planned.modality, **dict.fromkeys(told, "")}
        found = self._find("SERIES", asked)
        return newest([[str(one.get(name) or "") for name in told] for one in found], planned)

    def store(self, planned: Planned, made: Iterable[Dataset]) -> None:  # noqa: ARG002 - each object names its series
        """Store objects one by one, no faster than the limits say."""
        for dataset in made:
            began = time.monotonic()
            self._send(dataset)
            keep_to(self._rate, bytes_of(dataset), since=began)

    def _send(self, dataset: Dataset) -> None:
        association = self._association()
        accepted = [one for one in association.accepted_contexts if one.abstract_syntax == dataset.SOPClassUID]
        if not accepted:
            raise ServerRefusedError(
                f"the server does not take objects of the class {dataset.SOPClassUID.name}; ask for it, or try --as"
            )
        dataset.file_meta.TransferSyntaxUID = accepted[0].transfer_syntax[0]
        with ends_as_away():
            status = association.send_c_store(dataset).get("Status")
        if status != _ALREADY_THERE:
            raise_for(status)

    def _find(self, level: str, asked: Mapping[str, str]) -> list[Dataset]:
        """What the server tells of series or objects; nothing of one that tells this application nothing."""
        return listed(self._association(), identifier_of(level, asked))

    def _association(self) -> Association:
        """The association; another one if the last has ended, since servers end those at their will."""
        if self._open is None or not self._open.is_established:
            self._stack.close()
            self._open = self._stack.enter_context(storing(self._server, _SENT))
        return self._open
