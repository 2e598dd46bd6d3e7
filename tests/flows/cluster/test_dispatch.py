"""Bounded runs on real worker processes: order, failures, workers that die, tasks that get lost."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, KilledWorker, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

from flows.cluster.clusters import ClusterError, dask_client, default_workers, run_bounded
from flows.cluster.dispatch import waves_for
from flows.settings import Settings, read_settings


class Growing:
    """Stands for a client whose cluster gets another worker after each wave."""

    status = "running"

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def nthreads(self) -> dict[str, int]:
        self.workers += 1
        return {"here": self.workers - 1}


@given(items=st.lists(st.integers()), per_worker=st.integers(1, 9), workers=st.integers(0, 8))
def test_waves_hold_every_item_once_in_order_and_grow_with_the_cluster(
    items: list[int], per_worker: int, workers: int
) -> None:
    client: Any = Growing(workers)
    parts = list(waves_for(client, items, per_worker))
    assert [item for part in parts for item in part] == items
    sizes = [per_worker * max(1, workers + number) for number in range(len(parts))]
    assert [len(part) for part in parts[:-1]] == sizes[:-1]
    assert all(0 < len(part) <= size for part, size in zip(parts, sizes, strict=True))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with dask_client(Settings(workers=2)) as client:
        yield client


def square(item: int) -> int:
    if item == 5:
        raise ValueError("five is not liked here")
    return item * item


def threads(_: int) -> tuple[int, int, dict[str, str | None]]:
    import torch

    names = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    return os.getpid(), torch.get_num_threads(), {name: os.environ.get(name) for name in names}


def die(item: int) -> int:
    if item == 3:
        os._exit(9)
    time.sleep(0.02)
    return item


def die_in_company(item: tuple[int, str]) -> int:
    """Die unless this is the first process to try this item a third time: an innocent with bad luck."""
    number, folder = item
    if number == 1:
        tries = len(list(Path(folder).iterdir()))
        Path(folder, str(tries)).touch()
        if tries < 2:
            os._exit(9)
    return number


@pytest.mark.walk
def test_every_item_comes_once_and_errors_come_as_data(client: Client) -> None:
    seen: list[tuple[int, int, str]] = []
    results = dict(
        run_bounded(client, square, range(8), in_flight=3, progress=lambda *state: seen.append(state), text="squares")
    )
    error = results.pop(5)
    assert isinstance(error, ValueError)
    assert results == {item: item**2 for item in range(8) if item != 5}
    assert seen == [(done, 8, "squares") for done in range(9)]


@pytest.mark.walk
@pytest.mark.parametrize("in_flight", [1, 4])
def test_items_are_not_read_ahead(client: Client, in_flight: int) -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for item in range(10, 22):
            read += 1
            yield item

    for done, (item, result) in enumerate(run_bounded(client, square, items(), in_flight=in_flight), start=1):
        assert result == item**2
        assert read <= done + in_flight - 1
    assert read == 12


@pytest.mark.walk
def test_workers_are_processes_of_one_thread_each(client: Client) -> None:
    outcomes = [outcome for _, outcome in run_bounded(client, threads, range(8), key=lambda item: f"ses-{item}")]
    assert len({pid for pid, _, _ in outcomes} | {os.getpid()}) == 3
    assert {count for _, count, _ in outcomes} == {1}
    assert all(set(environment.values()) == {"1"} for _, _, environment in outcomes)


def watched(dask_worker: Any) -> set[str]:
    """What a worker does now and then."""
    return set(dask_worker.periodic_callbacks)


@pytest.mark.walk
def test_workers_keep_no_call_stacks_of_the_last_hour(client: Client) -> None:
    for callbacks in client.run(watched).values():
        assert "heartbeat" in callbacks
        assert not {"profile", "profile-cycle"} & callbacks


@pytest.mark.walk
def test_only_the_item_that_kills_workers_fails(client: Client) -> None:
    results = list(run_bounded(client, die, range(12), in_flight=6))
    assert Counter(item for item, _ in results) == Counter(range(12))
    failed = {item: result for item, result in results if item != result}
    assert list(failed) == [3]
    assert isinstance(failed[3], KilledWorker)


@pytest.mark.walk
def test_an_item_is_tried_again_alone_before_it_fails(client: Client, tmp_path: Path) -> None:
    items = [(number, str(tmp_path)) for number in range(4)]
    assert {item[0]: result for item, result in run_bounded(client, die_in_company, items)} == {0: 0, 1: 1, 2: 2, 3: 3}


@pytest.mark.parametrize("collected", [False, True])
def test_leaving_early_drops_what_is_in_flight(client: Client, collected: bool) -> None:
    """Also where garbage collection ends it, on whatever thread it runs: here the client's own event loop."""
    run = run_bounded(client, square, iter(range(1000)), in_flight=4)
    next(run)

    async def close() -> None:
        run.close()  # type: ignore[attr-defined]

    if collected:
        client.sync(close)
    else:
        run.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 10
    while (
        rest := client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
    ) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rest == 0


