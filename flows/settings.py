"""What a user sets once per machine: where things are and how many workers there are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from storage.source.origin import Limits, Source, SourceError, destination_of, source_of

PREFIX = "QMRI_"
CLUSTERS = ("local", "gpu", "slurm", "kubernetes")
"""What starts with a run and ends with it: processes of this machine, one per GPU of it, Slurm jobs, pods."""
CREDENTIALS = {
    "QMRI_PACS_USER": "Who asks a server of images by DICOMweb, with `QMRI_PACS_PASSWORD`; read where it is asked.",
    "QMRI_PACS_PASSWORD": "The password of that user.",
    "QMRI_PACS_TOKEN": "A bearer token, in place of user and password.",
}
"""Variables that are no settings, so that nothing prints or passes on what they hold."""
T = TypeVar("T")


class SettingsError(ValueError):
    """A setting is missing or cannot be right; the message names its environment variable."""


class Settings(BaseSettings):
    """Settings from arguments and, where an argument is absent, from ``QMRI_*`` environment variables."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    source: str | None = None
    """Folder with DICOM or BIDS input, or a server: ``dicomweb+https://host/path``, ``dimse://AE@host:port``."""
    store: str | None = None
    """Location of the cohort store: a path or the address of an object store."""
    scheduler: str | None = None
    """Where Dask workers are: the address of a running scheduler (``tcp://host:8786``, ``tls://host:8786``), or one of
    ``local``, ``gpu``, ``slurm``, ``kubernetes``; unset is ``local``: worker processes start on this machine."""
    checkpoint: Path | None = None
    """Network weights to use instead of the promoted or the shipped ones."""
    key_file: Path | None = None
    """Key of the pseudonyms; unset, ``qmri/key`` in the user's configuration folder."""
    assume: Path | None = None
    """YAML file with what headers are silent about."""
    by_software: bool = False
    """Tell scanners with another software version apart as scanners."""
    keep_days: bool = False
    """Keep ``scanner_day`` of DICOM sessions: whole days since the scanner's first session that an ingest has found, by
    which the browser shows drift. Off unless a site decides for it; see what it tells in ``explanation/privacy``."""
    magnetization_transfer: bool = True
    """Expect magnetization transfer between the slices of echo trains when groups are calibrated, as people have it;
    ``false`` for simulations and phantoms without it."""
    log: Literal["text", "json"] | None = None
    """One line on the standard error for every session and stage that a run has done: pseudonym, seconds, memory; as
    ``text`` or ``json``. Unset, none."""
    quiet_for: Annotated[float, Field(ge=0, le=100_000)] | None = None
    """Minutes for which the files of a session must not have changed before it is ingested, so that a transfer that is
    still running is left for a later run; unset, 15 in ``reprocess-nightly`` and 0 elsewhere."""
    room_check: bool = True
    """Begin a run only where the disk of a local store has room for what it may take; ``false``: try it anyway."""
    keep_nights: Annotated[float, Field(ge=1, le=100_000)] | None = None
    """Days for which ``reprocess-nightly`` keeps the states of its nights; then they and their tags end, about once a
    week, and their space is given back. Tags that people gave stay. Unset, all nights stay."""
    export_to: str | None = None
    """Where ``export-maps``, and ``reprocess-nightly`` after a night with news, store maps as DICOM: a server
    (``dicomweb+https://host/path``, ``dimse://AE@host:port``) or a folder; unset, nights export nothing."""
    linkage: Path | None = None
    """Table of pseudonyms and identifiers that ``ingest-cohort`` and ``reprocess-nightly`` write, and by which exported
    maps are given the people and studies of their images; unset, none is written, and maps are the pseudonyms'."""
    report: Path | None = None
    """Folder for the report and the tables of a deployment; unset, beside a local store."""
    report_url: str | None = None
    """Address under which browsers see that folder, such as ``https://host/reports``: the link to the report in Prefect
    starts with it; unset, the report's path is shown in place of a link."""
    tls_ca: Path | None = None
    """PEM file of the authority that has signed the certificates of scheduler, workers and clients. With it, and with
    the two next ones, they talk by TLS only."""
    tls_cert: Path | None = None
    """PEM file of the certificate that this process shows."""
    tls_key: Path | None = None
    """PEM file of the private key of that certificate."""
    pacs_connections: Annotated[int, Field(ge=1, le=64)] = 2
    """Studies or series that this machine asks a server of images for at once, all its processes together."""
    pacs_rate: Annotated[float, Field(gt=0)] | None = None
    """Megabytes of images per second that this machine retrieves at most from a server; unset, there is no bound."""
    pacs_timeout: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Seconds without an answer after which a server counts as away; a request is tried six times."""
    pacs_spool: Path | None = None
    """Folder of this user alone in which retrieved series lie until they are read, one per connection; unset, one in
    the folder of temporary files."""
    pacs_ca: Path | None = None
    """PEM file of the authority that has signed the server's certificate; unset, those that the system trusts."""
    pacs_cert: Path | None = None
    """PEM file of the certificate that is shown to the server, where it asks for one; needs ``QMRI_PACS_KEY``."""
    pacs_key: Path | None = None
    """PEM file of the private key of that certificate."""
    pacs_title: Annotated[str, Field(pattern=r"^[ -\[\]-~]{1,16}$")] = "QMRI"
    """AE title of this application over DIMSE, by which the server knows it."""
    pacs_move_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port at which this application takes images that the server sends to its AE title (C-MOVE), one series at a time;
    unset, they are asked for on the same connection (C-GET)."""
    workers: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Worker processes; unset, as many as the machine's cores and memory, its GPUs, or the cluster's own configuration
    allow."""

    @field_validator("source", "export_to", mode="before")
    @classmethod
    def _as_text(cls, source: object) -> object:
        return str(source) if isinstance(source, Path) else source

    @field_validator("scheduler")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None and "://" not in value and value not in CLUSTERS:
            raise ValueError(
                f"neither the address of a Dask scheduler such as tcp://host:8786 nor one of {', '.join(CLUSTERS)}"
            )
        return value

    @field_validator("report_url")
    @classmethod
    def _is_web_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "http://")):
            raise ValueError(
                "not the address of a web server, such as https://host/reports; browsers open no other link"
            )
        return value

    @model_validator(mode="after")
    def _has_all_certificates(self) -> Self:
        given = [name for name in ("tls_ca", "tls_cert", "tls_key") if getattr(self, name) is not None]
        if given and len(given) < 3:
            raise ValueError(f"{PREFIX}{given[0].upper()} is set: TLS needs {PREFIX}TLS_CA, _CERT and _KEY together")
        if (self.pacs_cert is None) != (self.pacs_key is None):
            raise ValueError(f"{PREFIX}PACS_CERT and {PREFIX}PACS_KEY belong together")
        return self

    def require_source(self) -> Source:
        """Return ``source``; raise `SettingsError` naming the variable where it is unset, or is no source."""
        try:
            return source_of(_required(self.source, "source"), self.limits)
        except SourceError as error:
            raise SettingsError(f"{PREFIX}SOURCE: {error}") from None

    def require_export_to(self) -> Source:
        """Return ``export_to``; raise `SettingsError` as `require_source` does."""
        try:
            return destination_of(_required(self.export_to, "export_to"), self.limits)
        except SourceError as error:
            raise SettingsError(f"{PREFIX}EXPORT_TO: {error}") from None

    @property
    def limits(self) -> Limits:
        """How a server of images is asked."""
        return Limits(
            connections=self.pacs_connections,
            rate=None if self.pacs_rate is None else self.pacs_rate * 1e6,
            timeout=self.pacs_timeout,
            spool=None if self.pacs_spool is None else self.pacs_spool.absolute(),
            authority=self.pacs_ca,
            certificate=self.pacs_cert,
            key=self.pacs_key,
            title=self.pacs_title,
            move_port=self.pacs_move_port,
        )

    def require_store(self) -> str:
        """Return ``store``; raise `SettingsError` naming the variable where it is unset."""
        return _required(self.store, "store")


def read_settings(**values: Any) -> Settings:  # noqa: ANN401 - pydantic checks and converts what comes from outside
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
    if not location:
        return message.removeprefix("Value error, ")
    name = str(location[0])
    variable = PREFIX + name.upper()
    value = given.get(name, os.environ.get(variable))
    return f"{variable}={value}: {message}" if name in Settings.model_fields else f"{name}: there is no such setting"
