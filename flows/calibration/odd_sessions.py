"""What a session's scales say for the catalogue, made with its maps: marks for machines, remarks for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from qmri_core.calibration.estimation import COMMON
from qmri_core.calibration.odd_scales import Part
from qmri_core.calibration.scales import ScaleCalibration, Signals, is_nobodys, odd_scales
from qmri_core.series.acquisition import CONTRASTS, Acquisition, Contrast
from qmri_core.series.remarks import Remark, RemarkKind, ordered, remarks_of, remarks_text

MARKS: Mapping[Part, str] = {**{contrast: f"{contrast}_scale" for contrast in CONTRASTS}, COMMON: "scale"}
"""Mark of a session by the part of its scales that is none of its group's."""
SIGNALS_MARK = "signals"
"""Mark of a session whose signals nobody has."""
KINDS = frozenset({RemarkKind.SCALE_ODD, RemarkKind.SIGNALS_UNLIKELY, RemarkKind.OUTSIDE_MODEL, RemarkKind.WIDENED})
"""Kinds of remarks that come with the maps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Oddity:
    """How far a session's scales are its group's.

    ``factors``: of the odd ones over the group's, see `qmri_core.calibration.scales.odd_scales`; ``is_nobodys``: no
    person has its signals in any scale.
    """

    factors: Mapping[Part, float] = field(default_factory=dict)
    is_nobodys: bool = False

    def marks(self, before: str) -> str:
        """Marks of the session with those of its scales as they are now, from ``before``."""
        kept = [mark for mark in before.split(",") if mark and mark not in {*MARKS.values(), SIGNALS_MARK}]
        return ",".join([*kept, *(MARKS[part] for part in self.factors), *[SIGNALS_MARK] * self.is_nobodys])

    def remarks(self, before: str, more: Iterable[Remark] = ()) -> str:
        """Remarks of the session with those on its scales and ``more`` as they are now, from ``before``."""
        kept = [remark for remark in remarks_of(before) if remark.kind not in KINDS]
        return remarks_text(ordered([*kept, *self._own(), *more]))

    def _own(self) -> Iterable[Remark]:
        for part, factor in self.factors.items():
            what = "all series" if part == COMMON else str(part)
            yield Remark(kind=RemarkKind.SCALE_ODD, text=f"{what}: the scale is {factor:.3g} times that of the group")
        if self.is_nobodys:
            yield Remark(kind=RemarkKind.SIGNALS_UNLIKELY, text="the signals of white and grey matter fit no person")


def oddity_of(
    calibrations: Mapping[Contrast, ScaleCalibration], signals: Signals, acquisitions: Mapping[Contrast, Acquisition]
) -> Oddity:
    """From the calibration of its group and the signals of a session; see `qmri_core.calibration.scales`."""
    of_session = calibrations, signals, acquisitions
    return Oddity(factors=odd_scales(*of_session), is_nobodys=is_nobodys(*of_session))


def marked_sessions(stored: pd.DataFrame) -> frozenset[str]:
    """Stored sessions whose maps rest on their own signals, or on nothing: they stand for nobody in statistics."""
    ours = {*MARKS.values(), SIGNALS_MARK}
    marks = zip(stored["session"], stored["quality_marks"], strict=True)
    return frozenset(str(session) for session, marked in marks if ours & set(str(marked).split(",")))


def suspects_of(catalogue: pd.DataFrame) -> frozenset[str]:
    """Sessions whose headers leave a scale open."""
    told = zip(catalogue["session"], catalogue["remarks"], strict=True)
    return frozenset(
        str(session)
        for session, text in told
        if any(remark.kind is RemarkKind.SCALE_UNKNOWN for remark in remarks_of(str(text)))
    )
