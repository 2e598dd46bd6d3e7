"""How far slices reach beside those of the group: what all series of a session lack shows here alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from qmri_core.series.acquisition import Contrast
from qmri_core.series.remarks import Remark, RemarkKind
from storage.source.series import Series

LEAST_SESSIONS = 5
"""Sessions of a group that must have a contrast, until one of them is compared with the others."""

SHORT = 0.75
"""Share of the median reach of the group below which slices are missing. Operators choose some slices more or fewer:
24 for 28 is 0.86. Checked against no archive; it costs a remark and no session."""


@dataclass(slots=True)
class Extents:
    """Reach of the slices [mm] in each group and contrast, over all sessions of a source."""

    _counts: dict[tuple[str, Contrast], Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, group: str, reaches: Mapping[Contrast, int]) -> None:
        """Count the series that a session takes."""
        for contrast, reach in reaches.items():
            self._counts[group, contrast][reach] += 1

    def usual(self, group: str, contrast: Contrast) -> int | None:
        """Median of a group; None where sessions are too few to say."""
        counts = self._counts.get((group, contrast), Counter())
        total = counts.total()
        if total < LEAST_SESSIONS:
            return None
        return sorted(counts.elements())[(total - 1) // 2]

    def short(self, group: str, chosen: Mapping[Contrast, Series]) -> Iterator[Remark]:
        """What to say of series that reach far less than those of their group."""
        for contrast, one in chosen.items():
            usual = self.usual(group, contrast)
            if usual is not None and reach_of(one) < SHORT * usual:
                text = (
                    f"{contrast}: the {one.shape[2]} slices of series {one.number} cover {reach_of(one)} mm, where "
                    f"half of its group has {usual} mm and more"
                )
                yield Remark(kind=RemarkKind.MISSING, text=text)


def reach_of(one: Series) -> int:
    """Millimetres that the slices of a series cover."""
    return round(one.shape[2] * one.spacing[2])
