"""Going back, giving space back, coming up to date, and copies for other tools."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from qmri_core.series.acquisition import CONTRASTS
from storage.exports.zarr import export_zarr
from storage.store.cohort import (
    Cohort,
    StoreError,
    begin_append,
    commit,
    history,
    open_cohort,
    open_repository,
    tag,
    write_arrays,
    writing,
)
from storage.store.lifecycle import upkeep
from storage.store.lifecycle.forget import forget, forgotten
from storage.store.lifecycle.upkeep import compact, migrate, rollback
from storage.store.lifecycle.verify import verify
from storage.store.repository import tags
from storage.store.schema import DIGEST, IMAGE_NAMES, PER_SESSION, SCHEMA_VERSION
from storage.store.tables import change, load_table
from tests.storage.cohorts import GROUP, images, infer, ingest, maps, placement, row

OTHER = "scanner-b/protocol-2"
KEY = bytes(32)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sessions, tagged; then maps, and a third session."""
    location = tmp_path_factory.mktemp("lifecycle") / "store"
    ingest(location, [placement("ses-1"), placement("ses-2", OTHER)])
    with writing(location) as repository:
        tag(repository, "nightly-1")
    infer(location, ["ses-1", "ses-2"])
    ingest(location, [placement("ses-3")])
    return location


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "store"))


def files(location: Path) -> set[Path]:
    return {path for path in location.rglob("*") if path.is_file()}


def test_rollback_makes_the_tagged_state_the_current_one_and_loses_nothing(store: Path) -> None:
    then, now = Cohort.open(store, at="nightly-1").catalogue, Cohort.open(store).catalogue
    snapshot, saved = rollback(store, "nightly-1")
    assert history(open_repository(store))[0].id == snapshot
    pd.testing.assert_frame_equal(Cohort.open(store).catalogue, then)
    assert np.isnan(Cohort.open(store).read(Cohort.open(store).slots["ses-1"], ["T1map"])["T1map"]).all()
    assert set(tags(open_repository(store))) == {"nightly-1", saved}
    pd.testing.assert_frame_equal(Cohort.open(store, at=saved).catalogue, now)
    assert verify(Cohort.open(store)) == []
    ingest(store, [placement("ses-4")])
    assert set(Cohort.open(store).slots) == {"ses-1", "ses-2", "ses-4"}
    rollback(store, saved)
    pd.testing.assert_frame_equal(Cohort.open(store).catalogue, now)
    assert verify(Cohort.open(store)) == []


def test_rollback_names_what_it_cannot_find_and_keeps_what_was_forgotten_away(store: Path) -> None:
    with pytest.raises(StoreError, match="neither a snapshot id, a tag nor an ISO time"):
        rollback(store, "nightly-9")
    with pytest.raises(StoreError, match="current state already"):
        rollback(store, history(open_repository(store))[0].id)
    forget(store, "ses-3", key=KEY)
    rollback(store, "nightly-1")
    assert forgotten(Cohort.open(store), KEY, ["ses-1", "ses-3"]) == {"ses-3"}


def test_compact_keeps_the_current_state_and_the_tagged_ones(store: Path) -> None:
    with writing(store) as repository:  # cut short: its objects are needed by nobody
        wave = begin_append(repository, [placement("ses-4")])
        write_arrays(wave.fork, wave.slots["ses-4"], maps("ses-4"))
    before, now, then = files(store), Cohort.open(store).catalogue, Cohort.open(store, at="nightly-1").catalogue
    maps_now = open_cohort(store)[GROUP]["T1map"].load()
    would = compact(store, keep_days=0, dry_run=True)
    assert would.snapshots == 2  # of four; one is the current state, one is tagged
    assert files(store) == {path for path in before if "staging" not in str(path)}
    assert compact(store).snapshots == 0  # all are younger than the 30 days of the rule
    assert len(history(open_repository(store))) == 4
    done = compact(store, keep_days=0)
    assert done.snapshots == would.snapshots
    assert done.objects > 0
    assert done.bytes > 0
    assert len(files(store)) < len(before)
    assert len(history(open_repository(store))) == 1
    pd.testing.assert_frame_equal(Cohort.open(store).catalogue, now)
    pd.testing.assert_frame_equal(Cohort.open(store, at="nightly-1").catalogue, then)
    xr.testing.assert_identical(open_cohort(store)[GROUP]["T1map"].load(), maps_now)
    assert verify(Cohort.open(store)) == []
    assert verify(Cohort.open(store, at="nightly-1")) == []
    assert compact(store, keep_days=0).objects == 0
    ingest(store, [placement("ses-4")])
    assert verify(Cohort.open(store)) == []


