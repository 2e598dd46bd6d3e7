"""What goes wrong with the files of a session between scanner and archive; see `qmri_core.simulation.faults`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from qmri_core.series.acquisition import Contrast
from qmri_core.simulation.acquired import Role
from qmri_core.simulation.cohort import PlannedSession
from qmri_core.simulation.faults import Fault
from storage.simulated.encoding import DicomFile, garbage, transcode
from storage.simulated.vendor_headers import decimal

Files = list[DicomFile]

_STUDY = (
    "SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "StudyDescription", "ReferringPhysicianName",
    "Manufacturer", "SeriesDate", "SeriesTime",
)  # fmt: skip
_NUMBERS = ("RepetitionTime", "EchoTime", "FlipAngle", "EchoTrainLength")
_IDENTITY = (
    "PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName", "Manufacturer",
)  # fmt: skip
_REMOVED = (
    "PatientSex", "PatientAge", "OtherPatientNames", "PatientAddress", "PatientComments", "StudyDescription",
    "OperatorsName", "RequestingPhysician", "InstitutionName", "DeviceSerialNumber", "StationName", "SeriesDate",
    "AcquisitionDate", "ContentDate",
)  # fmt: skip
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_TEXT_REPORT = "1.2.840.10008.5.1.4.1.1.88.11"
_RAW_DATA = "1.2.840.10008.5.1.4.1.1.66"
_DIRECTORY = "1.2.840.10008.1.3.10"


def break_files(plan: PlannedSession, files: Files) -> Files:
    """Files of the session after its fault; those that only concern images or headers leave them as they are."""
    change = _CHANGES.get(plan.fault) if plan.fault is not None else None
    return files if change is None else change(plan, files)


def _of(files: Files, contrast: Contrast) -> Files:
    return [file for file in files if file.role is Role.IMAGE and file.contrast is contrast]


def _without_middle(contrast: Contrast, _plan: PlannedSession, files: Files) -> Files:
    members = _of(files, contrast)
    gone = members[len(members) // 2]
    return [file for file in files if file is not gone]


def _doubled(plan: PlannedSession, files: Files) -> Files:
    members = _of(files, Contrast.FLAIR)
    added = []
    for k in range(3):
        file = copy.copy(members[len(members) // 2 + k])
        ds = file.content = copy.deepcopy(file.dataset)  # elements are shared otherwise
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(plan.uid("doubled", k))
        ds.InstanceNumber = len(members) + 1 + k
        ds.PixelData = ds.PixelData[::-1]
        file.name = f"IM{len(members) + 1 + k:05d}"
        added.append(file)
    return files + added


def _copied(_plan: PlannedSession, files: Files) -> Files:
    again = [copy.copy(file) for file in _of(files, Contrast.T2W)]
    for file in again:
        file.name += " (1)"
    return files + again


def _sent_twice(plan: PlannedSession, files: Files) -> Files:
    added = []
    for k, member in enumerate(_of(files, Contrast.FLAIR)):
        file = copy.copy(member)
        ds = file.content = copy.deepcopy(file.dataset)  # elements are shared otherwise
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(plan.uid("sent again", k))
        ds.SeriesInstanceUID = plan.uid("series sent again")
        file.folder += "_resent"
        added.append(file)
    return files + added


def _cut(share: float | None, _plan: PlannedSession, files: Files) -> Files:
    members = _of(files, Contrast.FLAIR)
    file = members[len(members) // 2]
    data = file.encoded()
    file.content = data[:400] if share is None else data[: len(data) - int(share * len(file.dataset.PixelData))]
    return files


def _merged(_plan: PlannedSession, files: Files) -> Files:
    first = _of(files, Contrast.T1W)[0]
    for file in _of(files, Contrast.T2W):
        file.dataset.SeriesInstanceUID = first.dataset.SeriesInstanceUID
        file.dataset.SeriesNumber = first.dataset.SeriesNumber
        file.folder, file.name = first.folder, f"T{file.name}"
    return files


def _shared_instance(_plan: PlannedSession, files: Files) -> Files:
    members = _of(files, Contrast.T2W)
    for file in members[1:]:
        same = members[0].dataset.SOPInstanceUID
        file.dataset.SOPInstanceUID = file.dataset.file_meta.MediaStorageSOPInstanceUID = same
    return files


def _uneven(_plan: PlannedSession, files: Files) -> Files:
    members = _of(files, Contrast.T2W)
    positions = np.array([[float(v) for v in file.dataset.ImagePositionPatient] for file in members])
    step = (positions[1] - positions[0]) / 3
    for file, position in list(zip(members, positions, strict=True))[len(members) // 2 :]:
        file.dataset.ImagePositionPatient = [decimal(value) for value in position + step]
    return files


def _turned(_plan: PlannedSession, files: Files) -> Files:
    cosine, sine = np.cos(np.radians(10)), np.sin(np.radians(10))
    for file in _of(files, Contrast.T2W)[::2]:
        values = np.array([float(v) for v in file.dataset.ImageOrientationPatient])
        row, column = values[:3], values[3:]
        column = cosine * column + sine * np.cross(row, column)
        file.dataset.ImageOrientationPatient = [decimal(value) for value in (*row, *column)]
    return files


def _other_matrix(_plan: PlannedSession, files: Files) -> Files:
    members = _of(files, Contrast.T2W)
    ds = members[len(members) // 2].dataset
    ds.PixelData = ds.PixelData[: 2 * int(ds.Columns) * (int(ds.Rows) - 8)]
    ds.Rows = int(ds.Rows) - 8
    return files


def _without_positions(_plan: PlannedSession, files: Files) -> Files:
    for file in _of(files, Contrast.FLAIR):
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "SliceLocation"):
            delattr(file.dataset, name)
    return files


def _without_numbers(_plan: PlannedSession, files: Files) -> Files:
    for file in files:
        ds = file.dataset
        for name in _NUMBERS:
            setattr(ds, name, None)
        if "InversionTime" in ds:
            del ds.InversionTime
        ds.remove_private_tags()
    return files


def _corrupted(_plan: PlannedSession, files: Files) -> Files:
    members = _of(files, Contrast.FLAIR)
    for file in members:
        transcode(file.dataset, "jpeg-2000")
    ds = members[len(members) // 2].dataset
    ds.PixelData = ds.PixelData[:60] + garbage(len(ds.PixelData) - 68, 1) + ds.PixelData[-8:]
    return files


def _anonymised(_plan: PlannedSession, files: Files) -> Files:
    for file in files:
        for name in _IDENTITY:
            setattr(file.dataset, name, "")
        for name in _REMOVED:
            if name in file.dataset:
                delattr(file.dataset, name)
        file.folder = file.folder.removeprefix("S")
    return files


def _no_images(plan: PlannedSession, files: Files) -> Files:
    report = _object(plan, files[0].dataset, _TEXT_REPORT, "SR", 90)
    report.CompletionFlag, report.VerificationFlag, report.ValueType = "COMPLETE", "UNVERIFIED", "CONTAINER"
    raw = _object(plan, files[0].dataset, _RAW_DATA, "MR", 91)
    raw.add_new(0x00291010, "OB", garbage(4096, 2))
    return [
        DicomFile(folder="SR", name="IM00001", content=report),
        DicomFile(folder="RAW", name="IM00001", content=raw),
    ]


def _screenshots(plan: PlannedSession, files: Files) -> Files:
    result = []
    for k in range(4):
        ds = _object(plan, files[0].dataset, _SECONDARY_CAPTURE, "OT", 92, k + 1)
        ds.ConversionType = "WSD"
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 64, 96, 3, "RGB"
        ds.PlanarConfiguration, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 0, 8, 8, 7
        ds.PixelRepresentation = 0
        ds.PixelData = garbage(64 * 96 * 3, k)
        ds["PixelData"].VR = "OB"
        result.append(DicomFile(folder="SC", name=f"IM{k + 1:05d}", content=ds))
    return result


def _foreign(plan: PlannedSession, files: Files) -> Files:
    directory = _object(plan, files[0].dataset, _DIRECTORY, "", 0)
    added: dict[str, FileDataset | bytes] = {
        "DICOMDIR": directory, "README": b"burned on request\n", "empty": b"", "Thumbs.db": garbage(2048, 3),
        "VIEWER.EXE": b"MZ" + garbage(4096, 4), ".DS_Store": b"\0\0\0\1Bud1" + bytes(100),
    }  # fmt: skip
    return files + [DicomFile(folder="", name=name, content=content) for name, content in added.items()]


def _object(
    plan: PlannedSession, source: FileDataset, sop_class: str, modality: str, number: int, instance: int = 1
) -> FileDataset:
    """Object of the same study that is no MR image."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(plan.uid("object", number, instance))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = source.file_meta.ImplementationClassUID
    ds = FileDataset("", {}, preamble=b"\0" * 128, file_meta=meta)
    for name in _STUDY:
        setattr(ds, name, source.get(name))
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.SeriesInstanceUID, ds.SeriesNumber = plan.uid("series of objects", number), number
    ds.Modality, ds.InstanceNumber = modality, instance
    return ds


