"""The one driver of sessions: plan, dispatch, outcome, commit.

`dispatched` runs items on the cluster, `outcomes` tasks of sessions, `required` those of runs that need every session,
and `run_waves` commits what sessions wrote, wave by wave. In all of them a fault of the cluster or of the storage ends
the run as what it is: what is committed stays, and the next run does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from distributed import Client, KilledWorker

from flows.cluster.boundary import PASSING, Outcome, outcome_of
from flows.cluster.dispatch import ClusterError, run_bounded, threads, waves_for
from flows.cluster.session_log import log_outcome
from flows.progress import Progress, part_of, quiet
from storage.store.repository import StoreError
from storage.store.schema import Reason, Status
from storage.store.waves import commit

if TYPE_CHECKING:
    from icechunk import ForkSession, Repository

    from storage.store.cohort import Cohort
    from storage.store.waves import Wave

Item = TypeVar("Item")
Planned = TypeVar("Planned", contravariant=True)
Plan = TypeVar("Plan")
Result = TypeVar("Result")

MOST_TOGETHER = 16
"""Sessions of a batch at most: what is done again where its worker dies."""
BATCHES_PER_WORKER = 2
"""Of a wave: while one is done, the next is on its way."""


def dispatched(
    client: Client,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    progress: Progress = quiet,
    text: str = "",
    key: Callable[[Item], str] | None = None,
    in_flight: int | None = None,
    resource: str | None = None,
    again: bool = True,
) -> Iterator[tuple[Item, Result | BaseException]]:
    """Items with their results as they come; arguments as those of `flows.cluster.dispatch.run_bounded`.

    Raises
    ------
    ClusterError, StorageFaultError
        If the cluster or the storage fails, wherever: no item is to blame for it.
    """
    for item, result in run_bounded(
        client,
        function,
        items,
        progress=progress,
        text=text,
        key=key,
        in_flight=in_flight,
        resource=resource,
        again=again,
    ):
        if isinstance(result, PASSING):
            raise result
        yield item, result


def completed(
    client: Client,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    progress: Progress = quiet,
    text: str = "",
) -> Iterator[tuple[Item, Result]]:
    """The same for a run that needs every item: what one of them raises ends it.

    Raises
    ------
    ClusterError
        If an item costs its worker its life twice.
    """
    for item, result in dispatched(client, function, items, progress=progress, text=text):
        if isinstance(result, KilledWorker):
            raise ClusterError(f"{text}: a worker process ended in the middle, twice; {_FEWER}")
        if isinstance(result, BaseException):
            raise result
        yield item, result


def session_of_task(task: Any) -> str:  # noqa: ANN401 - any of the tasks
    """The session that a task is about."""
    return str(task.slot.session)


def outcomes(
    client: Client,
    work: Callable[[Item], Outcome],
    tasks: Iterable[Item],
    *,
    name: str,
    session: Callable[[Item], str] = session_of_task,
    progress: Progress = quiet,
    resource: str | None = None,
) -> Iterator[tuple[Item, Outcome]]:
    """Tasks with the outcome of their session; a session that costs its worker its life has failed.

    Parameters
    ----------
    work
        Runs at the session boundary, see `flows.cluster.boundary.at_boundary`.
    name
        What is done, in a word: text of the progress, and the stage of a session whose worker died.
    session
        Session of a task.
    """
    for task, result in dispatched(client, work, tasks, progress=progress, text=name, key=session, resource=resource):
        outcome = outcome_of(session(task), name, result)
        log_outcome(name, outcome)
        yield task, outcome


def outcomes_together(
    client: Client,
    work: Callable[[tuple[Item, ...]], Sequence[Outcome]],
    tasks: Sequence[Item],
    *,
    name: str,
    session: Callable[[Item], str] = session_of_task,
    progress: Progress = quiet,
    resource: str | None = None,
) -> Iterator[Outcome]:
    """Outcomes of tasks that workers do several at a time, neighbours in ``tasks`` together.

    Where a worker dies, or a batch does not come back, each of its sessions is tried again alone.
    """
    size = min(MOST_TOGETHER, -(-len(tasks) // (BATCHES_PER_WORKER * max(1, threads(client, resource)))))
    batches = [tuple(tasks[start : start + size]) for start in range(0, len(tasks), size)]
    again: list[tuple[Item, ...]] = []
    done = 0
    progress(0, len(tasks), name)
    for some, in_flight in ((batches, None), (again, 1)):
        is_last = some is again
        for batch, result in dispatched(
            client,
            work,
            some,
            key=lambda batch: session(batch[0]),
            in_flight=in_flight,
            resource=resource,
            again=is_last,
        ):
            if isinstance(result, BaseException) and not is_last:
                again += ((task,) for task in batch)
                continue
            done_now = [outcome_of(session(batch[0]), name, result)] if isinstance(result, BaseException) else result
            for outcome in done_now:
                log_outcome(name, outcome)
                yield outcome
            done += len(batch)
            progress(done, len(tasks), name)


def required(
    client: Client,
    work: Callable[[Item], Outcome],
    tasks: Iterable[Item],
    *,
    name: str,
    failure: str,
    session: Callable[[Item], str] = session_of_task,
    progress: Progress = quiet,
) -> Iterator[tuple[Item, Outcome]]:
    """The same for a run that needs every session.

    Parameters
    ----------
    failure
        What to say of a session that failed, such as "its maps could not be evaluated".

    Raises
    ------
    StoreError
        If a session failed.
    ClusterError
        If it failed because its worker died, for which no session is to blame.
    """
    for task, outcome in outcomes(client, work, tasks, name=name, session=session, progress=progress):
        if outcome.reason == Reason.WORKER_LOST:
            raise ClusterError(f"{outcome.session}: {failure}: its worker process ended in the middle, twice; {_FEWER}")
        if outcome.status is Status.FAILED:
            advice = "; run `qmri verify`" if outcome.stage == "read" else ""
            raise StoreError(f"{outcome.session}: {failure}: {outcome.explanation}{advice}")
        yield task, outcome


_FEWER = "out of memory? Run it again, with fewer workers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun(Generic[Plan]):
    """A wave, the plans of its sessions, and the tasks of its workers."""

    wave: Wave
    plans: Mapping[str, Plan]
    tasks: Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveRecord:
    """What became of a wave, as `storage.store.waves.commit` takes it."""

    forks: Sequence[ForkSession]
    values: Mapping[str, Mapping[str, object]]
    rows: Sequence[Mapping[str, object]]
    message: str
    metadata: Mapping[str, object]


class SessionWriter(Protocol[Planned, Plan]):
    """A kind of run that writes sessions; `begin` and `record` are called with the store locked for writing."""

    @property
    def name(self) -> str:
        """What it does, in a word."""

    @property
    def work(self) -> Callable[[Any], Outcome]:
        """What workers do with a task."""

    @property
    def together(self) -> Callable[[tuple[Any, ...]], Sequence[Outcome]] | None:
        """What workers do with several tasks at a time; None where they do them one by one."""

    def begin(self, repository: Repository, cohort: Cohort, items: Sequence[Planned]) -> Begun[Plan] | None:
        """Begin a wave of those items that are still to be done in the state of now; None if none are."""

    def record(self, cohort: Cohort, begun: Begun[Plan], outcomes: Sequence[Outcome]) -> WaveRecord:
        """What is to be committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """The last snapshot, None if nothing was written, and the number of items that another run had done."""

    snapshot: str | None
    by_others: int