@pytest.fixture(scope="module")
def grown(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with tags on and off the way to the current state, waves of two kinds, and states that only a tag has."""
    location = Path(shutil.copytree(template, tmp_path_factory.mktemp("grown") / "store"))
    rollback(location, "nightly-1")  # infer and the third session are under a tag alone
    ingest(location, [placement("ses-4")])
    infer(location, ["ses-1", "ses-4"])
    with writing(location) as repository:
        tag(repository, "nightly-2")
    ingest(location, [placement("ses-5", OTHER), placement("ses-1")])
    rollback(location, "nightly-2")
    return location


def states_on_disk(location: Path) -> set[str]:
    """Snapshots that are there as objects, but for the empty beginning and insides of waves."""
    repository = open_repository(location)
    infos = [repository.lookup_snapshot(path.name) for path in (location / "snapshots").iterdir()]
    return {info.id for info in infos if info.parent_id is not None and "staging" not in info.metadata}


@pytest.mark.parametrize("kept", range(9))
def test_a_dry_run_counts_the_commits_that_end(
    grown: Path, tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the age from which on commits are kept: from none of the states to all of them."""
    store = Path(shutil.copytree(grown, tmp_path / "store"))
    repository, now = open_repository(store), datetime.now(UTC)
    before = states_on_disk(store)
    times = sorted((repository.lookup_snapshot(state).written_at for state in before), reverse=True)
    assert len(times) == 9
    keep = now - times[kept] + timedelta(microseconds=1)

    class Now(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return now.astimezone(tz)

    monkeypatch.setattr(upkeep, "datetime", Now)
    would = compact(store, keep_days=keep / timedelta(days=1), dry_run=True)
    assert states_on_disk(store) == before
    done = compact(store, keep_days=keep / timedelta(days=1))
    gone = before - states_on_disk(store)
    assert would.snapshots == done.snapshots == len(gone)
    assert bool(gone) == (kept < 8)
    assert {snapshot.id for snapshot in history(open_repository(store))} <= before - gone
    assert verify(Cohort.open(store)) == []
    assert set(tags(open_repository(store)).values()) <= before - gone


def test_a_dry_run_counts_so_beside_an_open_wave_of_another(s3: Callable[[], str]) -> None:
    location = s3()
    ingest(location, [placement("ses-1")])
    with writing(location) as repository:
        tag(repository, "nightly-1")
        wave = begin_append(repository, [placement("ses-2")])
        infer(location, ["ses-1"])
        infer(location, ["ses-1"])
        would = compact(location, keep_days=0, dry_run=True)
        assert compact(location, keep_days=0).snapshots == would.snapshots == 2  # the making, and the first maps
        assert [snapshot.message for snapshot in history(repository)] == ["Infer"]
        fork = write_arrays(wave.fork, wave.slots["ses-2"], images("ses-2"))
        commit(repository, wave, [fork], values={}, rows=[row("ses-2")], message="images", metadata={})
    assert set(Cohort.open(location).slots) == {"ses-1", "ses-2"}
    assert verify(Cohort.open(location)) == []


def test_compact_deletes_what_a_replaced_session_leaves(store: Path) -> None:
    for _ in range(3):
        ingest(store, [placement("ses-1")])
    n_chunks = len(list((store / "chunks").iterdir()))
    compact(store, keep_days=0)
    assert len(list((store / "chunks").iterdir())) < n_chunks


def test_an_export_is_plain_zarr_with_the_same_content(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "plain.zarr"
    said: list[tuple[int, int]] = []
    count = export_zarr(Cohort.open(store), out, progress=lambda done, total: said.append((done, total)))
    assert said[-1] == (count, count) == (len(files(out)),) * 2
    tree = open_cohort(store)
    plain = xr.open_datatree(out, engine="zarr", consolidated=False)  # type: ignore[arg-type]
    assert set(plain.groups) == set(tree.groups)
    for path in (GROUP, OTHER, "catalogue"):
        expected = tree[path].to_dataset()
        xr.testing.assert_identical(plain[path].to_dataset()[list(expected.data_vars)].load(), expected.load())
    with pytest.raises(StoreError, match="is there already"):
        export_zarr(Cohort.open(store), out)
    for options in ({}, {"engine": "zarr"}):
        with xr.open_datatree(out, **options) as whole:  # by a tool that knows nothing of this project: no warning
            assert set(whole.groups) == set(tree.groups)
    for path in (GROUP, OTHER, "catalogue"):
        with xr.open_zarr(out, group=path) as group:
            assert set(group.data_vars) == set(tree[path].data_vars)
    (tmp_path / ".old.part").mkdir()  # an export was killed here
    export_zarr(Cohort.open(store, at="nightly-1"), tmp_path / "old")
    group = xr.open_zarr(tmp_path / "old", group=GROUP, consolidated=False)
    assert np.isnan(group["T1map"]).all()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def as_version_3(root: zarr.Group) -> None:
    """Change a store to what version 3, of release 0.1, wrote: a fill value of labels."""
    for path in (GROUP, OTHER):
        group: Any = root[path]
        for name, meanings in {"tissue": ("none", "csf", "grey_matter", "white_matter"), "brain_mask": FLAGS}.items():
            words = {"flag_values": list(range(len(meanings))), "flag_meanings": " ".join(meanings)}
            group[name].attrs.put({"long_name": LONG_NAMES[name], **words, "_FillValue": 255})
    del root["catalogue/remarks"]
    root.attrs["schema_version"] = 3


FLAGS = ("outside", "brain")
LONG_NAMES = {"tissue": "tissue class", "brain_mask": "parenchyma, ventricles and the CSF in sulci"}


def as_version_1(location: Path) -> None:
    """Change a store to what version 1 wrote: one array of digests per image, signals of white matter alone."""
    with writing(location) as repository:
        session = repository.writable_session("main")
        root = zarr.open_group(session.store, mode="a")
        as_version_3(root)
        for path in (GROUP, OTHER):
            group: Any = root[path]
            digests = np.asarray(group[DIGEST.name][...])
            for column, name in enumerate(IMAGE_NAMES):
                array = group.create_array(
                    f"{name}_digest", shape=(len(digests),), chunks=(1,), dtype=str, dimension_names=("session",)
                )
                array[...] = digests[:, column]
            del group[DIGEST.name]
            del group["image"]
            for contrast in CONTRASTS:
                del group[f"{contrast}_grey_matter_signal"]
                del group[f"{contrast}_csf_signal"]
        root.create_group("calibration")
        root.attrs["schema_version"] = 1
        session.commit("as version 1")


def test_a_store_of_the_older_version_is_brought_up_to_date(store: Path) -> None:
    before, tree = Cohort.open(store).sessions, open_cohort(store)[GROUP].to_dataset().load()
    as_version_1(store)
    for use in (open_cohort, Cohort.open):
        with pytest.raises(StoreError, match=r"schema version 1, .* `qmri migrate"):
            use(store)
    with pytest.raises(StoreError, match="qmri migrate"), writing(store):
        pass
    assert migrate(store) == (1, SCHEMA_VERSION)
    assert verify(Cohort.open(store)) == []
    assert load_table(Cohort.open(store).session, "calibration") is None
    pd.testing.assert_frame_equal(Cohort.open(store).sessions, before)
    xr.testing.assert_identical(open_cohort(store)[GROUP].to_dataset().load(), tree)
    last = history(open_repository(store))[0].id
    assert migrate(store) == (SCHEMA_VERSION, SCHEMA_VERSION)
    assert history(open_repository(store))[0].id == last
    infer(store, ["ses-3"])
    assert verify(Cohort.open(store)) == []


def test_a_store_of_0_1_comes_up_to_date_without_a_chunk_of_an_image_being_written(store: Path) -> None:
    now = history(open_repository(store))[0].id
    with writing(store) as repository:
        change(repository, as_version_3, "as version 3", {})
    with pytest.raises(StoreError, match=r"schema version 3, .* `qmri migrate"):
        open_cohort(store)
    assert migrate(store) == (3, SCHEMA_VERSION)
    assert verify(Cohort.open(store)) == []
    for path in (GROUP, OTHER):
        assert open_cohort(store)[path]["tissue"].dtype == open_cohort(store)[path]["brain_mask"].dtype == np.uint8
        xr.testing.assert_identical(open_cohort(store)[path].load(), open_cohort(store, at=now)[path].load())
    repository = open_repository(store)
    (migrated, *_) = history(repository)
    changes = repository.diff(from_snapshot_id=now, to_snapshot_id=migrated.id)
    assert not {path.split("/")[-1] for path in changes.updated_chunks} & set(IMAGE_NAMES)


def test_the_table_of_all_sessions(store: Path) -> None:
    table = open_cohort(store).qmri.table()
    assert table.index.tolist() == ["ses-1", "ses-3", "ses-2"]
    assert table.index.name == "session"
    assert table["group"].tolist() == [GROUP, GROUP, OTHER]
    assert list(table.columns) == ["group", "label", *(variable.name for variable in PER_SESSION)]
    expected = Cohort.open(store).sessions.set_index("session")[["age", "status"]]
    pd.testing.assert_frame_equal(table[["age", "status"]], expected, check_dtype=False)
    assert open_cohort(store, at=history(open_repository(store))[-1].id).qmri.table().empty
