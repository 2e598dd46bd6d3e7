"""A cohort from a real server, by DICOMweb and by DIMSE: the store is that of the folder, bit for bit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from distributed import Client

from flows.ingest.run import ingest
from flows.ingest.session_plan import SessionPlan
from flows.tables.summary import RunSummary
from storage.source.discovery import scan_source
from storage.source.origin import Limits, Server, source_of
from storage.store.cohort import Cohort
from storage.store.lifecycle.verify import verify
from tests.flows.end_to_end import Processed, arrays, assert_same_arrays, values
from tests.orthanc import Orthanc, needs_orthanc
from tests.relay import Relay

pytestmark = [pytest.mark.walk, needs_orthanc, pytest.mark.timeout(1800)]

OF_THE_SOURCE = {"input_digest", "seconds", "finished"}
"""Columns that tell of bytes, headers and clocks: those of a server are others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """A store of the folder, and what it took."""

    store: str
    summary: RunSummary
    seconds: float


@pytest.fixture(scope="module")
def by_folder(processed: Processed, workers: Client, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    return ingested(processed.source, processed, workers, tmp_path_factory.mktemp("folder"))


@pytest.fixture(scope="module")
def orthanc(processed: Processed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        for path in processed.source.rglob("*"):
            if path.is_file():
                running.session.post(f"{running.rest}/instances", data=path.read_bytes())  # it takes what is DICOM
        yield running


@pytest.fixture
def relay(orthanc: Orthanc, kind: str) -> Iterator[Relay]:
    with Relay(orthanc.http if kind == "web" else orthanc.dicom) as running:
        yield running


def server_of(relay: Relay, kind: str, folder: Path) -> Server:
    place = f"127.0.0.1:{relay.port}"
    address = f"dicomweb+http://{place}/dicom-web" if kind == "web" else f"dimse://ORTHANC@{place}"
    found = source_of(address, Limits(spool=folder / "spool"))
    assert isinstance(found, Server)
    return found


def ingested(source: Path | Server, processed: Processed, workers: Client, folder: Path) -> Ingested:
    began, store = time.monotonic(), str(folder / "store")
    summary = ingest(source, store, key=processed.key, client=workers, index=folder / "index")
    return Ingested(store=store, summary=summary, seconds=time.monotonic() - began)


def assert_same_store(found: str, expected: str) -> None:
    ours, theirs = arrays(found), arrays(expected)
    assert set(ours) == set(theirs)
    for session in theirs:
        assert_same_arrays(ours[session], theirs[session])
    columns = [name for name in values(expected).columns if name not in OF_THE_SOURCE]
    assert values(found)[columns].equals(values(expected)[columns])
    assert verify(Cohort.open(found)) == []


def used_bytes(plans: list[SessionPlan]) -> int:
    """Bytes of the files that ingest reads pixels of."""
    series = [one for plan in plans for contrast in plan.chosen for one, _ in plan.equals_of(contrast)]
    return sum(Path(path).stat().st_size for path in {path for one in series for path in one.paths})


@pytest.mark.parametrize("kind", ["web", "dimse"])
def test_the_store_is_that_of_the_folder(
    processed: Processed, by_folder: Ingested, workers: Client, relay: Relay, kind: str, tmp_path: Path
) -> None:
    server, n_sessions, began = server_of(relay, kind, tmp_path), by_folder.summary.found, time.monotonic()
    scan_source(server, key=processed.key, index=tmp_path / "index").__exit__(None, None, None)
    headers = relay.received
    found = replace(ingested(server, processed, workers, tmp_path), seconds=time.monotonic() - began)
    assert (found.summary.found, found.summary.complete, found.summary.exit_status) == (n_sessions, n_sessions, 0)
    assert found.summary.n_files == by_folder.summary.n_files
    assert_same_store(found.store, by_folder.store)
    used = used_bytes(processed.plans())
    per_minute = [60 * n_sessions / seconds for seconds in (found.seconds, by_folder.seconds)]
    images = relay.received - headers
    print(
        f"{kind}: {used / 1e6:.1f} MB used; {images / used:.2f} of that received for pixels, "
        f"{headers / used:.2f} before; {per_minute[0]:.1f} sessions per minute, from the folder {per_minute[1]:.1f}"
    )
    assert 0.9 * used < images < 1.1 * used  # nothing but what is used, once
    before = relay.received
    again = ingest(server, found.store, key=processed.key, client=workers, index=tmp_path / "index")
    assert (again.unchanged, again.complete) == (n_sessions, n_sessions)
    assert relay.received - before < 0.02 * used  # a list, and no header
    assert not [path for path in (tmp_path / "spool").iterdir() if path.is_dir()]


@pytest.mark.parametrize("kind", [pytest.param("web", marks=pytest.mark.soak), "dimse"])
def test_a_server_that_goes_away_in_between_costs_another_run_and_nothing_else(
    processed: Processed, by_folder: Ingested, workers: Client, relay: Relay, kind: str, tmp_path: Path
) -> None:
    server, n_sessions = server_of(relay, kind, tmp_path), by_folder.summary.found
    scan_source(server, key=processed.key, index=tmp_path / "index").__exit__(None, None, None)
    relay.down_after = relay.received + used_bytes(processed.plans()) // 2
    broken = ingested(server, processed, workers, tmp_path)
    assert broken.summary.exit_status != 0
    assert set(broken.summary.reasons) == {"server_away"}
    assert broken.summary.complete + broken.summary.failed == n_sessions
    assert 0 < broken.summary.failed <= n_sessions
    assert verify(Cohort.open(broken.store)) == []
    relay.down_after = None
    workers.restart()  # they do not ask again for a minute
    healed = ingested(server, processed, workers, tmp_path)
    assert (healed.summary.complete, healed.summary.exit_status) == (n_sessions, 0)
    assert healed.summary.unchanged == broken.summary.complete
    assert_same_store(healed.store, by_folder.store)
