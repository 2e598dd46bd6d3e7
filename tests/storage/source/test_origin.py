"""Addresses of sources: what they mean, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.source.origin import Server, SourceError, is_there, mark_of, root_of, source_of


def test_a_path_is_a_path(tmp_path: Path) -> None:
    assert source_of("some/folder") == Path("some/folder")
    assert source_of(tmp_path) == tmp_path
    assert root_of(tmp_path) == tmp_path


def test_a_server_by_dicomweb() -> None:
    found = source_of("dicomweb+https://pacs.example.org:8443/dicom-web/?StudyDescription=*HEAD*&StudyDate=20240101-")
    assert isinstance(found, Server)
    assert found.url == "https://pacs.example.org:8443/dicom-web"
    expected = {"ModalitiesInStudy": "MR", "StudyDescription": "*HEAD*", "StudyDate": "20240101-"}
    assert dict(found.filters) == expected
    assert is_there(found)


def test_a_server_by_dimse() -> None:
    for scheme in ("dimse", "dimse+tls"):
        found = source_of(f"{scheme}://MY%20PACS@pacs.example.org:11112?StudyDate=20240101-")
        assert isinstance(found, Server)
        assert found.url == f"{scheme}://MY%20PACS@pacs.example.org:11112"
        assert dict(found.filters) == {"ModalitiesInStudy": "MR", "StudyDate": "20240101-"}


def test_sources_are_told_apart(tmp_path: Path) -> None:
    texts = ("dicomweb+https://a/x", "dicomweb+https://b/x", "dicomweb+https://a/x?StudyDate=20240101", str(tmp_path))
    assert len({mark_of(source_of(text)) for text in texts}) == 4


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://host/dicom-web", "is no source"),
        ("dicomweb+http://pacs.example.org/dicom-web", "for this machine alone"),
        ("dicomweb+https://user:word@host/path", "no credentials"),
        ("dimse://pacs.example.org:104", "AE is the server's AE title"),
        ("dimse://PACS@pacs.example.org", "AE is the server's AE title"),
        ("dimse://AN-AE-TITLE-TOO-LONG@pacs.example.org:104", "AE is the server's AE title"),
        ("dimse://PACS@pacs.example.org:104/path", "AE is the server's AE title"),
        ("dimse://PACS:word@pacs.example.org:104", "no credentials"),
        ("dicomweb+https:///path", "names no host"),
        ("dicomweb+https://host:port/path", "its port"),
        ("dicomweb+https://host/path?PatientName=Smith", "not chosen by PatientName"),
        ("dicomweb+https://host/path?StudyDate=last%20week", "StudyDate is"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        source_of(text)
