"""A forgotten session is nowhere: not in the state of now, not in the history, not in any byte that is left."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

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
    write_table,
    writing,
)
from storage.store.lifecycle.forget import forget, forget_person, forgotten, holding, holding_of_person
from storage.store.lifecycle.upkeep import rollback
from storage.store.lifecycle.verify import verify
from storage.store.repository import tags
from storage.store.tables import load_table
from tests.storage.cohorts import GROUP, images, infer, ingest, maps, placement, row
from tests.storage.residues import holds

KEY = bytes(range(32))
GONE = "ses-gone"
OTHERS = ("ses-1", "ses-2", "ses-3")


def fill(location: Path | str) -> None:
    """Three sessions around the one that is to go, tags before, with and without it, maps and statistics of all."""
    ingest(location, [placement("ses-1")])
    with writing(location) as repository:
        tag(repository, "before")
    ingest(location, [placement(GONE), placement("ses-2"), placement("ses-3", "scanner-b/protocol-2")])
    infer(location, [GONE, "ses-2"])
    table = xr.Dataset({"session": ("row", [GONE, "ses-2"]), "median": ("row", [0.123456789, 0.8])})
    with writing(location) as repository:
        tag(repository, "with")
        write_table(repository, "statistics", table, message="Aggregate")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    location = tmp_path_factory.mktemp("forget") / "store"
    fill(location)
    return location


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "store"))


def chunks_of(location: Path, session: str) -> list[bytes]:
    """Encoded chunks of a session's images, as they lie in the store."""
    slot = Cohort.open(location).slots[session]
    store = open_repository(location).readonly_session("main").store
    keys = [f"{slot.group}/{name}/c/{slot.index}/0/0/0" for name in (*images(session), *maps(session))]
    found = [sync(store.get(key, default_buffer_prototype())) for key in keys if "affine" not in key]
    return [chunk.to_bytes() for chunk in found if chunk is not None]


def test_nothing_of_a_forgotten_session_is_left_in_any_object(store: Path) -> None:
    marks = (GONE.encode(), f"input of {GONE}".encode(), np.float64(0.123456789).tobytes())
    chunks = chunks_of(store, GONE)
    assert len(chunks) == 8
    for wanted in (*marks, *chunks):
        assert holds(store, wanted) > 0  # else the search below would prove nothing
    before = {name: chunks_of(store, name) for name in OTHERS}

    found = forget(store, GONE, key=KEY)
    assert (found.current, found.tags) == (True, ("with",))
    assert holds(store, *marks, *chunks) == 0

    assert verify(Cohort.open(store)) == []
    assert {name: chunks_of(store, name) for name in OTHERS} == before
    assert set(Cohort.open(store).slots) == set(Cohort.open(store).catalogue["session"]) == set(OTHERS)
    assert np.isfinite(open_cohort(store)[GROUP]["T1map"].sel(session="ses-2")).all()
    statistics = load_table(Cohort.open(store).session, "statistics")
    assert statistics is not None
    assert statistics["session"].values.tolist() == ["ses-2"]
    assert list(tags(open_repository(store))) == ["before"]
    assert set(Cohort.open(store, at="before").slots) == {"ses-1"}
    assert len(history(open_repository(store))) == 1
    assert holding(store, GONE).tags == ()


def test_the_mark_says_which_sessions_not_to_ingest_and_nothing_without_the_key(store: Path) -> None:
    assert forgotten(Cohort.open(store), KEY, [GONE, *OTHERS]) == set()
    forget(store, GONE, key=KEY)
    assert forgotten(Cohort.open(store), KEY, [GONE, *OTHERS]) == {GONE}
    assert forgotten(Cohort.open(store), bytes(32), [GONE]) == set()
    assert GONE not in str(
        zarr.open_group(open_repository(store).readonly_session("main").store, mode="r").attrs.asdict()
    )


