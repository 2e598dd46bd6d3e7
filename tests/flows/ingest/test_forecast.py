"""What a source would take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.ingest.forecast import (
    INFERENCE_SECONDS,
    INGEST_SECONDS,
    MEMORY,
    Need,
    durations_of,
    forecast,
    shortages,
)
from storage.store.room import SESSION as SESSION_BYTES

MILLION = 10**6
SESSION = Need(n_sessions=1, voxels=MILLION, most=MILLION)
SECONDS = INGEST_SECONDS[0] + INGEST_SECONDS[1] * MILLION
WITH_MAPS = SECONDS + INFERENCE_SECONDS[0] + INFERENCE_SECONDS[1] * MILLION


def test_a_hundred_sessions_on_four_workers() -> None:
    told = forecast(Need(n_sessions=100, voxels=100 * MILLION, most=2 * MILLION), workers=4)
    assert told.hours == pytest.approx(100 * WITH_MAPS / 4 / 3600)
    assert told.memory == pytest.approx(MEMORY[0] + 2 * MILLION * MEMORY[1])
    assert told.disk == pytest.approx(100 * (SESSION_BYTES[0] + MILLION * SESSION_BYTES[1]))
    assert "100 sessions" in told.text()
    assert "documentation" in told.text()


def test_what_the_machine_took_before_counts_more_than_the_documentation() -> None:
    durations = [(3 * SECONDS, MILLION)] * 5 + [(1e6, MILLION), (0.0, MILLION)]
    told = forecast(SESSION, workers=1, durations=durations)
    assert told.hours == pytest.approx(3 * WITH_MAPS / 3600)
    assert told.n_measured == 6
    few = forecast(SESSION, workers=1, durations=durations[:4])
    assert few.hours == pytest.approx(WITH_MAPS / 3600)
    assert few.n_measured == 0


def test_more_workers_than_sessions_do_not_help() -> None:
    assert forecast(SESSION, workers=8).hours == forecast(SESSION, workers=1).hours


def test_nothing_takes_nothing() -> None:
    told = forecast(Need(), workers=2)
    assert (told.hours, told.disk) == (0.0, 0.0)
    assert told.text() == "nothing to ingest"


@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=20), st.integers(0, 19))
def test_needs_add_up_in_any_parts(sizes: list[int], cut: int) -> None:
    needs = [Need(n_sessions=1, voxels=size, most=size) for size in sizes]
    first, second = sum(needs[:cut], Need()), sum(needs[cut:], Need())
    assert first + second == Need(n_sessions=len(sizes), voxels=sum(sizes), most=max(sizes))


def test_what_the_machine_lacks_is_told() -> None:
    told = forecast(Need(n_sessions=1000, voxels=1000 * 8 * MILLION, most=8 * MILLION), workers=4)
    assert shortages(told, memory=1e12, disk=1e12) == []
    assert shortages(told, memory=1e12, disk=None) == []
    memory, disk = shortages(told, memory=4e9, disk=1e9)
    assert "--workers" in memory
    assert "disk" in disk


def test_durations_are_those_of_sessions_in_groups() -> None:
    rows = [{"duration": 12.0, "group": "a/b"}, {"duration": float("nan"), "group": ""}]
    assert durations_of(rows, {"a/b": 7}) == [(12.0, 7)]
