"""A server by DICOMweb: QIDO-RS lists, WADO-RS gives headers as JSON and objects as they are stored."""

from __future__ import annotations

import base64
import datetime
import hashlib
import io
import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from storage.source.damage import PYDICOM, DamagedError, library_errors
from storage.source.dicom.frames import TAGS
from storage.source.origin import Server
from storage.source.server.archive import Header, Member, Study, credential
from storage.source.server.failures import ServerAwayError, ServerChangedError, ServerError, ServerRefusedError
from storage.source.server.pace import keep_to

for _name in ("urllib3", "requests", "dicomweb_client"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # what they log of a request holds identifiers

PAGE = 1000
"""Studies that are asked for at once."""

TRIES = Retry(
    total=5, backoff_factor=1.0, status_forcelist=(408, 429, 502, 503, 504), raise_on_status=False, redirect=3
)
"""A request is tried again within 31 s, unless the server says when: it may be starting again."""

AS_STORED = (("application/dicom", "*"),)
"""Without it a server decodes all pixels, which takes its time."""

_TELLS = ("StudyInstanceUID", "StudyDate", "NumberOfStudyRelatedInstances", "NumberOfStudyRelatedSeries")
_TELLS_OF_SERIES = ("BodyPartExamined", "NumberOfSeriesRelatedInstances")
_VOLATILE = ("00081190", "00080056", "00080054")
"""Of a study: where, how soon and by which application it can be retrieved, which changes without it."""
_PAGES = 100_000
_GROWING = 3
"""Times that a list is read anew because it changed between two pages."""


def client_of(server: Server) -> tuple[requests.Session, DICOMwebClient]:
    """Session and client for a server, with the credentials of the environment; who opens the session closes it."""
    limits, session = server.limits, requests.Session()
    session.trust_env = False  # else a file of the user's may say who asks
    session.verify = True if limits.authority is None else str(limits.authority)
    if limits.certificate is not None:
        session.cert = (str(limits.certificate), str(limits.key))
    if token := credential("TOKEN"):
        session.headers["Authorization"] = f"Bearer {token}"
    elif user := credential("USER"):
        session.auth = (user, credential("PASSWORD"))
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=TRIES))
    client = DICOMwebClient(server.url, session=session, timeout=limits.timeout, chunk_size=2**17, permissive_uid=True)
    client.set_http_retry_params(retry=False)  # urllib3 tries again
    return session, client


class WebArchive:
    """A connection to a server by DICOMweb; see `storage.source.server.archive.Archive`."""

    def __init__(self, server: Server) -> None:
        self._session, self._client = client_of(server)
        self._rate = server.limits.rate_of_one

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._session.close()

    def studies(self, filters: Mapping[str, str]) -> Iterator[Study]:
        """Studies that match. Pages overlap by one study, which tells whether the list changed between them.

        Orthanc 1.10 counts the limit from the start of the list when it filters by modality, so that it grows here.
        """
        for _ in range(_GROWING):
            seen: dict[str, None] = {}
            last, is_sound = "", True
            for _page in range(_PAGES):
                offset = max(0, len(seen) - 1)
                with failures():
                    records = self._client.search_for_studies(
                        limit=offset + PAGE, offset=offset, fields=list(_TELLS), search_filters=dict(filters)
                    )
                uids = [text_of(record, "0020000D") for record in records]
                is_sound &= not last or not uids or uids[0] == last
                new = [record for record, uid in zip(records, uids, strict=True) if uid and uid not in seen]
                yield from map(_study, new)
                seen |= dict.fromkeys(text_of(record, "0020000D") for record in new)
                if not new or len(records) == 1:
                    break
                last = uids[-1]
            if is_sound:
                return

    def members(self, study: str) -> Sequence[Member]:
        """Series of a study."""
        with failures():
            records = self._client.search_for_series(study, fields=list(_TELLS_OF_SERIES))
        return [
            Member(
                uid=text_of(record, "0020000E"),
                modality=text_of(record, "00080060").upper(),
                body_part=text_of(record, "00180015").upper(),
                n_instances=_number(record, "00201209"),
            )
            for record in records
        ]

    def headers(self, study: str, series: str, *, one: bool = False) -> Sequence[Header]:
        """Headers of all objects of a series, or of one of them."""
        with failures():
            if one:
                found = self._client.search_for_instances(study, series, limit=1)[:1]
                uids = [text_of(record, "00080018") for record in found]
                records = [self._client.retrieve_instance_metadata(study, series, uid) for uid in uids]
            else:
                records = self._client.retrieve_series_metadata(study, series)
        return [header_of(record) for record in records]

    def retrieve(self, study: str, series: str, wanted: Mapping[str, Path]) -> None:
        """Write the objects of a series that are wanted; a transfer that breaks off is tried once more.

        One that ends early is told from a series that has fewer objects than before by the second try alone.
        """
        try:
            self._retrieve(study, series, wanted)
        except (ServerAwayError, ServerChangedError):
            self._retrieve(study, series, wanted)

    def _retrieve(self, study: str, series: str, wanted: Mapping[str, Path]) -> None:
        left, began, n_bytes = dict(wanted), time.monotonic(), 0
        for uid, data in self._objects(study, series):
            if (path := left.pop(uid, None)) is not None:
                path.write_bytes(data)
            n_bytes += len(data)
            keep_to(self._rate, n_bytes, since=began)
        if left:
            raise ServerChangedError(f"the server gave {len(wanted) - len(left)} of {len(wanted)} images of a series")

    def _objects(self, study: str, series: str) -> Iterator[tuple[str, bytes]]:
        """Identifiers and files of the objects of a series, as they come."""
        with failures():
            objects = self._client.iter_series(study, series, media_types=AS_STORED)
        while True:
            with failures(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset = next(objects, None)
                if dataset is None:
                    return
                file = io.BytesIO()
                dataset.save_as(file, enforce_file_format=False)
            yield str(dataset.get("SOPInstanceUID", "")), file.getvalue()


@contextmanager
def failures() -> Iterator[None]:
    """Turn what a request raises into an error that names no identity."""
    try:
        yield
    except requests.HTTPError as error:
        if error.response is not None:
            error.response.close()  # what streams is not read to its end
        raise _of_status(error) from None
    except requests.exceptions.SSLError:
        raise ServerRefusedError(
            "the server's certificate is not trusted, or it does not trust ours; see QMRI_PACS_CA and QMRI_PACS_CERT"
        ) from None
    except (requests.exceptions.JSONDecodeError, requests.exceptions.ContentDecodingError):
        raise ServerError("the server's answer cannot be read; is the address that of its DICOMweb service?") from None
    except requests.RequestException:  # no connection, no answer in time, or a transfer that broke off
        raise ServerAwayError("the server cannot be reached, or stopped answering; run it again later") from None
    except PYDICOM as error:
        raise ServerError(f"what the server sends cannot be read ({type(error).__name__})") from None


def _of_status(error: requests.HTTPError) -> ServerError:
    status = 0 if error.response is None else error.response.status_code
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED}:
        return ServerRefusedError(
            f"the server refuses (HTTP {status}); see QMRI_PACS_USER, QMRI_PACS_PASSWORD and QMRI_PACS_TOKEN"
        )
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
        return ServerChangedError(f"the server no longer has what it told of (HTTP {status})")
    if status in TRIES.status_forcelist:
        return ServerAwayError(f"the server does not answer now (HTTP {status}); run it again later")
    return ServerError(f"the server fails (HTTP {status})")


