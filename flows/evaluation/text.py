"""What an evaluation says to people: its tables, and how they are to be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from flows.evaluation.plausibility_tables import label_groups, pairs_for_people, values_for_people, weak_test
from flows.tables.text import TELLS_NO_PEOPLE_APART, WORTHLESS_ALONE, detail_tables, evaluation_table, text_table

if TYPE_CHECKING:
    from flows.evaluation.with_truth import EvaluateResult
    from flows.evaluation.without_truth import PlausibilityResult


def truth_lines(result: EvaluateResult) -> Iterator[str]:
    """Tables of a comparison with the truth."""
    from flows.evaluation.with_truth import DETAILS

    yield text_table(*evaluation_table(result.table))
    for title, header, rows in detail_tables({name: getattr(result, name) for name in DETAILS}):
        yield f"\n{title}\n\n{text_table(header, rows)}"
    if result.note:
        yield f"\n{result.note}"
    yield f"\n{WORTHLESS_ALONE}\n\n{TELLS_NO_PEOPLE_APART}"


def plausibility_lines(result: PlausibilityResult, labels: Mapping[str, str]) -> Iterator[str]:
    """Tables of what can be said without a truth; ``labels`` are those of the groups in it."""
    yield from (f"{label} = {group}" for group, label in labels.items())
    yield f"\nMedians of tissues beside the literature\n\n{text_table(*values_for_people(result.values))}"
    tables = {
        "resynthesis": label_groups(result.resynthesis, labels),
        "visits": result.visits,
        "candidates": label_groups(result.candidates, labels),
    }
    for title, header, rows in detail_tables(tables):
        yield f"\n{title}\n\n{text_table(header, rows)}"
    if not result.visit_pairs.empty:
        header, rows = pairs_for_people(result.visit_pairs)
        title = f"Later minus first visit relative to their mean, of the first {len(rows)} pairs"
        yield f"\n{title}\n\n{text_table(header, rows)}"
    yield f"\n{weak_test()}"
