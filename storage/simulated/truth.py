"""Files of simulated sessions beside DICOM: a BIDS input tree, and the truth that never lies inside an input tree."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from qmri_core.evaluation.with_truth import Truth
from qmri_core.series.acquisition import CONTRASTS, Contrast
from qmri_core.series.geometry import Affine, spacing_of
from qmri_core.simulation.acquired import AcquiredSeries
from qmri_core.simulation.anatomies import tissue_summary
from qmri_core.simulation.cohort import PlannedSession
from qmri_core.simulation.faults import EXPECTATIONS, Fault
from qmri_core.simulation.sessions import SimulatedSession

_FIELD_SPACING = 8.0


def bids_labels(plan: PlannedSession) -> tuple[str, str]:
    """Labels of the person and the session, ``sub-...`` and ``ses-...``."""
    return f"sub-{plan.person.number + 1:04d}", f"ses-{plan.visit + 1:02d}"


def write_bids_session(session: SimulatedSession, folder: Path) -> int:
    """Write the images of a session as a BIDS raw session; returns the number of images. The localizer is left out."""
    subject, visit = bids_labels(session.plan)
    target = folder / subject / visit / "anat"
    target.mkdir(parents=True, exist_ok=True)
    images = session.images
    for series in images:
        stem = f"{subject}_{visit}_{series.series.contrast}"
        volume = series.volumes[0]
        scale = float(volume.array.max()) / 32000.0
        _save(target / f"{stem}.nii.gz", np.rint(volume.array / scale).astype(np.int16), volume.affine, slope=scale)
        text = json.dumps(_sidecar(session.plan, series), indent=2, sort_keys=True)
        (target / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
    return len(images)


def write_bids_description(folder: Path) -> None:
    """Write the file that makes ``folder`` a BIDS dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"Name": "Simulated cohort", "BIDSVersion": "1.10.0", "DatasetType": "raw"}, indent=2)
    (folder / "dataset_description.json").write_text(text + "\n", encoding="utf-8")


def write_truth(session: SimulatedSession, folder: Path, *, is_bids: bool) -> dict[str, str | float]:
    """Write the truth of a session and return its row of ``sessions.csv``.

    The maps lie in the frame of the session's T2w series (scanner RAS): T1map and T2map in seconds, PDmap with
    CSF = 1, all within 0.01 % and 0 outside of the brain; tissue with 1 CSF, 2 grey and 3 white matter; fractions of
    these three along the fourth axis, within 0.2 %; labels as in `qmri_core.simulation.anatomies.Anatomy`; transmit
    (actual over nominal angle) and receive (relative sensitivity) on a grid of about 8 mm. ``transforms.json`` holds
    for each series, by number, its contrast and role, ``affine`` (voxel index x, y, z to scanner RAS of its first
    volume), and ``pose`` (head's frame to scanner RAS).

    Returns
    -------
    dict
        ``patient_id``, ``study_instance_uid`` (BIDS: the labels), ``group``, ``scanner``, ``subject``, ``folder``; for
        WM, GM and CSF the number of voxels of which 95 % is that tissue, and there ``WM_T1_median``, ``WM_T1_mean``
        and so on for T1, T2 (seconds) and PD; per contrast ``T1w_scale`` (grey values per unit signal), ``T1w_snr``.
    """
    name = f"session-{session.plan.index:04d}"
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    _write_volumes(session, target)
    _write_transforms(session, target)
    return _truth_row(session, name, is_bids=is_bids)


def _write_volumes(session: SimulatedSession, target: Path) -> None:
    anatomy = session.anatomy
    affine = session.pose @ anatomy.affine
    brain = anatomy.fractions.sum(axis=0) > 0.05
    for file_name, array in (("T1map", anatomy.t1), ("T2map", anatomy.t2), ("PDmap", anatomy.pd)):
        _save(target / f"{file_name}.nii.gz", _rounded_bits(np.where(brain, array, np.float32(0))), affine)
    _save(target / "tissue.nii.gz", anatomy.tissue, affine)
    _save(target / "labels.nii.gz", anatomy.labels, affine)
    shares = np.empty(anatomy.fractions.shape, dtype=np.uint8)
    for share, fraction in zip(shares, anatomy.fractions, strict=True):  # one after the other, for memory
        np.rint(fraction * 255, out=share, casting="unsafe")
    _save(target / "fractions.nii.gz", shares, affine, slope=1 / 255)
    step = max(1, round(_FIELD_SPACING / float(spacing_of(anatomy.affine)[0])))
    coarse = affine @ np.diag([step, step, step, 1.0])
    for file_name, field in (
        ("transmit", session.fields.transmit_scale(anatomy)),
        ("receive", session.fields.receive_sensitivity(anatomy)),
    ):
        _save(target / f"{file_name}.nii.gz", field[::step, ::step, ::step], coarse)


