"""Where a source lies: a folder or file, or a server of DICOM images with what is asked of it and how gently."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

FILTERS = ("ModalitiesInStudy", "StudyDescription", "BodyPartExamined", "StudyDate")
"""What studies may be chosen by, behind the ``?`` of an address, with the wildcards and ranges of DICOM."""

_SCHEMES = {"dicomweb+https": "https", "dicomweb+http": "http", "dimse": "dimse", "dimse+tls": "dimse+tls"}
_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")
"""An AE title: 16 characters of ASCII at most, without backslash."""
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")
_NO_CREDENTIALS = "the address of a source holds no credentials: set QMRI_PACS_USER and QMRI_PACS_PASSWORD"
_DATES = re.compile(r"(\d{8})?-?(\d{8})?")


class SourceError(ValueError):
    """The source is missing, empty, not what it was said to be, or a server that gives nothing."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """The source is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How a server is asked, the same for all requests of this machine; no credentials."""

    connections: int = 2
    """Studies or series that this machine asks for at once, all processes of it together."""
    rate: float | None = None
    """Bytes of images per second that this machine retrieves at most, on average over a series; None: no bound."""
    timeout: float = 60.0
    """Seconds without a byte after which the server counts as away."""
    spool: Path | None = None
    """Folder for what is retrieved, until it is read; None: one of the user's in the folder of temporary files."""
    authority: Path | None = None
    """PEM file of the authority that has signed the server's certificate; None: those of the system."""
    certificate: Path | None = None
    """PEM file of the certificate that this application shows, and of its private ``key``."""
    key: Path | None = None
    title: str = "QMRI"
    """AE title of this application, by which a server knows it over DIMSE."""
    move_port: int | None = None
    """Port at which it takes what a server sends by C-MOVE; None: C-GET is asked for."""

    @property
    def rate_of_one(self) -> float | None:
        """Part of the rate that one connection may take."""
        return None if self.rate is None else self.rate / self.connections


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server of DICOM images by DICOMweb, whose service is at ``url``, or by DIMSE; its text is its address."""

    address: str
    url: str
    filters: tuple[tuple[str, str], ...] = ()
    limits: Limits = field(default_factory=Limits, repr=False)

    def __str__(self) -> str:
        return self.address


Source = Path | Server


def source_of(text: str | Path, limits: Limits | None = None) -> Source:
    """Source that a user names: an address, or the path of a folder or a file.

    ``dicomweb+https://host/path``, and on this machine only ``dicomweb+http://``; ``dimse://AE@host:port``, or
    ``dimse+tls://``. Behind a ``?`` stand `FILTERS`: ``?StudyDescription=*HEAD*&StudyDate=20240101-``.

    Raises
    ------
    SourceError
        If an address is none of these, or holds credentials.
    """
    text = str(text)
    scheme, _, rest = text.partition("://")
    if not rest:
        return Path(text)
    if scheme not in _SCHEMES:
        kinds = "a folder, dicomweb+https://host/path or dimse://AE@host:port"
        raise SourceError(f"{scheme}://... is no source: give {kinds}")
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        raise SourceError("the address of the source cannot be read; is its port a number?") from None
    if not host:
        raise SourceError("the address of the source names no host")
    if scheme.startswith("dimse"):
        if not _TITLE.fullmatch(unquote(parts.username or "")) or port is None or parts.path.strip("/"):
            raise SourceError("a source by DIMSE is dimse://AE@host:port, where AE is the server's AE title")
    elif parts.username is not None:
        raise SourceError(_NO_CREDENTIALS)
    if parts.password is not None:
        raise SourceError(_NO_CREDENTIALS)
    if scheme == "dicomweb+http" and not _LOOPBACK.fullmatch(host):
        raise SourceError("dicomweb+http:// is for this machine alone: names travel there; use dicomweb+https://")
    url = f"{_SCHEMES[scheme]}://{parts.netloc}{parts.path.rstrip('/')}"
    return Server(address=text, url=url, filters=_filters(parts.query), limits=limits or Limits())


def destination_of(text: str | Path, limits: Limits | None = None) -> Source:
    """Where a user wants objects to be stored: the address of a server, or the path of a folder.

    Raises
    ------
    SourceError
        If an address is none of `source_of`, or chooses studies.
    """
    found = source_of(text, limits)
    if isinstance(found, Server) and "?" in str(text):
        raise SourceError("a server that objects are stored on has no ? in its address")
    return found


def _filters(query: str) -> tuple[tuple[str, str], ...]:
    found = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(set(found) - set(FILTERS)):
        raise SourceError(f"studies are not chosen by {', '.join(unknown)}, but by {', '.join(FILTERS)}")
    dates = found.get("StudyDate", "")
    if dates and (_DATES.fullmatch(dates) is None or dates == "-"):
        raise SourceError("StudyDate is a day or a range of days: 20240101, 20240101-, -20241231, 20240101-20241231")
    return tuple({"ModalitiesInStudy": "MR", **found}.items())


def absolute(source: Source) -> Source:
    """The source as another folder would name it."""
    return source.absolute() if isinstance(source, Path) else source


def is_there(source: Source) -> bool:
    """Whether a folder or file exists; of a server nobody knows before it is asked."""
    return isinstance(source, Server) or source.exists()


def root_of(source: Source) -> Path:
    """Folder that paths of a source's files are told below; those of a server begin with the study."""
    if isinstance(source, Server):
        return Path()
    return source if source.is_dir() else source.parent


def mark_of(source: Source) -> bytes:
    """What tells a source from others."""
    return source.address.encode() if isinstance(source, Server) else os.fsencode(source.absolute())
