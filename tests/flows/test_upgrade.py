"""A store of release 0.1 is brought up by `migrate`, and its next night makes thumbnails and nothing else."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client

from flows.night import reprocess
from qmri_core.mapping.checkpoint import load_checkpoint
from storage.store.checkpoints import NODE, PROMOTED
from storage.store.cohort import Cohort, StoreError, open_repository, writing
from storage.store.labels import LABELS
from storage.store.lifecycle.upkeep import migrate
from storage.store.lifecycle.verify import verify
from storage.store.repository import history
from storage.store.schema import SCHEMA_VERSION
from storage.store.slots import group_paths
from storage.store.tables import change
from storage.store.thumbnails import made_with
from tests.flows.end_to_end import Processed, arrays, assert_same_arrays, values

FLAGS = {"tissue": ("none", "csf", "grey_matter", "white_matter"), "brain_mask": ("outside", "brain")}

pytestmark = pytest.mark.walk


def as_release_0_1(root: zarr.Group, checkpoint: bytes, *, is_held: bool) -> None:
    """Write what release 0.1 wrote where this one writes something else; ``is_held``: the store has the weights."""
    file, content = hashlib.sha256(checkpoint).hexdigest(), set()
    for path in (*group_paths(root), "catalogue"):
        node: Any = root[path]
        content |= set(node["checkpoint_digest"][...].tolist())
        node["checkpoint_digest"][...] = np.full(node["checkpoint_digest"].shape, file, dtype=object)
        node["code_version"][...] = np.full(node["code_version"].shape, "0.1.0", dtype=object)
        for name, meanings in FLAGS.items() if path != "catalogue" else ():
            words = {"flag_values": list(range(len(meanings))), "flag_meanings": " ".join(meanings), "_FillValue": 255}
            node[name].attrs.put({"long_name": node[name].attrs["long_name"], **words})
        node.attrs.pop("label", None)
    (digest,) = content
    made: Any = root["statistics/made_with"]
    parts = [text.split(",") for text in made[...].tolist()]
    assert {part[0] for part in parts} == {digest}
    made[...] = np.asarray([",".join((file, *part[1:3], "0.1.0", *part[3:])) for part in parts], dtype=object)
    if is_held:
        weights = np.frombuffer(checkpoint, dtype=np.uint8)
        node = root.require_group(NODE).create_array(
            file, data=weights, chunks=weights.shape, dimension_names=("byte",)
        )
        node.attrs["record"] = {}
        root.attrs[PROMOTED] = file
    del root["catalogue/remarks"], root.attrs[LABELS]
    last: Any = root.attrs["last_ingest"]
    root.attrs["last_ingest"] = {name: value for name, value in last.items() if name != "remarks"}
    del root["thumbnails"]
    root.attrs["schema_version"] = 3


@pytest.mark.parametrize("is_held", [True, False])
def test_the_next_night_after_migrate_makes_thumbnails_alone_and_the_one_after_it_nothing(
    processed: Processed, workers: Client, tmp_path: Path, *, is_held: bool
) -> None:
    """With the weights in the store, or in a file that every run is given."""
    cohort = replace(processed, store=str(tmp_path / "store"))
    shutil.copytree(processed.store, cohort.store)
    checkpoint = processed.checkpoint.read_bytes()
    with writing(cohort.store) as repository:
        change(repository, lambda root: as_release_0_1(root, checkpoint, is_held=is_held), "as release 0.1", {})
    with pytest.raises(StoreError, match="qmri migrate"):
        reprocess(cohort.source, cohort.store, key=cohort.key, client=workers)
    assert migrate(cohort.store) == (3, SCHEMA_VERSION)
    assert verify(Cohort.open(cohort.store)) == []
    tip = open_repository(cohort.store).lookup_branch("main")
    file = None if is_held else processed.checkpoint
    result, tables = reprocess(cohort.source, cohort.store, key=cohort.key, client=workers, checkpoint=file)
    assert (result.ingested.unchanged, result.summary.unchanged) == (3, 3)
    since = [one.message for one in takewhile(lambda one: one.id != tip, history(open_repository(cohort.store)))]
    assert since == ["Make thumbnails of 3 sessions"]
    assert set(made_with(Cohort.open(cohort.store).root)) == set(arrays(cohort.store))
    again, _ = reprocess(cohort.source, cohort.store, key=cohort.key, client=workers, checkpoint=file)
    assert again.snapshot is None
    assert open_repository(cohort.store).lookup_branch("main") == result.snapshot
    assert tables.labels == processed.aggregated.labels
    found, expected = arrays(cohort.store), arrays(processed.store)
    for session in expected:
        assert_same_arrays(found[session], expected[session])
    later = values(cohort.store)
    assert set(later["code_version"]) == {"0.1.0"}  # as a record of what made them
    if is_held:
        assert set(later["checkpoint_digest"]) == {load_checkpoint(processed.checkpoint).digest}
