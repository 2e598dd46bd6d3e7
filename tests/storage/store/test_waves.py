import logging
import pickle
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qmri_core.series.geometry import Grid
from storage.store import waves
from storage.store.cohort import (
    Cohort,
    Slot,
    StoreError,
    Wave,
    begin_append,
    begin_update,
    commit,
    history,
    open_cohort,
    open_repository,
    tag,
    write_arrays,
    write_table,
    writing,
)
from storage.store.lifecycle.verify import verify
from storage.store.schema import IMAGE_NAMES, WORKER_VARIABLES, rounded
from storage.store.tables import load_table
from storage.store.waves import check_whole_chunks
from tests.storage.cohorts import GRID, GROUP, images, infer, ingest, maps, placement, row

OTHER = "scanner-b/protocol-2"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    location = tmp_path_factory.mktemp("template") / "store"
    ingest(location, [placement("ses-1"), placement("ses-2"), placement("ses-3", OTHER)])
    return location


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    """Two groups with three sessions, no maps yet."""
    return Path(shutil.copytree(template, tmp_path / "store"))


@pytest.fixture
def repository(store: Path) -> Iterator[icechunk.Repository]:
    with writing(store) as opened:
        yield opened


def assert_holds(location: Path, session: str, names: tuple[str, ...] = ("T1w", "T2w", "FLAIR", "tissue")) -> None:
    expected = images(session) | maps(session)
    found = Cohort.open(location).read(Cohort.open(location).slots[session], names)
    for name in names:
        np.testing.assert_array_equal(found[name], rounded(expected[name], WORKER_VARIABLES[name]))


def test_what_is_written_is_read(store: Path) -> None:
    for session in ("ses-1", "ses-2", "ses-3"):
        assert_holds(store, session)
    found = Cohort.open(store).read(
        Cohort.open(store).slots["ses-1"], ("T1map", "brain_mask", "tissue", "affine", "digest")
    )
    assert np.isnan(found["T1map"]).all()
    np.testing.assert_array_equal(found["affine"], np.diag([2.0, 2.0, 3.0, 1.0]))
    assert found["digest"][IMAGE_NAMES.index("T1map")] == ""


def test_maps_are_added_without_touching_the_images(store: Path) -> None:
    infer(store, ["ses-3", "ses-1"])
    assert_holds(store, "ses-1", (*images("ses-1"), *maps("ses-1"))[:5])
    assert_holds(store, "ses-3", ("T1map", "T2map", "PDmap", "T1w"))
    assert np.isnan(Cohort.open(store).read(Cohort.open(store).slots["ses-2"], ["T1map"])["T1map"]).all()
    rows = Cohort.open(store).catalogue.set_index("session")
    assert rows["checkpoint_digest"].to_dict() == {"ses-1": "c0ffee", "ses-2": "", "ses-3": "c0ffee"}
    assert rows["status"].to_dict() == {"ses-1": "complete", "ses-2": "partial", "ses-3": "complete"}
    assert verify(Cohort.open(store)) == []


def test_forks_travel_to_workers_and_back(store: Path) -> None:
    with writing(store) as repository:
        wave = begin_append(repository, [placement("ses-4"), placement("ses-5", "scanner-c/protocol-3")])
        sent = pickle.dumps(wave.fork)
        forks = [
            pickle.loads(pickle.dumps(write_arrays(pickle.loads(sent), pickle.loads(pickle.dumps(slot)), images(name))))  # noqa: S301
            for name, slot in wave.slots.items()
        ]
        commit(repository, wave, forks, values={}, rows=[row("ses-4"), row("ses-5")], message="m", metadata={})
    for session in ("ses-1", "ses-4", "ses-5"):
        assert_holds(store, session)
    assert Cohort.open(store).slots["ses-5"] == Slot(group="scanner-c/protocol-3", index=0, session="ses-5")