_CHANGES: Mapping[Fault, Callable[[PlannedSession, Files], Files]] = {
    Fault.MISSING_SLICE: partial(_without_middle, Contrast.T2W),
    Fault.MISSING_SLICE_OF_T1W: partial(_without_middle, Contrast.T1W),
    Fault.DOUBLED_SLICES: _doubled,
    Fault.DUPLICATE_FILES: _copied,
    Fault.SERIES_SENT_TWICE: _sent_twice,
    Fault.TRUNCATED_FILE: partial(_cut, 0.4),
    Fault.TRUNCATED_HEADER: partial(_cut, None),
    Fault.MERGED_SERIES: _merged,
    Fault.SHARED_INSTANCE_UID: _shared_instance,
    Fault.UNEVEN_SPACING: _uneven,
    Fault.MIXED_ORIENTATION: _turned,
    Fault.MIXED_MATRIX: _other_matrix,
    Fault.NO_POSITIONS: _without_positions,
    Fault.NO_NUMBERS: _without_numbers,
    Fault.CORRUPTED_PIXELS: _corrupted,
    Fault.ANONYMISED: _anonymised,
    Fault.NO_IMAGES: _no_images,
    Fault.SECONDARY_CAPTURE_ONLY: _screenshots,
    Fault.FOREIGN_FILES: _foreign,
}
