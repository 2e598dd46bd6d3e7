"""The one Dask client of a run: of a cluster that starts and ends with it, or of a scheduler that runs elsewhere.

Workers are processes of one thread each. Numerical libraries inside them use one thread too: sums are then taken in
the same order wherever a session is computed, so results are bit-identical whatever the number of workers.
Workers know nothing of Prefect.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from distributed import Client, WorkerPlugin

from flows.cluster.dispatch import ClusterError, run_bounded, threads
from flows.cluster.kinds import EXTRAS, GPU, ONE_THREAD, default_workers, security_of, started_cluster
from flows.settings import Settings

__all__ = [
    "ClusterError",
    "client_on_demand",
    "dask_client",
    "default_workers",
    "inference_resource",
    "run_bounded",
]

_log = logging.getLogger(__name__)


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


def inference_resource(client: Client) -> str | None:
    """The resource that workers must have to infer: a GPU where any worker has one."""
    return GPU if threads(client, GPU) else None


@contextmanager
def dask_client(settings: Settings, *, processes: bool = True, timeout: float = 30.0) -> Iterator[Client]:
    """Client of the cluster that ``settings`` ask for; a cluster started here ends with the context.

    Parameters
    ----------
    settings
        ``scheduler``: address to connect to, or the kind of cluster to start; ``workers``: how many at most; ``tls_*``.
    processes
        False runs local workers as threads of this process (tests).
    timeout
        Seconds to wait for the scheduler.

    Raises
    ------
    ClusterError
        If no scheduler answers at the address, or the cluster cannot be started.
    """
    is_done = False
    try:
        with _client(settings, processes, timeout) as client:
            yield client
            is_done = True
    except TimeoutError:
        if not is_done:
            raise
        _log.warning("the Dask cluster has not ended in time; what its workers did is stored")


@contextmanager
def _client(settings: Settings, processes: bool, timeout: float) -> Iterator[Client]:
    if settings.scheduler is not None and "://" in settings.scheduler:
        with _remote_client(settings, timeout) as client:
            yield client
        return
    with started_cluster(settings, processes=processes) as cluster, Client(cluster, set_as_default=False) as client:
        if settings.scheduler in EXTRAS:
            client.register_plugin(OneThread())
        yield client


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
def _remote_client(settings: Settings, timeout: float) -> Iterator[Client]:
    address, security = str(settings.scheduler), security_of(settings)
    if security is None and address.startswith("tls://"):
        raise ClusterError(f"QMRI_SCHEDULER={address}: set QMRI_TLS_CA, QMRI_TLS_CERT and QMRI_TLS_KEY for it")
    try:
        client = Client(address, timeout=timeout, set_as_default=False, security=security)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"QMRI_SCHEDULER={address}: no Dask scheduler answers there ({type(error).__name__})"
        ) from None
    with client:
        client.register_plugin(OneThread())
        yield client
