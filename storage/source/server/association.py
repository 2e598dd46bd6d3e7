"""Associations with a server by DIMSE: as whom, what for, over TLS or not, and what the server's answers mean."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

from pydicom.dataset import Dataset
from pydicom.uid import UID, AllTransferSyntaxes, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context, build_role

from storage.source.dicom.extent import is_decodable
from storage.source.dicom.frames import MR_IMAGE, MR_IMAGES
from storage.source.origin import Limits, Server
from storage.source.server.failures import ServerAwayError, ServerError, ServerRefusedError

logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # what it logs of requests holds identifiers
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False  # they would be written as text all the same

FIND, MOVE, GET = (UID(f"1.2.840.10008.5.1.4.1.2.2.{number}") for number in (1, 2, 3))
"""Study root: find, move, get."""
SUCCESS, PENDING, WARNINGS = 0x0000, frozenset({0xFF00, 0xFF01}), frozenset({0xB000})
NOT_WANTED, FAILED = 0x0124, 0xA700
"""What a server is told that sends an object that was not asked for, or that cannot be kept."""
SENT_AS = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
"""Transfer syntaxes in which objects are offered to a server."""

_REFUSALS = frozenset({0x0122, 0x0124, 0x0212, 0xA801})
"""SOP class not supported, not authorised, unrecognised operation, and an AE title that the server does not know."""
_BUSY = frozenset({0xA700, 0xA701, 0xA702})
_MAX_PDU = 2**17
_NO_ANSWER = "the server stopped answering; run it again later"

Sink = Callable[[str, bytes], int]
"""Takes the identifier and the file of an object that a server sends; a status."""


def is_moved(server: Server) -> bool:
    """Whether images come by C-MOVE: over TLS they do not, since this application would have to be a server of it."""
    return server.limits.move_port is not None and not server.url.startswith("dimse+tls")


@contextmanager
def associated(server: Server, sink: Sink) -> Iterator[Association]:
    """An association in which the server lists, and sends objects to ``sink`` if it is asked to.

    Raises
    ------
    ServerRefusedError
        If the server does not accept this application, or not what is asked of it.
    ServerAwayError
        If there is none.
    """
    contexts = [build_context(FIND), build_context(MOVE if is_moved(server) else GET)]
    roles: list[Any] = []
    if not is_moved(server):
        contexts += _image_contexts()
        roles = [build_role(UID(name), scp_role=True) for name in sorted(MR_IMAGES)]
    with _association(server, contexts, roles, [(evt.EVT_C_STORE, _handler(sink))]) as association:
        yield association


@contextmanager
def storing(server: Server, kinds: Sequence[str]) -> Iterator[Association]:
    """An association in which the server lists, and is sent objects of some SOP classes, as far as it takes them.

    Raises
    ------
    ServerRefusedError
        If the server does not accept this application, or does not list.
    ServerAwayError
        If there is none.
    """
    contexts = [build_context(FIND), *(build_context(UID(name), list(SENT_AS)) for name in kinds)]
    with _association(server, contexts, [], []) as association:
        yield association


@contextmanager
def _association(
    server: Server, contexts: list[PresentationContext], roles: list[Any], handlers: list[Any]
) -> Iterator[Association]:
    parts, own = urlsplit(server.url), _entity(server.limits)
    is_tls = parts.scheme == "dimse+tls"
    association = own.associate(
        str(parts.hostname), int(parts.port or 0), contexts, unquote(parts.username or ""),
        max_pdu=_MAX_PDU, ext_neg=roles, tls_args=(_tls(server.limits), str(parts.hostname)) if is_tls else None,
        evt_handlers=handlers,
    )  # fmt: skip
    try:
        _check(association, is_tls=is_tls)
        yield association
    finally:
        if association.is_established:
            association.release()
        own.shutdown()


@contextmanager
def listening(limits: Limits, sink: Sink) -> Iterator[None]:
    """Take the objects that a server sends to this application's own address, as C-MOVE has it."""
    own = _entity(limits)
    own.supported_contexts = [build_context(UID(name), list(_syntaxes(name))) for name in sorted(MR_IMAGES)]
    own.require_called_aet = True
    try:
        listener = own.start_server(
            ("", int(limits.move_port or 0)), block=False, evt_handlers=[(evt.EVT_C_STORE, _handler(sink))]
        )
    except OSError as error:
        text = f"images cannot be taken at port {limits.move_port} ({error.strerror}); see QMRI_PACS_MOVE_PORT"
        raise ServerError(text) from None
    try:
        yield
    finally:
        if listener is not None:
            listener.shutdown()
        own.shutdown()


