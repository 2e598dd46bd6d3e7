"""Stores that Icechunk of another version writes, reads, or writes to at the same time; and formats of the future.

``QMRI_OTHER_PYTHON`` names a Python that has another Icechunk and what `storage` imports; without it, what takes two
versions is skipped.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import boto3
import icechunk
import numpy as np
import pytest

from storage.store.cohort import Cohort, begin_append, begin_update, history, open_cohort, open_repository
from storage.store.formats import FORMAT, create_repository
from storage.store.lifecycle.upkeep import compact, migrate, rollback
from storage.store.lifecycle.verify import verify
from storage.store.locations import StorageFaultError, StoreError, repository_config, storage_of
from storage.store.repository import exists, tags, writing
from storage.store.schema import WORKER_VARIABLES, create_root, rounded
from tests.storage.cohorts import images, infer, ingest, maps, placement
from tests.storage.conftest import BUCKET

ROOT = Path(__file__).parents[3]
HEADER = b"ICE\xf0\x9f\xa7\x8aCHUNK" + b"of the future".ljust(24)
"""How each object of Icechunk begins; the next byte is the format."""

KNOWS_TWO = hasattr(icechunk, "SpecVersion")


@pytest.fixture(params=["folder", "object store"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Place for a store, of both kinds."""
    if request.param == "folder":
        return str(tmp_path / "store")
    give: Callable[[], str] = request.getfixturevalue("s3")
    return give()


def objects(location: str) -> dict[str, bytes]:
    """Content of all objects of a store; the lock is not of them."""
    if "://" not in location:
        folder = Path(location)
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != "writer.lock")
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}
    client, prefix = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]), location.split("/")[-1] + "/"
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    return {
        entry["Key"].removeprefix(prefix): client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
        for entry in listed
    }


def put(location: str, name: str, content: bytes) -> None:
    if "://" not in location:
        (Path(location) / name).write_bytes(content)
        return
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    client.put_object(Bucket=BUCKET, Key=f"{location.split('/')[-1]}/{name}", Body=content)


def make_in_format_2(location: str) -> None:
    """Make a store as icechunk 2 does unless it is told otherwise."""
    repository = icechunk.Repository.create(storage_of(location), repository_config())
    session = repository.writable_session("main")
    create_root(session.store)
    session.commit("Create the cohort", metadata={})


def assert_holds(location: str, *sessions: str, names: tuple[str, ...] = ("T1w", "tissue")) -> None:
    cohort = Cohort.open(location)
    assert set(cohort.slots) >= set(sessions)
    for session in sessions:
        expected, stored = images(session) | maps(session), cohort.read(cohort.slots[session], names)
        for name in names:
            np.testing.assert_array_equal(stored[name], rounded(expected[name], WORKER_VARIABLES[name]))


def test_every_object_of_a_store_is_of_the_stated_format(location: str) -> None:
    ingest(location, [placement("ses-1")])
    infer(location, ["ses-1"])
    content = objects(location)
    assert "repo" not in content  # where format 2 keeps its references
    stated = {name: data[36] for name, data in content.items() if data.startswith(HEADER[:12])}
    assert {name.split("/")[0] for name in stated} == {"manifests", "snapshots", "transactions"}
    assert set(stated.values()) == {FORMAT}


@pytest.mark.parametrize("format_", [3, 12])
def test_a_format_of_the_future_is_named_with_what_to_do_and_nothing_is_written(location: str, format_: int) -> None:
    ingest(location, [placement("ses-1")])
    put(location, "repo", HEADER + bytes([format_, 6, 1]) + bytes(40))
    before = objects(location)

    def write(create: bool) -> None:
        with writing(location, create=create):
            raise AssertionError

    uses: list[Callable[[], object]] = [
        lambda: open_cohort(location),
        lambda: exists(location),
        lambda: Cohort.open(location),
        lambda: migrate(location),
        lambda: compact(location),
        lambda: write(False),
        lambda: write(True),
    ]
    said = rf"{location}: a store in format \d+ of Icechunk, which icechunk {icechunk.__version__} here cannot read; in"
    for use in uses:
        with pytest.raises(StoreError, match=said) as caught:
            use()
        assert not isinstance(caught.value, StorageFaultError)  # trying again is no help
        assert "pip install --upgrade icechunk" in str(caught.value)
    assert objects(location) == before


