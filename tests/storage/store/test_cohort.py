import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import icechunk
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from storage.store import repository
from storage.store.cohort import (
    Cohort,
    StoreError,
    begin_append,
    commit,
    history,
    open_cohort,
    open_repository,
    write_arrays,
    writing,
)
from storage.store.lifecycle.verify import verify
from storage.store.repository import StorageFaultError
from storage.store.schema import CATALOGUE, NOT_COMPUTED, PER_SESSION, SCHEMA_VERSION
from storage.store.tables import column, write_table
from tests.storage.cohorts import GRID, GROUP, images, infer, ingest, maps, placement, row

SESSIONS = ("ses-b", "ses-a", "ses-c")


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sessions in one group, two of them with maps, and one more in the catalogue only."""
    path = tmp_path_factory.mktemp("cohort") / "store"
    ingest(path, [placement(session) for session in SESSIONS])
    infer(path, SESSIONS[:2])
    with writing(path) as opened:
        commit(opened, None, [], values={}, rows=[row("ses-d", "skipped")], message="Skip", metadata={"skipped": 1})
    return path


def test_the_three_lines_of_an_analyst(location: Path) -> None:
    tree = open_cohort(location)
    group = tree[GROUP]
    means = group["T1map"].where(group["tissue"] == 3).mean(("z", "y", "x"))
    assert means.dims == ("session",)
    assert means["session"].values.tolist() == list(SESSIONS)
    for session in SESSIONS[:2]:
        expected = maps(session)["T1map"][images(session)["tissue"] == 3].mean(dtype=np.float64)
        np.testing.assert_allclose(float(means.sel(session=session)), expected, rtol=2e-4)  # rounding: 1.2e-4
    assert np.isnan(means.sel(session="ses-c"))


def test_units_coordinates_and_groups_are_decoded(location: Path) -> None:
    tree = open_cohort(location)
    group = tree[GROUP]
    assert group["T1map"].dims == ("session", "z", "y", "x")
    assert group["T2map"].attrs["units"] == "s"
    for axis in "xyz":
        np.testing.assert_array_equal(group[axis], GRID.coordinates(axis))
        assert group[axis].attrs["units"] == "mm"
    assert np.isnan(group["brain_mask"].where(group["brain_mask"] > 1)).all()
    assert tree["catalogue"].sizes == {"row": 4}
    assert group["affine"].shape == (3, 4, 4)
    assert tree.attrs["schema_version"] == SCHEMA_VERSION
    assert group.attrs["spacing"] == list(GRID.spacing)


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
@pytest.mark.parametrize("node", [GROUP, "catalogue"])
def test_nodes_go_to_netcdf_and_back(engine: str, node: str, location: Path, tmp_path: Path) -> None:
    """Text, flags, packed maps and those that are not computed; also by the engine for netCDF 3, which has no bytes."""
    pytest.importorskip(engine)
    dataset = open_cohort(location)[node].to_dataset()
    dataset.to_netcdf(tmp_path / "node.nc", engine=engine)
    with xr.open_dataset(tmp_path / "node.nc", engine=engine) as back:
        xr.testing.assert_equal(back.load(), dataset.load())
        assert {name: back[name].attrs.get("units") for name in back} == {
            name: dataset[name].attrs.get("units") for name in dataset
        }


def test_labels_stay_integers_and_not_computed_is_one_of_their_flags(location: Path) -> None:
    group = open_cohort(location)[GROUP]
    for name in ("tissue", "brain_mask"):
        assert group[name].dtype == np.uint8
        np.testing.assert_array_equal(group[name][1], images(SESSIONS[1])[name])
        assert NOT_COMPUTED in group[name].attrs["flag_values"]


def test_variables_come_in_the_order_of_the_schema(location: Path) -> None:
    for _ in range(3):
        tree = open_cohort(location)
        assert list(tree[GROUP].data_vars)[:6] == ["T1w", "T2w", "FLAIR", "T1map", "T2map", "PDmap"]
        assert list(tree["catalogue"].data_vars)[:2] == ["session", "status"]
        assert list(tree.groups) == ["/", "/catalogue", "/scanner-a", f"/{GROUP}"]


def test_columns_of_a_table_come_in_the_order_of_its_writer(tmp_path: Path) -> None:
    """Twenty names in disorder: by chance they come so in one of 20! readings."""
    ingest(tmp_path / "store", [placement("ses-a")])
    names = [f"column_{number * 7 % 20}" for number in range(20)]
    table = xr.Dataset({name: ("row", np.asarray([1.0])) for name in names})
    with writing(tmp_path / "store") as opened:
        write_table(opened, "regions", table, message="Regions", metadata={})
    regions = Cohort.open(tmp_path / "store").regions
    assert regions is not None
    assert list(regions.columns) == names
    assert list(open_cohort(tmp_path / "store")["regions"].data_vars) == names


def test_opening_is_lazy_and_takes_dask_chunks_on_request(location: Path) -> None:
    lazy = open_cohort(location)[GROUP]["T1map"]
    assert not lazy.variable._in_memory
    assert lazy.chunks is None
    chunked = open_cohort(location, chunks={})[GROUP]["T1map"]
    assert chunked.chunks is not None
    assert chunked.chunks[0] == (1, 1, 1)


def test_the_catalogue_lists_every_session_once(location: Path) -> None:
    table = Cohort.open(location).catalogue
    assert table["session"].tolist() == [*SESSIONS, "ses-d"]
    assert list(table.columns) == [variable.name for variable in CATALOGUE]
    assert table["status"].tolist() == ["complete", "complete", "partial", "skipped"]
    assert table["group"].tolist() == [GROUP, GROUP, GROUP, ""]
    assert table.groupby("status").size()["complete"] == 2


def test_the_sessions_table_joins_all_groups(location: Path) -> None:
    table = Cohort.open(location).sessions
    assert table["session"].tolist() == list(SESSIONS)
    assert table["index"].tolist() == [0, 1, 2]
    assert set(table["group"]) == {GROUP}
    assert table["age"].tolist() == [40.0] * 3
    assert set(table.columns) == {"session", "group", "index", *(variable.name for variable in PER_SESSION)}


def test_earlier_states_open_by_snapshot_and_time(location: Path) -> None:
    skipped, inferred, ingested, created = history(open_repository(location))
    assert (skipped.message, inferred.message, ingested.message) == ("Skip", "Infer", "Ingest 3 sessions")
    assert ingested.metadata == {"run": "test", "sessions": 3}
    assert len(Cohort.open(location, at=created.id).catalogue) == 0
    assert np.isnan(open_cohort(location, at=ingested.id)[GROUP]["T1map"]).all()
    assert open_cohort(location, at=inferred.time)[GROUP]["T1map"][:2].notnull().all()
    assert Cohort.open(location, at=ingested.time.isoformat()).catalogue["status"].tolist() == ["partial"] * 3
    naive = (skipped.time + timedelta(seconds=5)).replace(tzinfo=None)
    assert len(Cohort.open(location, at=naive).catalogue) == 4


def test_no_time_shows_the_inside_of_a_wave(location: Path) -> None:
    opened = open_repository(location)
    inside = [info for info in opened.ancestry(branch="main") if info.metadata.get("staging")]
    assert len(inside) == 1
    assert Cohort.open(location, at=inside[0].written_at).sessions.empty
    with pytest.raises(StoreError, match="neither a snapshot id"):
        open_cohort(location, at=inside[0].id)


def test_a_moment_that_is_not_there_is_named(location: Path) -> None:
    with pytest.raises(StoreError, match="no commit at or before"):
        open_cohort(location, at=datetime(2001, 1, 1, tzinfo=UTC))
    with pytest.raises(StoreError, match="neither a snapshot id, a tag nor an ISO time"):
        open_cohort(location, at="nightly")


def test_locations_that_hold_no_store(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    for wrong, message in ((tmp_path / "none", "no such folder"), (file, "is a file"), (folder, "not a cohort store")):
        for read in (open_cohort, Cohort.open):
            with pytest.raises(StoreError, match=message):
                read(wrong)
        with pytest.raises(StoreError, match=message), writing(wrong):
            pass
    assert list(folder.iterdir()) == []


def test_a_store_is_never_made_over_other_files(tmp_path: Path) -> None:
    (tmp_path / "precious.nii").write_text("x")
    with pytest.raises(StoreError, match="1 files that are no store"), writing(tmp_path, create=True):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious.nii"]
    with pytest.raises(StoreError, match="cannot be made"), writing(tmp_path / "precious.nii" / "store", create=True):
        pass


def test_a_foreign_icechunk_repository_is_no_cohort(tmp_path: Path) -> None:
    made = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path)))
    with pytest.raises(StoreError, match="not a cohort store"):
        open_cohort(tmp_path)
    session = made.writable_session("main")
    zarr.create_group(session.store, attributes={"schema_version": "x"})
    session.commit("m")
    with pytest.raises(StoreError, match="states no schema version"):
        open_cohort(tmp_path)
    with pytest.raises(StoreError, match="states no schema version"), writing(tmp_path, create=True):
        pass


def test_a_newer_schema_is_refused_by_readers_and_writers(tmp_path: Path) -> None:
    with writing(tmp_path, create=True) as opened:
        session = opened.writable_session("main")
        zarr.open_group(session.store, mode="a").attrs["schema_version"] = SCHEMA_VERSION + 1
        session.commit("m")
    with pytest.raises(StoreError, match="install a newer"):
        open_cohort(tmp_path)
    with pytest.raises(StoreError, match="install a newer"), writing(tmp_path):
        pass


def test_making_a_store_that_was_cut_short_is_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    rename = Path.rename

    def dies(self: Path, target: Path) -> Path:
        if len(moved) == 1:
            raise KeyboardInterrupt
        moved.append(self.name)
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", dies)
        with pytest.raises(KeyboardInterrupt), writing(tmp_path / "store", create=True):
            pass
    with pytest.raises(StoreError, match="not a cohort store"):
        open_cohort(tmp_path / "store")
    ingest(tmp_path / "store", [placement("ses-1")])
    assert len(Cohort.open(tmp_path / "store").slots) == 1
    assert repository._NEW not in {entry.name for entry in (tmp_path / "store").iterdir()}


@pytest.fixture
def read_only(location: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the store that this process may read and not write."""
    copy = Path(shutil.copytree(location, tmp_path / "copy"))
    entries = [copy, *copy.rglob("*")]
    for entry in entries:
        entry.chmod(0o555 if entry.is_dir() else 0o444)
    parents = [parent for parent in copy.parents if parent.stat().st_uid == os.getuid()]
    modes = {parent: parent.stat().st_mode for parent in parents}
    root = os.geteuid() == 0
    if root:  # may write anything: act as nobody
        for parent, mode in modes.items():
            parent.chmod(mode | 0o055)
        os.seteuid(65534)
    yield copy
    if root:
        os.seteuid(0)
        for parent, mode in modes.items():
            parent.chmod(mode)
    for entry in entries:
        entry.chmod(0o755)


