"""Two protocols whose digests begin alike, and keys of a store that has short ones."""

from __future__ import annotations

import math
from functools import cache
from itertools import product

import pytest

from qmri_core.series.grouping import protocol_keys, settle
from qmri_core.series.stored_keys import as_stored, is_short, shortened, whole_keys
from tests.qmri_core.series.test_grouping import SPACINGS, acquisitions

SCANNER = "siemens-prisma-3t-1a2b3c"


@cache
def colliding() -> tuple[str, str]:
    """Whole keys of two protocols of one readable name whose digests agree in 16 bits; some hundred tries find them."""
    seen: dict[str, str] = {}
    for degrees, milliseconds in product(range(3, 60, 2), range(1, 60)):
        changes = {"flip_angle": math.radians(degrees), "echo_time": milliseconds / 1000}
        key = f"{SCANNER}/{protocol_keys(acquisitions(**changes), SPACINGS)[0]}"
        other = seen.setdefault(shortened(key), key)
        if other != key:
            return other, key
    raise AssertionError("no collision; try more protocols")


def grouped(
    candidates: dict[str, tuple[str, ...]], stored: dict[str, str], whole: dict[str, str] | None = None
) -> dict[str, str]:
    return settle(as_stored(candidates, stored, whole or {}), stored)


def test_two_protocols_that_collided_have_two_groups_in_a_new_store() -> None:
    one, other = colliding()
    assert one != other
    assert shortened(one) == shortened(other)
    assert grouped({"a": (one,), "b": (other,)}, {}) == {"a": one, "b": other}


def test_a_session_goes_on_under_the_short_key_that_its_store_has() -> None:
    key, _ = colliding()
    short = shortened(key)
    assert is_short(short)
    assert not is_short(key)
    assert grouped({"a": (key,), "b": (key,)}, {"a": short}) == {"a": short, "b": short}
    assert grouped({"b": (key,)}, {"a": short}, {short: key}) == {"b": short}  # a source of new sessions alone
    assert grouped({"b": (key,)}, {"a": short}) == {"b": short}


@pytest.mark.parametrize("is_known_from_store", [True, False])
def test_a_protocol_that_only_begins_like_a_stored_one_has_a_group_of_its_own(is_known_from_store: bool) -> None:
    key, stranger = colliding()
    short = shortened(key)
    whole = {short: key} if is_known_from_store else {}
    sessions = {"a": (key,), "b": (stranger,), "c": (stranger,), "d": (stranger,)}
    assert grouped(sessions, {"a": short}, whole) == {"a": short, "b": stranger, "c": stranger, "d": stranger}


def test_a_session_near_an_edge_stays_in_its_stored_group() -> None:
    key, other = colliding()
    neighbour = f"{SCANNER}/t1w-mprage-tr2310_1.0x1.0x4.0mm-0123456789ab"
    assert grouped({"a": (neighbour, key)}, {"a": shortened(key)}) == {"a": shortened(key)}
    assert grouped({"a": (neighbour, other)}, {"b": shortened(key)}, {shortened(key): key}) == {"a": neighbour}


def test_the_whole_key_of_a_group_is_that_of_most_of_its_sessions() -> None:
    key, stranger = colliding()
    short = shortened(key)
    rows = [("a", short, (stranger,)), ("b", short, (key,)), ("c", short, (key,)), ("d", short, ("other-0123",))]
    assert whole_keys(rows) == {short: key}


def test_whole_keys_of_a_store_stay_as_they_are() -> None:
    key, _ = colliding()
    assert grouped({"a": (key,), "b": (key,)}, {"a": key}) == {"a": key, "b": key}
