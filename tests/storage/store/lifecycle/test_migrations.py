"""What steps between versions of the schema do to names that results rest on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from qmri_core.mapping.checkpoint import FILE_DIGESTS_BEFORE, checkpoint_bytes, content_digest
from qmri_core.mapping.network import MapNetwork, NetworkSettings
from qmri_core.series.acquisition import CONTRASTS
from storage.store.checkpoints import register
from storage.store.cohort import Cohort, write_table, writing
from storage.store.lifecycle.upkeep import migrate
from storage.store.slots import group_paths
from storage.store.tables import change
from tests.storage.cohorts import infer, ingest, placement

UNREADABLE = b"of a format that nothing reads"
SHIPPED, NOW = next(iter(FILE_DIGESTS_BEFORE.items()))


@pytest.fixture(scope="module")
def weights() -> bytes:
    torch.manual_seed(0)
    return checkpoint_bytes(MapNetwork(NetworkSettings(widths=(4, 4, 4), embedding=4)), {})


def test_checkpoints_are_named_by_their_content_and_the_release_is_left_out(tmp_path: Path, weights: bytes) -> None:
    file = hashlib.sha256(weights).hexdigest()
    names = {"ses-1": SHIPPED, "ses-2": file, "ses-3": "unknown", "ses-4": ""}
    expected = {"ses-1": NOW, "ses-2": content_digest(weights, name="x"), "ses-3": "unknown", "ses-4": ""}

    def older(root: zarr.Group) -> None:
        del root["catalogue/remarks"]
        for path, key in (("scanner-a/protocol-1_2.0x2.0x3.0mm", "session"), ("catalogue", "session")):
            node: Any = root[path]
            node["checkpoint_digest"][...] = np.asarray([names[name] for name in node[key][...]], dtype=object)
        root.attrs["schema_version"] = 3

    ingest(tmp_path, [placement(name) for name in names])
    infer(tmp_path, names)
    register(tmp_path, UNREADABLE, record={}, promote=False)
    register(tmp_path, weights, record={"loss": 0.5}, promote=True)
    made = [f"{digest},1/7,input,0.1.0,8" for digest in names.values()]
    table = xr.Dataset({"session": ("row", list(names)), "made_with": ("row", made)})
    with writing(tmp_path) as repository:
        write_table(repository, "statistics", table, message="Aggregate")
        change(repository, older, "as version 3", {})
    migrate(tmp_path)
    cohort = Cohort.open(tmp_path)
    assert cohort.promoted == expected["ses-2"]
    assert cohort.checkpoint(cohort.promoted) == weights
    assert set(cohort.registered) == {expected["ses-2"], hashlib.sha256(UNREADABLE).hexdigest()}
    assert cohort.registered[cohort.promoted] == {"loss": 0.5}
    for frame in (cohort.sessions, cohort.catalogue):
        assert dict(zip(frame["session"], frame["checkpoint_digest"], strict=True)) == expected
    assert cohort.statistics is not None
    assert cohort.statistics["made_with"].tolist() == [f"{digest},1/7,input,8" for digest in expected.values()]


def test_a_store_without_statistics_and_weights_is_brought_up_too(tmp_path: Path) -> None:
    figures = [f"{contrast}_{figure}" for contrast in CONTRASTS for figure in ("ghosts", "focus")]

    def older(root: zarr.Group) -> None:
        del root["catalogue/remarks"]
        for path in (*group_paths(root), "catalogue"):
            for name in figures:
                del root[f"{path}/{name}"]
        root.attrs["schema_version"] = 3

    ingest(tmp_path, [placement("ses-1")])
    with writing(tmp_path) as repository:
        change(repository, older, "as version 3", {})
    migrate(tmp_path)
    cohort = Cohort.open(tmp_path)
    assert cohort.sessions["checkpoint_digest"].tolist() == [""]
    assert cohort.catalogue["remarks"].tolist() == [""]
    for frame in (cohort.sessions, cohort.catalogue):
        assert frame[figures].isna().all(axis=None)