def test_a_forget_that_was_cut_short_is_finished_by_doing_it_again(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import icechunk

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(icechunk.Repository, "expire_snapshots", dies)
        with pytest.raises(KeyboardInterrupt):
            forget(store, GONE, key=KEY)
    assert GONE not in Cohort.open(store).slots
    assert holds(store, GONE.encode()) > 0
    forget(store, GONE, key=KEY)
    assert holds(store, GONE.encode()) == 0
    assert verify(Cohort.open(store)) == []


def test_an_unknown_session_is_refused(store: Path) -> None:
    last = history(open_repository(store))[0].id
    with pytest.raises(StoreError, match="no such session"):
        forget(store, "ses-9", key=KEY)
    assert history(open_repository(store))[0].id == last


def test_sessions_without_images_and_last_ones_of_their_group_can_go(store: Path) -> None:
    with writing(store) as repository:
        commit(repository, None, [], values={}, rows=[row("ses-x", "failed")], message="m", metadata={})
    for session in ("ses-x", "ses-3"):
        forget(store, session, key=KEY)
    assert set(Cohort.open(store).catalogue["session"]) == {"ses-1", "ses-2", GONE}
    assert set(Cohort.open(store).sessions["group"]) == {GROUP}
    assert holds(store, b"ses-x", b"ses-3") == 0
    assert verify(Cohort.open(store)) == []


def put_people(location: Path, people: dict[str, str]) -> None:
    """Say in the catalogue whose the sessions are."""
    rows = [{"session": session, "person": person} for session, person in people.items()]
    with writing(location) as repository:
        commit(repository, None, [], values={}, rows=rows, message="m", metadata={})


def test_all_sessions_of_a_person_are_nowhere_those_under_tags_alone_too_and_others_stay(store: Path) -> None:
    put_people(store, {GONE: "sub-a", "ses-2": "sub-a", "ses-1": "sub-b", "ses-3": "sub-c"})
    with writing(store) as repository:
        commit(repository, None, [], values={}, rows=[row("ses-x", "failed", person="sub-a")], message="m", metadata={})
        tag(repository, "with x")
    rollback(store, "before")
    ingest(store, [placement(GONE), placement("ses-3", "scanner-b/protocol-2")])
    put_people(store, {GONE: "sub-a", "ses-1": "sub-b", "ses-3": "sub-c"})
    chunks = chunks_of(store, GONE)
    assert holds(store, GONE.encode()) > 0
    assert holds(store, b"ses-x") > 0
    before = {name: chunks_of(store, name) for name in ("ses-1", "ses-3")}

    assert holding_of_person(store, "sub-a").sessions == ("ses-2", GONE, "ses-x")
    found = forget_person(store, "sub-a", key=KEY)
    assert (found.current, found.sessions) == (True, ("ses-2", GONE, "ses-x"))
    assert holds(store, b"sub-a", GONE.encode(), b"ses-2", b"ses-x", *chunks) == 0
    assert verify(Cohort.open(store)) == []
    assert {name: chunks_of(store, name) for name in ("ses-1", "ses-3")} == before
    assert set(Cohort.open(store).catalogue["session"]) == {"ses-1", "ses-3"}
    assert list(tags(open_repository(store))) == ["before"]
    names = ["sub-a", "ses-2", GONE, "ses-x"]
    assert forgotten(Cohort.open(store), KEY, [*names, "sub-b", "ses-1", "ses-3"]) == set(names)


def test_a_session_is_of_whom_the_current_state_says(store: Path) -> None:
    put_people(store, {GONE: "sub-a", "ses-2": "sub-a"})
    with writing(store) as repository:
        tag(repository, "mistaken")
    put_people(store, {"ses-2": "sub-b"})
    forget_person(store, "sub-a", key=KEY)
    assert set(Cohort.open(store).slots) == set(OTHERS)
    assert list(tags(open_repository(store))) == ["before"]


def test_an_unknown_person_is_refused_and_one_who_is_forgotten_can_be_again(store: Path) -> None:
    put_people(store, {GONE: "sub-a"})
    last = history(open_repository(store))[0].id
    for unknown in ("sub-9", ""):
        with pytest.raises(StoreError, match="no such session or person"):
            forget_person(store, unknown, key=KEY)
    assert history(open_repository(store))[0].id == last
    assert forget_person(store, "sub-a", key=KEY).sessions == (GONE,)
    assert forget_person(store, "sub-a", key=KEY).sessions == ()
    assert set(Cohort.open(store).slots) == set(OTHERS)


@pytest.mark.walk
def test_forgetting_in_an_object_store_waits_for_open_waves(s3: Callable[[], str]) -> None:
    location = s3()
    fill(location)
    with writing(location) as repository:
        wave = begin_append(repository, [placement("ses-4"), placement(GONE)])
        for name in ("ses-4", GONE):
            write_arrays(wave.fork, wave.slots[name], images(name))
        with pytest.raises(StoreError, match="1 waves of other processes are open"):
            forget(location, GONE, key=KEY)
        assert GONE not in Cohort.open(location).slots
        rows = [row("ses-4"), row(GONE)]
        commit(repository, wave, [wave.fork], values={}, rows=rows, message="m", metadata={})
    assert set(Cohort.open(location).slots) == {"ses-1", "ses-2", "ses-3", "ses-4"}  # the wave did not bring it back
    forget(location, GONE, key=KEY)
    assert len(history(open_repository(location))) == 1
    assert verify(Cohort.open(location)) == []
