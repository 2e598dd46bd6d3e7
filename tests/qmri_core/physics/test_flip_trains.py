"""Shape of generated flip trains, against the trains of the reference tables where they are present."""

from __future__ import annotations

import csv
import math

import pytest

from qmri_core.physics.flip_trains import START, variable_flip_train
from tests.qmri_core.physics.oracle_tables import FOLDER

# minimum, centre, maximum in degrees, and centre pulse, of the trains of the reference
SHAPES = {
    "f01": (25, 42, 110, 85),
    "f02": (28, 60, 120, 50),
    "f04": (35, 60, 120, 35),
    "v04": (25, 45, 120, 75),
    "v07": (30, 80, 140, 20),
}


@pytest.mark.skipif(not (FOLDER / "flip_trains.csv").is_file(), reason="no reference flip trains")
@pytest.mark.parametrize("name", SHAPES)
def test_generated_trains_are_those_of_the_reference(name: str) -> None:
    with (FOLDER / "flip_trains.csv").open(encoding="utf-8") as file:
        angles = [float(row["refocus_deg"]) for row in csv.DictReader(file) if row["flip_train_id"] == name]
    if not angles:
        pytest.skip(f"these reference tables have no train {name}")
    minimum, centre, maximum, index = SHAPES[name]
    found = variable_flip_train(
        len(angles),
        index,
        minimum=math.radians(minimum),
        centre=math.radians(centre),
        maximum=math.radians(maximum),
    )
    # the tables carry two decimals
    assert [math.degrees(angle) for angle in found] == pytest.approx(angles, abs=0.0051)


def test_train_falls_to_its_minimum_and_rises_to_its_maximum() -> None:
    train = variable_flip_train(120, 40, minimum=0.5, centre=1.0, maximum=2.0)
    assert len(train) == 120
    assert train[0] == pytest.approx(math.pi / 2 + 0.25)
    assert list(train[:START]) == sorted(train[:START], reverse=True)
    assert list(train[START:]) == sorted(train[START:])
    assert train[39] == pytest.approx(1.0)
    assert train[-1] == pytest.approx(2.0)


@pytest.mark.parametrize("angles", [(0.0, 1.0, 2.0), (1.2, 1.0, 2.0), (0.5, 2.5, 2.0), (30.0, 60.0, 120.0)])
def test_impossible_angles_are_refused(angles: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="degrees"):
        variable_flip_train(100, 40, minimum=angles[0], centre=angles[1], maximum=angles[2])


@pytest.mark.parametrize("centre_index", [START, 100, 140])
def test_centre_outside_the_train_is_refused(centre_index: int) -> None:
    with pytest.raises(ValueError, match="centre_index"):
        variable_flip_train(100, centre_index, minimum=0.5, centre=1.0, maximum=2.0)
