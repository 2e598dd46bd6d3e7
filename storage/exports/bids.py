"""Maps of a cohort as a BIDS derivatives dataset: NIfTI with sidecars, by pseudonyms only."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from qmri_core.tissues import MAPS
from storage.exports.folder import new_folder
from storage.store.cohort import Cohort
from storage.store.schema import NOT_COMPUTED, WORKER_VARIABLES

BIDS_VERSION = "1.10.0"
_CLASSES = WORKER_VARIABLES["tissue"].flags
_UNITS = {"s": "s", "1": "arbitrary"}


def export_bids(cohort: Cohort, out: Path, *, progress: Callable[[int, int], None] | None = None) -> int:
    """Write the maps of all sessions that have some, with brain mask and tissue; the number of sessions written.

    ``sub-<pseudonym>/ses-<pseudonym>/anat`` holds ``T1map`` and ``T2map`` in seconds, ``PDmap`` relative to CSF, each
    with its standard uncertainty (``desc-uncertainty``), ``desc-brain_mask`` and ``dseg`` (1 CSF, 2 grey matter, 3
    white matter). Voxels are those of the group's grid in the session's scanner frame; not computed is NaN, in masks 0.
    The folder appears when everything is in it.

    Parameters
    ----------
    out
        Folder that is not there yet.
    progress
        Called with the number of sessions done and of all.

    Raises
    ------
    StoreError
        If ``out`` is there already or cannot be written.
    """
    table = cohort.sessions
    table = table[table["checkpoint_digest"] != ""]
    records: list[Mapping[str, Any]] = [{str(k): v for k, v in row.items()} for row in table.to_dict(orient="records")]
    written = []
    with new_folder(out) as folder:
        for done, record in enumerate(records, 1):
            names = [*MAPS, *(f"{name}_sd" for name in MAPS), "brain_mask", "tissue", "affine"]
            arrays = cohort.read(cohort.slots[str(record["session"])], names)
            if np.isfinite(arrays["T1map"]).any():  # not one whose maps have failed
                _write_session(folder, record, arrays)
                written.append(record)
            if progress is not None:
                progress(done, len(records))
        _write_dataset(folder, written)
    return len(written)


def _subject(record: Mapping[str, Any]) -> str:
    person, session = str(record["person"]), str(record["session"])
    return "sub-" + "".join(filter(str.isalnum, (person or session).split("-", 1)[-1]))


def _session(record: Mapping[str, Any]) -> str:
    return "ses-" + "".join(filter(str.isalnum, str(record["session"]).split("-", 1)[-1]))


def _write_session(folder: Path, record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    subject, session = _subject(record), _session(record)
    anat = folder / subject / session / "anat"
    anat.mkdir(parents=True, exist_ok=True)
    about = {
        "Sources": [],
        "SpatialReference": "orig",
        "CheckpointDigest": record["checkpoint_digest"],
        "CalibrationVersion": record["calibration_version"],
        "Contrasts": record["contrasts"],
    }

    def write(suffix: str, array: NDArray[Any], sidecar: Mapping[str, Any]) -> None:
        stem = anat / f"{subject}_{session}_{suffix}"
        image = nibabel.Nifti1Image(array.T, np.asarray(arrays["affine"], dtype=np.float64))  # type: ignore[no-untyped-call]
        image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
        nibabel.save(image, stem.with_name(f"{stem.name}.nii.gz"))
        _write_json(stem.with_name(f"{stem.name}.json"), sidecar)

    for name in MAPS:
        units = _UNITS[WORKER_VARIABLES[name].units]
        write(name, arrays[name], {"Units": units, "Description": WORKER_VARIABLES[name].long_name, **about})
        uncertainty = WORKER_VARIABLES[f"{name}_sd"]
        sidecar = {"Units": units, "Description": uncertainty.long_name, **about}
        write(f"desc-uncertainty_{name}", arrays[uncertainty.name], sidecar)
    for name, suffix in (("brain_mask", "desc-brain_mask"), ("tissue", "dseg")):
        values = np.where(arrays[name] == NOT_COMPUTED, 0, arrays[name]).astype(np.uint8)
        sidecar = {"Description": WORKER_VARIABLES[name].long_name} | (
            {"Type": "Brain"} if name == "brain_mask" else {}
        )
        write(suffix, values, sidecar)


def _write_dataset(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    _write_json(
        folder / "dataset_description.json",
        {
            "Name": "Quantitative maps from conventional MRI",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "qmri-cohort", "Version": version("qmri-cohort")}],
        },
    )
    _write_rows(folder / "dseg.tsv", ["index", "name"], [[str(n), name] for n, name in enumerate(_CLASSES)])
    people: dict[str, str] = {}
    for record in records:
        people[_subject(record)] = str(record["sex"]) or people.get(_subject(record), "n/a")
    _write_rows(folder / "participants.tsv", ["participant_id", "sex"], sorted(map(list, people.items())))
    for subject in people:
        rows = [
            [_session(one), _text(one["age"]), str(one["group"]), str(one["status"])]
            for one in records
            if _subject(one) == subject
        ]
        header = ["session_id", "age", "group", "status"]
        _write_rows(folder / subject / f"{subject}_sessions.tsv", header, sorted(rows))


def _text(number: float) -> str:
    return "n/a" if np.isnan(number) else f"{number:g}"


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
