"""Rows of thumbnails: added, replaced, taken out, and nothing else moved or left behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from storage.store.thumbnails import NODE, PER_CHUNK, PICTURED, SIZE, Thumbnail, made_with, read_chunk, remove, write

NAMES = st.sampled_from([f"ses-{number}" for number in range(PER_CHUNK + 3)])


def thumbnail(name: str, version: int) -> Thumbnail:
    rng = np.random.default_rng([version, int(name[4:])])
    return Thumbnail(made_with=f"{name} {version}", levels=rng.integers(1, 256, (len(PICTURED), SIZE, SIZE), np.uint8))


def held(root: zarr.Group) -> dict[str, Thumbnail]:
    """All that the rows hold, read as pages read it."""
    made = made_with(root)
    return {
        name: Thumbnail(
            made_with=one,
            levels=np.stack([read_chunk(root, row, picture)[row % PER_CHUNK] for picture in PICTURED]),
        )
        for row, (name, one) in enumerate(made.items())
    }


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(st.tuples(st.booleans(), st.sets(NAMES, max_size=PER_CHUNK + 3)), max_size=5))
def test_rows_are_those_of_a_dictionary(steps: list[tuple[bool, set[str]]]) -> None:
    root, expected = zarr.open_group(MemoryStore(), mode="w"), dict[str, Thumbnail]()
    for version, (is_added, names) in enumerate(steps):
        if is_added:
            made = {name: thumbnail(name, version) for name in sorted(names)}
            write(root, made)
            expected |= made
        else:
            remove(root, names)
            expected = {name: one for name, one in expected.items() if name not in names}
    found = held(root)
    assert {name: one.made_with for name, one in found.items()} == {
        name: one.made_with for name, one in expected.items()
    }
    for name, one in expected.items():
        np.testing.assert_array_equal(found[name].levels, one.levels)


def test_what_was_taken_out_is_in_no_chunk() -> None:
    store = MemoryStore()
    root = zarr.open_group(store, mode="w")
    write(root, {name: thumbnail(name, 0) for name in ("ses-1", "ses-2", "ses-3")})
    remove(root, ["ses-1", "ses-3"])
    node: Any = root[NODE]
    for name in ("session", "made_with", "level"):
        node[name].resize((3, *node[name].shape[1:]))  # what lies beyond the end of a chunk would come back
    assert list(node["session"][:]) == ["ses-2", "", ""]
    assert list(node["made_with"][:]) == ["ses-2 0", "", ""]
    assert not np.asarray(node["level"][1:]).any()
