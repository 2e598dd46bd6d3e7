"""The words of remarks, and their order."""

from __future__ import annotations

from qmri_core.series.remarks import MEANINGS, Remark, RemarkKind, ordered


def test_every_kind_has_a_meaning_and_advice() -> None:
    assert set(MEANINGS) == set(RemarkKind)
    assert all(meaning and advice for meaning, advice in MEANINGS.values())


def test_each_remark_stands_once_and_in_the_order_of_the_kinds() -> None:
    remarks = [Remark(kind=kind, text=text) for text in ("b", "a") for kind in reversed(RemarkKind)]
    result = ordered([*remarks, *remarks])
    assert [(remark.kind, remark.text) for remark in result] == [(kind, text) for kind in RemarkKind for text in "ab"]