def run_waves(
    writer: SessionWriter[Item, Plan],
    items: Sequence[Item],
    *,
    cohort: Cohort,
    client: Client,
    per_worker: Callable[[Client], int] | int,
    resource: Callable[[Client], str | None] | None = None,
    progress: Progress = quiet,
) -> Ran:
    """Do the items in waves, each of which is checked against the catalogue, dispatched and committed under one lock.

    Parameters
    ----------
    per_worker
        Items of a wave for each worker that is there when it begins; asked at each wave.
    resource
        What workers must have, asked at each wave; default: any worker will do.
    """
    snapshot: str | None = None
    done = by_others = 0
    for wave in waves_for(client, items, per_worker):
        with cohort.writing() as repository:
            now = cohort.refreshed()
            begun = writer.begin(repository, now, wave)
            by_others += len(wave) - (0 if begun is None else len(begun.plans))
            if begun is not None:
                finished = _done(
                    writer,
                    begun,
                    client,
                    part_of(progress, done, len(items)),
                    None if resource is None else resource(client),
                )
                record = writer.record(now, begun, sorted(finished, key=lambda outcome: outcome.session))
                snapshot = commit(
                    repository,
                    begun.wave,
                    record.forks,
                    values=record.values,
                    rows=record.rows,
                    message=record.message,
                    metadata=record.metadata,
                )
        done += len(wave)
    return Ran(snapshot=snapshot, by_others=by_others)


def _done(
    writer: SessionWriter[Any, Plan], begun: Begun[Plan], client: Client, progress: Progress, resource: str | None
) -> list[Outcome]:
    if writer.together is not None:
        return list(
            outcomes_together(
                client, writer.together, begun.tasks, name=writer.name, progress=progress, resource=resource
            )
        )
    done = outcomes(client, writer.work, begun.tasks, name=writer.name, progress=progress, resource=resource)
    return [outcome for _, outcome in done]
