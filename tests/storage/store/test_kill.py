"""SIGKILL of the committing process at random moments; run as a script, this file is that process."""

from __future__ import annotations

import base64
import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storage.store.cohort import Cohort
from storage.store.lifecycle.verify import verify
from storage.store.repository import StoreError, history, open_repository, writing
from storage.store.schema import IMAGE_NAMES
from storage.store.slots import find_slots
from storage.store.tables import column, group_of, read_rows
from storage.store.waves import begin_append, begin_update, commit, write_arrays
from tests.storage.cohorts import images, ingest, maps, placement, row

WAVES = [[(f"ses-{wave}{n}", f"scanner-{n % 2}/protocol-{wave % 2}") for n in range(3)] for wave in range(5)]
"""Three sessions each, over four groups."""


def write_all(location: Path | str) -> None:
    """Ingest and infer, wave after wave, what is not in the store yet; says each snapshot."""
    import zarr

    for members in WAVES:
        with writing(location, create=True) as repository:
            rows = read_rows(zarr.open_group(repository.readonly_session("main").store, mode="r"))
        state = dict(zip(rows["session"].tolist(), rows["status"].tolist(), strict=True))
        if any(session not in state for session, _ in members):
            print(ingest(location, [placement(session, group) for session, group in members]), flush=True)
        if any(state.get(session) != "complete" for session, _ in members):
            with writing(location) as repository:
                wave = begin_update(repository, [session for session, _ in members])
                forks = [write_arrays(wave.session.fork(), slot, maps(name)) for name, slot in wave.slots.items()]
                done = [row(name) for name in wave.slots]
                print(commit(repository, wave, forks, values={}, rows=done, message="maps", metadata={}), flush=True)


def die_inside_a_wave(location: Path | str) -> None:
    """Make room for sessions, write one of them, and be killed."""
    with writing(location) as repository:
        wave = begin_append(repository, [placement("ses-x"), placement("ses-y", "scanner-9/protocol-9")])
        write_arrays(wave.fork, wave.slots["ses-x"], images("ses-x"))
        os.kill(os.getpid(), signal.SIGKILL)


def start(location: Path | str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, __file__, str(location), *arguments],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def everything(location: Path | str) -> dict[tuple[str, str], bytes]:
    """All stored values of all sessions, and their places."""
    import zarr

    root = zarr.open_group(open_repository(location).readonly_session("main").store, mode="r")
    slots = find_slots(root).values()
    result = {}
    for path in {slot.group for slot in slots}:
        for name, array in group_of(root, path).arrays():
            if array.metadata.dimension_names[0] != "session":
                continue
            values = column(array)
            for slot in slots:
                if slot.group == path:
                    value = values[slot.index]
                    result[slot.session, name] = str(value).encode() if values.dtype == object else value.tobytes()
    return result | {(slot.session, "place"): f"{slot.group} {slot.index}".encode() for slot in slots}


def survive(location: Callable[[], Path | str], n_kills: int, seed: int) -> None:
    """Kill the committing process again and again; the store must open at its last commit every time."""
    undisturbed = location()
    process = start(undisturbed)
    begun = time.monotonic()
    n_commits = len(process.communicate(timeout=300)[0].split())
    duration = time.monotonic() - begun
    assert process.returncode == 0
    assert n_commits == 2 * len(WAVES)
    expected = everything(undisturbed)
    assert {session for session, _ in expected} == {session for members in WAVES for session, _ in members}
    assert len(expected) > 60 * 15

    rng = np.random.default_rng(seed)
    place, kills = location(), 0
    while kills < n_kills:
        process = start(place)
        try:
            said, _ = process.communicate(timeout=rng.uniform(0.0, duration / 4))
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            kills += 1
        try:
            repository = open_repository(place)
        except StoreError:  # killed before the store was made
            assert not said.split()
            continue
        assert set(said.split()) <= {snapshot.id for snapshot in history(repository)}
        assert_whole_waves(place)
        if process.returncode == 0:
            assert everything(place) == expected
            place = location()
    process = start(place)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert everything(place) == expected
    assert verify(Cohort.open(place)) == []