def test_what_is_no_repository_is_called_so(location: str) -> None:
    with pytest.raises(StoreError, match="no such folder" if "://" not in location else "is not a cohort store"):
        open_cohort(location)
    create_repository(location)
    with pytest.raises(StoreError, match="states no schema version"):
        open_cohort(location)


@pytest.mark.skipif(not KNOWS_TWO, reason="icechunk 1 cannot make a store of format 2")
def test_a_store_that_is_in_format_2_already_is_used_where_it_can_be_read(location: str) -> None:
    make_in_format_2(location)
    ingest(location, [placement("ses-1")])
    ingest(location, [placement("ses-2")])
    infer(location, ["ses-1"])
    compact(location, keep_days=0)
    assert_holds(location, "ses-1", "ses-2")
    assert objects(location)["repo"][36] == 2
    assert verify(Cohort.open(location)) == []


class Other:
    """Runs code where Icechunk is of another version."""

    def __init__(self, python: str) -> None:
        self.python = python
        self.version = self("import icechunk; print(icechunk.__version__)").strip()

    def start(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.python, "-c", code, *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, code: str, *arguments: str) -> str:
        """Output of a process that must end well.

        With Icechunk 2.3 and Python 3.13, 2 of some 220 processes that only read ended by SIGSEGV, on a store that all
        others read: such a one is asked once more.
        """
        for tries_left in (1, 0):
            process = self.start(code, *arguments)
            output, _ = process.communicate(timeout=600)
            if not (tries_left and code == CHECK and process.returncode == -signal.SIGSEGV):
                break
        assert process.returncode == 0, output
        return output


@pytest.fixture(scope="module")
def other() -> Other:
    python = os.environ.get("QMRI_OTHER_PYTHON")
    if not python:
        pytest.skip("QMRI_OTHER_PYTHON names no Python with another version of icechunk")
    found = Other(python)
    assert found.version != icechunk.__version__
    return found


INGEST = """
import sys
from tests.storage.cohorts import infer, ingest, placement
for session in sys.argv[2:]:
    ingest(sys.argv[1], [placement(session)])
    infer(sys.argv[1], [session])
"""
CHECK = """
import sys
from storage.store.cohort import Cohort
from storage.store.lifecycle.verify import verify
from tests.storage.store.test_formats import assert_holds
assert verify(Cohort.open(sys.argv[1])) == []
assert_holds(sys.argv[1], *sys.argv[2:], names=("T1w", "tissue", "T1map"))
"""
LIFE = """
import sys
from storage.store.lifecycle.upkeep import compact, rollback
from storage.store.repository import tag, writing
with writing(sys.argv[1]) as repository:
    tag(repository, "there")
compact(sys.argv[1], keep_days=0)
"""


def ingest_here(location: str, *sessions: str) -> None:
    for session in sessions:
        ingest(location, [placement(session)])
        infer(location, [session])


@pytest.mark.walk
@pytest.mark.parametrize("begins", ["here", "there"])
def test_each_version_reads_and_writes_what_the_other_wrote(other: Other, location: str, begins: str) -> None:
    here, there = (lambda *names: ingest_here(location, *names)), (lambda *names: other(INGEST, location, *names))
    first, second = (here, there) if begins == "here" else (there, here)
    first("ses-1")
    second("ses-2", "ses-1")  # replaces a session of the other
    first("ses-3")
    assert verify(Cohort.open(location)) == []
    assert_holds(location, "ses-1", "ses-2", "ses-3", names=("T1w", "tissue", "T1map"))
    other(CHECK, location, "ses-1", "ses-2", "ses-3")
    assert {data[36] for data in objects(location).values() if data.startswith(HEADER[:12])} == {FORMAT}