def test_readers_see_nothing_of_an_open_wave(store: Path) -> None:
    before = open_cohort(store)
    with writing(store) as repository:
        wave = begin_append(repository, [placement("ses-4"), placement("ses-5", "scanner-c/protocol-3")])
        fork = write_arrays(wave.fork, wave.slots["ses-4"], images("ses-4"))
        during = open_cohort(store)
        assert set(Cohort.open(store).slots) == {"ses-1", "ses-2", "ses-3"}
        assert during[GROUP]["session"].values.tolist() == ["ses-1", "ses-2"]
        assert during.groups == before.groups
        fork = write_arrays(fork, wave.slots["ses-5"], images("ses-5"))
        commit(repository, wave, [fork, fork], values={}, rows=[row("ses-4"), row("ses-5")], message="m", metadata={})
    assert before[GROUP]["T1w"].shape[0] == 2  # an open reader keeps its snapshot
    assert np.isfinite(before[GROUP]["T2w"].values).all()
    assert open_cohort(store)[GROUP]["session"].values.tolist() == ["ses-1", "ses-2", "ses-4"]


def test_an_abandoned_wave_leaves_no_trace(store: Path) -> None:
    last = history(open_repository(store))[0].id
    with writing(store) as repository:
        wave = begin_append(repository, [placement("ses-4")])
        write_arrays(wave.fork, wave.slots["ses-4"], images("ses-4"))
    with writing(store) as repository:
        assert repository.list_branches() == {"main"}
    assert history(open_repository(store))[0].id == last
    ingest(store, [placement("ses-4")])
    assert Cohort.open(store).slots["ses-4"].index == 2
    assert verify(Cohort.open(store)) == []


def append(repository: icechunk.Repository, *names: str, group: str = GROUP) -> tuple[Wave, icechunk.ForkSession]:
    """Begin a wave and write its images; not committed yet."""
    wave = begin_append(repository, [placement(name, group) for name in names])
    for name in names:
        write_arrays(wave.fork, wave.slots[name], images(name))
    return wave, wave.fork


def test_a_wave_that_another_one_overtook_is_rebased(store: Path) -> None:
    with writing(store) as repository:
        first, fork = append(repository, "ses-4", "ses-x", "ses-2")
        second, other = append(repository, "ses-5", "ses-6")
        done = [row("ses-5"), row("ses-6")]
        commit(repository, second, [other], values={"ses-5": {"age": 5}}, rows=done, message="second", metadata={})
        failed = row("ses-x", "failed", reason="worker_lost")
        rows = [row("ses-4"), failed, row("ses-2", "partial")]
        commit(repository, first, [fork], values={"ses-4": {"age": 4}}, rows=rows, message="first", metadata={"n": 1})
        assert repository.list_branches() == {"main"}
        assert [one.message for one in history(repository)[:2]] == ["first", "second"]
    assert {name: slot.index for name, slot in Cohort.open(store).slots.items() if slot.group == GROUP} == {
        "ses-1": 0, "ses-2": 1, "ses-5": 2, "ses-6": 3, "ses-4": 4
    }  # fmt: skip
    for name in ("ses-2", "ses-4", "ses-5", "ses-6"):
        assert_holds(store, name)
    found = Cohort.open(store).sessions.set_index("session")["age"]
    assert (found["ses-4"], found["ses-5"]) == (4.0, 5.0)
    assert Cohort.open(store).catalogue.set_index("session").loc["ses-x", ["status", "group"]].tolist() == [
        "failed",
        "",
    ]
    assert verify(Cohort.open(store)) == []


def test_two_waves_with_the_same_session_end_with_the_later_one(store: Path) -> None:
    with writing(store) as repository:
        begun = [append(repository, "ses-4", group=group) for group in (GROUP, OTHER)]
        for wave, fork in begun:
            commit(repository, wave, [fork], values={}, rows=[row("ses-4")], message="m", metadata={})
    assert Cohort.open(store).slots["ses-4"] == Slot(group=OTHER, index=1, session="ses-4")
    assert_holds(store, "ses-4")
    assert verify(Cohort.open(store)) == []


