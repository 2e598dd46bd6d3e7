"""SIGKILL of the committing process at random moments; run as a script, this file is that process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cohorts import images, ingest, maps, placement, row

from storage.repository import history, open_repository, writing
from storage.slots import find_slots
from storage.tables import column, group_of, read_rows
from storage.verify import verify
from storage.waves import begin_append, begin_update, commit, write_arrays

N_KILLS = 10
WAVES = [[(f"ses-{wave}{n}", f"scanner-{n % 2}/protocol-{wave % 2}") for n in range(3)] for wave in range(5)]
"""Three sessions each, over four groups."""


def write_all(location: Path) -> None:
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


def die_inside_a_wave(location: Path) -> None:
    """Make room for sessions, write one of them, and be killed."""
    with writing(location) as repository:
        wave = begin_append(repository, [placement("ses-x"), placement("ses-y", "scanner-9/protocol-9")])
        write_arrays(wave.fork, wave.slots["ses-x"], images("ses-x"))
        os.kill(os.getpid(), signal.SIGKILL)


def start(location: Path, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, __file__, str(location), *arguments],
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def everything(location: Path) -> dict[tuple[str, str], bytes]:
    """All stored values of all sessions, and their places."""
    import zarr

    root = zarr.open_group(open_repository(location).readonly_session("main").store, mode="r")
    slots = find_slots(root).values()
    result = {}
    for path in {slot.group for slot in slots}:
        for name, array in group_of(root, path).arrays():
            values = column(array)
            for slot in slots:
                if slot.group == path and name not in "xyz":
                    value = values[slot.index]
                    result[slot.session, name] = str(value).encode() if values.dtype == object else value.tobytes()
    return result | {(slot.session, "place"): f"{slot.group} {slot.index}".encode() for slot in slots}


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_store_survives_sigkill_at_any_moment(tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    process = start(undisturbed)
    begun = time.monotonic()
    n_commits = len(process.communicate(timeout=120)[0].split())
    duration = time.monotonic() - begun
    assert process.returncode == 0
    assert n_commits == 2 * len(WAVES)
    expected = everything(undisturbed)
    assert {session for session, _ in expected} == {session for members in WAVES for session, _ in members}
    assert len(expected) > 60 * 15

    rng = np.random.default_rng(20)
    location = tmp_path / "store-0"
    kills = 0
    while kills < N_KILLS:
        process = start(location)
        try:
            said, _ = process.communicate(timeout=rng.uniform(0.0, duration / 4))
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            kills += 1
        if not (location / "refs").is_dir():
            assert not said.split()
            continue
        repository = open_repository(location)
        assert set(said.split()) <= {snapshot.id for snapshot in history(repository)}
        assert_whole_waves(location)
        if process.returncode == 0:
            assert everything(location) == expected
            location = tmp_path / f"store-{kills}"
    process = start(location)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert everything(location) == expected
    assert verify(location) == []
    assert open_repository(location).list_branches() == {"main"}


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
    assert verify(location) == []


def assert_whole_waves(location: Path) -> None:
    """Each wave is there as a whole or not at all, and what is there is right."""
    import zarr

    root = zarr.open_group(open_repository(location).readonly_session("main").store, mode="r")
    rows = read_rows(root)
    status = dict(zip(rows["session"].tolist(), rows["status"].tolist(), strict=True))
    assert set(find_slots(root)) == set(status)
    for members in WAVES:
        assert len({status.get(name, "absent") for name, _ in members}) == 1
    assert verify(location) == []


if __name__ == "__main__":
    print("ready", flush=True)
    (die_inside_a_wave if sys.argv[2:] else write_all)(Path(sys.argv[1]))
