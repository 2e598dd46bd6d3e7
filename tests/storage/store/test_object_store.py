"""The cohort store in an object store: a real S3-compatible server, with and without faults."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Callable, Iterator

import boto3
import icechunk
import numpy as np
import pytest

from storage.store import formats, locations
from storage.store.cohort import (
    Cohort,
    StoreError,
    begin_append,
    begin_update,
    commit,
    history,
    open_cohort,
    open_repository,
    tag,
    write_arrays,
    writing,
)
from storage.store.formats import create_repository
from storage.store.lifecycle.verify import verify
from storage.store.locations import StorageFaultError, local_path, storage_of
from storage.store.repository import open_waves
from storage.store.schema import WORKER_VARIABLES, rounded
from tests.storage.cohorts import images, infer, ingest, maps, placement, row
from tests.storage.conftest import BUCKET, credentials
from tests.storage.faulty_proxy import DROP, FaultyProxy, faulty_proxy, first

OTHER = "scanner-b/protocol-2"
ICECHUNK_2 = pytest.mark.skipif(not hasattr(icechunk, "SpecVersion"), reason="icechunk 1 knows format 1 alone")


def assert_holds(location: str, *sessions: str, names: tuple[str, ...] = ("T1w", "tissue")) -> None:
    found = Cohort.open(location).slots
    for session in sessions:
        expected = images(session) | maps(session)
        stored = Cohort.open(location).read(found[session], names)
        for name in names:
            np.testing.assert_array_equal(stored[name], rounded(expected[name], WORKER_VARIABLES[name]))


def test_a_store_lives_in_an_object_store(s3: Callable[[], str], server: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="storage")
    location = s3()
    with pytest.raises(StoreError, match="is not a cohort store"):
        open_cohort(location)
    ingest(location, [placement("ses-1"), placement("ses-2", OTHER)])
    with writing(location) as repository:
        tag(repository, "nightly-1")
        wave = begin_update(repository, ["ses-2"])
        fork = pickle.loads(pickle.dumps(wave.fork))  # noqa: S301 - what Dask does
        travelling = pickle.dumps(wave.fork)
        write_arrays(fork, wave.slots["ses-2"], maps("ses-2"))
        commit(repository, wave, [fork], values={}, rows=[row("ses-2")], message="maps", metadata={})
    assert_holds(location, "ses-1", "ses-2")
    assert_holds(location, "ses-2", names=("T1map",))
    assert verify(Cohort.open(location)) == []
    assert np.isnan(open_cohort(location, at="nightly-1")[OTHER]["T1map"]).all()
    assert np.isfinite(open_cohort(location, chunks={})[OTHER]["T1map"].mean().compute())
    assert [one.message for one in history(open_repository(location))] == [
        "maps",
        "Ingest 2 sessions",
        "Create the cohort",
    ]

    secrets = [value.encode() for name, value in credentials(server).items() if "KEY" in name]
    client = boto3.client("s3", endpoint_url=server)
    objects = client.list_objects_v2(Bucket=BUCKET, Prefix=location.split("/")[-1] + "/")["Contents"]
    assert len(objects) > 10
    for entry in objects:
        content = client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
        assert not any(secret in content for secret in secrets)
    assert not any(secret in travelling or secret in repr(storage_of(location)).encode() for secret in secrets)
    assert not any(secret.decode() in caplog.text for secret in secrets)


@pytest.mark.walk
def test_two_committers_end_in_a_rebase_and_lose_nothing(
    s3: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    location = s3()
    ingest(location, [placement("ses-1"), placement("ses-2", OTHER)])
    with writing(location) as one, writing(location) as two:
        append = begin_append(one, [placement("ses-3"), placement("ses-4", "scanner-c/protocol-1")])
        update = begin_update(two, ["ses-1"])
        assert len(open_waves(one)) == 2
        fork = write_arrays(append.fork, append.slots["ses-3"], images("ses-3"))
        write_arrays(append.fork, append.slots["ses-4"], images("ses-4"))
        write_arrays(update.fork, update.slots["ses-1"], maps("ses-1"))
        commit(two, update, [update.fork], values={}, rows=[row("ses-1")], message="maps", metadata={})
        assert "done again" not in caplog.text
        commit(one, append, [fork], values={}, rows=[row("ses-3"), row("ses-4")], message="images", metadata={})
        assert "done again" in caplog.text
        assert open_waves(one) == {}
    assert_holds(location, "ses-1", "ses-2", "ses-3", "ses-4")
    assert_holds(location, "ses-1", names=("T1map",))
    assert [one.message for one in history(open_repository(location))][:2] == ["images", "maps"]
    assert verify(Cohort.open(location)) == []


def test_abandoned_waves_are_dropped_after_a_day_and_living_ones_are_not(s3: Callable[[], str]) -> None:
    location = s3()
    ingest(location, [placement("ses-1")])
    with writing(location) as repository:
        repository.create_branch("staging-20200101T000000-00000000", repository.lookup_branch("main"))
        living = begin_append(repository, [placement("ses-2")])
    with writing(location) as repository:
        assert set(open_waves(repository)) == {living.branch}
        fork = write_arrays(living.fork, living.slots["ses-2"], images("ses-2"))
        commit(repository, living, [fork], values={}, rows=[row("ses-2")], message="m", metadata={})
    assert_holds(location, "ses-1", "ses-2")


def test_making_a_store_that_was_cut_short_is_taken_up_again(s3: Callable[[], str]) -> None:
    location = s3()
    create_repository(location)  # and then the process died
    with pytest.raises(StoreError, match="states no schema version"):
        open_cohort(location)
    with writing(location, create=True) as one, writing(location, create=True) as two:
        assert one.lookup_branch("main") == two.lookup_branch("main")
    ingest(location, [placement("ses-1")])
    assert_holds(location, "ses-1")


@pytest.fixture
def proxy(server: str, s3: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:  # noqa: ARG001 - s3 first
    """The object store with faults; two tries at each chunk."""
    monkeypatch.setattr(locations, "TRIES", 2)
    with faulty_proxy(server) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.address)
        yield running


@pytest.mark.walk
def test_a_fault_that_passes_is_not_noticed(proxy: FaultyProxy, s3: Callable[[], str]) -> None:
    location = s3()
    ingest(location, [placement("ses-1")])
    faults = [first(1, "PUT", "/chunks/", DROP), first(1, "PUT", "/refs/", 503), first(1, "GET", "/snapshots/", 500)]
    proxy.fault = lambda method, path: next(filter(None, (fault(method, path) for fault in faults)), None)
    infer(location, ["ses-1"])
    assert_holds(location, "ses-1", names=("T1w", "T1map"))
    assert verify(Cohort.open(location)) == []


@pytest.mark.walk
@pytest.mark.parametrize(
    ("part", "status"),
    [
        ("/chunks/", 500),
        *(pytest.param(part, 500, marks=pytest.mark.soak) for part in ("/manifests/", "/snapshots/", "/refs/")),
        *(pytest.param(part, DROP, marks=pytest.mark.soak) for part in ("/chunks/", "/snapshots/")),
    ],
)
def test_a_fault_that_stays_ends_the_run_and_leaves_the_store(
    proxy: FaultyProxy, s3: Callable[[], str], part: str, status: int
) -> None:
    """The soak ones take half a minute each (3 minutes in all): Icechunk's ten tries cannot be made fewer."""
    location = s3()
    ingest(location, [placement("ses-1")])
    last = history(open_repository(location))[0].id
    proxy.fault = lambda method, path: status if method == "PUT" and part in path else None
    with pytest.raises(StorageFaultError, match="what is committed stays") as caught:
        ingest(location, [placement("ses-2")])
    assert "secret-that" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert history(open_repository(location))[0].id == last  # readable all the time
    proxy.fault = lambda _method, _path: None
    ingest(location, [placement("ses-2")])
    assert set(Cohort.open(location).slots) == {"ses-1", "ses-2"}
    assert verify(Cohort.open(location)) == []


