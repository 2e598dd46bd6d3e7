"""What a store costs as it grows: 100, 1,000 and 10,000 tiny sessions over 20 groups."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qmri_core.series.geometry import Grid
from storage.store.cohort import Cohort, begin_append, commit, open_cohort, open_repository, write_arrays, writing
from storage.store.repository import snapshot_of, tag
from tests.storage.cohorts import images, placement, row

GRID = Grid(shape=(2, 4, 4), spacing=(2.0, 2.0, 2.0))
N_GROUPS = 20
WAVE = 32
ROUNDS = 8
SIZES = (100, 1_000, 10_000)


def append(location: Path, names: list[int], *, only: tuple[str, ...] = ()) -> None:
    """Ingest sessions in one wave; ``only`` some of their images, where it is the number of sessions that counts."""
    members = [placement(f"ses-{n:06d}", f"scanner-{n % N_GROUPS}/protocol-0", GRID) for n in names]
    with writing(location, create=True) as repository:
        wave = begin_append(repository, members)
        for member in members:
            arrays = images(member.session, GRID.shape)
            arrays = {name: array for name, array in arrays.items() if not only or name in only}
            write_arrays(wave.fork, wave.slots[member.session], arrays)
        commit(
            repository,
            wave,
            [wave.fork],
            values={member.session: {"age": 40.0, "coverage": 1.0} for member in members},
            rows=[row(member.session, "partial", contrasts="T1w,T2w,FLAIR") for member in members],
            message=f"Ingest {len(members)} sessions",
        )


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """Least processor time of all threads: what other processes do at the same time does not count."""

    def once() -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    return min(once() for _ in range(times))


def resident() -> float:
    """Memory of this process in MB."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_cost_of_a_wave_does_not_grow_with_the_store(tmp_path: Path) -> None:
    """Five minutes on two free cores, most of it to make the 10,000 sessions; prints a table.

    A wave of the large store and one of a store of 100 sessions take turns, so that both see the same machine.
    """
    location, first, small = tmp_path / "store", tmp_path / "first", tmp_path / "small"
    numbers, total = itertools.count(), 0
    ratio = {}
    print()
    for size in SIZES:
        while total < size:
            batch = min(2_000, size - total)
            append(location, list(itertools.islice(numbers, batch)), only=("T1w", "affine"))
            total += batch
        if not first.exists():
            shutil.copytree(location, first)
        shutil.rmtree(small, ignore_errors=True)
        shutil.copytree(first, small)  # anew: the waves of the size before have made it larger
        with writing(location) as repository:
            tag(repository, f"at-{size}")
        times: dict[Path, list[float]] = {small: [], location: []}
        for place in (small, location) * ROUNDS:
            members = list(itertools.islice(numbers, WAVE))
            times[place].append(seconds(lambda place=place, members=members: append(place, members), 1))
        total += ROUNDS * WAVE
        best = {place: min(taken) / WAVE for place, taken in times.items()}
        ratio[size] = best[location] / best[small]
        figures = {
            "open": seconds(lambda: open_repository(location)),
            "open by tag": seconds(lambda: snapshot_of(open_repository(location), "at-100")),
            "list": seconds(lambda: Cohort.open(location).catalogue),
            "decide": seconds(
                lambda: (Cohort.open(location).catalogue, Cohort.open(location).sessions, Cohort.open(location).slots)
            ),
            "open as a tree": seconds(lambda: open_cohort(location), 1),
        }
        told = ", ".join(f"{name} {value:.2f} s" for name, value in figures.items())
        print(
            f"{size:6d} sessions: {best[location] * 1e3:.0f} ms per session of a wave, {ratio[size]:.2f} of a store of "
            f"100; {told}; {resident():.0f} MB"
        )
    assert ratio[10_000] <= 1.3
