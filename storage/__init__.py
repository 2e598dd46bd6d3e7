"""Bytes at rest: DICOM and NIfTI readers and writers, de-identification, the cohort store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.store.cohort import open_cohort

__all__ = ["open_cohort"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module has
    if name == "open_cohort":  # xarray and icechunk are imported when they are needed, not before
        from storage.store.cohort import open_cohort

        return open_cohort
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