def _write_transforms(session: SimulatedSession, target: Path) -> None:
    transforms = {
        str(series.number): {
            "contrast": str(series.series.contrast),
            "role": str(series.role),
            "affine": series.volumes[0].affine.tolist(),
            "pose": series.pose.tolist(),
        }
        for series in session.series
    }
    (target / "transforms.json").write_text(json.dumps(transforms, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _truth_row(session: SimulatedSession, folder: str, *, is_bids: bool) -> dict[str, str | float]:
    plan = session.plan
    person, study = bids_labels(plan) if is_bids else (plan.person.patient_id, plan.study_instance_uid)
    row: dict[str, str | float] = {
        "patient_id": person,
        "study_instance_uid": study,
        "group": plan.group,
        "scanner": f"{plan.protocol.manufacturer} {plan.protocol.model} {plan.serial_number}",
        "subject": str(plan.person.number),
        "folder": folder,
    }
    for tissue, values in reversed(tissue_summary(session.anatomy).items()):
        row |= {f"{tissue}_{key}": value for key, value in values.items()}
    taken = {series.series.contrast: series for series in session.images}
    for contrast in CONTRASTS:  # every row has every column
        series = taken.get(contrast)
        row[f"{contrast}_scale"] = series.scale if series else float("nan")
        row[f"{contrast}_snr"] = series.snr if series else float("nan")
    return row


def read_truth(folder: Path) -> Truth:
    """Read what `write_truth` wrote of one session.

    Raises
    ------
    ValueError
        If a file is missing.
    """
    arrays: dict[str, NDArray[Any]] = {}
    affine = np.eye(4)
    for name in ("T1map", "T2map", "PDmap", "fractions", "labels"):
        path = folder / f"{name}.nii.gz"
        if not path.is_file():
            raise ValueError(f"{folder.name} of the truth lacks {path.name}; simulate the cohort again")
        image: Any = nib.load(path)
        arrays[name] = np.ascontiguousarray(np.asarray(image.dataobj, dtype=np.float32).T)
        affine = np.asarray(image.affine, dtype=np.float64)
    return Truth(
        t1=arrays["T1map"],
        t2=arrays["T2map"],
        pd=arrays["PDmap"],
        fractions=arrays["fractions"],
        labels=arrays["labels"].astype(np.uint8),
        affine=affine,
    )


def manifest_row(session: SimulatedSession) -> dict[str, str]:
    """What must become of a session of the design ``faults``.

    Returns
    -------
    dict
        ``patient_id``, ``study_instance_uid``: as in the files. ``group``, ``fault``. ``status`` and ``reason`` of the
        catalogue after ingest, ``reason`` empty for a complete session. ``contrast``: of the series concerned, with
        ``series_reason``: why no series of that contrast is taken, empty if one is; then ``series_number`` is its
        number. ``has_maps``: ``yes`` if inference may give maps. ``text``: what is wrong.
    """
    plan = session.plan
    expected = EXPECTATIONS[plan.fault or Fault.INTACT]
    number = ""
    if expected.contrast is not None and not expected.series_reason:
        number = str(next(one.number for one in session.images if one.series.contrast is expected.contrast))
    if plan.fault is Fault.MERGED_SERIES:  # it carries the number of the T1w
        number = str(next(one.number for one in session.images if one.series.contrast is Contrast.T1W))
    return {
        "patient_id": "" if plan.fault is Fault.ANONYMISED else plan.person.patient_id,
        "study_instance_uid": plan.study_instance_uid,
        "group": plan.group,
        "fault": str(plan.fault or Fault.INTACT),
        "status": expected.status,
        "reason": expected.reason,
        "contrast": str(expected.contrast or ""),
        "series_reason": expected.series_reason,
        "series_number": number,
        "has_maps": "yes" if expected.has_maps else "no",
        "text": expected.text,
    }


def write_manifest(rows: Iterable[Mapping[str, str]], folder: Path) -> Path:
    """Write ``manifest.csv`` in the order given and return its path."""
    listed = list(rows)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(listed[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)
    return path


def write_truth_table(rows: Iterable[Mapping[str, str | float]], folder: Path) -> Path:
    """Write ``sessions.csv`` in the order of ``folder`` names and return its path."""
    ordered = sorted(rows, key=lambda row: str(row["folder"]))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sessions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(ordered[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in ordered)
    return path


def _save(path: Path, array: NDArray[np.generic], affine: Affine, *, slope: float | None = None) -> None:
    """Write ([volume,] z, y, x) as NIfTI, compressed lightly, without a time stamp: equal input gives equal bytes."""
    image: Any = nib.Nifti1Image(np.ascontiguousarray(array).T, affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    image.header.set_qform(affine, code=1)
    image.header.set_sform(affine, code=1)
    if slope is not None:
        image.header.set_slope_inter(slope, 0.0)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def _rounded_bits(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keep 13 bits of the mantissa: the rest is noise that takes most of the time to compress."""
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    return ((bits + np.uint32(1 << 9)) & np.uint32(0xFFFFFC00)).view(np.float32)


def _sidecar(plan: PlannedSession, series: AcquiredSeries) -> dict[str, object]:
    """BIDS metadata: seconds and degrees, with the vendor's meaning of each."""
    header, codes = series.series.header, series.series.codes
    content: dict[str, object | None] = {
        "Modality": "MR",
        "Manufacturer": plan.protocol.manufacturer,
        "ManufacturersModelName": plan.protocol.model,
        "SoftwareVersions": plan.protocol.software,
        "DeviceSerialNumber": plan.serial_number,
        "MagneticFieldStrength": header.magnetic_field_strength,
        "MRAcquisitionType": header.mr_acquisition_type,
        "ScanningSequence": "\\".join(codes.scanning_sequence),
        "SequenceVariant": "\\".join(codes.sequence_variant),
        "ScanOptions": "\\".join(codes.scan_options) or None,
        "SequenceName": codes.sequence_name or None,
        "ImageType": list(codes.image_type),
        "RepetitionTime": _rounded(header.repetition_time),
        "EchoTime": _rounded(header.echo_time),
        "InversionTime": _rounded(header.inversion_time),
        "FlipAngle": _rounded(math.degrees(header.flip_angle or 0.0)),
        "EchoTrainLength": header.echo_train_length,
        "SeriesNumber": series.number,
        "SliceThickness": series.series.geometry.thickness,
    }
    return {key: value for key, value in content.items() if value is not None}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 9)