def _study(record: Mapping[str, Any]) -> Study:
    told = {tag: value for tag, value in record.items() if tag not in _VOLATILE}
    date = None
    with suppress(ValueError):
        date = datetime.datetime.strptime(text_of(record, "00080020"), "%Y%m%d").date().toordinal()
    return Study(
        uid=text_of(record, "0020000D"), stamp=_digest(told), date=date, n_instances=_number(record, "00201208")
    )


def text_of(record: Mapping[str, Any], tag: str) -> str:
    """First value of an element of a JSON object as text; empty if there is none."""
    values = record.get(tag, {}).get("Value") or [""]
    return str(values[0] or "").strip(" \0")


def _number(record: Mapping[str, Any], tag: str) -> int | None:
    text = text_of(record, tag)
    return int(text) if text.isdecimal() else None


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@cache
def _wanted() -> frozenset[str]:
    return frozenset(f"{tag:08X}" for tag in TAGS)


def header_of(record: Mapping[str, Any]) -> Header:
    """Header of one object from its JSON, of the elements that are read of files, and the digest of all of it."""
    told = {tag: element for tag, element in record.items() if "BulkDataURI" not in element}
    syntax = UID(text_of(record, "00083002") or ExplicitVRLittleEndian)
    dataset: Dataset | None = None
    with suppress(DamagedError):
        dataset = _dataset({tag: element for tag, element in told.items() if tag in _wanted()})
        with library_errors(PYDICOM):
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset.SpecificCharacterSet = "ISO_IR 192"  # of JSON, whatever the object's own
    return Header(dataset=dataset, digest=_digest(told))


def _dataset(record: Mapping[str, Any]) -> Dataset:
    """Data set of a JSON object; what is of unknown kind there becomes what files hold, for the library to resolve."""
    nested = {tag: element for tag, element in record.items() if element.get("vr") == "SQ"}
    unknown = {tag: element for tag, element in record.items() if element.get("vr") == "UN"}
    plain = {tag: element for tag, element in record.items() if tag not in nested and tag not in unknown}
    with library_errors(PYDICOM):
        dataset: Dataset = Dataset.from_json(plain)
    for tag, element in unknown.items():
        with library_errors(PYDICOM):
            value = base64.b64decode(element.get("InlineBinary", ""))
            dataset[Tag(tag)] = RawDataElement(Tag(tag), "UN", len(value), value, 0, False, True)
    for tag, element in nested.items():
        items = [_dataset(_without_bulk(item)) for item in element.get("Value") or []]
        with library_errors(PYDICOM):
            dataset.add_new(Tag(tag), "SQ", Items(items))
    return dataset


def _without_bulk(record: Mapping[str, Any]) -> dict[str, Any]:
    return {tag: element for tag, element in record.items() if "BulkDataURI" not in element}