def identifier_of(level: str, asked: Mapping[str, str]) -> Dataset:
    """What is asked for, at a level of the study root."""
    found = Dataset()
    found.QueryRetrieveLevel = level
    for keyword, value in asked.items():
        setattr(found, keyword, value)
    return found


def listed(association: Association, identifier: Dataset) -> list[Dataset]:
    """What the server tells by C-FIND.

    Raises
    ------
    ServerError
        If it refuses or fails; `ServerAwayError` if the association has just ended.
    """
    found, status = list[Dataset](), None
    with ends_as_away():
        for answer, told in association.send_c_find(identifier, FIND):
            status = answer.get("Status")
            if status in PENDING and told is not None:
                found.append(told)
    raise_for(status)
    return found


@contextmanager
def ends_as_away() -> Iterator[None]:
    """Turn what pynetdicom raises of an association that has just ended."""
    try:
        yield
    except RuntimeError:
        raise ServerAwayError(_NO_ANSWER) from None


def raise_for(status: int | None) -> None:
    """Raise what a final status of the server means; None is no answer at all.

    Raises
    ------
    ServerError
        Unless it is success, or a warning, as which the objects that are missing are seen anyway.
    """
    if status is None:
        raise ServerAwayError(_NO_ANSWER)
    if status == SUCCESS or status in WARNINGS:
        return
    if status in _REFUSALS:
        raise ServerRefusedError(
            f"the server refuses (status {status:04X}); does it know QMRI_PACS_TITLE, and allow it?"
        )
    if status in _BUSY:
        raise ServerAwayError(f"the server is out of resources (status {status:04X}); run it again later")
    raise ServerError(f"the server fails (status {status:04X})")


def _entity(limits: Limits) -> AE:
    own = AE(limits.title)
    own.acse_timeout = own.dimse_timeout = own.network_timeout = own.connection_timeout = limits.timeout
    own.maximum_pdu_size = _MAX_PDU
    return own


def _check(association: Association, *, is_tls: bool) -> None:
    if association.is_rejected:
        raise _rejection(association)
    if not association.is_established:
        hint = "or TLS fails, see QMRI_PACS_CA" if is_tls else "or speaks no DIMSE"
        raise ServerAwayError(f"the server cannot be reached, {hint}; run it again later")
    accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
    asked = {str(context.abstract_syntax) for context in association.requestor.requested_contexts}
    if lacking := sorted(UID(name).name.rpartition(" ")[2] for name in {FIND, GET, MOVE} & asked - accepted):
        raise ServerRefusedError(f"the server does not allow C-{', C-'.join(lacking)} to this application")


def _rejection(association: Association) -> ServerError:
    answer = association.acceptor.primitive
    source, reason = (answer.result_source, answer.diagnostic) if answer is not None else (None, None)
    if source == 1 and reason == 3:
        return ServerRefusedError("the server does not know QMRI_PACS_TITLE, this application's AE title")
    if source == 1 and reason == 7:
        return ServerRefusedError("the server does not bear the AE title that stands before the @ of the address")
    if source == 3:
        return ServerAwayError("the server takes no more associations now; run it again later")
    return ServerRefusedError(f"the server rejects the association (source {source}, reason {reason})")


def _tls(limits: Limits) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=limits.authority)
        if limits.certificate is not None:
            context.load_cert_chain(limits.certificate, limits.key)
    except OSError as error:  # of ssl, too
        text = f"certificates cannot be read ({type(error).__name__}); see QMRI_PACS_CA, QMRI_PACS_CERT, QMRI_PACS_KEY"
        raise ServerRefusedError(text) from None
    return context


def _handler(sink: Sink) -> Callable[[evt.Event], int]:
    def take(event: evt.Event) -> int:
        request: Any = event.request
        return sink(str(request.AffectedSOPInstanceUID), event.encoded_dataset())

    return take


@cache
def _syntaxes(image: str) -> tuple[str, ...]:
    """Transfer syntaxes in which images may come: all of classic ones, so that what cannot be decoded is known."""
    return tuple(str(name) for name in AllTransferSyntaxes if image == MR_IMAGE or is_decodable(name))


def _image_contexts() -> list[PresentationContext]:
    """Each image in each transfer syntax by itself, so that a server sends what it has as it has it."""
    return [build_context(UID(name), syntax) for name in sorted(MR_IMAGES) for syntax in _syntaxes(name)]
