"""Small DICOM series with invented identities, written by pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

PATIENT = "Zyxwvut^Quentin^Ferdinand"
PATIENT_ID = "MRN-84412077"
STUDY = "1.2.826.0.1.3680043.10.9999.1"
SECRETS = (
    PATIENT,
    PATIENT_ID,
    "Zyxwvut",
    "Quentin",
    "19411203",
    "Saint Hypothesis Hospital",
    "SER-557712",
    "Dr Nobody",
)


def header(**changes: Any) -> Dataset:
    """One slice of a 3D MPRAGE; ``None`` removes an element."""
    values: dict[str, Any] = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": f"{STUDY}.1.1",
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": f"{STUDY}.1",
        "FrameOfReferenceUID": f"{STUDY}.0",
        "Modality": "MR",
        "PatientName": PATIENT,
        "PatientID": PATIENT_ID,
        "PatientBirthDate": "19411203",
        "PatientSex": "F",
        "StudyDate": "20240110",
        "StudyDescription": f"brain of {PATIENT}",
        "SeriesDescription": "FLAIR and T2w, says the name",
        "InstitutionName": "Saint Hypothesis Hospital",
        "ReferringPhysicianName": "Dr Nobody",
        "DeviceSerialNumber": "SER-557712",
        "Manufacturer": "SIEMENS",
        "ManufacturerModelName": "Prisma_fit",
        "SoftwareVersions": "syngo MR E11",
        "MagneticFieldStrength": "3",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"],
        "ScanningSequence": ["GR", "IR"],
        "SequenceVariant": ["SK", "SP", "MP"],
        "MRAcquisitionType": "3D",
        "RepetitionTime": "2300",
        "EchoTime": "2.98",
        "InversionTime": "900",
        "FlipAngle": "9",
        "EchoTrainLength": "1",
        "SeriesNumber": "4",
        "AcquisitionNumber": "1",
        "InstanceNumber": "1",
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [-40, -50, -60],
        "PixelSpacing": [2, 3],
        "SliceThickness": "2.5",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
    }
    dataset = Dataset()
    for name, value in (values | changes).items():
        if value is not None:
            setattr(dataset, name, value)
    return dataset


def write(path: Path, dataset: Dataset, pixels: NDArray[Any] | None) -> None:
    """Write one file with pixels of shape (rows, columns)."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", MRImageStorage)
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3")
    if pixels is not None:
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.PixelData = pixels.astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    FileDataset(str(path), dataset, preamble=bytes(128), file_meta=meta).save_as(path, enforce_file_format=True)


def voxels(n_slices: int = 5, rows: int = 6, columns: int = 4, *, seed: int = 1) -> NDArray[np.uint16]:
    """Random stored values of shape (z, y, x)."""
    return np.random.default_rng(seed).integers(0, 4000, (n_slices, rows, columns)).astype(np.uint16)


def write_series(folder: Path, stored: NDArray[Any], *, series: int = 1, name: str = "IM{z}", **changes: Any) -> None:
    """Write slices 2.5 mm apart along z; file names say nothing and their order is not that of space."""
    for z, pixels in enumerate(stored):
        slice_changes: dict[str, Any] = {
            "SOPInstanceUID": f"{STUDY}.{series}.{z + 1}",
            "SeriesInstanceUID": f"{STUDY}.{series}",
            "InstanceNumber": str(z + 1),
            "ImagePositionPatient": [-40, -50, -60 + 2.5 * z],
        }
        write(folder / name.format(z=(z * 7) % 101), header(**(slice_changes | changes)), pixels)


def write_enhanced(
    path: Path, stored: NDArray[Any], order: list[int], *, inversion_times: Any = 900.0, **frame_changes: Any
) -> None:
    """Write slices as frames of one object, in any order."""
    top = header(SOPClassUID=EnhancedMRImageStorage, NumberOfFrames=len(stored), ImageType=["ORIGINAL", "PRIMARY", "M"])
    for name in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RepetitionTime", "EchoTime",
        "InversionTime", "FlipAngle", "ScanningSequence", "SequenceVariant", "EchoTrainLength", "SliceThickness",
    ):  # fmt: skip
        delattr(top, name)
    top.EchoPulseSequence = "GRADIENT"

    def sequence(**values: Any) -> Sequence:
        item = Dataset()
        for name, value in values.items():
            setattr(item, name, value)
        return Sequence([item])

    shared = Dataset()
    shared.MRTimingAndRelatedParametersSequence = sequence(RepetitionTime="2300", FlipAngle="9", EchoTrainLength="1")
    shared.MRModifierSequence = sequence(InversionRecovery="YES", InversionTimes=inversion_times)
    shared.PlaneOrientationSequence = sequence(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.PixelMeasuresSequence = sequence(PixelSpacing=[2, 3], SliceThickness="2.5")
    frames = []
    for z in order:
        frame = Dataset()
        frame.MREchoSequence = sequence(EffectiveEchoTime=2.98)
        frame.PlanePositionSequence = sequence(ImagePositionPatient=[-40, -50, -60 + 2.5 * z])
        frame.PixelValueTransformationSequence = sequence(
            RescaleSlope=str(1 + z), RescaleIntercept="0", RescaleType="US", **frame_changes
        )
        frames.append(frame)
    top.SharedFunctionalGroupsSequence = Sequence([shared])
    top.PerFrameFunctionalGroupsSequence = Sequence(frames)
    pixels = stored[order]
    write(path, top, pixels.reshape(-1, pixels.shape[2]))
    dataset = pydicom.dcmread(path)
    dataset.Rows = pixels.shape[1]
    dataset.save_as(path)


def add_private_scale(dataset: Dataset, scale: float, *, block: int = 0x10) -> None:
    """Give a file the scale slope of Philips."""
    dataset.add_new((0x2005, block), "LO", "Philips MR Imaging DD 001")
    dataset.add_new((0x2005, (block << 8) + 0x0E), "FL", scale)
