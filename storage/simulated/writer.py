"""Files of simulated sessions as scanners and archives leave them.

For simulated data only: identities are invented, pixel data comes from arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from qmri_core.series.geometry import Affine, Volume, spacing_of
from qmri_core.simulation.acquired import AcquiredSeries
from qmri_core.simulation.cohort import PlannedSession
from qmri_core.simulation.faults import Fault
from qmri_core.simulation.sessions import SimulatedSession
from storage.simulated.encoding import DicomFile, transcode
from storage.simulated.enhanced import enhanced
from storage.simulated.file_faults import break_files
from storage.simulated.vendor_headers import decimal, series_header, stored_values

_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
_IMPLEMENTATION = "2.25.180170417326398462180236436713148166203"


def write_session(session: SimulatedSession, folder: Path) -> int:
    """Write all series of a session below ``folder``, in folders that carry the person's name, as archives do.

    Parameters
    ----------
    session
        From `simulate_session`.
    folder
        The input tree; created if it does not exist. Nothing of the truth is written.

    Returns
    -------
    int
        Number of files.
    """
    plan = session.plan
    top = folder / f"{plan.person.family_name}_{plan.person.given_name}_{plan.person.patient_id}"
    if plan.fault is Fault.ANONYMISED:
        top = folder / f"anonymous_{plan.index:04d}"
    study = top / f"{plan.date:%Y%m%d}_{plan.index:04d}"
    count = 0
    for file in session_files(session):
        target = study / file.folder
        target.mkdir(parents=True, exist_ok=True)
        (target / file.name).write_bytes(file.encoded())
        count += 1
    return count


def session_files(session: SimulatedSession) -> Iterator[DicomFile]:
    """Files of a session in the order of its series, compressed by the archive, or broken by the session's fault.

    Sessions of the design ``faults`` are classic and uncompressed but for what their fault does.
    """
    plan = session.plan
    files = (file for series in session.series for file in _series_files(plan, series))
    if plan.fault is not None:
        yield from break_files(plan, list(files))
        return
    for file in files:
        transcode(file.dataset, plan.protocol.transfer_syntax)
        yield file


def _series_files(plan: PlannedSession, series: AcquiredSeries) -> Iterator[DicomFile]:
    files: Iterable[FileDataset] = datasets(plan, series)
    if plan.protocol.objects == "enhanced" and plan.fault is None:
        files = _enhanced_files(plan, series, list(files))
    for instance, dataset in enumerate(files, start=1):
        yield DicomFile(
            folder=f"S{series.number:04d}",
            name=f"IM{instance:05d}",
            content=dataset,
            role=series.role,
            contrast=series.series.contrast,
        )


def _enhanced_files(plan: PlannedSession, series: AcquiredSeries, slices: list[FileDataset]) -> Iterator[FileDataset]:
    """One object per volume."""
    done = 0
    for number, volume in enumerate(series.volumes, start=1):
        yield enhanced(plan, series, slices[done : done + len(volume.array)], number=number)
        done += len(volume.array)


def datasets(plan: PlannedSession, series: AcquiredSeries) -> Iterator[FileDataset]:
    """Files of one series in the order of their instance numbers, one per slice."""
    stored, slope = stored_values(plan.protocol.vendor, series.volumes)
    header = _encoded(series_header(plan, series, slope))
    total = sum(len(volume.array) for volume in series.volumes)
    instance = 0
    for volume, array in zip(series.volumes, stored, strict=True):
        for index in range(len(array)):
            instance += 1
            yield _instance(plan, series, header, volume, array, index, instance, total)


def _encoded(header: Dataset) -> Dataset:
    """Return the same elements as raw bytes: files of a series then share them without encoding them again."""
    buffer = BytesIO()
    header.save_as(buffer, implicit_vr=False, little_endian=True)
    buffer.seek(0)
    return dcmread(buffer, force=True)


def _instance(
    plan: PlannedSession,
    series: AcquiredSeries,
    header: Dataset,
    volume: Volume,
    array: NDArray[np.uint16] | NDArray[np.int16],
    index: int,
    instance: int,
    total: int,
) -> FileDataset:
    """One slice; elements of the series are shared, not copied."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = UID(plan.uid("instance", series.number, instance))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(_IMPLEMENTATION)
    ds = FileDataset("", {}, preamble=b"\0" * 128, file_meta=meta)
    ds.update(header)
    ds.set_original_encoding(
        is_implicit_vr=False, is_little_endian=True, character_encoding=header.original_character_set
    )
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.InstanceNumber = instance
    ds.ImagesInAcquisition = total
    row, column, position, location = _geometry(volume.affine, index)
    spacing = spacing_of(volume.affine)
    ds.ImagePositionPatient = [decimal(value) for value in position]
    ds.ImageOrientationPatient = [decimal(value) for value in (*row, *column)]
    ds.PixelSpacing = [decimal(spacing[1]), decimal(spacing[0])]
    ds.SliceLocation = decimal(location)
    ds.Rows, ds.Columns = array.shape[1:]
    middle = float(array.max()) / 2
    ds.WindowCenter, ds.WindowWidth = f"{middle:.0f}", f"{max(2 * middle, 1):.0f}"
    ds.add_new("PixelData", "OW", np.ascontiguousarray(array[index]).tobytes())
    return ds


def _geometry(
    affine: Affine, index: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """Directions along a row and down a column, centre of the first voxel of slice ``index`` (LPS), its location."""
    directions = affine[:3, :3] / spacing_of(affine) * _RAS_TO_LPS[:, None]
    row, column = directions[:, 0], directions[:, 1]
    position = (affine @ np.array([0.0, 0.0, index, 1.0]))[:3] * _RAS_TO_LPS
    return row, column, position, float(np.cross(row, column) @ position)
