"""Sessions that are inferred together: each has the maps that it has alone, and fails for its own reason alone."""

from __future__ import annotations

import itertools
import math
import pickle
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client, KilledWorker
from numpy.typing import NDArray

from flows.cluster.boundary import Outcome, seconds_of
from flows.cluster.driver import MOST_TOGETHER, outcomes_together
from flows.maps import batch
from flows.maps.batch import infer_session, infer_sessions
from flows.maps.infer import infer
from flows.maps.session import OF_INFERENCE, InferTask
from flows.maps.weights import Weights, resident_device
from qmri_core.calibration.session_model import PersonLevels
from qmri_core.mapping import device
from qmri_core.mapping.checkpoint import load_checkpoint
from qmri_core.series.acquisition import Contrast
from qmri_core.series.geometry import Grid
from storage.store import waves
from storage.store.cohort import Cohort, begin_update, writing
from storage.store.locations import StorageFaultError
from storage.store.schema import Reason, Status
from tests.benchmarks.test_orchestration import Loop, in_a_loop, make_store
from tests.flows import tiny_cohort
from tests.flows.cluster.test_boundary import ACQUISITIONS

GRID = Grid(shape=(4, 40, 32), spacing=(5.0, 5.0, 36.0))
VOLUME = 4 * 40 * 32
Arrays = Mapping[str, NDArray[Any]]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[InferTask]:
    """Five sessions of two groups whose protocols and persons differ, with the shipped weights; few slices each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_cohort, "GRID", GRID)
        store = tiny_cohort.make_store(tmp_path_factory.mktemp("together"))
    cohort = Cohort.open(store)
    with writing(store) as repository:
        wave = begin_update(repository, sorted(cohort.slots))
    spin_echo = ACQUISITIONS[Contrast.T1W]
    other = {**ACQUISITIONS, Contrast.T1W: replace(spin_echo, flip_angle=math.radians(70))}
    return [
        InferTask(
            cohort=cohort,
            slot=slot,
            acquisitions=ACQUISITIONS if slot.group == tiny_cohort.GROUPS[0] else other,
            scales={Contrast.T1W: 250.0 + 5 * number, Contrast.T2W: 300.0},
            person=PersonLevels(
                mean=np.full(4, 0.01 * number), determined=np.full(4, 0.5), spread=np.full(4, 0.04), n_people=9.0
            ),
            is_adult=False,  # of no brain, closure does not hold
            weights=Weights(digest=load_checkpoint().digest),
            fork=pickle.dumps(wave.fork),
        )
        for number, slot in enumerate(wave.slots.values())
    ]


def written(task: InferTask, outcome: Outcome) -> Arrays:
    assert (outcome.session, outcome.status, outcome.explanation) == (task.slot.session, Status.COMPLETE, "")
    assert outcome.fork is not None
    assert outcome.duration > 0
    assert list(seconds_of(outcome)) == ["read", "load_model", "infer", "closure", "write"]
    assert sum(seconds_of(outcome).values()) <= outcome.duration * 1.5  # calls that are shared are told in shares
    group = zarr.open_group(outcome.fork.store, path=task.slot.group, mode="r")
    return {name: np.asarray(group[name][task.slot.index]) for name in OF_INFERENCE}  # type: ignore[index]


@pytest.fixture(scope="module")
def alone(tasks: Sequence[InferTask]) -> dict[str, Arrays]:
    return {task.slot.session: written(task, infer_session(task)) for task in tasks}


def assert_as_alone(tasks: Sequence[InferTask], outcomes: Sequence[Outcome], alone: Mapping[str, Arrays]) -> None:
    for task, outcome in zip(tasks, outcomes, strict=True):
        for name, expected in alone[task.slot.session].items():
            np.testing.assert_array_equal(written(task, outcome)[name], expected, err_msg=name)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The sessions that share each device call."""
    shared, plain = [], device.infer_parts

    def counted(network: Any, parts: Any, *arguments: Any, **options: Any) -> Any:
        shared.append({part.owner for part in parts})
        return plain(network, parts, *arguments, **options)

    monkeypatch.setattr(device, "infer_parts", counted)
    return shared


@pytest.mark.parametrize("order", ["of the group", "mixed", "reversed", "rolled"])
@pytest.mark.parametrize("full", [1, 2, 100], ids=lambda full: f"{full} volumes a call")
def test_maps_are_the_same_to_the_bit_in_every_company(
    tasks: list[InferTask],
    alone: Mapping[str, Arrays],
    calls: list[set[str]],
    order: str,
    full: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resident_device(tasks[0].weights), "voxels", full * VOLUME)
    together = {
        "of the group": [task for task in tasks if task.slot.group == tiny_cohort.GROUPS[0]],
        "mixed": tasks,
        "reversed": tasks[::-1],
        "rolled": tasks[2:] + tasks[:2],
    }[order]
    assert_as_alone(together, infer_sessions(together), alone)
    assert max(map(len, calls)) == min(full, 3)  # volumes of four slices, and calls of fewer than sixteen planes


