"""Maps that cannot fit on the disk are not begun; of other weights all are made anew, beside the old ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flows.maps.infer import infer
from storage.store.cohort import Cohort
from storage.store.room import MAPS, NoRoomError, bytes_of
from tests.benchmarks.test_orchestration import GRID, Loop, in_a_loop, make_store

CLIENT: Any = Loop()


class Usage(NamedTuple):
    free: int


def test_maps_are_refused_before_anything_of_them_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.cluster.driver.run_bounded", in_a_loop)
    store = make_store(tmp_path / "store", 2)
    z, y, x = GRID.shape
    takes = bytes_of(MAPS, 2, 2 * z * y * x)
    monkeypatch.setattr("storage.store.room.shutil.disk_usage", lambda _: Usage(free=int(takes) - 1))
    with pytest.raises(NoRoomError, match="maps of 2 sessions may take"):
        infer(store, client=CLIENT)
    assert set(Cohort.open(store).catalogue["checkpoint_digest"]) == {""}
    assert infer(store, client=CLIENT, check_room=False).found == 2
    monkeypatch.setattr("storage.store.room.shutil.disk_usage", lambda _: Usage(free=0))
    assert infer(store, client=CLIENT).unchanged == 2  # what is done needs no room