def test_a_bucket_that_is_not_there_is_named(s3: Callable[[], str]) -> None:
    location = s3().replace(BUCKET, "no-such-bucket")
    with pytest.raises(StoreError, match=location), writing(location, create=True):
        pass


@pytest.mark.soak
def test_a_server_that_is_away_is_named(
    proxy: FaultyProxy, s3: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    location = s3()
    ingest(location, [placement("ses-1")])
    proxy.fault = lambda _method, _path: 403
    for read in (open_cohort, Cohort.open):
        with pytest.raises(StorageFaultError, match=location):
            read(location)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageFaultError, match=location), writing(location, create=True):
        pass


@pytest.mark.walk
@pytest.mark.parametrize("format_", [1, pytest.param(2, marks=ICECHUNK_2)])
def test_an_answer_that_was_lost_is_no_conflict(
    proxy: FaultyProxy, s3: Callable[[], str], format_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has moved the branch, the client is told of an error, and asks again."""
    location = s3()
    monkeypatch.setattr(formats, "FORMAT", format_)
    ingest(location, [placement("ses-1")])
    base = history(open_repository(location))[0].id
    references = {1: "/refs/branch.main/ref.json", 2: "/repo"}[format_]
    moved, asked_again = [], []

    def fault(method: str, path: str) -> int | None:
        if method != "PUT" or not path.split("?")[0].endswith(references):
            return None
        if moved:
            asked_again.append(path)
            return None
        repository = open_repository(location)
        done = repository.lookup_branch(next(iter(open_waves(repository)), "main"))
        if done == base:  # in format 2 the same object also changes when the wave's own branch is made or written
            return None
        moved.append(path)
        repository.reset_branch("main", done)  # what the server has done of the request
        asked_again.clear()
        return 500

    with writing(location) as repository:
        wave = begin_append(repository, [placement("ses-2")])
        fork = write_arrays(wave.fork, wave.slots["ses-2"], images("ses-2"))
        proxy.fault = fault
        snapshot = commit(repository, wave, [fork], values={}, rows=[row("ses-2")], message="m", metadata={})
    assert len(moved) == 1
    assert asked_again
    assert history(open_repository(location))[0].id == snapshot
    assert len(history(open_repository(location))) == 3
    assert_holds(location, "ses-2")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("ftp://host/x", "s3://, gs://, az://"),
        ("s3://bucket", "names no prefix"),
        ("s3:///x", "names no bucket"),
        ("s3://key:hunter2@bucket/x", "come from the environment"),
        ("s3://bucket/x?secret=hunter2", "come from the environment"),
        ("az://container/x", "AZURE_STORAGE_ACCOUNT_NAME is not set"),
    ],
)
def test_locations_that_cannot_be_used_are_refused(
    location: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(StoreError, match=message) as caught:
        open_cohort(location)
    assert "hunter2" not in str(caught.value)


def test_every_scheme_has_its_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example")
    assert re.search("endpoint_url[=:] ?https://s3.example", repr(storage_of("s3://bucket/a/b")))
    for location in ("gs://bucket/a", "az://container/a"):
        assert storage_of(location) is not None
        assert local_path(location) is None
    assert str(local_path("file:///a/b")) == str(local_path("/a/b")) == "/a/b"