def test_a_task_that_the_scheduler_lost_ends_as_an_error() -> None:
    def forget(dask_scheduler: Any) -> None:
        """Drop the tasks without a word to the client, as a scheduler that lost a message would."""
        for key in list(dask_scheduler.tasks):
            dask_scheduler.client_desires_keys(keys=[key], client="ghost")
            for state in dask_scheduler.clients.values():
                if state.client_key != "ghost":
                    state.wants_what.discard(dask_scheduler.tasks[key])
                    dask_scheduler.tasks[key].who_wants.discard(state)
            dask_scheduler.client_releases_keys(keys=[key], client="ghost", stimulus_id="test")

    with dask_client(read_settings(workers=1), processes=False) as client:
        stop = threading.Event()

        def keep_forgetting() -> None:
            while not stop.wait(0.05):
                client.run_on_scheduler(forget)

        thread = threading.Thread(target=keep_forgetting)
        thread.start()
        try:
            [(item, outcome)] = run_bounded(client, time.sleep, [2.0], heartbeat=0.1)
        finally:
            stop.set()
            thread.join()
    assert item == 2.0
    assert isinstance(outcome, ClusterError)
    assert "lost this task 3 times" in str(outcome)


def test_a_cluster_without_workers_is_given_up() -> None:
    with dask_client(read_settings(workers=1), processes=False) as client:
        client.cluster.scale(0)
        while client.nthreads():
            time.sleep(0.01)
        with pytest.raises(ClusterError, match="no Dask worker"):
            list(run_bounded(client, square, [1], heartbeat=0.02))


def test_a_scheduler_that_does_not_answer_is_named() -> None:
    with (
        pytest.raises(ClusterError, match=r"QMRI_SCHEDULER=tcp://127.0.0.1:9: no Dask scheduler"),
        dask_client(read_settings(scheduler="tcp://127.0.0.1:9"), timeout=0.3),
    ):
        pass


@pytest.mark.walk
def test_a_running_scheduler_is_used_and_left_running() -> None:
    with dask_client(read_settings(workers=1)) as own:
        with dask_client(read_settings(scheduler=own.scheduler.address)) as client:
            assert dict(run_bounded(client, square, [2, 3])) == {2: 4, 3: 9}
            outcomes = [outcome for _, outcome in run_bounded(client, threads, range(2))]
            assert {count for _, count, _ in outcomes} == {1}
        assert dict(run_bounded(own, square, [4])) == {4: 16}


@pytest.mark.walk
def test_the_environment_of_this_process_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", raising=False)
    with dask_client(read_settings(workers=1)) as client:
        [(_, (_, count, environment))] = run_bounded(client, threads, [0])
    assert count == 1
    assert environment["OMP_NUM_THREADS"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS" not in os.environ


def test_the_default_number_of_workers_fits_the_machine() -> None:
    assert 1 <= default_workers() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("slow", ["cluster", "client"])
def test_a_cluster_that_is_slow_to_end_does_not_fail_the_run(
    slow: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kind = Client if slow == "client" else LocalCluster
    end: Any = kind.close

    def too_slow(self: Any, *arguments: Any, **more: Any) -> Any:
        end(self, *arguments, **more)
        raise TimeoutError

    with dask_client(read_settings(workers=1), processes=False) as client:
        result = client.submit(square, 3).result()
        monkeypatch.setattr(kind, "close", too_slow)
    assert result == 9
    assert "has not ended in time" in caplog.text


def test_a_timeout_of_the_work_itself_goes_on() -> None:
    with pytest.raises(TimeoutError, match="the work"), dask_client(read_settings(workers=1), processes=False):
        raise TimeoutError("the work")
