import shutil
from pathlib import Path

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr

from storage.store.cohort import Cohort, open_repository, write_table, writing
from storage.store.lifecycle.verify import Problem, verify
from storage.store.schema import IMAGE_NAMES
from tests.storage.cohorts import GROUP, infer, ingest, placement

OTHER = "scanner-b/protocol-2"
SESSIONS = ("ses-1", "ses-2", "ses-3")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    location = tmp_path_factory.mktemp("verify") / "store"
    ingest(location, [placement("ses-1"), placement("ses-2"), placement("ses-3", OTHER)])
    infer(location, ["ses-1", "ses-3"])
    return location


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "store"))


def contents(location: Path) -> dict[tuple[str, str], bytes | None]:
    """Every stored volume, read one by one; ``None`` where reading fails."""
    result: dict[tuple[str, str], bytes | None] = {}
    for session, slot in Cohort.open(location).slots.items():
        for name in IMAGE_NAMES:
            try:
                result[session, name] = Cohort.open(location).read(slot, [name])[name].tobytes()
            except (RuntimeError, ValueError, OSError, icechunk.IcechunkError):
                result[session, name] = None
    return result


def test_a_sound_store_has_no_problems_and_says_how_far_it_is(store: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert verify(Cohort.open(store), progress=lambda done, total: seen.append((done, total))) == []
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_chunks_are_named_by_session_and_variable(store: Path, damage: str) -> None:
    before = contents(store)
    files = sorted((store / "chunks").iterdir())
    rng = np.random.default_rng(7)
    for file in rng.choice(files, 3, replace=False):  # type: ignore[arg-type]  # each is the one chunk of a volume
        path = Path(file)
        content = bytearray(path.read_bytes())
        if damage == "delete":
            path.unlink()
            continue
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    after = contents(store)
    damaged = {key for key in before if before[key] != after[key]}
    assert len(damaged) == 3
    assert [after[key] for key in damaged] == [None] * 3, "a damaged chunk must not be read as values"
    assert {(problem.session, problem.variable) for problem in verify(Cohort.open(store))} == damaged


def edit(location: Path, path: str, index: int, value: object) -> None:
    """Change one value behind the back of the functions that keep the store in agreement."""
    with writing(location) as repository:
        session = repository.writable_session("main")
        array = zarr.open_group(session.store, mode="a")[path]
        assert isinstance(array, zarr.Array)
        array[index] = value
        session.commit("edit")


@pytest.mark.parametrize(
    ("path", "index", "value", "expected"),
    [
        (f"{GROUP}/T1map", 0, np.nan, ("ses-1", "T1map", "recorded as written, but holds nothing")),
        (f"{GROUP}/T2map", 1, 1.0, ("ses-2", "T2map", "holds values, but none were recorded")),
        (f"{OTHER}/tissue", 0, 1, ("ses-3", "tissue", "not what was written")),
        (f"{GROUP}/affine", 1, np.nan, ("ses-2", "affine", "not finite")),
        (f"{GROUP}/status", 1, "complete", ("ses-2", "status", "differs")),
        ("catalogue/checkpoint_digest", 2, "x", ("ses-3", "checkpoint_digest", "differs")),
        ("catalogue/group", 2, "", ("ses-3", "", "the catalogue says ''")),
    ],
)
def test_disagreement_is_named(
    store: Path, path: str, index: int, value: object, expected: tuple[str, str, str]
) -> None:
    edit(store, path, index, value)
    problems = verify(Cohort.open(store))
    assert [(problem.session, problem.variable) for problem in problems] == [expected[:2]]
    assert expected[2] in problems[0].message


def test_a_table_that_cannot_be_read_is_named(store: Path) -> None:
    before = set((store / "chunks").iterdir())
    table = xr.Dataset({"median": ("row", np.random.default_rng(0).random(1000))})
    with writing(store) as repository:
        write_table(repository, "statistics", table, message="m")
    assert verify(Cohort.open(store)) == []
    (new,) = set((store / "chunks").iterdir()) - before
    new.unlink()
    assert [problem.variable for problem in verify(Cohort.open(store))] == ["statistics/median"]


def test_rows_and_sessions_that_lack_each_other_are_named(store: Path) -> None:
    edit(store, "catalogue/session", 0, "ses-9")
    found = {(problem.session, problem.message) for problem in verify(Cohort.open(store))}
    assert ("ses-9", f"the catalogue says {GROUP}, which lacks it") in found
    assert ("ses-1", f"lies in {GROUP}, and the catalogue says 'no row'") in found
    edit(store, "catalogue/session", 0, "ses-2")
    assert Problem(session="ses-2", variable="", message="has 2 rows in the catalogue") in verify(Cohort.open(store))


def test_an_earlier_state_can_be_verified(store: Path) -> None:
    sound = open_repository(store).lookup_branch("main")
    edit(store, f"{GROUP}/T1w", 0, 0.0)
    assert len(verify(Cohort.open(store))) == 1
    assert verify(Cohort.open(store, at=sound)) == []
