"""A server by DIMSE: what it is asked for, and how it fails; DICOMweb's failures are in `test_failures`."""

from __future__ import annotations

import gc
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.source.discovery import Series, discover, read_volume, scan_source
from storage.source.origin import Limits, Server, SourceError, source_of
from storage.source.server import dimse
from storage.source.server.failures import ServerAwayError, ServerChangedError, ServerError, ServerRefusedError
from storage.source.server.spool import retrieved
from tests.flows.certificates import write_certificates
from tests.orthanc import Orthanc, needs_orthanc
from tests.relay import Relay
from tests.storage.slices import SECRETS, STUDY, voxels, write_series
from tests.storage.source.server.test_failures import KEY, hanging, killed, series_of, store
from tests.storage.source.server.test_same import in_order, told, write_mixed

pytestmark = [needs_orthanc, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Of a server that cannot be reached, pynetdicom drops the socket without closing it."""
    yield
    gc.collect()


EPI = {"ScanningSequence": "EP", "SequenceVariant": "SK", "RepetitionTime": "3000", "EchoTime": "30"}


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture
def server(orthanc: Orthanc, tmp_path: Path) -> Server:
    """Its two studies."""
    for study in orthanc.get("/studies"):
        orthanc.delete(f"/studies/{study}")
    for number in (1, 2):
        store(orthanc, tmp_path / "in" / str(number), number)
    return of(orthanc.dimse, tmp_path / "spool")


def of(address: str, spool: Path, **limits: Any) -> Server:
    found = source_of(address, Limits(spool=spool, **({"timeout": 5.0} | limits)))
    assert isinstance(found, Server)
    return found


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Identifiers of the objects that the server sends."""
    uids: list[str] = []
    take = dimse.DimseArchive._sent

    def counting(self: dimse.DimseArchive, level: str, asked: Any, sink: dimse.Sink) -> int | None:
        return take(self, level, asked, lambda uid, file: uids.append(uid) or sink(uid, file))  # type: ignore[func-returns-value]

    monkeypatch.setattr(dimse.DimseArchive, "_sent", counting)
    return uids


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Levels of all lists that were asked for."""
    levels: list[str] = []
    find = dimse.DimseArchive._find

    def counting(self: dimse.DimseArchive, level: str, *rest: Any) -> Any:
        levels.append(level)
        return find(self, level, *rest)

    monkeypatch.setattr(dimse.DimseArchive, "_find", counting)
    return levels


def test_no_news_cost_one_list(server: Server, tmp_path: Path, asked: list[str], sent: list[str]) -> None:
    first = series_of(server, tmp_path / "index")
    assert len(sent) == 2  # one of each series, since the list tells the rest
    asked.clear()
    assert series_of(server, tmp_path / "index") == first
    assert asked == ["STUDY"]
    assert len(sent) == 2


def test_new_changed_and_deleted_studies(server: Server, orthanc: Orthanc, tmp_path: Path) -> None:
    assert [one.n_instances for one in series_of(server, tmp_path / "index")] == [3, 3]
    store(orthanc, tmp_path / "more", 1, n_slices=4)
    store(orthanc, tmp_path / "new", 3, n_slices=2)
    gone = next(study for study in orthanc.get("/studies?expand") if study["PatientMainDicomTags"]["PatientID"] == "P2")
    orthanc.delete(f"/studies/{gone['ID']}")
    assert sorted(one.n_instances for one in series_of(server, tmp_path / "index")) == [2, 4]


@pytest.mark.usefixtures("server")
def test_studies_are_chosen_by_time_and_description(orthanc: Orthanc, tmp_path: Path) -> None:
    store(orthanc, tmp_path / "new", 3, n_slices=4, StudyDate="20250301", StudyDescription="HEAD routine")
    for query in ("StudyDate=20250101-", "StudyDescription=*HEAD*"):
        assert [one.n_instances for one in series_of(of(f"{orthanc.dimse}?{query}", tmp_path / "spool"))] == [4]


@pytest.mark.usefixtures("server")
def test_of_what_is_no_candidate_one_object_travels(orthanc: Orthanc, tmp_path: Path, sent: list[str]) -> None:
    store(orthanc, tmp_path / "epi", 3, n_slices=30, **EPI)
    with Orthanc(tmp_path / "silent", StorageAccessOnFind="Never") as silent:
        silent.store(path for path in (tmp_path / "epi").iterdir())
        silent.store(path for path in (tmp_path / "in" / "1").iterdir())
        one, other = series_of(of(silent.dimse, tmp_path / "spool"))
        assert {one.n_instances, other.n_instances} == {30, 3}
        assert len(sent) == 2 + 3  # one of each, and all of what may be taken, for their headers


def test_a_server_that_tells_little_gives_the_same(tmp_path: Path) -> None:
    write_mixed(tmp_path / "in")
    with Orthanc(tmp_path / "silent", StorageAccessOnFind="Never") as silent:
        silent.store(path for path in (tmp_path / "in").rglob("*") if path.is_file())
        theirs = discover(of(silent.dimse, tmp_path / "spool"), key=KEY)
    ours = discover(tmp_path / "in", key=KEY)
    images = [[told(one) for one in in_order(found) if one.problem is None] for found in (ours, theirs)]
    assert images[1] == images[0]
    assert len(images[0]) == 4
    all_of_it = [[(s.session, s.number, s.n_instances, s.problem) for s in in_order(found)] for found in (ours, theirs)]
    assert all_of_it[1] == all_of_it[0]
    assert (theirs.n_files, theirs.unreadable) == (ours.n_files, ours.unreadable)


def test_who_is_not_known_is_refused(server: Server, orthanc: Orthanc, tmp_path: Path) -> None:
    stranger = replace(server, limits=replace(server.limits, title="STRANGER"))
    with pytest.raises(ServerRefusedError, match="QMRI_PACS_TITLE"):
        scan_source(stranger, key=KEY)
    with pytest.raises(ServerRefusedError, match="AE title that stands before the @"):
        scan_source(of(orthanc.dimse.replace("ORTHANC@", "ANOTHER@"), tmp_path / "spool"), key=KEY)


def test_a_server_that_does_not_know_where_to_send(orthanc: Orthanc, server: Server, tmp_path: Path) -> None:
    (one, *_) = series_of(server)
    lost = replace(server, limits=replace(server.limits, move_port=orthanc.mover, title="QMRI"))
    assert read_volume(replace(one, server=lost)).array.shape == (3, 6, 4)
    modalities = {"here": ["QMRI", "127.0.0.1", 1]}
    with Orthanc(tmp_path / "elsewhere", DicomModalities=modalities) as elsewhere:
        elsewhere.store((tmp_path / "in" / "1").iterdir())
        with pytest.raises(SourceError, match="3 server_error"):
            scan_source(of(elsewhere.dimse, tmp_path / "spool", move_port=orthanc.mover), key=KEY)


def test_what_nobody_asked_for_is_refused(
    server: Server, orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what comes to the port while a series is waited for, only that series is taken."""
    (one, *_) = series_of(server)
    answers: list[int] = []
    send = dimse.DimseArchive._sent

    def with_a_stranger(self: dimse.DimseArchive, level: str, asked: Any, sink: dimse.Sink) -> int | None:
        answers.append(sink("1.2.3", b"of somebody"))
        return send(self, level, asked, sink)

    monkeypatch.setattr(dimse.DimseArchive, "_sent", with_a_stranger)
    moved = replace(server, limits=replace(server.limits, move_port=orthanc.mover))
    with retrieved(replace(one, server=moved)) as local:
        assert sorted(path.name for path in Path(local.paths[0]).parent.iterdir()) == ["0.dcm", "1.dcm", "2.dcm"]
    assert answers == [0x0124]
    assert not list(tmp_path.glob("spool/*/*"))


def test_a_server_that_was_killed(server: Server, orthanc: Orthanc, tmp_path: Path) -> None:
    killed(server, orthanc, tmp_path / "index")


def test_a_server_that_hangs(server: Server, orthanc: Orthanc) -> None:
    hanging(server, orthanc)
    assert len(series_of(server)) == 2


@pytest.mark.usefixtures("server")
def test_a_transfer_that_breaks_off(orthanc: Orthanc, tmp_path: Path) -> None:
    write_series(tmp_path / "large", np.tile(voxels(4), (1, 40, 40)), StudyInstanceUID=f"{STUDY}.5", PatientID="P5")
    orthanc.store((tmp_path / "large").iterdir())
    with Relay(orthanc.dicom) as relay:
        broken = of(f"dimse://ORTHANC@127.0.0.1:{relay.port}", tmp_path / "spool")
        large = max(series_of(broken, tmp_path / "index"), key=lambda one: one.shape[0] * one.shape[1])
        relay.cut_after = 200_000
        with pytest.raises(ServerAwayError):
            read_volume(large)
        assert not [path for path in (tmp_path / "spool").iterdir() if path.is_dir()]
        relay.cut_after = None
        assert len(series_of(broken, tmp_path / "index")) == 3
        assert read_volume(large).array.shape[0] == 4


def test_an_idle_association_that_the_server_ended(server: Server) -> None:
    with dimse.DimseArchive(server) as archive:
        assert len(list(archive.studies({}))) == 2
        time.sleep(3.5)  # the server waits 2 s
        assert len(list(archive.studies({}))) == 2


def test_what_is_gone_or_less_than_it_was(server: Server, orthanc: Orthanc) -> None:
    one, other = series_of(server)
    for wanted, path in ((one, "instances"), (other, "studies")):
        uid = wanted.paths[0].rpartition("/")[2] if path == "instances" else wanted.paths[0].partition("/")[0]
        (found,) = orthanc.session.post(f"{orthanc.rest}/tools/lookup", data=uid).json()
        orthanc.delete(f"/{path}/{found['ID']}")
    with pytest.raises(ServerChangedError, match="2 of 3 images"):
        read_volume(one)
    with pytest.raises(ServerError):
        read_volume(other)


def test_nobody_is_named(server: Server, orthanc: Orthanc, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    series = series_of(server)
    assert read_volume(series[0]).array.shape == (3, 6, 4)
    orthanc.delete(f"/studies/{orthanc.get('/studies')[0]}")
    errors = [str(error) for one in series if (error := _error_of(one)) is not None]
    assert errors
    told = caplog.text + repr(server) + repr(series) + "".join(errors)
    assert not [word for word in (STUDY, "P1", "P2", *SECRETS) if word in told]


def _error_of(one: Series) -> Exception | None:
    try:
        read_volume(one)
    except ServerError as error:
        return error
    return None


def test_the_rate_is_kept(server: Server, orthanc: Orthanc, tmp_path: Path) -> None:
    (one, *_) = series_of(server)
    n_bytes = sum(path.stat().st_size for path in (tmp_path / "in" / "1").iterdir())
    slow = of(orthanc.dimse, tmp_path / "spool", rate=2 * n_bytes / 0.6, connections=2)
    began = time.monotonic()
    assert read_volume(replace(one, server=slow)).array.shape == (3, 6, 4)
    assert time.monotonic() - began >= 0.5


def test_tls(tmp_path: Path) -> None:
    paths = write_certificates(tmp_path)
    write_series(tmp_path / "in", voxels())
    options = {
        "DicomTlsEnabled": True, "DicomTlsCertificate": str(paths["cert"]), "DicomTlsPrivateKey": str(paths["key"]),
        "DicomTlsTrustedCertificates": str(paths["ca"]), "DicomTlsRemoteCertificateRequired": False,
    }  # fmt: skip
    with Orthanc(tmp_path / "orthanc", **options) as orthanc:
        orthanc.store((tmp_path / "in").iterdir())
        address = orthanc.dimse.replace("dimse://", "dimse+tls://")
        (one,) = series_of(of(address, tmp_path / "spool", authority=paths["ca"]))
        (local,) = discover(tmp_path / "in", key=KEY).series
        np.testing.assert_array_equal(read_volume(one).array, read_volume(local).array)
        shutil.rmtree(tmp_path / "spool")
        for wrong in (of(address, tmp_path / "spool"), of(orthanc.dimse, tmp_path / "spool", timeout=1.0)):
            with pytest.raises(ServerAwayError):  # the authority is not known; no TLS is spoken
                scan_source(wrong, key=KEY)
        with pytest.raises(ServerRefusedError, match="QMRI_PACS_CA"):
            scan_source(of(address, tmp_path / "spool", authority=tmp_path / "none.pem"), key=KEY)
