"""Decisions on series as a text: what the catalogue gives back is what was decided."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qmri_core.series.decided import decided_of, decided_text


@given(st.lists(st.tuples(st.integers(), st.text(), st.text())))
def test_the_text_gives_back_what_was_decided(rows: list[tuple[int, str, str]]) -> None:
    assert decided_of(decided_text(rows)) == rows


def test_the_text_is_the_one_that_stores_have() -> None:
    assert (
        decided_text([(4, "T1w", "mprage, 3D"), (1, "localizer", "")]) == '[[4,"T1w","mprage, 3D"],[1,"localizer",""]]'
    )
    assert decided_of("") == []
