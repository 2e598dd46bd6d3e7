"""Which weights a run uses, and one copy of them per worker process."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qmri_core.mapping.checkpoint import Checkpoint
    from qmri_core.mapping.device import Device
    from storage.store.cohort import Cohort


SHIPPED = "shipped"
"""What users call the checkpoint of the package."""


class Promotion(StrEnum):
    """When a trained checkpoint becomes the one that inference uses."""

    IF_BETTER = "if-better"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Where a checkpoint is, and what it must be.

    It is in ``file``, else in the store of ``cohort`` under ``name``, else in the package. ``digest`` is that of its
    content (`qmri_core.mapping.checkpoint.content_digest`); ``recorded`` are all digests by which a store can name its
    maps. The digest tells which it is, whatever the snapshot of the cohort.
    """

    digest: str
    file: Path | None = None
    cohort: Cohort | None = field(default=None, compare=False)
    name: str = ""
    recorded: frozenset[str] = frozenset()

    def seen_from(self, cohort: Cohort) -> Weights:
        """The same weights, to be read from a later state of the store: that of the start may end during a long run."""
        return self if self.cohort is None else replace(self, cohort=cohort)

    def as_recorded(self, digest: str) -> str:
        """The digest that maps of these weights carry, where ``digest`` is what they carry: itself if it is theirs."""
        return digest if digest in self.recorded else self.digest


def chosen_weights(cohort: Cohort, checkpoint: Path | None = None) -> Weights:
    """The checkpoint of a run: the given file, else the store's promoted one, else the shipped one.

    Raises
    ------
    CheckpointError
        If it is no checkpoint that this version reads.
    StoreError
        If the store has lost the promoted one.
    """
    return _weights_of(cohort, cohort.promoted if checkpoint is None else "", checkpoint)


def named_weights(cohort: Cohort, name: str) -> Weights:
    """The checkpoint that a user names: ``promoted``, ``shipped``, the start of a digest in the store, or a file.

    Raises
    ------
    CheckpointError
        If a file is no checkpoint that this version reads.
    StoreError
        If it is none of these, or the start of several digests.
    """
    if name == "promoted":
        return chosen_weights(cohort)
    if name != SHIPPED and Path(name).is_file():
        return chosen_weights(cohort, Path(name))
    return _weights_of(cohort, registered_digest(cohort, name), None)


def registered_digest(cohort: Cohort, name: str) -> str:
    """Digest of the checkpoint of the store that a user names by its start; empty for ``shipped``.

    Raises
    ------
    StoreError
        If none, or several, begin so.
    """
    from storage.store.repository import StoreError  # the help of commands imports this module

    if name == SHIPPED:
        return ""
    found = [digest for digest in cohort.registered if digest.startswith(name)]
    if len(found) != 1 or len(name) < 4:
        what = "several checkpoints begin" if len(found) > 1 else "no checkpoint of the store begins"
        raise StoreError(f"{what} with {name!r}; `qmri weights list` names them. `{SHIPPED}` is that of the package")
    return found[0]


def _weights_of(cohort: Cohort, name: str, checkpoint: Path | None) -> Weights:
    """The checkpoint of a file, else that of the store's ``name``, else the shipped one."""
    from qmri_core.mapping.checkpoint import checkpoint_file, content_digest, recorded_digests

    place: dict[str, Any] = {}
    if name:
        title, content = _title(name), cohort.checkpoint(name)
        place = {"cohort": cohort, "name": name}
    else:
        file = checkpoint_file(checkpoint)
        title, content = file.name, file.read_bytes()
        if checkpoint is not None:
            place = {"file": file.resolve()}  # workers may run in another folder
    digest, recorded = content_digest(content, name=title), recorded_digests(content, name=title)
    return Weights(digest=digest, recorded=recorded, **place)


@lru_cache(maxsize=2)
def resident_checkpoint(weights: Weights) -> Checkpoint:
    """The checkpoint, loaded once per process; the cache is keyed by digest and place.

    Raises
    ------
    CheckpointError
        If it cannot be used, or the file has changed since the run was planned.
    StoreError
        If the store has lost it.
    """
    from qmri_core.mapping import checkpoint as files

    if weights.cohort is not None:
        return files.read_checkpoint(weights.cohort.checkpoint(weights.name), name=_title(weights.name))
    loaded = files.load_checkpoint(weights.file)
    if loaded.digest != weights.digest:
        raise files.CheckpointError("the checkpoint file changed while the run was using it; start the run again")
    return loaded


@lru_cache(maxsize=1)
def resident_device(weights: Weights) -> Device:
    """The checkpoint's network on the device of this process, with the bound of memory that has been found there.

    Raises
    ------
    CheckpointError, StoreError
        As `resident_checkpoint`.
    """
    from qmri_core.mapping.device import Device

    return Device.here(resident_checkpoint(weights).network)


def _title(name: str) -> str:
    return f"checkpoint {name[:12]} of the store"
