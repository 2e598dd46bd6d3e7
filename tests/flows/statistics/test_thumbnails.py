"""Thumbnails that aggregate makes: of the slice of the store, once, anew where images are others, and forgotten."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from PIL import Image

from flows.browser.thumbnails import thumbnail
from flows.browser.view import View
from flows.pictures.slices import fitted, grey_levels
from flows.statistics.aggregate import aggregate
from storage.exports.zarr import export_zarr
from storage.store.cohort import Cohort, begin_update, commit, open_cohort, write_arrays, writing
from storage.store.lifecycle.forget import forget
from storage.store.lifecycle.verify import verify
from storage.store.thumbnails import PICTURED, SIZE, made_with, read_chunk
from tests.flows.tiny_cohort import make_store, maps

FIRST, SECOND, WITHOUT_MAPS = "ses-000000000000", "ses-000000000001", "ses-000000000004"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as opened:
        yield opened


def rows_in(location: str) -> dict[str, str]:
    return made_with(Cohort.open(location).root)


def test_they_are_of_the_store_made_once_and_follow_it(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    aggregate(store, client=client)
    cohort, made = Cohort.open(store), rows_in(store)
    assert set(made) == set(cohort.slots)  # those without maps too
    volume = cohort.read(cohort.slots[SECOND], ["T1map"])["T1map"]
    middle = volume[volume.shape[0] // 2]
    stored = read_chunk(cohort.root, list(made).index(SECOND), "T1map")[list(made).index(SECOND)]
    rows, columns = middle.shape
    expected = np.where(np.isnan(middle), 0, 1 + np.round(254 * np.clip((middle - 0.3) / 2.2, 0, 1)))
    np.testing.assert_array_equal(stored[:rows, :columns], expected)
    assert not stored[rows:].any()
    assert not stored[:, columns:].any()
    assert aggregate(store, client=client).snapshot is None
    with writing(store) as repository:
        wave = begin_update(repository, [FIRST])
        fork = write_arrays(wave.session.fork(), wave.slots[FIRST], maps(6))
        row = {"session": FIRST, "calibration_version": "2/2"}
        commit(repository, wave, [fork], values={}, rows=[row], message="Infer")
    aggregate(store, client=client)
    assert {name for name, one in rows_in(store).items() if made[name] != one} == {FIRST}

    def reads(*_: object) -> None:
        raise AssertionError("a volume is read")

    view = View(Cohort.open(store))
    assert set(view.thumbnails) == set(made)
    with monkeypatch.context() as patched:
        patched.setattr(Cohort, "read_part", reads)
        shown = np.asarray(Image.open(io.BytesIO(thumbnail(view, SECOND, "T1map"))).convert("L"))
    assert shown.shape == (rows, columns)
    assert abs(shown[::-1, ::-1].astype(float) - expected)[expected > 0].mean() < 8  # of 255: JPEG


def test_old_thumbnails_are_not_shown_and_forgotten_ones_are_gone(tmp_path: Path, client: Client) -> None:
    store = make_store(tmp_path)
    aggregate(store, client=client)
    with writing(store) as repository:
        row = {"session": FIRST, "calibration_version": "2/2"}
        commit(repository, None, [], values={}, rows=[row], message="Infer")
    assert set(rows_in(store)) - set(View(Cohort.open(store)).thumbnails) == {FIRST}
    forget(store, SECOND, key=bytes(32))
    left = Cohort.open(store)
    assert set(made_with(left.root)) == set(left.slots)
    assert SECOND not in left.slots
    assert verify(left) == []
    assert "level" in open_cohort(store)["thumbnails"]
    export_zarr(left, tmp_path / "out")
    assert (tmp_path / "out" / "thumbnails").is_dir()


@pytest.mark.parametrize("shape", [(200, 160), (96, 96), (30, 200)])
def test_a_slice_is_made_small_and_keeps_its_proportions_and_its_holes(shape: tuple[int, int]) -> None:
    section = np.full(shape, 1.4, dtype=np.float32)
    section[: shape[0] // 2] = np.nan
    small = fitted(grey_levels(section, "T1map"), SIZE)
    assert max(small.shape) == SIZE
    assert abs(small.shape[0] / small.shape[1] - shape[0] / shape[1]) < 0.04 * shape[0] / shape[1] + 0.01
    half = small.shape[0] // 2
    assert not small[: half - 1].any()
    assert (small[half + 1 :] == 128).all()  # the middle of the window: 1 + 254 / 2


def test_pictures_are_of_images_that_the_store_has() -> None:
    from storage.store.schema import IMAGE_NAMES

    assert set(PICTURED) <= set(IMAGE_NAMES)
