"""Which weights a run uses, and one copy of them per worker process."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmri_core.mapping.checkpoint import Checkpoint


class Promotion(StrEnum):
    """When a trained checkpoint becomes the one that inference uses."""

    IF_BETTER = "if-better"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Where a checkpoint is: in ``file``, else in ``store``, else in the package. ``digest`` is what it must be."""

    digest: str
    file: Path | None = None
    store: str | None = None


def chosen_weights(store: str, checkpoint: Path | None = None) -> Weights:
    """The checkpoint of a run: the given file, else the store's promoted one, else the shipped one.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint that this version reads.
    """
    from qmri_core.mapping.checkpoint import SHIPPED, file_digest, load_checkpoint
    from storage.store.checkpoints import promoted

    if checkpoint is not None:
        file = checkpoint.resolve()  # workers may run in another folder
        return Weights(digest=load_checkpoint(file).digest, file=file)
    digest = promoted(store)
    return Weights(digest=digest, store=store) if digest else Weights(digest=file_digest(SHIPPED))


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
    from storage.store.checkpoints import checkpoint_content

    if weights.store is not None:
        content = checkpoint_content(weights.store, weights.digest)
        return files.read_checkpoint(content, name=f"checkpoint {weights.digest[:12]} of the store")
    loaded = files.load_checkpoint(weights.file)
    if loaded.digest != weights.digest:
        raise files.CheckpointError("the checkpoint file changed while the run was using it; start the run again")
    return loaded