@pytest.mark.walk
@pytest.mark.timeout(280)
def test_a_store_survives_sigkill_at_any_moment(tmp_path: Path) -> None:
    """Ten moments here, a hundred in the soak run."""
    survive(folders(tmp_path), 10, seed=20)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_store_survives_a_hundred_kills(tmp_path: Path) -> None:
    """5 to 10 minutes on two free cores."""
    survive(folders(tmp_path), 100, seed=21)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_store_in_an_object_store_survives_kills(s3: Callable[[], str]) -> None:
    """20 kills, 4 minutes on two free cores."""
    survive(s3, 20, seed=22)


def folders(parent: Path) -> Callable[[], Path]:
    numbers = itertools.count()
    return lambda: parent / f"store-{next(numbers)}"


def kill_workers(location: Path, n_kills: int, seed: int) -> None:
    """Kill a worker while it writes one of two sessions of a wave; the other one is committed."""
    rng = np.random.default_rng(seed)
    for n in range(n_kills):
        lost, good = f"ses-lost{n}", f"ses-good{n}"
        with writing(location, create=True) as repository:
            wave = begin_append(repository, [placement(lost), placement(good)])
            process = start(location, "worker")
            assert process.stdin is not None
            process.stdin.write(base64.b64encode(pickle.dumps((wave.fork, wave.slots[lost]))).decode() + "\n")
            process.stdin.flush()
            time.sleep(rng.uniform(0.0, 0.3))
            process.kill()
            process.communicate()
            fork = write_arrays(wave.fork, wave.slots[good], images(good))
            rows = [row(lost, "failed", reason="worker_lost"), row(good)]
            commit(repository, wave, [fork], values={}, rows=rows, message="m", metadata={})
        assert good in Cohort.open(location).slots
        assert lost not in Cohort.open(location).slots
    assert verify(Cohort.open(location)) == []
    ingest(location, [placement(f"ses-lost{n}") for n in range(n_kills)])  # a later run
    undisturbed = location.with_name("undisturbed")
    ingest(undisturbed, [placement(f"ses-{kind}{n}") for n in range(n_kills) for kind in ("lost", "good")])
    found, expected = contents(location), contents(undisturbed)
    assert found == expected


def contents(location: Path) -> dict[tuple[str, str], bytes]:
    """All images of all sessions, wherever they lie."""
    return {key: value for key, value in everything(location).items() if key[1] in IMAGE_NAMES}


def test_a_killed_worker_costs_its_session_and_nothing_else(tmp_path: Path) -> None:
    kill_workers(tmp_path / "store", 2, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_hundred_killed_workers_cost_their_sessions_and_nothing_else(tmp_path: Path) -> None:
    """3 to 6 minutes on two free cores."""
    kill_workers(tmp_path / "store", 100, seed=2)


def work() -> None:
    """Write one session through the fork that comes on standard input, over and over, until killed."""
    fork, slot = pickle.loads(base64.b64decode(sys.stdin.readline()))  # noqa: S301 - as Dask does
    while True:
        write_arrays(fork, slot, images(slot.session))


def test_a_kill_between_the_two_commits_of_a_wave_leaves_what_was_there(tmp_path: Path) -> None:
    location = tmp_path / "store"
    ingest(location, [placement("ses-a")])
    before, last = everything(location), history(open_repository(location))[0].id
    process = start(location, "inside")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(open_repository(location).list_branches()) == 2  # the wave's own
    assert history(open_repository(location))[0].id == last
    assert everything(location) == before
    with writing(location) as repository:
        assert repository.list_branches() == {"main"}
    ingest(location, [placement("ses-x")])
    assert verify(Cohort.open(location)) == []


def assert_whole_waves(location: Path | str) -> None:
    """Each wave is there as a whole or not at all, and what is there is right."""
    import zarr

    root = zarr.open_group(open_repository(location).readonly_session("main").store, mode="r")
    rows = read_rows(root)
    status = dict(zip(rows["session"].tolist(), rows["status"].tolist(), strict=True))
    assert set(find_slots(root)) == set(status)
    for members in WAVES:
        assert len({status.get(name, "absent") for name, _ in members}) == 1
    assert verify(Cohort.open(location)) == []


if __name__ == "__main__":
    print("ready", flush=True)
    if sys.argv[2:] == ["worker"]:
        work()
    place = sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1])
    (die_inside_a_wave if sys.argv[2:] else write_all)(place)