@pytest.mark.walk
def test_each_version_gives_space_back_in_a_store_of_the_other(other: Other, location: str) -> None:
    ingest_here(location, "ses-1")
    other(LIFE, location)
    assert set(tags(open_repository(location))) == {"there"}
    other(INGEST, location, "ses-2")
    compact(location, keep_days=0)
    rollback(location, "there")
    assert set(Cohort.open(location).slots) == {"ses-1"}
    assert verify(Cohort.open(location)) == []
    other(CHECK, location, "ses-1")


@pytest.mark.walk
def test_both_versions_write_at_the_same_time_and_lose_nothing(other: Other, location: str) -> None:
    ingest(location, [placement("ses-0")])
    theirs, mine = [f"ses-1{number}" for number in range(4)], [f"ses-2{number}" for number in range(4)]
    process = other.start(INGEST, location, *theirs)
    began = len(history(open_repository(location)))
    while len(history(open_repository(location))) == began and process.poll() is None:  # it takes a while to start
        pass
    ingest_here(location, *mine)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    messages = [snapshot.message for snapshot in history(open_repository(location))]
    assert len(messages) == 2 + 2 * (len(mine) + len(theirs))
    assert_holds(location, *mine, *theirs, names=("T1w", "tissue", "T1map"))
    assert verify(Cohort.open(location)) == []
    other(CHECK, location, *mine, *theirs)


@pytest.mark.walk
def test_a_wave_that_was_begun_here_ends_after_a_commit_of_the_other(
    other: Other, s3: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    """In an object store nobody waits: who comes second does the wave again on top of the other's."""
    from tests.storage.cohorts import commit, row, write_arrays

    location = s3()
    ingest_here(location, "ses-1", "ses-2")
    with writing(location) as repository:
        append, update = begin_append(repository, [placement("ses-3")]), begin_update(repository, ["ses-1"])
        other(INGEST, location, "ses-2", "ses-4")
        fork = write_arrays(append.fork, append.slots["ses-3"], images("ses-3"))
        commit(repository, append, [fork], values={}, rows=[row("ses-3")], message="images", metadata={})
        fork = write_arrays(update.fork, update.slots["ses-1"], maps("ses-1"))
        commit(repository, update, [fork], values={}, rows=[row("ses-1")], message="maps", metadata={})
    assert caplog.text.count("done again") == 2
    assert_holds(location, "ses-1", "ses-2", "ses-3", "ses-4")
    assert verify(Cohort.open(location)) == []
    other(CHECK, location, "ses-1", "ses-2", "ses-4")


MAKE_FORMAT_2 = """
import sys
from tests.storage.store.test_formats import ingest_here, make_in_format_2
make_in_format_2(sys.argv[1])
ingest_here(sys.argv[1], "ses-1")
"""
REFUSED = """
import sys
from storage.store.cohort import open_cohort
from storage.store.locations import StoreError
try:
    open_cohort(sys.argv[1])
except StoreError as error:
    print(error)
"""


@pytest.mark.walk
def test_a_real_store_of_format_2_is_named_to_icechunk_1(other: Other, location: str) -> None:
    if KNOWS_TWO and not other.version.startswith("1."):
        pytest.skip("no icechunk 1 here")
    said = f"{location}: a store in format 2 of Icechunk, which icechunk 1."
    if KNOWS_TWO:
        make_in_format_2(location)
        ingest_here(location, "ses-1")
        assert other(REFUSED, location).startswith(said)
    else:
        other(MAKE_FORMAT_2, location)
        with pytest.raises(StoreError) as caught:
            open_cohort(location)
        assert str(caught.value).startswith(said)
    assert objects(location)["repo"][36] == 2
