"""A clock that runs behind the store's last commit, and one that was ahead when it was made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import icechunk
import pytest
import zarr

from storage.store import clock
from storage.store.clock import PATIENCE, ClockError
from storage.store.repository import MAIN, StorageFaultError, faults, history, open_repository, writing

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *t) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, t);
    if (id == CLOCK_REALTIME) t->tv_sec += atol(getenv("AHEAD"));
    return result;
}
"""
"""A library that sets the clock of a process ahead."""


def made(tmp_path: Path) -> str:
    location = str(tmp_path / "store")
    with writing(location, create=True):
        pass
    return location


def behind(monkeypatch: pytest.MonkeyPatch, location: str, by: timedelta) -> None:
    last = history(open_repository(location))[0].time
    monkeypatch.setattr(clock, "_now", lambda: last - by)


@pytest.mark.parametrize("by", [timedelta(hours=2), timedelta(days=400), PATIENCE * 1.5])
def test_a_clock_that_is_behind_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: timedelta
) -> None:
    location = made(tmp_path)
    before = history(open_repository(location))
    behind(monkeypatch, location, by)
    with pytest.raises(ClockError, match=rf"clock .* behind by {by}") as told, writing(location):
        pytest.fail("nothing may be written")
    assert isinstance(told.value, StorageFaultError)
    assert "run it again" in str(told.value)
    assert history(open_repository(location)) == before


def test_a_clock_that_is_little_behind_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = made(tmp_path)
    behind(monkeypatch, location, timedelta(seconds=3))
    slept: list[float] = []
    told: list[str] = []
    monkeypatch.setattr("storage.store.clock.time.sleep", slept.append)
    with writing(location, on_wait=told.append):
        pass
    assert slept == [pytest.approx(3.01)]
    [words] = told
    assert "clock" in words
    assert "waiting 3 s" in words


def test_a_clock_that_is_right_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = made(tmp_path)
    monkeypatch.setattr("storage.store.clock.time.sleep", lambda _: pytest.fail("nothing to wait for"))
    with writing(location, on_wait=lambda _: pytest.fail("nothing to tell")):
        pass


@pytest.mark.parametrize(
    "words",
    [
        "session error: invalid snapshot timestamp ordering. parent: `2026-11-29 19:16 UTC`, child: `2026-11-29 19:14",
        "snapshot timestamp is invalid, please verify if the machine clock has drifted: local clock: `2026-11-29`",
    ],
)
def test_what_the_library_says_of_the_clock_is_no_fault_of_the_storage(words: str) -> None:
    with pytest.raises(ClockError, match=r"clock of this machine .*2026-11-29"), faults():
        raise icechunk.IcechunkError(words)
    with pytest.raises(StorageFaultError, match="does not answer") as told, faults():
        raise icechunk.IcechunkError("object not found")
    assert not isinstance(told.value, ClockError)


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="sets a clock ahead with a C library")
def test_after_a_commit_by_a_clock_that_was_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real commit of two minutes from now: what the library then says is understood."""
    location, source, shim = made(tmp_path), tmp_path / "ahead.c", tmp_path / "ahead.so"
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(shim), "-ldl"], check=True)
    program = (
        "import sys, zarr\nfrom storage.store.repository import writing\n"
        "with writing(sys.argv[1]) as repository:\n"
        "    session = repository.writable_session('main')\n"
        "    zarr.open_group(session.store).attrs['title'] = 'ahead'\n"
        "    session.commit('ahead')\n"
    )
    ahead = {**os.environ, "LD_PRELOAD": str(shim), "AHEAD": "120"}
    subprocess.run([sys.executable, "-c", program, location], env=ahead, check=True, cwd=Path(__file__).parents[3])
    last = history(open_repository(location))[0]
    assert last.time > datetime.now(UTC) + timedelta(seconds=60)
    with pytest.raises(ClockError, match=r"behind by 0:0[12]:"), writing(location):
        pytest.fail("nothing may be written")
    monkeypatch.setattr(clock, "await_commit", lambda *_: None)
    session = open_repository(location).writable_session(MAIN)
    zarr.open_group(session.store).attrs["title"] = "behind"
    with pytest.raises(ClockError, match="does not fit the store"), faults():
        session.commit("behind")
    assert history(open_repository(location))[0] == last
