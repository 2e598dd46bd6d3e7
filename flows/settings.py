"""What a user sets once per machine: where things are and how many workers there are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "QMRI_"
T = TypeVar("T")


class SettingsError(ValueError):
    """A setting is missing or cannot be right; the message names its environment variable."""


class Settings(BaseSettings):
    """Settings from arguments and, where an argument is absent, from ``QMRI_*`` environment variables.

    Parameters
    ----------
    source
        Folder with DICOM or BIDS input.
    store
        Location of the cohort store: a path or the address of an object store.
    scheduler
        Address of a running Dask scheduler (``tcp://host:8786``); unset, worker processes start on this machine.
    checkpoint
        Network weights to use instead of the promoted or the shipped ones.
    key_file
        Key of the pseudonyms; unset, the one in the user's configuration folder.
    workers
        Worker processes on this machine; unset, as many as cores and memory allow.
    debug
        Show the traceback of an error.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    source: Path | None = None
    store: str | None = None
    scheduler: str | None = None
    checkpoint: Path | None = None
    key_file: Path | None = None
    workers: Annotated[int, Field(ge=1, le=4096)] | None = None
    debug: bool = False

    @field_validator("scheduler")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None and "://" not in value:
            raise ValueError("not the address of a Dask scheduler such as tcp://host:8786")
        return value

    def require_source(self) -> Path:
        """Return ``source``; raise `SettingsError` naming the variable where it is unset."""
        return _required(self.source, "source")

    def require_store(self) -> str:
        """Return ``store``; raise `SettingsError` naming the variable where it is unset."""
        return _required(self.store, "store")


def settings(**values: Any) -> Settings:  # noqa: ANN401 - pydantic checks and converts what comes from outside
    """Read the settings, with ``values`` in place of environment variables; a value of None falls back to them.

    Raises
    ------
    SettingsError
        If a value is out of range or a name is unknown; the message names the environment variable.
    """
    given = {name: value for name, value in values.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(problem["loc"], problem["msg"], given) for problem in error.errors()))  # noqa: B904 - the cause repeats values


def _required(value: T | None, name: str) -> T:
    if value is None:
        raise SettingsError(f"{PREFIX}{name.upper()} is not set: set it, or pass {name} where the run is started")
    return value


def _explain(location: tuple[int | str, ...], message: str, given: dict[str, Any]) -> str:
    name = str(location[0]) if location else "settings"
    variable = PREFIX + name.upper()
    value = given.get(name, os.environ.get(variable))
    return f"{variable}={value}: {message}" if name in Settings.model_fields else f"{name}: there is no such setting"