def test_maps_of_images_that_were_replaced_meanwhile_are_not_stored(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with writing(store) as repository:
        update = begin_update(repository, ["ses-1", "ses-2"])
        for name in ("ses-1", "ses-2"):
            write_arrays(update.fork, update.slots[name], maps(name))
        wave = begin_append(repository, [placement("ses-1")])
        write_arrays(wave.fork, wave.slots["ses-1"], images("another input"))
        commit(repository, wave, [wave.fork], values={}, rows=[row("ses-1", "partial")], message="a", metadata={})
        done = [row("ses-1", checkpoint_digest="c0ffee"), row("ses-2", checkpoint_digest="c0ffee")]
        commit(repository, update, [update.fork], values={}, rows=done, message="u", metadata={})
    assert "done again" in caplog.text
    assert Cohort.open(store).catalogue.set_index("session")["checkpoint_digest"].to_dict() == {
        "ses-1": "", "ses-2": "c0ffee", "ses-3": ""
    }  # fmt: skip
    assert np.isnan(Cohort.open(store).read(Cohort.open(store).slots["ses-1"], ["T1map"])["T1map"]).all()
    assert_holds(store, "ses-2", ("T1w", "T1map"))
    assert verify(Cohort.open(store)) == []


def test_rows_and_tables_are_committed_while_a_wave_is_open(store: Path) -> None:
    table = xr.Dataset({"scale": ("group", [1.0])}, {"group": ["a/b"]})
    with writing(store) as repository:
        update = begin_update(repository, ["ses-1"])
        write_arrays(update.fork, update.slots["ses-1"], maps("ses-1"))
        commit(repository, None, [], values={}, rows=[row("ses-6", "failed")], message="m", metadata={})
        write_table(repository, "calibration", table, message="t")
        commit(repository, update, [update.fork], values={}, rows=[row("ses-1")], message="m", metadata={})
    assert_holds(store, "ses-1", ("T1w", "T1map"))
    assert load_table(Cohort.open(store).session, "calibration") is not None
    assert "ses-6" in set(Cohort.open(store).catalogue["session"])
    assert verify(Cohort.open(store)) == []


def test_a_table_that_another_process_has_written_meanwhile_is_not_overwritten(store: Path) -> None:
    first, second = (xr.Dataset({"scale": ("row", [value])}) for value in (1.0, 2.0))
    with writing(store) as repository:
        since = repository.lookup_branch("main")
        commit(repository, None, [], values={}, rows=[row("ses-9", "failed")], message="m", metadata={})
        middle = write_table(repository, "calibration", first, message="first", since=since)
        with pytest.raises(StoreError, match="has written the table calibration meanwhile"):
            write_table(repository, "calibration", second, message="second", since=since)
        write_table(repository, "calibration", second, message="second", since=middle)
    stored = load_table(Cohort.open(store).session, "calibration")
    assert stored is not None
    assert stored["scale"].values.tolist() == [2.0]


def test_a_commit_that_is_overtaken_for_ever_gives_up(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waves, "MAX_TRIES", 2)
    rebased = waves._rebased

    def overtaken(repository: icechunk.Repository, *arguments: Any) -> Wave:
        fresh = rebased(repository, *arguments)
        commit(repository, None, [], values={}, rows=[row("ses-9", "failed")], message="m", metadata={})
        return fresh

    monkeypatch.setattr(waves, "_rebased", overtaken)
    with writing(store) as repository:
        wave, fork = append(repository, "ses-4")
        commit(repository, None, [], values={}, rows=[row("ses-9", "skipped")], message="m", metadata={})
        with pytest.raises(StoreError, match="run it again"):
            commit(repository, wave, [fork], values={}, rows=[row("ses-4")], message="m", metadata={})
    assert set(Cohort.open(store).slots) == {"ses-1", "ses-2", "ses-3"}


def test_reingesting_replaces_images_and_forgets_maps(store: Path) -> None:
    infer(store, ["ses-1", "ses-2"])
    with writing(store) as repository:
        wave = begin_append(repository, [placement("ses-1")])
        assert wave.slots["ses-1"].index == 0
        fork = write_arrays(wave.fork, wave.slots["ses-1"], images("another input"))
        commit(repository, wave, [fork], values={}, rows=[row("ses-1", "partial")], message="again", metadata={})
    found = Cohort.open(store).read(Cohort.open(store).slots["ses-1"], ("T1w", "T1map"))
    np.testing.assert_array_equal(found["T1w"], rounded(images("another input")["T1w"], WORKER_VARIABLES["T1w"]))
    assert np.isnan(found["T1map"]).all()
    assert_holds(store, "ses-2", ("T1w", "T1map"))
    again = Cohort.open(store).sessions.set_index("session").loc["ses-1"]
    assert (again["checkpoint_digest"], again["status"]) == ("", "partial")
    assert np.isnan(again["age"])
    assert Cohort.open(store).catalogue.set_index("session")["checkpoint_digest"]["ses-1"] == ""
    assert len(Cohort.open(store).catalogue) == 3
    assert verify(Cohort.open(store)) == []


def test_a_session_that_changes_its_group_leaves_the_old_one(store: Path) -> None:
    infer(store, ["ses-1", "ses-2", "ses-3"])
    ingest(store, [placement("ses-1", OTHER)])
    assert Cohort.open(store).slots == {
        "ses-2": Slot(group=GROUP, index=0, session="ses-2"),
        "ses-3": Slot(group=OTHER, index=0, session="ses-3"),
        "ses-1": Slot(group=OTHER, index=1, session="ses-1"),
    }
    assert_holds(store, "ses-2", ("T1w", "T1map"))
    assert_holds(store, "ses-1")
    assert np.isnan(Cohort.open(store).read(Cohort.open(store).slots["ses-1"], ["T1map"])["T1map"]).all()
    ingest(store, [placement("ses-4")])  # takes the place at the end that ses-2 left
    assert np.isnan(Cohort.open(store).sessions.set_index("session").loc["ses-4", "coverage"])
    assert Cohort.open(store).sessions.set_index("session").loc["ses-4", "checkpoint_digest"] == ""
    ingest(store, [placement("ses-3")])
    ingest(store, [placement("ses-1")])
    assert OTHER.split("/")[0] not in open_cohort(store).children
    assert verify(Cohort.open(store)) == []


def test_a_session_that_failed_on_its_worker_gets_no_place(store: Path) -> None:
    with writing(store) as repository:
        wave = begin_append(repository, [placement(f"ses-{n}") for n in (4, 5, 6)])
        forks = [write_arrays(wave.session.fork(), wave.slots[name], images(name)) for name in ("ses-5", "ses-6")]
        lost = row("ses-4", "failed", reason="worker_lost", stage="write")
        rows = [lost, row("ses-5"), row("ses-6")]
        values = {"ses-5": {"coverage": 5.0}, "ses-6": {"coverage": 6.0}}
        commit(repository, wave, forks, values=values, rows=rows, message="m", metadata={})
    assert sorted(Cohort.open(store).slots) == ["ses-1", "ses-2", "ses-3", "ses-5", "ses-6"]
    for session in ("ses-5", "ses-6"):
        assert_holds(store, session)
    assert Cohort.open(store).sessions.set_index("session").loc[["ses-5", "ses-6"], "coverage"].tolist() == [5.0, 6.0]
    assert Cohort.open(store).catalogue.set_index("session").loc["ses-4", ["status", "group"]].tolist() == [
        "failed",
        "",
    ]
    assert verify(Cohort.open(store)) == []


@pytest.mark.parametrize(
    ("arrays", "rows", "message"),
    [
        ({}, [row("ses-4")], "without a finite affine"),
        ({"affine": np.eye(4)}, [row("ses-4")], "without an image"),
        ({"affine": np.full((4, 4), np.nan), "T1w": np.ones(GRID.shape)}, [row("ses-4")], "finite affine"),
        (images("ses-4"), [], "without a catalogue row"),
        (images("ses-4"), [{"session": "ses-4", "input_digest": "x"}], "states its status"),
        (images("ses-4"), [row("ses-4"), row("ses-4")], "two rows"),
        (images("ses-4"), [row("ses-4", "finished")], "none of complete"),
        (images("ses-4"), [row("ses-4", reason="bad luck")], "none of localizer"),
        (images("ses-4"), [row("ses-4", patient_name="x")], "no such columns"),
        (images("ses-4"), [row("ses-4", duration="long")], "duration is a number"),
    ],
)
def test_an_incomplete_wave_is_refused_as_a_whole(store: Path, arrays: dict, rows: list, message: str) -> None:
    last = history(open_repository(store))[0].id
    with writing(store) as repository:
        wave = begin_append(repository, [placement("ses-4")])
        fork = write_arrays(wave.fork, wave.slots["ses-4"], arrays)
        with pytest.raises(StoreError, match=message):
            commit(repository, wave, [fork], values={}, rows=rows, message="m", metadata={})
    assert history(open_repository(store))[0].id == last
    assert len(Cohort.open(store).catalogue) == 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"T1w": np.ones((5, 16, 14))}, "volumes of"),
        ({"T1w": np.ones((1, *GRID.shape))}, "volumes of"),
        ({"tissue": np.full(GRID.shape, 0.5)}, "do not fit uint8"),
        ({"age": np.ones(())}, "no variable that workers write"),
        ({"digest": np.ones(())}, "no variable that workers write"),
        ({"affine": np.eye(3)}, "volumes of"),
    ],
)
def test_nothing_is_written_of_arrays_that_do_not_fit(
    repository: icechunk.Repository, arrays: dict, message: str
) -> None:
    wave = begin_update(repository, ["ses-1"])
    with pytest.raises(StoreError, match=message):
        write_arrays(wave.fork, wave.slots["ses-1"], maps("ses-1") | arrays)
    assert not wave.fork.has_uncommitted_changes


