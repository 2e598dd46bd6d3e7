"""Network weights with the settings and the record of the training that made them, as one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from qmri_core.mapping.network import MapNetwork

CHECKPOINT_FORMAT = "qmri-cohort-checkpoint"
FORMAT_VERSION = 5
READ_VERSIONS = (2, 3, 4, 5)
"""Format versions that this code reads. Version 3 states ``undetermined`` among the settings; version 4 is told how
certain is what is told of a session, which those before it do not know. Answers of their own to what is told (to four
levels before version 4, to those of all tissues in it) are not read: `qmri_core.mapping.standard` follows it alone."""
UNDETERMINED_OF_VERSION_2 = (0.63, 0.27, 0.52, 0.31)
"""`qmri_core.mapping.network.NetworkSettings.undetermined` of files of format version 2, which do not state it: release
0.1 used these numbers for whatever weights it was given. They were measured on the simulated batches of its own."""
SHIPPED = Path(__file__).parents[1] / "weights" / "maps.safetensors"
FILE_DIGESTS_BEFORE: Mapping[str, str] = {
    "9fc6dae4ff596fb0ac89511c6bd07e40ae214fc36635031afa4d0de3b3f37d4d": (
        "1a6d98cd326433149c658f6e0a0bc1282122a63621006509d0815d5d307cbe57"
    ),
}
"""Content digest of the weights that release 0.1 shipped by the SHA-256 of their whole file, which it recorded as
``checkpoint_digest``."""


class CheckpointError(ValueError):
    """A file holds no weights that this version can use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A network ready for inference, the digest of its content (`content_digest`), and how it was trained."""

    network: MapNetwork
    digest: str
    training: Mapping[str, object]


def checkpoint_bytes(network: MapNetwork, training: Mapping[str, object]) -> bytes:
    """Content of a checkpoint file: weights, settings and training record."""
    from safetensors.torch import save

    metadata = {
        "format": CHECKPOINT_FORMAT,
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
    """Write weights, settings and training record; returns the content's digest."""
    content = checkpoint_bytes(network, training)
    write_whole(path, content)
    return content_digest(content, name=path.name)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def content_digest(content: bytes, *, name: str) -> str:
    """Digest of what results depend on in a checkpoint file: its weights and settings, in hexadecimal.

    The record of the training, the format version and the layout of the file do not count.

    Parameters
    ----------
    content
        Bytes of the file.
    name
        Stands in errors.

    Raises
    ------
    CheckpointError
        If it is no checkpoint, or one of another version; with what to do.
    """
    tensors, metadata, start = _header(content, name)
    digest = hashlib.sha256(json.dumps(_settings(metadata), sort_keys=True).encode())
    for tensor, entry in sorted(tensors.items()):
        first, end = entry["data_offsets"]
        digest.update(f"\0{tensor} {entry['dtype']} {entry['shape']}\0".encode())
        digest.update(content[start + first : start + end])
    return digest.hexdigest()


def recorded_digests(content: bytes, *, name: str) -> frozenset[str]:
    """Every ``checkpoint_digest`` by which a store can name the maps of these weights.

    That is the digest of their content, and the SHA-256 of the whole file, which release 0.1 recorded.

    Raises
    ------
    CheckpointError
        As `content_digest`.
    """
    digest = content_digest(content, name=name)
    return frozenset({digest, hashlib.sha256(content).hexdigest()})


def checkpoint_file(path: Path | None = None) -> Path:
    """The file of a checkpoint; ``None`` is the one that comes with the package.

    Raises
    ------
    CheckpointError
        If it is missing; with what to do.
    """
    file = SHIPPED if path is None else path
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint file at {file}; give one with --checkpoint or QMRI_CHECKPOINT")
    return file


def load_checkpoint(path: Path | None = None) -> Checkpoint:
    """Load weights; ``None`` is the checkpoint that comes with the package.

    Raises
    ------
    CheckpointError
        If the file is missing, is no checkpoint, or is one of another version; with what to do.
    """
    file = checkpoint_file(path)
    return read_checkpoint(file.read_bytes(), name=file.name)


def read_checkpoint(content: bytes, *, name: str) -> Checkpoint:
    """Weights from the content of a file; ``name`` stands in errors.

    Raises
    ------
    CheckpointError
        If it is no checkpoint, or one of another version; with what to do.
    """
    from safetensors.torch import load

    from qmri_core.mapping.network import MapNetwork, NetworkSettings

    digest = content_digest(content, name=name)
    metadata = _header(content, name)[1]
    settings: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in _settings(metadata).items()
    }
    network = MapNetwork(NetworkSettings(**settings))
    try:
        state = load(content)
        network.load_state_dict(state if metadata["version"] == str(FORMAT_VERSION) else _of_now(state, network))
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{name}: weights do not fit the settings stored with them") from error
    network.eval()
    return Checkpoint(network=network, digest=digest, training=json.loads(metadata["training"]))


def _of_now(state: dict[str, Tensor], network: MapNetwork) -> dict[str, Tensor]:
    """Weights of before version 5, without answers to what is told, and with zeros for what they do not know."""
    import torch

    from qmri_core.calibration.expectation import DEVIATIONS
    from qmri_core.mapping.network import N_MAPS
    from qmri_core.mapping.voxelwise import ERROR_AT

    result = {}
    for name, wanted in network.state_dict().items():
        kept = state[name]
        if name.startswith("head."):
            kept = kept[: 2 * N_MAPS]
        if name == "embed.0.weight":
            told = slice(ERROR_AT.stop, ERROR_AT.stop + len(DEVIATIONS))
            kept = torch.cat([kept[:, : told.start], kept[:, told.stop :]], dim=1)
        if kept.shape != wanted.shape:
            whole = torch.zeros_like(wanted)
            whole[tuple(map(slice, kept.shape))] = kept
            kept = whole
        result[name] = kept
    return result


def _header(content: bytes, name: str) -> tuple[dict[str, Any], dict[str, str], int]:
    """Entries of the tensors and metadata of a safetensors file, and where its data start."""
    from safetensors import SafetensorError, deserialize

    try:
        deserialize(content)  # a file that was cut short has a whole header
    except SafetensorError as error:
        raise CheckpointError(f"{name} is not a safetensors file: {error}") from error
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = json.loads(content[8:start])
    metadata = tensors.pop("__metadata__", {})
    if metadata.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(f"{name} is a safetensors file, but no checkpoint of this project")
    version = metadata.get("version", "?")
    if version not in map(str, READ_VERSIONS):
        raise CheckpointError(
            f"{name} is a checkpoint of format version {version}; this code reads versions "
            f"{', '.join(map(str, READ_VERSIONS))}: train again, or use the release that wrote it"
        )
    return tensors, metadata, start


def _settings(metadata: Mapping[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(metadata["settings"])
    if metadata["version"] == "2":
        settings.setdefault("undetermined", list(UNDETERMINED_OF_VERSION_2))
    return settings
