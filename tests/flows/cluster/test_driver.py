"""The driver of sessions: what ends as data, what ends a run, in every run that works on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, KilledWorker

from flows.cluster.clusters import ClusterError, dask_client
from flows.cluster.driver import dispatched
from flows.errors import explain
from flows.evaluation.voxels import EvaluationTask
from flows.evaluation.with_truth import _by_voxels
from flows.evaluation.without_truth import evaluate_real
from flows.ingest.run import ingest
from flows.maps.infer import infer
from flows.progress import quiet
from flows.settings import Settings
from flows.simulate import simulate
from flows.statistics.aggregate import aggregate
from storage.store.cohort import Cohort
from storage.store.locations import StorageFaultError
from storage.store.repository import StoreError
from tests.benchmarks.test_orchestration import Loop, in_a_loop, make_store
from tests.flows import tiny_cohort

KEY = bytes(32)
RUNS = ("ingest", "infer", "aggregate", "evaluate", "evaluate with truth", "simulate")


def first_fails(error: BaseException) -> Callable[..., Iterator[tuple[Any, Any]]]:
    """Stand-in for `run_bounded` that does all items here, but for the first, which comes back as ``error``."""

    def run(client: object, function: Callable[[Any], Any], items: Any, **_: object) -> Iterator[tuple[Any, Any]]:
        del client
        for number, item in enumerate(items):
            yield item, error if number == 0 else function(item)

    return run


@dataclass(frozen=True, kw_only=True)
class Stores:
    images: str
    maps: str
    source: Path
    checkpoint: Path

    def run(self, name: str, out: Path) -> Any:
        """Run one of `RUNS` with a client that is no cluster."""
        client: Any = Loop()
        if name == "ingest":
            return ingest(self.source, str(out / "store"), key=KEY, client=client)
        if name == "infer":
            return infer(self.images, client=client, checkpoint=self.checkpoint)
        if name == "aggregate":
            return aggregate(self.maps, client=client)
        if name == "evaluate":
            return evaluate_real(self.maps, client=client)
        if name == "simulate":
            return simulate(out / "simulated", sessions=2, groups=1, client=client)
        cohort = Cohort.open(self.maps)
        slot = next(iter(cohort.slots.values()))
        task = EvaluationTask(cohort=cohort, slot=slot, subject="a", truth=out, acquisitions={}, scales={})
        return _by_voxels([task], client, quiet)


@pytest.fixture
def stores(tmp_path: Path, checkpoint: Path, request: pytest.FixtureRequest) -> Stores:
    """What the run of the test works on; a source only where it is one of ingest."""
    name = request.node.callspec.params["run"]
    source = tmp_path / "source"
    if name == "ingest":
        simulate(source, sessions=1, groups=1, resolution=5.0)
    return Stores(
        images=make_store(tmp_path / "images", 2) if name == "infer" else "",
        maps=tiny_cohort.make_store(tmp_path) if name in {"aggregate", "evaluate", "evaluate with truth"} else "",
        source=source,
        checkpoint=checkpoint,
    )


@pytest.fixture
def prepared(stores: Stores, run: str, monkeypatch: pytest.MonkeyPatch) -> Stores:
    if run == "evaluate":
        with monkeypatch.context() as patch:
            patch.setattr("flows.cluster.driver.run_bounded", in_a_loop)
            aggregate(stores.maps, client=Loop())  # type: ignore[arg-type]
    return stores


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    "error",
    [ClusterError("the Dask scheduler lost this task"), StorageFaultError("the bucket does not answer; run it again")],
    ids=lambda error: type(error).__name__,
)
def test_faults_of_cluster_and_storage_end_the_run_as_what_they_are(
    prepared: Stores, run: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In aggregate and evaluate they were a `StoreError` that told to run `qmri verify`, and were not tried again."""
    before = {place: Cohort.open(place).snapshot for place in (prepared.maps,) if place}
    monkeypatch.setattr("flows.cluster.driver.run_bounded", first_fails(error))
    with pytest.raises(type(error)) as raised:
        prepared.run(run, tmp_path)
    assert raised.value is error
    assert "verify" not in explain(raised.value)
    assert {place: Cohort.open(place).snapshot for place in before} == before
    if place := {"ingest": str(tmp_path / "store"), "infer": prepared.images}.get(run):
        assert "failed" not in set(Cohort.open(place).catalogue["status"])  # no session is blamed for it


@pytest.mark.parametrize("run", RUNS)
def test_a_worker_that_dies_is_data_where_sessions_are_written_and_ends_what_needs_them_all(
    prepared: Stores, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = KilledWorker("task", None, 3)  # type: ignore[no-untyped-call]
    monkeypatch.setattr("flows.cluster.driver.run_bounded", first_fails(lost))
    if run in {"ingest", "infer"}:
        summary = prepared.run(run, tmp_path)
        assert [(failure.reason, failure.stage) for failure in summary.failures] == [("worker_lost", run)]
        assert summary.exit_status == 3
        assert summary.found == summary.failed + summary.partial
    else:
        with pytest.raises(ClusterError, match="out of memory\\? Run it again, with fewer workers") as raised:
            prepared.run(run, tmp_path)
        assert "verify" not in str(raised.value)


@pytest.fixture(scope="module")
def threads() -> Iterator[Client]:
    with dask_client(Settings.model_construct(workers=1), processes=False) as client:
        yield client


def unreachable(*_: object) -> None:
    raise StorageFaultError("the bucket does not answer; run it again")


def without_scheduler(*_: object) -> None:
    raise ClusterError("no Dask scheduler answers")


def damaged(*_: object) -> None:
    raise OSError(5, "a chunk is missing")


@pytest.mark.parametrize(("fault", "kind"), [(unreachable, StorageFaultError), (without_scheduler, ClusterError)])
def test_a_fault_inside_the_work_of_a_session_comes_through_the_workers(
    threads: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., None], kind: type[Exception]
) -> None:
    store = tiny_cohort.make_store(tmp_path)
    monkeypatch.setattr(Cohort, "read_together", fault)
    with pytest.raises(kind, match="answer"):
        aggregate(store, client=threads)


def test_damage_of_one_session_names_the_session_and_the_command_that_finds_it(
    threads: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tiny_cohort.make_store(tmp_path)
    monkeypatch.setattr("storage.store.cohort.read_together", damaged)
    with pytest.raises(StoreError, match=r"^ses-0+\d: statistics .* OSError in .*; run `qmri verify`$") as raised:
        aggregate(store, client=threads)
    assert not isinstance(raised.value, StorageFaultError)


def test_what_else_is_raised_is_left_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("no such session")
    monkeypatch.setattr("flows.cluster.driver.run_bounded", first_fails(error))
    assert list(dispatched(None, abs, [-1, -2])) == [(-1, error), (-2, 2)]  # type: ignore[arg-type]
