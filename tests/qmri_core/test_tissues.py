"""Every reference value has a source, and what is shared is shared."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from qmri_core import tissues
from qmri_core.calibration.population import FIELD_STRENGTHS, population
from qmri_core.tissues import (
    MEMBERS,
    POPULATION_VALUES,
    REFERENCE_VALUES,
    SIMULATED,
    TISSUES,
    WHITE_FIRST,
    Sourced,
    used_value,
)


def sourced(table: Any, name: str) -> Iterator[tuple[str, Sourced]]:
    if isinstance(table, Sourced):
        yield name, table
    elif isinstance(table, Mapping):
        for key, entry in table.items():
            yield from sourced(entry, f"{name} {key}")


def test_every_value_names_a_year_or_says_that_it_was_not_checked() -> None:
    everything = [pair for name in vars(tissues) for pair in sourced(getattr(tissues, name), name)]
    assert len(everything) > 40
    for name, entry in everything:
        has_source = re.search(r"\b(19|20)\d\d\b", entry.source) or "not checked" in entry.source
        assert has_source or "(judgement)" in entry.source or "(definition)" in entry.source, name


def test_every_line_of_the_population_says_who_measured_it_or_that_it_is_a_judgement() -> None:
    kinds = {"read", "abstract", "second-hand", "not checked", "judgement", "definition"}
    assert {one.checked for one in POPULATION_VALUES} <= kinds
    keys = [(one.what, one.tissue, one.quantity, one.field_strength) for one in POPULATION_VALUES if one.is_used]
    assert len(set(keys)) == len(keys)
    for one in POPULATION_VALUES:
        assert one.source
        measured = one.checked in {"read", "abstract", "second-hand", "not checked"}
        assert not measured or re.search(r"\b(19|20)\d\d\b|PMC\d|Osprey", one.source), one
        assert one.is_used or measured  # what judgements rest on is no judgement
        assert not one.is_used or math.isfinite(one.value)
        assert not one.what.startswith(("per decade", "women")) or not one.is_used or one.sd > 0
        assert not one.people or one.people > 1


def test_a_value_that_nobody_has_is_refused() -> None:
    with pytest.raises(KeyError, match="value of WM t1 at 7"):
        used_value("value", "WM", "t1", 7.0)


def test_names_of_tissues_agree() -> None:
    assert set(WHITE_FIRST) == set(TISSUES) == set(MEMBERS)
    assert all(set(known) == set(TISSUES) for known in REFERENCE_VALUES.values())


def test_populations_are_of_these_values() -> None:
    for field_strength in FIELD_STRENGTHS:
        for name, member in MEMBERS.items():
            tissue = getattr(population(field_strength), member)
            for quantity, entry in REFERENCE_VALUES[field_strength][name].items():
                assert getattr(tissue, quantity) == entry.value


def test_the_numbers_that_stored_maps_rest_on() -> None:
    """A change of any makes every map of every store another: it needs a new version of inference."""
    expected = {
        (3.0, "WM"): (0.85, 0.07, 0.69, 0.04, 0.04, 0.02),
        (3.0, "GM"): (1.40, 0.095, 0.82, 0.035, 0.05, 0.02),
        (3.0, "CSF"): (4.3, 2.0, 1.0, 0.05, 0.2, 0.01),
        (1.5, "WM"): (0.656, 0.074, 0.69, 0.04, 0.04, 0.02),
        (1.5, "GM"): (1.19, 0.100, 0.82, 0.035, 0.05, 0.02),
        (1.5, "CSF"): (4.3, 2.0, 1.0, 0.05, 0.2, 0.01),
    }
    names = ("t1", "t2", "pd", "t1_spread", "t2_spread", "pd_spread")
    assert {
        (field, name): tuple(entries[quantity].value for quantity in names)
        for field, known in REFERENCE_VALUES.items()
        for name, entries in known.items()
    } == expected
    assert {name: (of["t1"].value, of["t2"].value) for name, of in SIMULATED.items()} == {
        "csf": (4.30, 2.0), "gm": (1.40, 0.095), "wm": (0.85, 0.070), "caudate": (1.38, 0.085),
        "putamen": (1.28, 0.078), "thalamus": (1.15, 0.082), "pallidum": (0.98, 0.052),
    }  # fmt: skip