def test_a_read_only_store_is_read_and_refuses_writers(read_only: Path) -> None:
    assert len(Cohort.open(read_only).catalogue) == 4
    assert np.isfinite(Cohort.open(read_only).read(Cohort.open(read_only).slots["ses-a"], ["T1map"])["T1map"]).all()
    with pytest.raises(StoreError, match="cannot be written"), writing(read_only):
        pass
    with pytest.raises(StoreError, match="cannot be made"), writing(read_only / "new", create=True):
        pass


def test_a_store_moves_with_its_folder(location: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(location, tmp_path / "elsewhere"))
    assert verify(Cohort.open(moved)) == []
    ingest(moved, [placement("ses-e")])
    assert len(Cohort.open(moved).slots) == 4
    assert len(Cohort.open(location).slots) == 3


def test_a_writer_that_disappears_gives_the_lock_back(location: Path) -> None:
    code = f"""
import os
from storage.store.repository import writing
with writing({str(location)!r}):
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False, timeout=60)
    with writing(location, on_wait=pytest.fail) as opened:
        assert opened.list_branches() == {"main"}


def test_nothing_of_icechunk_reaches_the_terminal(location: Path) -> None:
    code = f"from storage.store.cohort import Cohort; Cohort.open({str(location)!r}).catalogue"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, timeout=60)
    assert done.stdout + done.stderr == b""


def test_an_empty_store_has_empty_tables(tmp_path: Path) -> None:
    with writing(tmp_path, create=True):
        pass
    assert Cohort.open(tmp_path).catalogue.empty
    assert Cohort.open(tmp_path).sessions.empty
    assert {"session", "group", "age"} <= set(Cohort.open(tmp_path).sessions.columns)
    assert Cohort.open(tmp_path).slots == {}
    assert set(open_cohort(tmp_path).children) == {"catalogue"}


def test_a_worker_needs_only_the_fork_and_the_slot(location: Path) -> None:
    with writing(location) as opened:
        wave = begin_append(opened, [placement("ses-z")])
        returned = write_arrays(wave.fork, wave.slots["ses-z"], {"T1w": images("ses-z")["T1w"]})
        assert returned is wave.fork
        assert returned.has_uncommitted_changes


def test_chunks_that_are_lost_are_of_their_session_and_a_store_that_has_gone_is_of_none(
    location: Path, tmp_path: Path
) -> None:
    """A process that keeps the store open meets the loss at a chunk, not at the opening."""
    copy = Path(shutil.copytree(location, tmp_path / "copy"))
    cohort = Cohort.open(copy)
    slot = cohort.slots["ses-a"]
    assert np.isfinite(cohort.read(slot, ["T1map"])["T1map"]).all()
    for chunk in (copy / "chunks").iterdir():
        chunk.unlink()
    with pytest.raises((OSError, icechunk.IcechunkError)):
        cohort.read(slot, ["T1map"])
    shutil.rmtree(copy)
    with pytest.raises(StorageFaultError, match="no such folder"):
        cohort.read(slot, ["T1map"])


def test_some_values_are_those_of_the_table_of_all(location: Path) -> None:
    cohort = Cohort.open(location)
    names = ["age", "status", "T1w_sequence", "checkpoint_digest"]  # in groups alone, and in the catalogue too
    some = Cohort.open(location).values_of(names)
    pd.testing.assert_frame_equal(some, cohort.sessions[["session", "group", "index", *names]])
    for name in (variable.name for variable in PER_SESSION):
        stored = column(cohort.root[f"{GROUP}/{name}"])
        assert repr(cohort.sessions[name].tolist()) == repr(stored.tolist())  # NaN is not itself


@pytest.mark.parametrize("is_read", [False, True])
def test_rows_of_some_sessions_are_those_of_the_catalogue(location: Path, is_read: bool) -> None:
    cohort = Cohort.open(location)
    expected = {str(row["session"]): row for row in Cohort.open(location).catalogue.to_dict("records")}
    if is_read:
        assert len(cohort.catalogue) == 4
    rows = cohort.rows_of(["ses-d", "ses-a", "unknown"])
    assert {name: repr(row) for name, row in rows.items()} == {n: repr(expected[n]) for n in ("ses-a", "ses-d")}
    assert cohort.rows_of([]) == cohort.rows_of(["unknown"]) == {}


def test_sessions_read_together_are_those_read_alone(location: Path) -> None:
    cohort = Cohort.open(location)
    slots = [cohort.slots[name] for name in ("ses-c", "ses-b")]  # not in their order
    together = cohort.read_together(slots, ["T1map", "tissue"])
    for place, slot in enumerate(slots):
        alone = cohort.read(slot, ["T1map", "tissue"])
        assert all(together[name][place].tobytes() == alone[name].tobytes() for name in alone)
        part = cohort.read_part(slot, "T1map", (2, slice(3, 5)))
        assert part.tobytes() == alone["T1map"][2, 3:5].tobytes()


@pytest.mark.parametrize("fault", ["owner", "name"])
def test_what_is_no_value_of_a_session_is_not_read(location: Path, fault: str) -> None:
    cohort = Cohort.open(location)
    slots = [cohort.slots[name] for name in ("ses-b", "ses-c")]
    if fault == "owner":
        slots[1] = replace(slots[1], session="ses-x")
    name, told = ("T1map", "ses-x: its slot") if fault == "owner" else ("nothing", "no such variables: nothing")
    with pytest.raises(StoreError, match=told):
        cohort.read_together(slots, [name])
    with pytest.raises(StoreError, match=told):
        cohort.read_part(slots[1], name, ())
