"""Changing one thing that a result rests on makes exactly the dependent results stale."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from flows.maps.staleness import IMAGES_REST_ON, MAPS_REST_ON, maps_identity, why_images, why_maps
from storage.store.schema import CATALOGUE_COLUMNS, SESSION_VARIABLES


@dataclass(frozen=True)
class World:
    """What results would be made from now."""

    input_digest: str = "input"
    preprocessing_version: str = "3 fine"
    checkpoint_digest: str = "weights"
    calibration_version: str = "1/2"


def ingested(world: World) -> dict[str, str]:
    """Row of a session after ingest: new images take the maps away."""
    images = {name: getattr(world, name) for name in IMAGES_REST_ON}
    return images | dict.fromkeys(MAPS_REST_ON, "")


def inferred(row: dict[str, str], world: World) -> dict[str, str]:
    return row | {name: getattr(world, name) for name in MAPS_REST_ON}


def stale(row: dict[str, str], statistics: str, world: World) -> set[str]:
    """What a run in ``world`` does again, stage after stage as the night run does."""
    again = set()
    if why_images(row, {name: getattr(world, name) for name in IMAGES_REST_ON}):
        again.add("images")
        row = ingested(world)
    if why_maps(row, checkpoint=world.checkpoint_digest, calibration=world.calibration_version):
        again.add("maps")
        row = inferred(row, world)
    if statistics != maps_identity(row):
        again.add("statistics")
    return again


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, set()),
        ({"input_digest": "other"}, {"images", "maps", "statistics"}),
        ({"preprocessing_version": "3 coarse"}, {"images", "maps", "statistics"}),
        ({"preprocessing_version": "4 fine"}, {"images", "maps", "statistics"}),
        ({"checkpoint_digest": "better weights"}, {"maps", "statistics"}),
        ({"calibration_version": "2/2"}, {"maps", "statistics"}),
        ({"calibration_version": "1/3"}, {"maps", "statistics"}),
    ],
)
def test_one_change_makes_exactly_what_depends_on_it_stale(change: dict[str, str], expected: set[str]) -> None:
    world = World()
    row = inferred(ingested(world), world)
    assert stale(row, maps_identity(row), replace(world, **change)) == expected


def test_reasons_name_what_changed() -> None:
    row = inferred(ingested(World()), World())
    assert why_images(None, {}) == "it is new"
    assert why_images(row, {"input_digest": "other"}) == "its input has changed"
    assert why_images(row, {"preprocessing_version": "3 fine"}) == ""
    assert why_maps(ingested(World()), checkpoint="weights", calibration="1/2") == "it has no maps yet"
    assert why_maps(row, checkpoint="other", calibration="1/2") == "its maps were made with another checkpoint"
    assert why_maps(row, checkpoint="weights", calibration="2/2") == "its maps were made with another calibration"


def test_a_session_that_failed_is_left_alone_until_something_changes() -> None:
    world = World()
    row = ingested(world) | {"status": "failed"}
    assert why_images(row, {name: getattr(world, name) for name in IMAGES_REST_ON}) == ""


def test_another_release_makes_nothing_stale() -> None:
    """Neither images, nor maps, nor statistics, nor the record that a session failed."""
    for status in ("complete", "failed"):
        row = inferred(ingested(World()), World()) | {"status": status, "code_version": "0.1.0"}
        later = row | {"code_version": "0.2.0"}
        assert stale(later, maps_identity(row), World()) == set()


def test_every_digest_of_the_store_is_looked_at() -> None:
    """The version of the package is kept as information alone."""
    recorded = {name for name in CATALOGUE_COLUMNS if name.endswith(("_digest", "_version"))}
    assert recorded == set(IMAGES_REST_ON) | set(MAPS_REST_ON) | {"code_version"}
    assert recorded <= set(SESSION_VARIABLES)
