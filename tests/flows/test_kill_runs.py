"""SIGKILL of a whole run, driver and workers, in the middle: a re-run ends where an undisturbed run ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from distributed import Client

from flows.maps.infer import infer
from storage.store.cohort import Cohort, open_repository
from storage.store.lifecycle.verify import verify
from storage.store.repository import StoreError
from tests.flows.end_to_end import (
    ROOT,
    Processed,
    arrays,
    assert_same_arrays,
    command,
    environment,
    last_snapshot,
    qmri,
    values,
)

pytestmark = [pytest.mark.walk, pytest.mark.timeout(1800)]

PATIENCE = 600.0
"""Seconds to wait for the moment of the kill."""

SMALL_WAVES = (
    "import sys, flows.ingest.run, flows.maps.infer, flows.cli.main; "
    "flows.ingest.run.SESSIONS_PER_WORKER = flows.maps.infer.SESSIONS_PER_WORKER = 1; "
    "flows.cli.main.main(sys.argv[1:])"
)
"""One session per commit, so that two sessions are enough to be killed between two commits."""


def kill_when(moment: Callable[[], bool], *arguments: object, key_file: Path, log: Path, delay: float = 0.0) -> None:
    """Start ``qmri`` as the leader of a process group; kill the group without a word, ``delay`` s after ``moment``."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(*arguments, code=SMALL_WAVES),
            cwd=ROOT,
            env=environment(key_file),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + PATIENCE
            while not moment():
                assert process.poll() is None, f"ended before it was killed:\n{log.read_text()}"
                assert time.monotonic() < end, f"the moment never came:\n{log.read_text()}"
                time.sleep(0.05)
            time.sleep(delay)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert_gone(process.pid)


def assert_gone(group: int) -> None:
    """No worker outlives the group's leader and goes on writing."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a process of the killed group is still there")


def committed(store: Path) -> pd.DataFrame:
    """The catalogue as readers see it; empty while there is no store."""
    try:
        return Cohort.open(store).catalogue
    except StoreError:
        return pd.DataFrame(columns=["session", "checkpoint_digest"])


def of_larger_group(processed: Processed) -> set[str]:
    groups = Counter(slot.group for slot in Cohort.open(processed.store).slots.values())
    ((largest, _),) = groups.most_common(1)
    return {name for name, slot in Cohort.open(processed.store).slots.items() if slot.group == largest}


def is_in_a_wave(store: Path) -> bool:
    return len(open_repository(store).list_branches()) > 1


@pytest.fixture(scope="module")
def survivor(processed: Processed, workers: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the larger group, whose ingest was killed in the second of two waves, and then run again."""
    folder = tmp_path_factory.mktemp("killed")
    store, source = folder / "store", folder / "in"
    pair = of_larger_group(processed)
    for plan in processed.plans():
        for path in [Path(path) for series in plan.series for path in series.paths if plan.session in pair]:
            copy = source / path.relative_to(processed.source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    run = ("ingest", source, "--store", store)
    kill_when(
        lambda: len(committed(store)) == 1 and is_in_a_wave(store),
        *run,
        "--workers",
        "1",
        key_file=processed.key_file,
        log=folder / "log",
    )
    assert len(committed(store)) == 1
    assert is_in_a_wave(store)  # what the killed wave has left is there, and hidden from readers
    assert verify(Cohort.open(store)) == []
    again = qmri(*run, key_file=processed.key_file, workers=workers)
    assert again.returncode == 0, again.stderr
    assert "2 sessions found = 2 complete + 0 partial + 0 skipped + 0 failed, 1 of them unchanged" in again.stdout
    assert not is_in_a_wave(store)
    return store


IMAGES = ("T1w", "T2w", "FLAIR", "brain_mask", "tissue", "affine")


def test_images_are_those_of_an_undisturbed_run(processed: Processed, survivor: Path) -> None:
    expected, found = arrays(processed.store), arrays(survivor)
    assert set(found) == of_larger_group(processed)
    for session, stored in found.items():
        for name in IMAGES:
            assert expected[session][name].tobytes() == stored[name].tobytes(), (session, name)


def test_maps_are_those_of_an_undisturbed_run(
    processed: Processed, survivor: Path, workers: Client, tmp_path: Path
) -> None:
    # a calibration is of the whole cohort, and this store has one of its groups
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(survivor, undisturbed)
    infer(str(undisturbed), checkpoint=processed.checkpoint, client=workers)
    run = ("infer", "--store", survivor, "--checkpoint", processed.checkpoint)

    def is_between() -> bool:
        return int((committed(survivor)["checkpoint_digest"] != "").sum()) == 1

    kill_when(is_between, *run, "--workers", "1", key_file=processed.key_file, log=tmp_path / "log")
    assert (committed(survivor)["checkpoint_digest"] != "").sum() == 1
    assert verify(Cohort.open(survivor)) == []
    again = infer(str(survivor), checkpoint=processed.checkpoint, client=workers)
    assert (again.complete, again.unchanged, again.exit_status) == (2, 1, 0)

    expected, found = arrays(undisturbed), arrays(survivor)
    assert set(found) == set(expected) == of_larger_group(processed)
    for session, stored in found.items():
        assert_same_arrays(stored, expected[session])
    pd.testing.assert_frame_equal(values(survivor), values(undisturbed))
    assert verify(Cohort.open(survivor)) == []
    last = last_snapshot(survivor)
    assert infer(str(survivor), checkpoint=processed.checkpoint, client=workers).snapshot is None
    assert last_snapshot(survivor) == last


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_runs_that_are_killed_five_times_each_end_where_undisturbed_ones_do(
    processed: Processed, tmp_path: Path
) -> None:
    """About 10 minutes on two free cores."""
    store = tmp_path / "store"

    def n_done(column: str) -> int:
        return int((committed(store)[column] != "").sum())

    def killed(run: tuple[object, ...], column: str) -> None:
        for number, (n, delay) in enumerate([(0, 0.0), (0, 2.0), (1, 0.0), (1, 1.0), (2, 0.0)]):

            def moment(n: int = n) -> bool:
                return n_done(column) >= n and (store / "refs").is_dir() and is_in_a_wave(store)

            kill_when(
                moment, *run, "--workers", "1", key_file=processed.key_file, log=tmp_path / f"log-{number}", delay=delay
            )
            assert verify(Cohort.open(store)) == []
            assert n_done(column) >= n

    ingest_run = ("ingest", processed.source, "--store", store)
    killed(ingest_run, "session")
    assert qmri(*ingest_run, "--workers", "1", key_file=processed.key_file, timeout=900).returncode == 0
    infer_run = ("infer", "--store", store, "--checkpoint", processed.checkpoint)
    killed(infer_run, "checkpoint_digest")
    assert qmri(*infer_run, "--workers", "1", key_file=processed.key_file, timeout=900).returncode == 0
    expected, found = arrays(processed.store), arrays(store)
    assert set(found) == set(expected)
    for session, stored in expected.items():
        assert_same_arrays(found[session], stored)
    assert verify(Cohort.open(store)) == []
