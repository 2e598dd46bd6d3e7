"""What the flows share: settings, one Dask client, progress, and errors that name nobody."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.cluster.boundary import PASSING
from flows.cluster.clusters import client_on_demand
from flows.cluster.session_log import session_log
from flows.errors import explain
from flows.progress import Progress
from flows.settings import Settings, SettingsError, read_settings
from storage.source.server.failures import ServerAwayError

if TYPE_CHECKING:
    from distributed import Client

_INTERVAL = 5.0
"""Seconds between two updates of a run's progress artifact and log."""

SERVER_IS_AWAY = (httpx.HTTPError, PrefectException, OSError)
"""What a call of the Prefect server can raise; progress is not worth failing for."""


class RunError(RuntimeError):
    """A run failed; the text names no path below a source and no header text."""


_PASSING = (*PASSING, ServerAwayError)
"""What is worth another try of a whole task; a server that goes away while a session is read is that session's."""


def is_passing(task: Any, run: Any, state: Any) -> bool:  # noqa: ANN401, ARG001 - signature of Prefect
    """Whether a task failed for want of its cluster, its storage or a server of images."""
    return isinstance(state.result(raise_on_failure=False), _PASSING)


RESUMED: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [5, 60],
    "retry_condition_fn": is_passing,
    "cache_policy": NO_CACHE,
}
"""Options of a task that works on a cluster, a store and servers: Prefect tries again when one of them was lost."""


def run_settings(**values: Any) -> Settings:  # noqa: ANN401 - checked by the settings
    """Settings of a deployment's run: its parameters, else the environment of the Prefect worker.

    Raises
    ------
    SettingsError
        If a path is relative: the run's working directory is none that a user would think of.
    """
    settings = read_settings(**values)
    for name in ("source", "store", "checkpoint", "key_file", "assume", "report", "export_to", "linkage"):
        value = getattr(settings, name)
        if value is not None and "://" not in str(value) and not Path(value).is_absolute():
            raise SettingsError(f"QMRI_{name.upper()}={value}: a deployment needs an absolute path")
    return settings


def ingest_options(settings: Settings) -> dict[str, Any]:
    """What ingest takes from the settings, beside source and store."""
    from flows.ingest.scanning import index_beside
    from storage.pseudonyms import load_key

    quiet = {} if settings.quiet_for is None else {"quiet_for": 60 * settings.quiet_for}
    return {
        **quiet,
        "key": load_key(settings.key_file),
        "assume": settings.assume,
        "linkage": settings.linkage,
        "by_software": settings.by_software,
        "check_room": settings.room_check,
        "scanner_days": settings.keep_days,
        "index": index_beside(settings.key_file, settings.require_source()),
    }


@contextmanager
def working(name: str, settings: Settings) -> Iterator[tuple[Client, Progress]]:
    """Client, started when it is first needed, and progress of one task of the flow ``name``."""
    with Explained(), ExitStack() as stack:
        logging.getLogger("distributed").setLevel(logging.WARNING)  # Prefect shows what every library has to say
        stack.enter_context(session_log(settings.log))
        stack.enter_context(workers_without_prefect())
        yield stack.enter_context(client_on_demand(settings)), PublishedProgress(name)


class Explained(AbstractContextManager[None]):
    """Turns an error into one line that may be shown to everybody: texts of libraries can hold names of patients."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raise `RunError` in place of what was raised; what is worth another try keeps its type."""
        if isinstance(error, _PASSING):
            raise type(error)(explain(error)) from None
        if isinstance(error, Exception):
            raise RunError(explain(error)) from None


class PublishedProgress:
    """Progress as an artifact and in the log of a run, a few times a minute."""

    def __init__(self, name: str, *, interval: float = _INTERVAL) -> None:
        self._name, self._interval = name, interval
        self._logger: logging.Logger | logging.LoggerAdapter[Any] = get_run_logger()
        self._artifact: Any = None
        self._last, self._text = -float("inf"), ""

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Publish ``done`` of ``total``, unless something was published just now."""
        now = time.monotonic()
        is_due = now - self._last >= self._interval or text != self._text or (total > 0 and done >= total)
        if not is_due:
            return
        self._last, self._text = now, text
        line = f"{text}: {done} of {total}" if total else f"{text}: {done}"
        self._logger.info(line)
        share = 100 * done / total if total else 0.0
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):  # a server that restarts costs no time here
                if self._artifact is None:
                    self._artifact = create_progress_artifact(share, key=f"{self._name}-progress", description=line)
                else:
                    update_progress_artifact(self._artifact, share, description=line)
        except SERVER_IS_AWAY as error:
            self._logger.warning("progress could not be published (%s); the run goes on", type(error).__name__)


@contextmanager
def workers_without_prefect() -> Iterator[None]:
    """Hide what this process was started as: worker processes import their parent's main module, Prefect's engine."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    main.__spec__ = None
    if file is not None:
        del main.__file__  # None would fail whoever looks for the file of a module, as PyTorch does when it is imported
    try:
        yield
    finally:
        main.__spec__ = spec
        if file is not None:
            main.__file__ = file