def test_a_slot_of_somebody_else_is_refused(repository: icechunk.Repository, store: Path) -> None:
    wave = begin_update(repository, ["ses-1"])
    for wrong in (Slot(group=GROUP, index=1, session="ses-1"), Slot(group=GROUP, index=7, session="ses-1")):
        with pytest.raises(StoreError, match="belongs to"):
            write_arrays(wave.fork, wrong, maps("ses-1"))
        with pytest.raises(StoreError, match="belongs to"):
            Cohort.open(store).read(wrong, ["T1w"])


def test_an_array_whose_chunks_sessions_share_is_refused() -> None:
    array = zarr.create_array({}, shape=(4, 6, 6, 6), chunks=(2, 6, 6, 6), dtype="float32")
    with pytest.raises(StoreError, match="overwrite each other"):
        check_whole_chunks(array, Slot(group=GROUP, index=0, session="ses-1"), (6, 6, 6))
    sharded = zarr.create_array({}, shape=(4, 6, 6, 6), chunks=(1, 6, 6, 6), shards=(2, 6, 6, 6), dtype="float32")
    with pytest.raises(StoreError, match="overwrite each other"):
        check_whole_chunks(sharded, Slot(group=GROUP, index=0, session="ses-1"), (6, 6, 6))


def test_every_image_has_chunks_of_one_session(store: Path) -> None:
    root = zarr.open_group(open_repository(store).readonly_session("main").store, mode="r")
    for name in (*IMAGE_NAMES, "affine", "digest"):
        assert root[f"{GROUP}/{name}"].chunks[0] == 1, name


