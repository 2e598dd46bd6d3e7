"""What Parametric Maps and MR images of a map have in common: its values, its codes, and what it was derived from."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from highdicom import VOILUTFunctionValues, VOILUTTransformation
from highdicom.pm import RealWorldValueMapping
from highdicom.sr import CodeContentItem, CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from storage.exports.dicom.quantities import Quantity
from storage.exports.dicom.subject import SourceImage, Subject, uid_of
from storage.exports.selection import Record

WARNING = "Inferred from conventional images by a model, for research. NOT FOR CLINICAL USE."
IN_SHORT = "For research. NOT FOR CLINICAL USE."
INFERRED = Code("inferred", "99QMRI", "Inferred by a physics-guided network")
"""How a map was derived; DICOM has no code for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """One map of a session, ready to be written.

    Parameters
    ----------
    array, affine
        Values in the store's unit, (z, y, x), NaN where not computed, and the RAS affine of the index (x, y, z).
    study, series
        Identifiers of both.
    made
        When the store was as it is exported; the objects' only time.
    zeros
        What is not computed becomes 0 in a Parametric Map, not NaN.
    replaced
        Identifier of the series that this one replaces; empty if there is none.
    """

    quantity: Quantity
    record: Record = field(repr=False)
    array: NDArray[np.floating] = field(repr=False)
    affine: NDArray[np.float64] = field(repr=False)
    study: str = field(repr=False)
    series: str
    made: datetime
    zeros: bool = False
    replaced: str = ""


def instance_of(series: str, number: int = 1) -> str:
    """Identifier of an object of a series."""
    return uid_of("instance", series, number)


def made_by(record: Record) -> str:
    """Version of the code that made a session's images and maps."""
    return str(record["code_version"])[:64] or "unknown"


def mapping_of(
    quantity: Quantity, *, value_range: tuple[int, int] | tuple[float, float], slope: float, intercept: float
) -> RealWorldValueMapping:
    """What stored values mean: quantity and unit in codes."""
    mapping = RealWorldValueMapping(
        lut_label=quantity.label,
        lut_explanation=quantity.meaning,
        unit=quantity.unit,
        value_range=value_range,
        slope=slope,
        intercept=intercept,
        quantity_definition=quantity.concept,
    )
    if quantity.is_uncertainty:
        kind = CodeContentItem(CodedConcept.from_code(codes.DCM.Derivation), codes.SCT.StandardDeviation)
        mapping.QuantityDefinitionSequence.append(kind)
    return mapping


def window_of(quantity: Quantity, computed: NDArray[np.floating]) -> VOILUTTransformation:
    """Window to look at a map with at first."""
    if quantity.window is not None:
        return VOILUTTransformation(*quantity.window, voi_lut_function=VOILUTFunctionValues.LINEAR_EXACT)
    width = max(float(f"{np.percentile(computed, 98):.3g}"), 1e-6)
    return VOILUTTransformation(width / 2, width, voi_lut_function=VOILUTFunctionValues.LINEAR_EXACT)


def derivation_of(one: Map, subject: Subject) -> Dataset:
    """How a map was derived, and of which images."""
    item = Dataset()
    item.DerivationDescription = f"{one.quantity.meaning}. {WARNING}"
    item.DerivationCodeSequence = [
        CodedConcept.from_code(codes.DCM.SpatialResampling),
        CodedConcept.from_code(INFERRED),
    ]
    item.SourceImageSequence = [_source(image) for image in subject.sources]
    return item


def reference_to(image: SourceImage) -> Dataset:
    """Reference to an object."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.sop_class, image.instance
    return item


def _source(image: SourceImage) -> Dataset:
    item = reference_to(image)
    item.SpatialLocationsPreserved = "NO"
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
    return item
