"""Labels of groups: given once, the same ever after, and never given to another group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import zarr

from storage.store.cohort import (
    Cohort,
    Placement,
    begin_append,
    commit,
    open_cohort,
    open_repository,
    tag,
    write_arrays,
    writing,
)
from storage.store.labels import LABELS, model_name, with_labels
from storage.store.lifecycle.forget import forget
from storage.store.lifecycle.upkeep import migrate, rollback
from storage.store.lifecycle.verify import verify
from storage.store.tables import change
from tests.storage.cohorts import images, ingest, placement, row

SKYRA, OTHER_SKYRA, PRISMA = (
    f"siemens-{scanner}/t1w-se_2.0x2.0x3.0mm-1"
    for scanner in ("skyra-3t-1a2b3c", "skyra-3t-0f0f0f", "prisma-3t-123456")
)
AGAIN = SKYRA.replace("mm-1", "mm-2")
KEY = bytes(32)


def labels_on_nodes(location: Path | str) -> dict[str, str]:
    tree = open_cohort(location)
    return {path[1:]: str(tree[path].attrs["label"]) for path in tree.groups if "T1w" in tree[path]}


@pytest.mark.parametrize(
    ("scanner", "name"),
    [
        ("siemens-skyra-3t-278750", "Skyra"),
        ("siemens-skyra-3t-278750-5d3e9a", "Skyra"),  # with the digest of its software
        ("philips-ingenia-elition-x-3t-d9df97", "Ingenia-Elition-X"),
        ("ge-discovery-mr750w-gem-suite-3t-7fd2c3", "Discovery-MR750W-Gem"),
        ("philips-achieva-3t-dstream-3t-7fd2c3", "Achieva-3T-Dstream"),
        ("unknown-model-1.5t-7e8bc6", "Unknown"),
        ("ge-model-unknown-field-device", "Ge"),
        ("scanner-a", "Scanner-A"),
    ],
)
def test_the_name_is_the_scanners_model_in_words(scanner: str, name: str) -> None:
    assert model_name(f"{scanner}/t1w-se-tr600_1.0x1.0x3.5mm-20f0") == name


def test_labels_are_numbered_within_a_name_in_the_order_of_the_groups() -> None:
    first = with_labels([PRISMA, OTHER_SKYRA, SKYRA], {})
    assert first == {PRISMA: "Prisma-1", OTHER_SKYRA: "Skyra-1", SKYRA: "Skyra-2"}
    assert with_labels([AGAIN, SKYRA], first) == {**first, AGAIN: "Skyra-3"}
    many = with_labels([f"siemens-skyra-3t-1/p-{number}" for number in range(11)], {})
    assert list(many.values()) == [f"Skyra-{number}" for number in range(1, 12)]


def test_a_new_group_renumbers_none_and_a_group_that_comes_back_has_the_label_that_it_had(tmp_path: Path) -> None:
    ingest(tmp_path, [placement("ses-1", SKYRA), placement("ses-2", PRISMA), placement("ses-3", SKYRA)])
    assert Cohort.open(tmp_path).labels == labels_on_nodes(tmp_path) == {PRISMA: "Prisma-1", SKYRA: "Skyra-1"}
    ingest(tmp_path, [placement("ses-4", OTHER_SKYRA), placement("ses-1", SKYRA)])
    later = {PRISMA: "Prisma-1", SKYRA: "Skyra-1", OTHER_SKYRA: "Skyra-2"}
    assert Cohort.open(tmp_path).labels == labels_on_nodes(tmp_path) == later
    ingest(tmp_path, [placement("ses-4", AGAIN)])  # its group is empty now, and gone
    assert OTHER_SKYRA not in labels_on_nodes(tmp_path)
    assert Cohort.open(tmp_path).labels == {**later, AGAIN: "Skyra-3"}
    ingest(tmp_path, [placement("ses-4", OTHER_SKYRA)])
    assert labels_on_nodes(tmp_path) == later
    assert verify(Cohort.open(tmp_path)) == []


def test_the_label_of_a_forgotten_group_is_not_given_again(tmp_path: Path) -> None:
    ingest(tmp_path, [placement("ses-1", SKYRA), placement("ses-2", OTHER_SKYRA)])
    forget(tmp_path, "ses-2", key=KEY)
    ingest(tmp_path, [placement("ses-3", AGAIN)])
    assert labels_on_nodes(tmp_path) == {SKYRA: "Skyra-1", AGAIN: "Skyra-3"}


def test_a_group_whose_sessions_all_fail_gets_no_label(tmp_path: Path) -> None:
    with writing(tmp_path, create=True) as repository:
        wave = begin_append(repository, [placement("ses-1", OTHER_SKYRA), placement("ses-2", SKYRA)])
        fork = write_arrays(wave.fork, wave.slots["ses-2"], images("ses-2"))
        rows = [row("ses-1", "failed"), row("ses-2")]
        commit(repository, wave, [fork], values={}, rows=rows, message="m", metadata={})
    assert Cohort.open(tmp_path).labels == labels_on_nodes(tmp_path) == {SKYRA: "Skyra-1"}


def test_going_back_takes_no_label_back(tmp_path: Path) -> None:
    ingest(tmp_path, [placement("ses-1", SKYRA)])
    with writing(tmp_path) as repository:
        tag(repository, "then")
    ingest(tmp_path, [placement("ses-2", OTHER_SKYRA)])
    rollback(tmp_path, "then")
    ingest(tmp_path, [placement("ses-3", AGAIN)])
    assert labels_on_nodes(tmp_path) == {SKYRA: "Skyra-1", AGAIN: "Skyra-3"}
    assert Cohort.open(tmp_path).labels[OTHER_SKYRA] == "Skyra-2"
    assert verify(Cohort.open(tmp_path)) == []


@pytest.mark.walk
def test_two_writers_at_once_give_two_labels(s3: Callable[[], str]) -> None:
    location = s3()
    ingest(location, [placement("ses-1", PRISMA)])

    def begun(repository: object, members: Sequence[Placement]) -> tuple[object, object]:
        wave = begin_append(repository, members)  # type: ignore[arg-type]
        for member in members:
            write_arrays(wave.fork, wave.slots[member.session], images(member.session))
        return repository, wave

    with writing(location) as one, writing(location) as two:
        waves = begun(one, [placement("ses-2", SKYRA)]), begun(two, [placement("ses-3", OTHER_SKYRA)])
        for (repository, wave), name in zip(reversed(waves), ("ses-3", "ses-2"), strict=True):
            commit(repository, wave, [wave.fork], values={}, rows=[row(name)], message="m", metadata={})  # type: ignore[arg-type, attr-defined]
    expected = {PRISMA: "Prisma-1", OTHER_SKYRA: "Skyra-1", SKYRA: "Skyra-2"}
    assert Cohort.open(location).labels == labels_on_nodes(location) == expected
    assert verify(Cohort.open(location)) == []


def without_labels(root: zarr.Group) -> None:
    """As a store of release 0.1 is."""
    del root.attrs[LABELS]
    for group in (SKYRA, OTHER_SKYRA):
        del root[group].attrs["label"]


def test_a_store_of_0_1_gets_its_labels_in_the_order_of_its_catalogue(tmp_path: Path) -> None:
    def older(root: zarr.Group) -> None:
        without_labels(root)
        root.attrs["schema_version"] = 3

    ingest(tmp_path, [placement("ses-2", SKYRA)])
    ingest(tmp_path, [placement("ses-1", OTHER_SKYRA)])
    with writing(tmp_path) as repository:
        change(repository, older, "as version 3", {})
    migrate(tmp_path)
    assert list(Cohort.open(tmp_path).slots) == ["ses-1", "ses-2"]
    assert Cohort.open(tmp_path).labels == labels_on_nodes(tmp_path) == {SKYRA: "Skyra-1", OTHER_SKYRA: "Skyra-2"}
    assert verify(Cohort.open(tmp_path)) == []


def test_verify_tells_of_labels_that_are_lost_or_given_twice(tmp_path: Path) -> None:
    def twice(root: zarr.Group) -> None:
        for group in (SKYRA, OTHER_SKYRA):
            root[group].attrs["label"] = "Skyra-1"
        root.attrs[LABELS] = dict.fromkeys((SKYRA, OTHER_SKYRA), "Skyra-1")

    ingest(tmp_path, [placement("ses-1", SKYRA), placement("ses-2", OTHER_SKYRA)])
    for damage, count in ((twice, 1), (without_labels, 2)):
        with writing(tmp_path) as repository:
            change(repository, damage, "m", {})
        problems = verify(Cohort.open(tmp_path))
        assert [problem.variable for problem in problems] == ["label"] * count
    assert len(open_repository(tmp_path).list_branches()) == 1