def test_plans_that_contradict_the_store_are_refused(repository: icechunk.Repository) -> None:
    with pytest.raises(StoreError, match="twice"):
        begin_append(repository, [placement("ses-4"), placement("ses-4", OTHER)])
    for grid in (Grid(shape=(7, 16, 14), spacing=GRID.spacing), Grid(shape=GRID.shape, spacing=(2.0, 2.0, 2.0))):
        with pytest.raises(StoreError, match="one grid"):
            begin_append(repository, [placement("ses-4", grid=grid)])
    with pytest.raises(StoreError, match="not in the store: ses-9"):
        begin_update(repository, ["ses-1", "ses-9"])
    for key in ("Scanner A/p", "catalogue/p", "../p", "a/."):
        with pytest.raises(StoreError, match="name of a node"):
            placement("ses-4", key.replace("../", "..x/"))


def test_rows_alone_insert_and_update(store: Path) -> None:
    with writing(store) as repository:
        rows = [
            row("ses-9", "skipped", reason="missing_contrast", contrasts="T1w"),
            {"session": "ses-1", "status": "failed", "reason": "internal_error", "error": "ValueError", "duration": 2},
        ]
        commit(repository, None, [], values={}, rows=rows, message="rows", metadata={})
    found = Cohort.open(store).catalogue.set_index("session")
    assert found.loc["ses-9", ["status", "reason", "group"]].tolist() == ["skipped", "missing_contrast", ""]
    assert found.loc["ses-1", ["status", "group", "input_digest", "duration"]].tolist() == [
        "failed", GROUP, "input of ses-1", 2.0
    ]  # fmt: skip
    assert np.isnan(found.loc["ses-9", "duration"])
    assert Cohort.open(store).sessions.set_index("session").loc["ses-1", "status"] == "failed"
    assert verify(Cohort.open(store)) == []


