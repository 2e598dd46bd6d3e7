"""Network weights with the settings and the record of the training that made them, as one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmri_core.mapping.network import MapNetwork

FORMAT = "qmri-cohort-checkpoint"
FORMAT_VERSION = 2
SHIPPED = Path(__file__).parents[1] / "weights" / "maps.safetensors"


class CheckpointError(ValueError):
    """A file holds no weights that this version can use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A network ready for inference, the SHA-256 of its file, and how it was trained."""

    network: MapNetwork
    digest: str
    training: Mapping[str, object]


def checkpoint_bytes(network: MapNetwork, training: Mapping[str, object]) -> bytes:
    """Content of a checkpoint file: weights, settings and training record."""
    from safetensors.torch import save

    metadata = {
        "format": FORMAT,
        "version": str(FORMAT_VERSION),
        "settings": json.dumps(asdict(network.settings), sort_keys=True),
        "training": json.dumps(dict(training), sort_keys=True),
    }
    content = bytes(save({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, metadata))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # in a fixed order: equal weights and records are equal bytes
    return len(header).to_bytes(8, "little") + header + content[end:]


def save_checkpoint(path: Path, network: MapNetwork, training: Mapping[str, object]) -> str:
    """Write weights, settings and training record; returns the file's digest."""
    write_whole(path, checkpoint_bytes(network, training))
    return file_digest(path)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def file_digest(path: Path) -> str:
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
    return read_checkpoint(file.read_bytes(), name=file.name)


def read_checkpoint(content: bytes, *, name: str) -> Checkpoint:
    """Weights from the content of a file; ``name`` stands in errors.

    Raises
    ------
    CheckpointError
        If it is no checkpoint, or one of another version; with what to do.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from qmri_core.mapping.network import MapNetwork, NetworkSettings

    try:
        tensors = load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{name} is not a safetensors file: {error}") from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # the format's own layout
    metadata = header.get("__metadata__", {})
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{name} is a safetensors file, but no checkpoint of this project")
    version = metadata.get("version", "?")
    if version != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{name} is a checkpoint of format version {version}; this code reads version {FORMAT_VERSION}: "
            "train again, or use the release that wrote it"
        )
    settings = json.loads(metadata["settings"])
    network = MapNetwork(NetworkSettings(widths=tuple(settings["widths"]), embedding=settings["embedding"]))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{name}: weights do not fit the settings stored with them") from error
    network.eval()
    digest = hashlib.sha256(content).hexdigest()
    return Checkpoint(network=network, digest=digest, training=json.loads(metadata["training"]))
