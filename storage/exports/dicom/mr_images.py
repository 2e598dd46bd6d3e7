"""A map as MR images with a rescale, one per slice, for viewers that know no Parametric Map."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from storage.exports.dicom.content import Map, derivation_of, instance_of, made_by, mapping_of, window_of
from storage.exports.dicom.quantities import number_of
from storage.exports.dicom.subject import Subject
from storage.source.dicom.frames import OWN

LEVELS = 65_534
"""Steps that an MR image of 16 bits has beside the value that means not computed."""


def mr_images(one: Map, subject: Subject, volume: Volume) -> Iterator[Dataset]:
    """Objects of a map, whose values are those of the volume, from the first slice to the last."""
    quantity = one.quantity
    computed = volume.array[np.isfinite(volume.array)].astype(np.float64)
    step, intercept = steps_of(computed)
    scaled = np.rint((volume.array.astype(np.float64) - intercept) / step)
    stored = np.nan_to_num(scaled, nan=0.0).astype("<u2")
    window = window_of(quantity, computed)
    measures = volume.get_pixel_measures()
    for number, (plane, position) in enumerate(zip(stored, volume.get_plane_positions(), strict=True), 1):
        dataset = subject.begun()
        dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, instance_of(one.series, number)
        dataset.preamble, dataset.file_meta = bytes(128), FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.Modality, dataset.SeriesInstanceUID = "MR", one.series
        dataset.SeriesNumber, dataset.InstanceNumber = number_of(quantity), number
        dataset.Manufacturer = dataset.ManufacturerModelName = OWN
        dataset.SoftwareVersions = made_by(one.record)
        dataset.ImageType = ["DERIVED", "SECONDARY", quantity.kind]
        dataset.AcquisitionNumber = None
        dataset.ScanningSequence, dataset.SequenceVariant = "RM", "NONE"
        for keyword in ("ScanOptions", "MRAcquisitionType", "PatientPosition"):
            setattr(dataset, keyword, "")
        for keyword in ("RepetitionTime", "EchoTime", "EchoTrainLength"):
            setattr(dataset, keyword, None)
        dataset.ImagePositionPatient = list(position[0].ImagePositionPatient)
        dataset.ImageOrientationPatient = list(volume.get_plane_orientation()[0].ImageOrientationPatient)
        dataset.PixelSpacing = list(measures[0].PixelSpacing)
        dataset.SliceThickness = dataset.SpacingBetweenSlices = measures[0].SliceThickness
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns = plane.shape
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.PixelPaddingValue = 0
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = step, intercept, "US"
        mapping = mapping_of(quantity, value_range=(1, LEVELS + 1), slope=step, intercept=intercept)
        dataset.RealWorldValueMappingSequence = [mapping]
        dataset.update(window)
        dataset.LossyImageCompression, dataset.BurnedInAnnotation = "00", "NO"
        dataset.RecognizableVisualFeatures = "NO"
        dataset.ContentDate, dataset.ContentTime = one.made.strftime("%Y%m%d"), one.made.strftime("%H%M%S")
        derivation = derivation_of(one, subject)
        dataset.DerivationCodeSequence = derivation.DerivationCodeSequence
        if derivation.SourceImageSequence:
            dataset.SourceImageSequence = derivation.SourceImageSequence
        dataset.PixelData = plane.tobytes()
        dataset["PixelData"].VR = "OW"
        yield dataset


def steps_of(values: NDArray[np.float64]) -> tuple[float, float]:
    """Step and intercept by which values become integers from 1 on; 0 stands for what is not computed.

    The step is 1, 2 or 5 times a power of ten, the smallest that reaches the largest value from 0, or from the
    smallest where that is negative.
    """
    low, high = min(0.0, float(values.min())), float(values.max())
    least = max((high - low) / (LEVELS - 1), 1e-12)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= least)
    step = float(f"{step:.1e}")
    return step, float(f"{(math.floor(low / step) - 1) * step:.10g}")
