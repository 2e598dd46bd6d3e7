"""How stored values become values that compare: the modality transform and Philips' private scale slope."""

from __future__ import annotations

from pydicom.dataset import Dataset

from storage.source.dicom.elements import (
    first_item,
    get_number,
    get_value,
    items_of,
    private_item,
    private_number,
)
from storage.source.series import Scale

PHILIPS_SCALE = "Philips MR Imaging DD 001"
"""Creator of the block that holds the scale slope."""
PHILIPS_NESTED = "Philips MR Imaging DD 005"
"""Creator of the block that nests a classic header in each frame of an enhanced Philips file."""


def groups_of(dataset: Dataset, frame: int) -> tuple[Dataset, Dataset]:
    """Functional groups that all frames share, and those of one frame; empty in a classic file."""
    shared = first_item(dataset, "SharedFunctionalGroupsSequence") or Dataset()
    per_frame = items_of(get_value(dataset, "PerFrameFunctionalGroupsSequence"))
    return shared, per_frame[frame] if per_frame else Dataset()


def scale_of(dataset: Dataset, frame: int, *, philips: bool) -> Scale:
    """Slope, intercept and, where a Philips file has it, scale slope of one frame."""
    shared, own = groups_of(dataset, frame)
    slope, intercept, scale = _stated(dataset, shared, own)
    if not slope and philips:  # some exports keep only the real-world mapping, with the same numbers
        mapping = _mapping(dataset, own)
        if mapping is not None:
            slope, intercept = (get_number(mapping, f"RealWorldValue{name}") for name in ("Slope", "Intercept"))
    return slope or 1.0, (intercept or 0.0), scale  # a slope of 0 means none, as in NIfTI


def constant_scale(dataset: Dataset, shared: Dataset | None, own: Dataset | None) -> Scale | None:
    """What `scale_of` gives of a frame with these groups; None if it depends on ``philips``, which users may state."""
    slope, intercept, scale = _stated(dataset, shared, own)
    if not slope and _mapping(dataset, own) is not None:
        return None
    return slope or 1.0, (intercept or 0.0), scale


def _stated(
    dataset: Dataset, shared: Dataset | None, own: Dataset | None
) -> tuple[float | None, float | None, float | None]:
    """The three numbers as they are stated; None for those that are not. ``own`` are the groups of one frame."""
    source = None
    for groups in (own, shared):
        source = source or (None if groups is None else first_item(groups, "PixelValueTransformationSequence"))
    source = source or dataset
    scale = private_number(dataset, 0x2005, PHILIPS_SCALE, 0x0E)
    nested = None if own is None else private_item(own, 0x2005, PHILIPS_NESTED, 0x0F)
    if nested is not None:
        scale = private_number(nested, 0x2005, PHILIPS_SCALE, 0x0E) or scale
    return get_number(source, "RescaleSlope"), get_number(source, "RescaleIntercept"), scale


def _mapping(dataset: Dataset, own: Dataset | None) -> Dataset | None:
    """The real-world mapping of one frame, or of the file."""
    of_frame = None if own is None else first_item(own, "RealWorldValueMappingSequence")
    return of_frame or first_item(dataset, "RealWorldValueMappingSequence")
