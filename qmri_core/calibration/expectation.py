"""What the tissues of a session are expected to be: levels told by calibration, how certain they are, and its scales.

An estimate from three images is drawn to what it takes tissue for, by a share that differs between protocols. So what
tissue is taken for is said for each session: how far its white matter, grey matter, nuclei and fluid are from the
population's values, and with what uncertainty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qmri_core.calibration.population import Population, pd_relation

KINDS = ("WM", "GM", "nuclei", "CSF")
QUANTITIES = ("t1", "t2", "pd")
DEVIATIONS = tuple((kind, quantity) for kind in KINDS for quantity in QUANTITIES)
"""What is told of the tissues of a session: logs over the population's values; of PD, beside what T1 makes of it."""
UNTOLD_SDS = {
    "WM": (0.02, 0.02, 0.015), "GM": (0.04, 0.05, 0.02), "nuclei": (0.07, 0.09, 0.025), "CSF": (0.05, 0.20, 0.01),
}  # fmt: skip
"""Standard deviations where nothing is told of a session; assumed. White matter is what scales are set by, and so is
nearly what it is taken for."""
UNTOLD_SCALE_SD = 0.02
"""Of the log of a scale where nothing is told of it; assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Levels of the tissues of one session and their standard deviations, by `DEVIATIONS`; logs.

    ``scale_sds``: standard deviations of the logs of the session's scales by `qmri_core.series.acquisition.CONTRASTS`;
    those of absent series do not count.
    """

    shift: tuple[float, ...] = (0.0,) * len(DEVIATIONS)
    sd: tuple[float, ...] = tuple(value for kind in KINDS for value in UNTOLD_SDS[kind])
    scale_sds: tuple[float, float, float] = (UNTOLD_SCALE_SD,) * 3

    def __post_init__(self) -> None:
        if len(self.shift) != len(DEVIATIONS) or len(self.sd) != len(DEVIATIONS):
            raise ValueError(f"{len(self.shift)} levels and {len(self.sd)} deviations: there are {len(DEVIATIONS)}")

    def of(self, kind: str) -> tuple[float, float, float]:
        """How far T1, T2 and PD of a kind of tissue are from the population's; logs."""
        start = len(QUANTITIES) * KINDS.index(kind)
        t1, t2, pd = self.shift[start : start + len(QUANTITIES)]
        return t1, t2, pd


UNTOLD = Expectation()
"""The population's values, with the uncertainty that there is when nothing is told of a session."""


def moved_tissue(
    values: Population, tissue: tuple[float, float, float], kind: str, shift: tuple[float, float, float]
) -> tuple[float, float, float]:
    """T1 [s], T2 [s] and PD of a tissue moved by logs; PD follows T1 by `pd_relation`, but in fluid."""
    t1, t2, pd = tissue
    longer = t1 * math.exp(shift[0])
    if kind != "CSF":
        a, b = pd_relation(values)
        pd *= (a + b / t1) / (a + b / longer)
    return longer, t2 * math.exp(shift[1]), pd * math.exp(shift[2])