def test_values_are_checked_by_name_and_kind(repository: icechunk.Repository) -> None:
    for values, message in (
        ({"ses-1": {"colour": 1.0}}, "colour is no per-session variable"),
        ({"ses-1": {"digest": "x"}}, "no per-session variable"),
        ({"ses-1": {"age": "old"}}, "age is a number"),
        ({"ses-1": {"sex": 1}}, "sex is text"),
        ({"ses-9": {"age": 1.0}}, "not in the store"),
    ):
        with pytest.raises(StoreError, match=message):
            commit(repository, None, [], values=values, rows=[], message="m", metadata={})
    assert repository.list_branches() == {"main"}


def test_a_commit_of_nothing_makes_no_snapshot(repository: icechunk.Repository) -> None:
    before = repository.lookup_branch("main")
    assert commit(repository, None, [], values={}, rows=[], message="m", metadata={}) == before
    wave = begin_append(repository, [])
    assert commit(repository, wave, [], values={}, rows=[], message="m", metadata={}) == before


def test_tables_are_replaced_as_a_whole(store: Path) -> None:
    assert load_table(Cohort.open(store).session, "calibration") is None
    first = xr.Dataset({"scale": ("group", [1.0, np.nan])}, {"group": ["a/b", "c/dé"]}, {"version": "1"})
    second = xr.Dataset({"gain": (("group", "contrast"), np.eye(3, dtype=np.float32))}, {"group": ["x", "y", "z"]})
    with writing(store) as repository:
        snapshot = write_table(repository, "calibration", first, message="first", metadata={"version": 1})
        write_table(repository, "calibration", second, message="second", metadata={})
    xr.testing.assert_equal(load_table(Cohort.open(store).session, "calibration"), second)
    restored = load_table(Cohort.open(store, at=snapshot).session, "calibration")
    assert restored is not None
    xr.testing.assert_equal(restored, first)
    assert restored.attrs == {"version": "1"}
    assert set(Cohort.open(store).slots) == {"ses-1", "ses-2", "ses-3"}


def test_a_second_writer_waits_and_says_so(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with writing(store, on_wait=lambda message: (said.append(message), release.set())):
            order.append("second")

    release = threading.Event()
    thread = threading.Thread(target=second)
    with writing(store) as repository:
        thread.start()
        assert release.wait(20)
        commit(repository, None, [], values={}, rows=[row("ses-9", "skipped")], message="m", metadata={})
        order.append("first")
        with caplog.at_level(logging.WARNING), pytest.raises(StoreError, match="this thread writes"), writing(store):
            pass
    thread.join(20)
    assert order == ["first", "second"]
    assert "waiting until it has finished" in said[0]
    assert "waiting" in caplog.text
    assert len(Cohort.open(store).catalogue) == 4


def test_tags_name_states(store: Path) -> None:
    with writing(store) as repository:
        tag(repository, "nightly-1")
        with pytest.raises(StoreError, match="taken"):
            tag(repository, "nightly-1")
    ingest(store, [placement("ses-4")])
    assert len(Cohort.open(store).slots) == 4
    assert len(Cohort.open(store, at="nightly-1").slots) == 3


@pytest.mark.walk
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plan=st.lists(
        st.dictionaries(st.sampled_from([f"ses-{n}" for n in range(5)]), st.sampled_from([GROUP, OTHER]), min_size=1),
        min_size=1,
        max_size=3,
    )
)
def test_any_order_of_waves_ends_with_each_session_where_it_went_last(
    plan: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    location = tmp_path_factory.mktemp("any") / "store"
    expected: dict[str, str] = {}
    for wave in plan:
        ingest(location, [placement(session, group) for session, group in wave.items()])
        expected |= wave
    found = Cohort.open(location).slots
    assert {session: slot.group for session, slot in found.items()} == expected
    assert verify(Cohort.open(location)) == []
    for session in expected:
        assert_holds(location, session, ("T1w", "tissue"))
