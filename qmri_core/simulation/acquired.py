"""Series as a scanner hands them out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from qmri_core.series.geometry import Affine, Volume
from qmri_core.simulation.cohort import PlannedSession
from qmri_core.simulation.protocols import SimulatedSeries

DESCRIPTIONS = (
    "HEAD ROUTINE", "Serie", "obl", "neuro std", "WIP brain", "s3D", "ax", "Schaedel", "brain^library", "copy of 4",
)  # fmt: skip


class Role(StrEnum):
    """What a series is there for."""

    IMAGE = "image"
    """One of the three contrasts of the protocol."""
    RIVAL = "rival"
    """Another series of a contrast, worse than the image."""
    LOCALIZER = "localizer"
    PHASE = "phase"
    REFORMAT = "reformat"


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquiredSeries:
    """Images of one series: one volume, or several of different orientation for a localizer.

    ``scale`` is grey values per unit signal; ``description`` is free text that says nothing; ``pose`` takes the head's
    frame to scanner RAS while it was acquired; ``contrast_agent`` is what was injected before.
    """

    series: SimulatedSeries
    volumes: tuple[Volume, ...]
    number: int
    description: str
    scale: float
    snr: float
    pose: Affine
    role: Role = Role.IMAGE
    contrast_agent: str = ""


def series_number(plan: PlannedSession, position: int) -> int:
    """Series number at a position of the day, the localizer's being 0, in the vendor's way of counting."""
    return (position + 1) * 100 + 1 if plan.protocol.vendor == "Philips" else position + 1
