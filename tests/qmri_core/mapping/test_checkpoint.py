"""Checkpoints: what is written comes back; what is not one is refused with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qmri_core.mapping.checkpoint import (
    FORMAT,
    SHIPPED,
    CheckpointError,
    file_digest,
    load_checkpoint,
    save_checkpoint,
)
from qmri_core.mapping.network import MapNetwork, NetworkSettings


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
    assert loaded.digest == file_digest(file)
    for name, tensor in loaded.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_the_shipped_weights_load_and_are_small() -> None:
    assert load_checkpoint().training["steps"]
    assert SHIPPED.stat().st_size < 20e6


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
    save_file({"x": torch.zeros(1)}, newer, {"format": FORMAT, "version": "99"})
    with pytest.raises(CheckpointError, match="format version 99"):
        load_checkpoint(newer)
