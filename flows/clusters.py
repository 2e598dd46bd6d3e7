"""Dask clusters: worker processes on this machine, or a scheduler that runs elsewhere.

Workers are processes of one thread each. Numerical libraries inside them use one thread too: sums are then taken in
the same order wherever a session is computed, so results are bit-identical whatever the number of workers.
Workers know nothing of Prefect.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, WorkerPlugin
from distributed.system import MEMORY_LIMIT

from flows.bounded import ClusterError, run_bounded, waves, waves_for
from flows.settings import Settings

__all__ = ["ClusterError", "client_on_demand", "dask_client", "default_workers", "run_bounded", "waves", "waves_for"]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
ONE_THREAD = dict.fromkeys(THREAD_VARIABLES, "1")

MEMORY_PER_WORKER = 2_500_000_000
"""Bytes that a worker with PyTorch, the brain-mask network and one session needs; decides how many workers start."""

MEMORY_SHARE = 0.9
"""Share of the machine's memory that workers may use; the rest is for this process and the file cache."""

CONFIGURATION: Mapping[str, Any] = {
    "distributed.worker.multiprocessing-method": "spawn",  # fork copies locks of running threads
    # Sessions are not Dask data: there is nothing to spill, and a paused worker would wait for ever for memory that
    # the allocator keeps. Too much memory ends the process; the item is tried again, alone in the end.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.scheduler.allowed-failures": 1,  # run_bounded tries suspects again, alone
    "distributed.scheduler.no-workers-timeout": "120s",  # fail instead of waiting for workers that cannot start
    "distributed.admin.large-graph-warning-threshold": "100MB",
    # Dask's default trim threshold of 64 KiB gives the memory of every large array back to the system at once and
    # faults it in again for the next: simulating took 193 s instead of 60 s, most of it in the kernel.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 536_870_912,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 33_554_432,
}


class OneThread(WorkerPlugin):
    """Keep numerical libraries of a worker to one thread; for workers that someone else has started."""

    name = "qmri-one-thread"

    def setup(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - signature of distributed
        """Set the environment for libraries not yet loaded, and tell those that are."""
        os.environ.update(ONE_THREAD)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        if "SimpleITK" in sys.modules:
            sys.modules["SimpleITK"].ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def default_workers() -> int:
    """Worker processes for this machine: one per core, as far as its memory goes, at least one."""
    return max(1, min(int(CPU_COUNT), int(MEMORY_LIMIT * MEMORY_SHARE) // MEMORY_PER_WORKER))


@contextmanager
def dask_client(settings: Settings, *, processes: bool = True, timeout: float = 30.0) -> Iterator[Client]:
    """Client of the cluster that ``settings`` ask for; a cluster started here ends with the context.

    Parameters
    ----------
    settings
        ``scheduler``: address to connect to; unset, ``workers`` processes start on this machine.
    processes
        False runs local workers as threads of this process (tests).
    timeout
        Seconds to wait for the scheduler.

    Raises
    ------
    ClusterError
        If no scheduler answers at the address.
    """
    with ExitStack() as stack:
        if settings.scheduler is not None:
            yield stack.enter_context(_remote_client(settings.scheduler, timeout))
        else:
            cluster = stack.enter_context(_local_cluster(settings.workers or default_workers(), processes))
            yield stack.enter_context(Client(cluster, set_as_default=False))


@contextmanager
def client_on_demand(settings: Settings) -> Iterator[Client]:
    """Stand-in for `dask_client` whose cluster starts when the client is first used: a run with nothing to do has none.

    Raises
    ------
    ClusterError
        At the first use, if no scheduler answers.
    """
    with ExitStack() as stack:
        yield cast(Client, _OnDemand(lambda: stack.enter_context(dask_client(settings))))


class _OnDemand:
    def __init__(self, start: Callable[[], Client]) -> None:
        self._start = start
        self._client: Client | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the client
        if self._client is None:
            self._client = self._start()
        return getattr(self._client, name)


@contextmanager
def _remote_client(address: str, timeout: float) -> Iterator[Client]:
    try:
        client = Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"QMRI_SCHEDULER={address}: no Dask scheduler answers there ({type(error).__name__})"
        ) from None
    with client:
        client.register_plugin(OneThread())
        yield client


@contextmanager
def _local_cluster(workers: int, processes: bool) -> Iterator[LocalCluster]:
    with (
        dask.config.set(CONFIGURATION),
        _environment(ONE_THREAD if processes else {}),  # what the driver has set would win over Dask's own defaults
        tempfile.TemporaryDirectory(prefix="qmri-dask-", ignore_cleanup_errors=True) as folder,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=processes,
            memory_limit=int(MEMORY_LIMIT * MEMORY_SHARE) // workers,
            dashboard_address="127.0.0.1:0",  # its HTTP server starts in any case: on any free port, without dashboard
            scheduler_kwargs={"dashboard": False},
            worker_dashboard_address=None,
            local_directory=folder,
            silence_logs=logging.CRITICAL,  # workers that die are reported as data, by run_bounded
        ) as cluster,
    ):
        yield cluster


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
