"""Where a store lies: a local folder or an object store, behind one function.

Credentials of object stores come from the environment or the provider's chain (profiles, instance roles, workload
identity) and from nowhere else: they are in no location, no pickled session and no message.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import icechunk


class StoreError(ValueError):
    """A location holds no cohort that can be used this way, or what was to be written does not fit it."""


class StorageFaultError(StoreError):
    """The storage behind a cohort cannot be reached, read or written now; no session is to blame for it."""


TRIES = 8
"""Attempts at writing a chunk, with growing pauses: about 15 s. Icechunk tries other requests ten times: about 40 s."""

STALL = 60
"""Seconds without a byte after which a request to an object store counts as lost."""

SESSIONS_PER_MANIFEST = 128
"""Sessions of one variable that share a manifest: a commit rewrites the manifests of its own sessions only."""


def local_path(location: str | Path) -> Path | None:
    """Folder of a local store; ``None`` for an object store."""
    if isinstance(location, Path) or "://" not in location:
        return Path(location)
    parts = _split(location)
    return Path(parts.path) if parts.scheme == "file" else None


def absolute(location: str) -> str:
    """The same location for processes that run in another folder."""
    path = local_path(location)
    return location if path is None else str(path.absolute())


def storage_of(location: str | Path) -> icechunk.Storage:
    """Storage of a location.

    Parameters
    ----------
    location
        A path, ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://container/prefix`` (the account is
        ``AZURE_STORAGE_ACCOUNT_NAME``). Another S3-compatible server than Amazon's is ``AWS_ENDPOINT_URL_S3`` or
        ``AWS_ENDPOINT_URL``; its buckets are addressed by path.

    Raises
    ------
    StoreError
        If the scheme is unknown, or the location has no bucket, or holds a password.
    """
    # one committer at a time is what the lock, or a rebase, is for; icechunk would warn of it at every opening
    icechunk.set_logs_filter(os.environ.get("ICECHUNK_LOG", "error"))
    path = local_path(location)
    if path is not None:
        # absolute: forks of a wave may be opened in another folder
        return icechunk.local_filesystem_storage(str(path.absolute()))
    parts = _split(str(location))
    return _REMOTE[parts.scheme](parts.netloc, parts.path.strip("/"))


def repository_config() -> icechunk.RepositoryConfig:
    """How repositories are written: manifests split along the sessions, requests tried again a bounded time."""
    splits: Any = {icechunk.ManifestSplitDimCondition.DimensionName("session"): SESSIONS_PER_MANIFEST}
    splitting = icechunk.ManifestSplittingConfig.from_dict({icechunk.ManifestSplitCondition.AnyArray(): splits})
    retries = icechunk.StorageRetriesSettings(max_tries=TRIES, initial_backoff_ms=100, max_backoff_ms=10_000)
    return icechunk.RepositoryConfig(
        manifest=icechunk.ManifestConfig(splitting=splitting), storage=icechunk.StorageSettings(retries=retries)
    )


def _split(location: str) -> SplitResult:
    parts = urlsplit(location)
    if parts.scheme == "file":
        return parts
    if parts.scheme not in _REMOTE:
        known = ", ".join(f"{scheme}://" for scheme in _REMOTE)
        raise StoreError(f"{parts.scheme}:// is no location of a store; known are a path, {known}")
    if parts.username or parts.password or parts.query or parts.fragment:  # never repeated: it may be a password
        raise StoreError(
            f"a location is {parts.scheme}://bucket/prefix and nothing else; credentials and options come from the "
            "environment"
        )
    if not parts.netloc or not parts.path.strip("/"):
        raise StoreError(f"{location}: names no {'prefix' if parts.netloc else 'bucket'}; give s3://bucket/prefix")
    return parts


def _s3(bucket: str, prefix: str) -> icechunk.Storage:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return icechunk.s3_storage(
        bucket=bucket,
        prefix=prefix,
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        endpoint_url=endpoint,
        allow_http=endpoint is not None and endpoint.startswith("http://"),
        force_path_style=endpoint is not None,
        from_env=True,
        network_stream_timeout_seconds=STALL,
    )


def _gcs(bucket: str, prefix: str) -> icechunk.Storage:
    return icechunk.gcs_storage(bucket=bucket, prefix=prefix, from_env=True)


def _azure(container: str, prefix: str) -> icechunk.Storage:
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not account:
        raise StoreError("AZURE_STORAGE_ACCOUNT_NAME is not set; az://container/prefix lies in that account")
    return icechunk.azure_storage(account=account, container=container, prefix=prefix, from_env=True)


_REMOTE: dict[str, Callable[[str, str], icechunk.Storage]] = {"s3": _s3, "gs": _gcs, "az": _azure}
