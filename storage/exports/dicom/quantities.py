"""What the exported series are: one per map and one per standard uncertainty, each with its codes and unit."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

MILLISECOND = Code("ms", "UCUM", "millisecond")
RATIO = Code("1", "UCUM", "no units")
FIRST_NUMBER = 9001
"""Number of the first series: above those that scanners give."""

_T1, _T2, _PD = codes.DCM.T1, codes.DCM.T2, codes.DCM.ProtonDensity


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A variable of the store as a series.

    Parameters
    ----------
    variable
        Name in the store.
    concept
        What is measured, of DICOM's context group 7180.
    unit, factor
        Unit of the exported values in UCUM, and how many of it are one unit of the store.
    kind
        Third value of the image type of an MR image.
    window
        Centre and width to look at it with at first; None to take them from the values.
    """

    variable: str
    concept: Code
    unit: Code
    factor: float
    kind: str
    window: tuple[float, float] | None = None

    @property
    def is_uncertainty(self) -> bool:
        """Whether it is the standard uncertainty of a map."""
        return self.variable.endswith("_sd")

    @property
    def label(self) -> str:
        """Name as a code string of DICOM."""
        return self.variable.upper()

    @property
    def description(self) -> str:
        """Description of the series, in the 64 characters that there are."""
        unit = "" if self.unit == RATIO else f" [{self.unit.value}]"
        name = self.variable.removesuffix("_sd") + (" uncertainty" if self.is_uncertainty else "")
        return f"{name}{unit}, qmri-cohort, NOT FOR CLINICAL USE"

    @property
    def meaning(self) -> str:
        """The quantity in words."""
        name = {_T1: "T1", _T2: "T2", _PD: "proton density relative to CSF"}[self.concept]
        return f"standard uncertainty of {name}" if self.is_uncertainty else name


QUANTITIES: tuple[Quantity, ...] = (
    Quantity(variable="T1map", concept=_T1, unit=MILLISECOND, factor=1e3, kind="T1 MAP", window=(1500.0, 3000.0)),
    Quantity(variable="T1map_sd", concept=_T1, unit=MILLISECOND, factor=1e3, kind="OTHER"),
    Quantity(variable="T2map", concept=_T2, unit=MILLISECOND, factor=1e3, kind="T2 MAP", window=(100.0, 200.0)),
    Quantity(variable="T2map_sd", concept=_T2, unit=MILLISECOND, factor=1e3, kind="OTHER"),
    Quantity(variable="PDmap", concept=_PD, unit=RATIO, factor=1.0, kind="DENSITY MAP", window=(0.75, 0.7)),
    Quantity(variable="PDmap_sd", concept=_PD, unit=RATIO, factor=1.0, kind="OTHER"),
)
"""All series of a session, in the order of their numbers."""


def number_of(quantity: Quantity) -> int:
    """Number of its series."""
    return FIRST_NUMBER + QUANTITIES.index(quantity)
