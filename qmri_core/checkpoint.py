"""Network weights with the settings and the record of the training that made them, as one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from qmri_core.network import MapNetwork, NetworkSettings

FORMAT = "qmri-cohort-checkpoint"
FORMAT_VERSION = 1
SHIPPED = Path(__file__).parent / "weights" / "maps.safetensors"


class CheckpointError(ValueError):
    """A file holds no weights that this version can use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A network ready for inference, the SHA-256 of its file, and how it was trained."""

    network: MapNetwork
    digest: str
    training: Mapping[str, object]


def save_checkpoint(path: Path, network: MapNetwork, training: Mapping[str, object]) -> str:
    """Write weights, settings and training record; returns the file's digest. The file appears whole or not at all."""
    metadata = {
        "format": FORMAT,
        "version": str(FORMAT_VERSION),
        "settings": json.dumps(asdict(network.settings), sort_keys=True),
        "training": json.dumps(dict(training), sort_keys=True),
    }
    partial = path.with_name(path.name + ".partial")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, partial, metadata)
    partial.replace(path)
    return digest_of(path)


def digest_of(path: Path) -> str:
    """SHA-256 of a checkpoint file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_checkpoint(path: Path | None = None) -> Checkpoint:
    """Load weights; ``None`` is the checkpoint that comes with the package.

    Raises
    ------
    CheckpointError
        If the file is missing, is no checkpoint, or is one of another version; with what to do.
    """
    file = SHIPPED if path is None else path
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint file at {file}; give one with --checkpoint or QMRI_CHECKPOINT")
    try:
        with safe_open(file, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise CheckpointError(f"{file.name} is not a safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{file.name} is a safetensors file, but no checkpoint of this project")
    version = metadata.get("version", "?")
    if version != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{file.name} is a checkpoint of format version {version}; this code reads version {FORMAT_VERSION}: "
            "train again, or use the release that wrote it"
        )
    settings = json.loads(metadata["settings"])
    network = MapNetwork(NetworkSettings(widths=tuple(settings["widths"]), embedding=settings["embedding"]))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{file.name}: weights do not fit the settings stored with them") from error
    network.eval()
    return Checkpoint(network=network, digest=digest_of(file), training=json.loads(metadata["training"]))


@lru_cache(maxsize=2)
def resident_checkpoint(path: Path | None, digest: str) -> Checkpoint:
    """The checkpoint, loaded once per process; ``digest`` is what the plan says it must be.

    Raises
    ------
    CheckpointError
        If the file has changed since the plan was made.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint.digest != digest:
        raise CheckpointError("the checkpoint file changed while the run was using it; start the run again")
    return checkpoint