def stored(store: str) -> dict[str, Arrays]:
    cohort = Cohort.open(store)
    return {name: cohort.read(slot, OF_INFERENCE) for name, slot in cohort.slots.items()}


class Workers(Loop):
    def __init__(self, n: int) -> None:
        self.n = n

    def nthreads(self) -> Mapping[str, int]:
        return {"here": self.n}


@pytest.fixture(scope="module")
def of_one_worker(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Arrays]:
    store = make_store(tmp_path_factory.mktemp("one"), 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.cluster.driver.run_bounded", in_a_loop)
        infer(store, client=Workers(1))  # type: ignore[arg-type]
    return stored(store)


@pytest.mark.parametrize("n_workers", [2, 4])
def test_maps_do_not_depend_on_the_number_of_workers(
    of_one_worker: Mapping[str, Arrays],
    calls: list[set[str]],
    n_workers: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = make_store(tmp_path, 7)
    monkeypatch.setattr("flows.cluster.driver.run_bounded", in_a_loop)
    summary = infer(store, client=Workers(n_workers))  # type: ignore[arg-type]
    assert summary.failed == 0
    assert max(map(len, calls)) == (2 if n_workers == 2 else 1)
    for name, arrays in stored(store).items():
        for variable, values in arrays.items():
            np.testing.assert_array_equal(values, of_one_worker[name][variable], err_msg=variable)


def test_nor_on_processes_that_share_them(of_one_worker: Mapping[str, Arrays], workers: Client, tmp_path: Path) -> None:
    store = make_store(tmp_path, 7)
    assert infer(store, client=workers).failed == 0
    for name, arrays in stored(store).items():
        for variable, values in arrays.items():
            np.testing.assert_array_equal(values, of_one_worker[name][variable], err_msg=variable)


def broken(tasks: Sequence[InferTask], number: int, fault: str, monkeypatch: pytest.MonkeyPatch) -> list[InferTask]:
    """The tasks with a fault of one session."""
    name = tasks[number].slot.session
    if fault == "scales":
        faulty = replace(tasks[number], scales={Contrast.T1W: 250.0, Contrast.T2W: math.nan})
        return [faulty if task is tasks[number] else task for task in tasks]
    if fault == "slot":
        read = Cohort.read

        def refused(self: Cohort, slot: Any, names: Any) -> Any:
            return read(self, replace(slot, index=slot.index + 1) if slot.session == name else slot, names)

        monkeypatch.setattr(Cohort, "read", refused)
    elif fault == "network":
        plain = device.infer_parts

        def fails(network: Any, parts: Any, *arguments: Any, **options: Any) -> Any:
            if name in {part.owner for part in parts}:
                raise RuntimeError("/archive/SecretName")
            return plain(network, parts, *arguments, **options)

        monkeypatch.setattr(device, "infer_parts", fails)
    else:
        write = waves.write_arrays

        def full(fork: Any, slot: Any, arrays: Any) -> Any:
            result = write(fork, slot, arrays)
            if slot.session == name:
                raise OSError(28, "No space left on device", "/archive/SecretName")
            return result

        monkeypatch.setattr(waves, "write_arrays", full)
    return list(tasks)


FAULTS = {"scales": "infer", "slot": "read", "network": "infer", "write": "write"}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("number", [0, 3])
def test_a_session_that_fails_fails_alone_for_its_own_reason(
    tasks: Sequence[InferTask],
    alone: Mapping[str, Arrays],
    fault: str,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faulty = broken(tasks, number, fault, monkeypatch)
    outcomes = list(infer_sessions(faulty))
    failed = outcomes.pop(number)
    others = [task for place, task in enumerate(tasks) if place != number]
    assert failed.session == tasks[number].slot.session
    assert (failed.status, failed.reason, failed.stage) == (Status.FAILED, Reason.INTERNAL_ERROR, FAULTS[fault])
    assert failed.fork is None
    assert "Secret" not in f"{failed!r} {failed.explanation}"
    assert_as_alone(others, outcomes, alone)


@pytest.mark.parametrize("step", ["read", "write"])
def test_a_fault_of_the_storage_ends_the_run(
    tasks: Sequence[InferTask], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise StorageFaultError("the bucket does not answer; run it again")

    monkeypatch.setattr(*((Cohort, "read") if step == "read" else (waves, "write_arrays")), unreachable)
    with pytest.raises(StorageFaultError, match="answer"):
        infer_sessions(tasks)


def test_a_session_without_brain_has_maps_without_a_number(
    tasks: Sequence[InferTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, name = Cohort.read, tasks[1].slot.session

    def emptied(self: Cohort, slot: Any, names: Any) -> Any:
        arrays = read(self, slot, names)
        return {
            key: 0 * value if key == "brain_mask" and slot.session == name else value for key, value in arrays.items()
        }

    monkeypatch.setattr(Cohort, "read", emptied)
    outcomes = infer_sessions(tasks)
    maps = written(tasks[1], outcomes[1])
    assert all(np.isnan(values).all() for values in maps.values())


def test_reading_and_writing_overlap_with_inference(
    tasks: Sequence[InferTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first session is in the network the second is read; while that is, the first is written."""
    first, second, third = (task.slot.session for task in tasks[:3])
    read, plain, write = Cohort.read, device.infer_parts, waves.write_arrays
    begun = {(step, name): threading.Event() for step in ("read", "infer") for name in (first, second, third)}
    waited: list[bool] = []
    monkeypatch.setattr("qmri_core.mapping.parts._is_alone", lambda _: True)  # a call for each session

    def noted(self: Cohort, slot: Any, names: Any) -> Any:
        begun["read", slot.session].set()
        return read(self, slot, names)

    def inferred(network: Any, parts: Any, *arguments: Any, **options: Any) -> Any:
        begun["infer", parts[0].owner].set()
        if parts[0].owner == first:
            waited.append(begun["read", second].wait(60))
        return plain(network, parts, *arguments, **options)

    def slow(fork: Any, slot: Any, arrays: Any) -> Any:
        if slot.session == first:
            waited.append(begun["infer", third].wait(60))
        return write(fork, slot, arrays)

    monkeypatch.setattr(Cohort, "read", noted)
    monkeypatch.setattr(device, "infer_parts", inferred)
    monkeypatch.setattr(waves, "write_arrays", slow)
    outcomes = infer_sessions(tasks[:3])
    assert waited == [True, True]
    assert all(outcome.status is Status.COMPLETE for outcome in outcomes)


def test_large_sessions_are_not_read_ahead(
    tasks: Sequence[InferTask], alone: Mapping[str, Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But the second, which is on its way when the first turns out to be large."""
    monkeypatch.setattr(batch, "LARGE_VOLUME", VOLUME - 1)
    read, prepare, steps = Cohort.read, batch.prepare, []

    def noted(self: Cohort, slot: Any, names: Any) -> Any:
        steps.append(("read", slot.session))
        return read(self, slot, names)

    def prepared(task: InferTask, *arguments: Any) -> Any:
        steps.append(("prepare", task.slot.session))
        return prepare(task, *arguments)

    monkeypatch.setattr(Cohort, "read", noted)
    monkeypatch.setattr(batch, "prepare", prepared)
    assert_as_alone(tasks, infer_sessions(tasks), alone)
    names = [task.slot.session for task in tasks]
    for before, name in itertools.pairwise(names[1:]):
        assert steps.index(("read", name)) > steps.index(("prepare", before))


def killing(bad: str) -> Any:
    """Stand-in for `run_bounded` whose workers die of one session."""

    def run(client: object, function: Any, batches: Any, **options: Any) -> Iterator[Any]:
        del client
        for some in list(batches):
            is_bad = bad in some
            assert len(some) == 1 or not options["again"]
            yield some, KilledWorker("infer", None, 3) if is_bad else function(some)  # type: ignore[no-untyped-call]

    return run


@pytest.mark.parametrize("bad", ["s0", "s5", "s19"])
@pytest.mark.parametrize("n_workers", [1, 3])
def test_of_a_batch_that_costs_its_worker_its_life_only_that_session_fails(
    bad: str, n_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.cluster.driver.run_bounded", killing(bad))
    names = [f"s{number}" for number in range(20)]
    seen: list[tuple[int, int]] = []

    def work(some: tuple[str, ...]) -> list[Outcome]:
        assert len(some) <= MOST_TOGETHER
        return [Outcome(session=name, status=Status.COMPLETE) for name in some]

    done = list(
        outcomes_together(
            Workers(n_workers),  # type: ignore[arg-type]
            work,
            names,
            name="infer",
            session=str,
            progress=lambda done, total, _="": seen.append((done, total)),
        )
    )
    assert sorted(outcome.session for outcome in done) == sorted(names)
    assert [(outcome.session, outcome.reason) for outcome in done if outcome.status is Status.FAILED] == [
        (bad, Reason.WORKER_LOST)
    ]
    assert seen[0] == (0, 20)
    assert seen[-1] == (20, 20)
    assert seen == sorted(seen)
