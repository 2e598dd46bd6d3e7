"""Whether a disk has room for a run is asked before it, of the disk where the store is or will be."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest

from storage.store import room
from storage.store.room import MAPS, SESSION, NoRoomError, bytes_of, bytes_of_group, require_room

Usage = namedtuple("Usage", "total used free")


def test_a_session_of_a_millimetre_takes_what_the_forecast_says() -> None:
    group = "siemens-prisma-3t-1a2b3c/t1w-mprage-tr2300_t2w-tse-tr6000_1.0x1.0x1.0mm-3fa2"
    assert 25e6 < bytes_of_group(group) < 50e6
    assert bytes_of(SESSION, 2, 10) == 2 * 0.3e6 + 51
    assert all(maps < whole for maps, whole in zip(MAPS, SESSION, strict=True))


@pytest.mark.parametrize(("free", "fits"), [(9.9e9, False), (10.1e9, True)])
def test_a_run_that_cannot_fit_is_refused_with_what_to_do(
    free: float, *, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is that of the first folder above the store that is there."""
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(2 * free, free, free)

    monkeypatch.setattr(room.shutil, "disk_usage", usage)
    store = str(tmp_path / "not" / "there" / "yet")
    if fits:
        require_room(store, 10e9, "400 sessions")
    else:
        with pytest.raises(NoRoomError, match=r"400 sessions may take 10\.0 GB, .* has 9\.9 GB left.*--no-room"):
            require_room(store, 10e9, "400 sessions")
    assert asked == [tmp_path]


def test_an_object_store_has_no_disk_to_look_at() -> None:
    require_room("s3://bucket/cohort", 1e30, "everything")
