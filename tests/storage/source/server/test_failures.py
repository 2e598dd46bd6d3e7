"""A server that is away, slow, refuses, changes while it is read, or whose run was killed; what is asked of it."""

from __future__ import annotations

import logging
import signal
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
from urllib3.util import Retry

from storage.source.discovery import Scanned, Series, read_volume, scan_source
from storage.source.origin import Limits, Server, SourceError, source_of
from storage.source.server import spool, web
from storage.source.server.failures import ServerAwayError, ServerChangedError, ServerError, ServerRefusedError
from tests.orthanc import Orthanc, needs_orthanc
from tests.storage.slices import SECRETS, STUDY, voxels, write_series

KEY = b"a key for tests, of thirty-two b"
USERS = {"AuthenticationEnabled": True, "RegisteredUsers": {"research": "a-secret-word"}}

pytestmark = needs_orthanc


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between tries, and few of them."""
    monkeypatch.setattr(web, "TRIES", Retry(total=1, backoff_factor=0, status_forcelist=(503,), raise_on_status=False))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A server with a user, so that all of this is told who asks."""
    with Orthanc(tmp_path_factory.mktemp("orthanc"), **USERS) as running:
        yield running


@pytest.fixture
def server(orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Its two studies, with credentials in the environment."""
    monkeypatch.setenv("QMRI_PACS_USER", "research")
    monkeypatch.setenv("QMRI_PACS_PASSWORD", "a-secret-word")
    for study in orthanc.get("/studies"):
        orthanc.delete(f"/studies/{study}")
    for number in (1, 2):
        store(orthanc, tmp_path / "in" / str(number), number)
    return of(orthanc, tmp_path / "spool")


def of(orthanc: Orthanc, folder: Path, **limits: Any) -> Server:
    found = source_of(orthanc.web, Limits(spool=folder, **limits))
    assert isinstance(found, Server)
    return found


def store(orthanc: Orthanc, folder: Path, number: int, *, n_slices: int = 3, **changes: Any) -> None:
    study = f"{STUDY}.{number}"
    values: dict[str, Any] = {"StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.1", "PatientID": f"P{number}"}
    write_series(folder, voxels(n_slices, seed=number), **(values | changes))
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{study}.1.{dataset.InstanceNumber}"
        dataset.save_as(path)
    orthanc.store(folder.iterdir())


def scanned(server: Server, index: Path | None = None) -> Scanned:
    return scan_source(server, key=KEY, index=index)


def series_of(server: Server, index: Path | None = None) -> list[Series]:
    with scanned(server, index) as found:
        return [one for session in found.sessions for one in found.session(session)[0]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of all requests."""
    paths: list[str] = []
    send = requests.Session.send

    def counting(self: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        paths.append(request.path_url)
        return send(self, request, **options)

    monkeypatch.setattr(requests.Session, "send", counting)
    return paths


def test_no_news_cost_one_list(server: Server, tmp_path: Path, asked: list[str]) -> None:
    first = series_of(server, tmp_path / "index")
    asked.clear()
    assert series_of(server, tmp_path / "index") == first
    assert len(asked) <= 2
    assert not [path for path in asked if "/series" in path]


def test_new_changed_and_deleted_studies(server: Server, orthanc: Orthanc, tmp_path: Path, asked: list[str]) -> None:
    before = series_of(server, tmp_path / "index")
    assert [one.n_instances for one in before] == [3, 3]
    store(orthanc, tmp_path / "more", 1, n_slices=4)
    store(orthanc, tmp_path / "new", 3, n_slices=2)
    gone = next(study for study in orthanc.get("/studies?expand") if study["PatientMainDicomTags"]["PatientID"] == "P2")
    orthanc.delete(f"/studies/{gone['ID']}")
    asked.clear()
    with scanned(server, tmp_path / "index") as found:
        after = [one for session in found.sessions for one in found.session(session)[0]]
        assert found.n_files == 6
    assert sorted(one.n_instances for one in after) == [2, 4]
    assert not [path for path in asked if f"{STUDY}.2/" in path]
    by_size = {one.n_instances: one for one in after}
    assert by_size[4].changed > time.time() - 60  # since it was listed first
    assert by_size[2].changed == 0.0  # of a day long ago, and seen for the first time


def test_a_list_of_several_pages_is_read_whole(
    server: Server, orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (3, 4, 5):
        store(orthanc, tmp_path / "more" / str(number), number, n_slices=1)
    monkeypatch.setattr(web, "PAGE", 2)
    with web.WebArchive(server) as archive:
        found = [study.uid for study in archive.studies(dict(server.filters))]
    assert sorted(found) == [f"{STUDY}.{number}" for number in (1, 2, 3, 4, 5)]


def test_credentials(server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    (one, *_) = series_of(server)
    assert read_volume(one).array.shape == (3, 6, 4)
    monkeypatch.setenv("QMRI_PACS_PASSWORD", "another-secret-word")
    for ask in (lambda: scanned(server), lambda: read_volume(one)):
        with pytest.raises(ServerRefusedError, match=r"HTTP 401.*QMRI_PACS_USER"):
            ask()
    told = caplog.text + repr(server) + repr(one)
    assert not [word for word in ("secret", "research", STUDY, *SECRETS) if word in told]


def killed(server: Server, orthanc: Orthanc, index: Path) -> None:
    """Whichever way it is asked: it is away while it is, and a run after that asks anew."""
    one, _ = series_of(server, index)
    orthanc.kill()
    try:
        with pytest.raises(ServerAwayError, match="cannot be reached"):
            read_volume(one)
        with pytest.raises(ServerAwayError, match="a moment ago"):
            read_volume(one)
        with pytest.raises(ServerAwayError, match="cannot be reached"):
            scanned(server, index)
    finally:
        orthanc.start()
    assert len(series_of(server, index)) == 2  # a run asks anew
    assert read_volume(one).array.shape == (3, 6, 4)


def hanging(server: Server, orthanc: Orthanc) -> Server:
    """Whichever way it is asked: it is away. The same server, with the patience that it was asked with."""
    hasty = replace(server, limits=replace(server.limits, timeout=0.5))
    assert orthanc.process is not None
    orthanc.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(ServerAwayError):
            scanned(hasty)
    finally:
        orthanc.process.send_signal(signal.SIGCONT)
    return hasty


def test_a_server_that_was_killed(server: Server, orthanc: Orthanc, tmp_path: Path) -> None:
    killed(server, orthanc, tmp_path / "index")


def test_a_server_that_hangs(server: Server, orthanc: Orthanc) -> None:
    assert len(series_of(hanging(server, orthanc))) == 2


def test_what_is_gone_or_less_than_it_was(server: Server, orthanc: Orthanc) -> None:
    one, other = series_of(server)
    for wanted, path in ((one, "instances"), (other, "studies")):
        uid = wanted.paths[0].rpartition("/")[2] if path == "instances" else wanted.paths[0].partition("/")[0]
        (found,) = orthanc.session.post(f"{orthanc.rest}/tools/lookup", data=uid).json()
        orthanc.delete(f"/{path}/{found['ID']}")
    with pytest.raises(ServerChangedError, match="2 of 3 images"):
        read_volume(one)
    with pytest.raises(ServerChangedError, match="HTTP 404"):
        read_volume(other)


def test_a_study_whose_headers_fail_is_counted(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = web.WebArchive.members

    def failing(self: web.WebArchive, study: str) -> Any:
        if study == f"{STUDY}.2":
            raise ServerError("the server fails (HTTP 500)")
        return members(self, study)

    with monkeypatch.context() as fault, scanned_with(fault, failing, server, tmp_path / "index") as found:
        assert (len(found.sessions), found.n_files) == (1, 6)
        assert found.unreadable == {"server_error": 3}
    assert len(series_of(server, tmp_path / "index")) == 2  # it is tried again


def scanned_with(fault: pytest.MonkeyPatch, members: Any, server: Server, index: Path) -> Scanned:
    fault.setattr(web.WebArchive, "members", members)
    return scanned(server, index)


def test_no_dicomweb_there(server: Server) -> None:
    for path in ("/dicom-web-2", "/app/explorer.html#"):
        wrong = replace(server, url=server.url.replace("/dicom-web", path))
        with pytest.raises(ServerError):
            scan_source(wrong, key=KEY)


def test_what_a_killed_run_left_is_removed(server: Server, tmp_path: Path) -> None:
    left = tmp_path / "spool" / "7"
    left.mkdir(parents=True, mode=0o700)
    (tmp_path / "spool").chmod(0o700)
    (left / "0.dcm").write_bytes(b"of somebody")
    series_of(server)
    assert not left.exists()


def test_places_bound_what_is_asked_at_once(tmp_path: Path) -> None:
    limits, inside, most = Limits(spool=tmp_path / "spool", connections=2), [0], [0]
    lock = threading.Lock()

    def work() -> None:
        with spool.place(limits) as folder:
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            assert list(folder.iterdir()) == []
            (folder / "0.dcm").touch()
            time.sleep(0.05)
            with lock:
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [2]
    assert not [path for path in (tmp_path / "spool").iterdir() if path.is_dir()]
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700


def test_a_spool_that_others_may_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool").chmod(0o750)
    with pytest.raises(SourceError, match="QMRI_PACS_SPOOL"):
        spool.clean(Limits(spool=tmp_path / "spool"))


def test_the_rate_is_kept(server: Server, orthanc: Orthanc, tmp_path: Path) -> None:
    (one, *_) = series_of(server)
    n_bytes = sum(path.stat().st_size for path in (tmp_path / "in" / "1").iterdir())
    slow = of(orthanc, tmp_path / "slow", rate=2 * n_bytes / 0.6, connections=2)
    began = time.monotonic()
    with spool.retrieved(next(found for found in series_of(slow) if found.paths == one.paths)) as local:
        assert len(local.paths) == 3
    assert time.monotonic() - began >= 0.5
