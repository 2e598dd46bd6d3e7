"""Maps as DICOM objects: Parametric Maps, or MR images for viewers that know none.

Both say in several places that they are derived and not for clinical use, and neither bears a timing of an acquisition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from highdicom import ContributingEquipment, Volume, VolumeGeometry
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from storage.exports.dicom.content import WARNING, Map, made_by, reference_to
from storage.exports.dicom.form import Form
from storage.exports.dicom.mr_images import mr_images
from storage.exports.dicom.parametric_map import parametric_map
from storage.exports.dicom.subject import SourceImage, Subject
from storage.source.dicom.frames import OWN

REPLACED = Code("replaced", "99QMRI", "Series that this one replaces")
"""DICOM has no code for it."""


AXIAL = "HPL"
"""Slices towards the head, rows towards the back, columns towards the left, as nearly as a grid is."""


def objects(one: Map, subject: Subject, form: Form) -> Iterator[Dataset]:
    """Objects of a map: one Parametric Map, or one MR image per slice.

    Slices are axial as nearly as the grid is, from the feet to the head, rows to the patient's left.
    """
    values = np.asarray(one.array * one.quantity.factor, dtype=np.float32)
    volume = Volume(
        array=values,
        affine=_along_slices_first(one.affine),
        coordinate_system="PATIENT",
        frame_of_reference_uid=subject.header.FrameOfReferenceUID,
        from_reference_convention="RAS",
    ).to_patient_orientation(AXIAL)
    made = [parametric_map(one, subject, volume)] if form is Form.PARAMETRIC_MAP else mr_images(one, subject, volume)
    for dataset in made:
        _describe(dataset, one, subject)
        yield dataset


def n_objects(shape: tuple[int, ...], affine: NDArray[np.float64], form: Form) -> int:
    """Number of objects that a map of a shape (z, y, x) becomes."""
    if form is Form.PARAMETRIC_MAP:
        return 1
    geometry = VolumeGeometry(
        _along_slices_first(affine), shape, coordinate_system="PATIENT", from_reference_convention="RAS"
    )
    return int(geometry.to_patient_orientation(AXIAL).spatial_shape[0])


def _along_slices_first(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return affine[:, [2, 1, 0, 3]]


def _describe(dataset: Dataset, one: Map, subject: Subject) -> None:
    """Say of an object what it is, what made it, of which images, and which series it replaces."""
    record = one.record
    dataset.update(subject.begun())
    dataset.SeriesDescription = one.quantity.description
    dataset.SeriesDate = dataset.InstanceCreationDate = one.made.strftime("%Y%m%d")
    dataset.SeriesTime = dataset.InstanceCreationTime = one.made.strftime("%H%M%S")
    dataset.ImageComments = WARNING
    dataset.DerivationDescription = f"{one.quantity.meaning}. {WARNING}"
    dataset.BodyPartExamined = "BRAIN"
    dataset.ContributingEquipmentSequence = [
        ContributingEquipment(
            manufacturer=OWN,
            purpose_of_reference=codes.DCM.ProcessingEquipment,
            manufacturer_model_name="network that infers T1, T2 and proton density",
            software_versions=[str(record["checkpoint_digest"])[:64], made_by(record)],
            contribution_description=(
                f"weights {record['checkpoint_digest']}; calibration {record['calibration_version']}; preprocessing "
                f"{record['preprocessing_version']}; contrasts {record['contrasts']}"
            ),
        )
    ]
    _refer(dataset, one.study, subject.sources)
    if one.replaced:
        related = Dataset()
        related.StudyInstanceUID, related.SeriesInstanceUID = one.study, one.replaced
        related.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(REPLACED)]
        dataset.RelatedSeriesSequence = [related]


def _refer(dataset: Dataset, own_study: str, sources: Sequence[SourceImage]) -> None:
    """Name the source images by study and series."""
    studies: dict[str, dict[str, list[Dataset]]] = defaultdict(lambda: defaultdict(list))
    for image in sources:
        studies[image.study][image.series].append(reference_to(image))
    elsewhere = []
    for study, series in studies.items():
        items = []
        for uid, instances in series.items():
            item = Dataset()
            item.SeriesInstanceUID, item.ReferencedInstanceSequence = uid, instances
            items.append(item)
        if study == own_study:
            dataset.ReferencedSeriesSequence = items
        else:
            other = Dataset()
            other.StudyInstanceUID, other.ReferencedSeriesSequence = study, items
            elsewhere.append(other)
    if elsewhere:
        dataset.StudiesContainingOtherReferencedInstancesSequence = elsewhere
