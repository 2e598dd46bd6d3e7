"""Checkpoints: what is written comes back; what is not one is refused with what to do."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qmri_core.mapping.checkpoint import (
    CHECKPOINT_FORMAT,
    FILE_DIGESTS_BEFORE,
    SHIPPED,
    UNDETERMINED_OF_VERSION_2,
    CheckpointError,
    checkpoint_bytes,
    content_digest,
    load_checkpoint,
    read_checkpoint,
    recorded_digests,
    save_checkpoint,
)
from qmri_core.mapping.network import MapNetwork, NetworkSettings
from qmri_core.mapping.voxelwise import ERROR_AT, N_CONDITIONS


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "weights.safetensors"
    save_checkpoint(path, MapNetwork(NetworkSettings(widths=(4, 4, 4), embedding=4)), {"steps": 3})
    return path


def test_weights_settings_and_record_come_back(file: Path) -> None:
    loaded = load_checkpoint(file)
    torch.manual_seed(1)
    expected = MapNetwork(NetworkSettings(widths=(4, 4, 4), embedding=4)).state_dict()
    assert loaded.network.settings.widths == (4, 4, 4)
    assert loaded.training == {"steps": 3}
    assert loaded.digest == content_digest(file.read_bytes(), name="x")
    for name, tensor in loaded.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_the_shipped_weights_load_and_are_small() -> None:
    assert load_checkpoint().training["steps"]
    assert SHIPPED.stat().st_size < 20e6


def of_version_2(content: bytes) -> bytes:
    """The same file as release 0.1 wrote it: without what the weights leave open, tensors in another order."""
    from safetensors.torch import load, save

    end = 8 + int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8:end])["__metadata__"]
    settings = json.loads(metadata["settings"])
    del settings["undetermined"]
    tensors = dict(reversed(load(content).items()))
    return bytes(save(tensors, {**metadata, "version": "2", "settings": json.dumps(settings)}))


def of_version_3(content: bytes) -> bytes:
    """The same file as of before all tissues were told: a narrower embedding, a head that answers to four levels."""
    from safetensors.torch import load, save

    end = 8 + int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8:end])["__metadata__"]
    return bytes(save(with_answers(load(content), 4, 0), {**metadata, "version": "3"}))


def of_version_4(content: bytes) -> bytes:
    """The same file as of when the network answered to what is told of all tissues."""
    from safetensors.torch import load, save

    end = 8 + int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8:end])["__metadata__"]
    assert metadata["version"] == "5"
    return bytes(save(with_answers(load(content), 12, 15), {**metadata, "version": "4"}))


def with_answers(tensors: dict[str, torch.Tensor], n_told: int, n_sds: int) -> dict[str, torch.Tensor]:
    """Weights that answer to what is told, in their head and, where they know how certain it is, in their embedding."""
    protocol, sds = tensors["embed.0.weight"].split([ERROR_AT.stop, N_CONDITIONS - ERROR_AT.stop], dim=1)
    answers = [torch.ones((len(protocol), n_told)), sds] if n_sds else []
    changed = {"embed.0.weight": torch.cat([protocol, *answers], dim=1).contiguous()}
    for name in ("head.weight", "head.bias"):
        changed[name] = torch.cat([tensors[name], torch.ones((3 * n_told, *tensors[name].shape[1:]))])
    return {**tensors, **changed}


def test_weights_that_answered_to_what_is_told_are_read_without_their_answers(file: Path) -> None:
    new = load_checkpoint(file).network.state_dict()
    of_4 = read_checkpoint(of_version_4(file.read_bytes()), name="x").network.state_dict()
    of_3 = read_checkpoint(of_version_3(file.read_bytes()), name="x").network.state_dict()
    for name, tensor in new.items():
        torch.testing.assert_close(of_4[name], tensor, rtol=0, atol=0)
        if name != "embed.0.weight":
            torch.testing.assert_close(of_3[name], tensor, rtol=0, atol=0)
    wide = of_3["embed.0.weight"]
    assert not wide[:, ERROR_AT.stop :].any()
    torch.testing.assert_close(wide[:, : ERROR_AT.stop], new["embed.0.weight"][:, : ERROR_AT.stop], rtol=0, atol=0)


def test_a_digest_is_of_what_results_depend_on_and_of_nothing_else() -> None:
    torch.manual_seed(2)
    settings = NetworkSettings(widths=(4, 4, 4), embedding=4, undetermined=UNDETERMINED_OF_VERSION_2)
    network = MapNetwork(settings)
    content = checkpoint_bytes(network, {"steps": 3})
    digest = content_digest(content, name="x")
    for same in (checkpoint_bytes(network, {"steps": 4, "curve": [1.0]}), of_version_2(content)):
        assert same != content
        assert content_digest(same, name="x") == digest
        assert recorded_digests(same, name="x") == {digest, hashlib.sha256(same).hexdigest()}
    others = []
    for name in network.state_dict():
        changed = copy.deepcopy(network)
        changed.state_dict()[name].view(-1)[0] += 1e-3
        others.append(content_digest(checkpoint_bytes(changed, {"steps": 3}), name="x"))
    network.settings = replace(settings, undetermined=(0.63, 0.27, 0.52, 0.32))
    others.append(content_digest(checkpoint_bytes(network, {"steps": 3}), name="x"))
    assert len({digest, *others}) == 1 + len(others)


def test_a_file_of_release_0_1_goes_on_with_what_that_release_counted_on(file: Path) -> None:
    old = read_checkpoint(of_version_2(file.read_bytes()), name="x")
    assert old.network.settings.undetermined == UNDETERMINED_OF_VERSION_2
    new = load_checkpoint(file)
    assert new.network.settings.undetermined == (0.0,) * 4  # untrained
    for name, tensor in old.network.state_dict().items():
        known = slice(ERROR_AT.stop) if name == "embed.0.weight" else slice(None)
        assert torch.equal(tensor[..., known], new.network.state_dict()[name][..., known])


def test_the_shipped_weights_are_trained_and_not_those_of_release_0_1() -> None:
    shipped = load_checkpoint()
    assert shipped.digest not in FILE_DIGESTS_BEFORE.values()
    assert all(0 < share < 1 for share in shipped.network.settings.undetermined)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint file"):
        load_checkpoint(tmp_path / "missing.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("not weights")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_checkpoint(text)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(CheckpointError, match="no checkpoint of this project"):
        load_checkpoint(foreign)
    newer = tmp_path / "newer.safetensors"
    save_file({"x": torch.zeros(1)}, newer, {"format": CHECKPOINT_FORMAT, "version": "99"})
    with pytest.raises(CheckpointError, match="format version 99"):
        load_checkpoint(newer)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_that_was_cut_short_has_no_digest_and_is_not_read(file: Path, share: float) -> None:
    """Its header may be whole: a run would else begin with it, and fail on every session."""
    content = file.read_bytes()
    for use in (content_digest, read_checkpoint, recorded_digests):
        with pytest.raises(CheckpointError, match=r"x\.safetensors is not a safetensors file"):
            use(content[: int(len(content) * share)], name="x.safetensors")
