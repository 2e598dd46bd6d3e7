"""Maps of a cohort as a BIDS derivatives dataset: NIfTI with sidecars, by pseudonyms only."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from qmri_core.series.acquisition import CONTRASTS
from qmri_core.tissues import MAPS
from storage.exports.folder import new_folder
from storage.exports.selection import Exported, Selection, choose
from storage.nifti_image import affine_image
from storage.store.cohort import Cohort
from storage.store.schema import NOT_COMPUTED, WORKER_VARIABLES

BIDS_VERSION = "1.10.0"
_CLASSES = WORKER_VARIABLES["tissue"].flags
_UNITS = {"s": "s", "1": "arbitrary"}
_README = """\
# Quantitative maps from conventional MRI

T1, T2 and proton density of every voxel, inferred from ordinary T1w, T2w and FLAIR images by qmri-cohort {version}.
For research on cohorts; **not for clinical use**.

- `T1map`, `T2map` (seconds), `PDmap` (relative to cerebrospinal fluid); `desc-uncertainty`: the standard uncertainty of
  each. What is not computed, as outside of the brain, is {outside}.
- `desc-brain_mask`; `dseg`: tissue classes, see `dseg.tsv`.
{images}- The mean white matter of a group is imposed, but for ages and people in several groups; `sessions.tsv` names
  the group of every session.
- Names are pseudonyms. Of the store this is snapshot `{snapshot}`.

{sessions} sessions are here. Left out:

{left_out}
"""
_OF_IMAGES = "- `desc-preproc`: the images, aligned, without smooth shading, to 10 mm outside of the brain.\n"


def export_bids(
    cohort: Cohort,
    out: Path,
    selection: Selection | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write the maps of sessions that have some and count, with brain mask and tissue.

    Which count says `storage.store.decisions.effect.judge`.

    ``sub-<pseudonym>/ses-<pseudonym>/anat`` holds ``T1map`` and ``T2map`` in seconds, ``PDmap`` relative to CSF, each
    with its standard uncertainty (``desc-uncertainty``), ``desc-brain_mask`` and ``dseg`` (1 CSF, 2 grey matter, 3
    white matter), on request the aligned images (``desc-preproc``). Voxels are those of the group's grid in the
    session's scanner frame. The folder appears when everything is in it; an export that was cut short goes on.

    Parameters
    ----------
    out
        Folder that is not there yet.
    selection
        Default: everything, without images.
    progress
        Called with the number of sessions done and of all.

    Raises
    ------
    StoreError
        If ``out`` is there already or cannot be written, or the selection names what the store does not have.
    """
    selection = selection or Selection()
    chosen = choose(cohort, selection)
    records, left_out, written = chosen.records, chosen.left_out, []
    with new_folder(out, content=selection.content(cohort)) as folder:
        for done, record in enumerate(records, 1):
            if _write_session(folder, record, cohort, selection):
                written.append(record)
            else:
                left_out[chosen.obstacle(record)] += 1
            if progress is not None:
                progress(done, len(records))
        _write_dataset(folder, written, cohort, selection, left_out)
    return Exported(sessions=len(written), left_out=dict(sorted(left_out.items())), chosen=chosen.sessions)


def _subject(record: Mapping[str, Any]) -> str:
    person, session = str(record["person"]), str(record["session"])
    return "sub-" + "".join(filter(str.isalnum, (person or session).split("-", 1)[-1]))


def bids_session(session: str) -> str:
    """What a session is called in file names."""
    return "ses-" + "".join(filter(str.isalnum, session.split("-", 1)[-1]))


def _write_session(folder: Path, record: Mapping[str, Any], cohort: Cohort, selection: Selection) -> bool:
    """Write one session, unless it is there already; whether it has maps. Its folder appears when it is complete."""
    subject, session = _subject(record), bids_session(str(record["session"]))
    place, part = folder / subject / session, folder / f".{subject}_{session}"
    if place.exists():
        return True
    asked = CONTRASTS if selection.images else ()
    names = [*MAPS, *(f"{name}_sd" for name in MAPS), "brain_mask", "tissue", "affine", *asked]
    arrays = cohort.read(cohort.slots[str(record["session"])], names)
    if not np.isfinite(arrays["T1map"]).any():  # its maps have failed
        return False
    images = [contrast for contrast in asked if np.isfinite(arrays[contrast]).any()]
    shutil.rmtree(part, ignore_errors=True)  # of an export that was killed
    (part / "anat").mkdir(parents=True)
    stem = f"{subject}_{session}"
    uri = f"bids::{subject}/{session}/anat/{stem}"
    sources = [f"{uri}_desc-preproc_{name}.nii.gz" for name in images]
    of_maps = {
        "Sources": [*sources, f"{uri}_desc-brain_mask.nii.gz"],
        "SkullStripped": True,
        "CheckpointDigest": record["checkpoint_digest"],
        "CalibrationVersion": record["calibration_version"],
        "Contrasts": record["contrasts"],
    }

    def write(suffix: str, array: NDArray[Any], sidecar: Mapping[str, Any]) -> None:
        nibabel.save(affine_image(array, arrays["affine"]), part / "anat" / f"{stem}_{suffix}.nii.gz")
        _write_json(part / "anat" / f"{stem}_{suffix}.json", sidecar)

    for name in MAPS:
        for suffix, variable in ((name, name), (f"desc-uncertainty_{name}", f"{name}_sd")):
            values = selection.filled(arrays[variable])
            about = WORKER_VARIABLES[variable]
            write(suffix, values, {"Units": _UNITS[about.units], "Description": about.long_name, **of_maps})
    for name, suffix, kind in (
        ("brain_mask", "desc-brain_mask", {"Type": "Brain"}),
        ("tissue", "dseg", {}),
    ):
        values = np.where(arrays[name] == NOT_COMPUTED, 0, arrays[name]).astype(np.uint8)
        write(suffix, values, {"Description": WORKER_VARIABLES[name].long_name, "Sources": sources, **kind})
    for name in images:
        described = {"Description": WORKER_VARIABLES[name].long_name, "Units": "arbitrary", "SkullStripped": False}
        write(f"desc-preproc_{name}", selection.filled(arrays[name]), described)
    place.parent.mkdir(exist_ok=True)
    part.rename(place)
    return True


def _write_dataset(
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    cohort: Cohort,
    selection: Selection,
    left_out: Mapping[str, int],
) -> None:
    _write_json(
        folder / "dataset_description.json",
        {
            "Name": "Quantitative maps from conventional MRI",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [
                {
                    "Name": "qmri-cohort",
                    "Version": version("qmri-cohort"),
                    "Description": "T1, T2 and proton density inferred from T1w, T2w and FLAIR images",
                }
            ],
        },
    )
    (folder / "README.md").write_text(
        _README.format(
            version=version("qmri-cohort"),
            outside="0" if selection.zeros else "NaN",
            images=_OF_IMAGES if selection.images else "",
            snapshot=cohort.session.snapshot_id,
            sessions=len(records),
            left_out="\n".join(f"- {count}: {why}" for why, count in sorted(left_out.items())) or "- none",
        ),
        encoding="utf-8",
    )
    _write_rows(folder / "dseg.tsv", ["index", "name"], [[str(n), name] for n, name in enumerate(_CLASSES)])
    people: dict[str, str] = {}
    for record in records:
        people[_subject(record)] = str(record["sex"]) or people.get(_subject(record), "n/a")
    _write_rows(folder / "participants.tsv", ["participant_id", "sex"], sorted(map(list, people.items())))
    _write_json(folder / "participants.json", {"sex": {"Description": "sex", "Levels": {"F": "female", "M": "male"}}})
    _write_json(
        folder / "sessions.json",
        {
            "age": {"Description": "age at the session; 90 stands for 90 and older", "Units": "year"},
            "group": {"Description": "scanner, protocol and grid that the session shares with others"},
            "status": {"Description": "status of the session in the store"},
        },
    )
    for subject in people:
        rows = [
            [bids_session(str(one["session"])), _text(one["age"]), str(one["group"]), str(one["status"])]
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
