"""Maps as DICOM objects in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

from pydicom.dataset import Dataset

from storage.exports.dicom.export import ExportedObjects, Planned, export_dicom
from storage.exports.dicom.form import Form
from storage.exports.dicom.subject import Subjects, pseudonyms
from storage.exports.folder import new_folder
from storage.exports.selection import Selection
from storage.store.cohort import Cohort

_README = """\
Quantitative maps from conventional MRI, made by qmri-cohort {version}.
For research on cohorts. NOT FOR CLINICAL USE.

T1 and T2 in milliseconds, proton density relative to cerebrospinal fluid, each with its standard uncertainty: a series
each. {form}
{whose}
Of the store this is snapshot {snapshot}.

{sessions} sessions are here. Left out:

{left_out}
"""
_FORMS = {
    Form.PARAMETRIC_MAP: "A series is one Parametric Map; what is not computed, as outside of the brain, is {outside}.",
    Form.MR: "A series is MR images, derived ones; the stored value 0 stands for what is not computed.",
}
_PSEUDONYMS = "Names are pseudonyms."
_PEOPLE = "THESE OBJECTS NAME PEOPLE, as the images do that the maps were made from. Keep them as safe."


def export_to_folder(
    cohort: Cohort,
    out: Path,
    selection: Selection | None = None,
    *,
    form: Form = Form.PARAMETRIC_MAP,
    subjects: Subjects | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExportedObjects:
    """Write the maps as `export_dicom` makes them: a folder per session, in it a file or a folder per series.

    The folder appears when everything is in it; an export that was cut short goes on. Objects that name people are for
    the user alone to read.

    Parameters
    ----------
    out
        Folder that is not there yet.

    Raises
    ------
    StoreError
        If ``out`` is there already or cannot be written, or the selection names what the store does not have.
    """
    selection, subjects = selection or Selection(), subjects or pseudonyms()
    with new_folder(out, content=selection.content(cohort, form, subjects.is_identified)) as folder:
        if subjects.is_identified:
            folder.chmod(0o700)
        done = export_dicom(cohort, _Folder(folder), selection, form=form, subjects=subjects, progress=progress)
        text = _README.format(
            version=version("qmri-cohort"),
            form=_FORMS[form].format(outside="0" if selection.zeros else "NaN"),
            whose=_PEOPLE if subjects.is_identified else _PSEUDONYMS,
            snapshot=cohort.session.snapshot_id,
            sessions=done.sessions,
            left_out="\n".join(f"- {count}: {why}" for why, count in done.left_out.items()) or "- none",
        )
        (folder / "README.txt").write_text(text, encoding="utf-8")
    return done


class _Folder:
    """A folder as a receiver; see `storage.exports.dicom.export.Receiver`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, planned: Planned) -> Path:
        name = planned.quantity.variable
        return self._folder / planned.place / (f"{name}.dcm" if planned.form is Form.PARAMETRIC_MAP else name)

    def lacking(self, planned: Planned) -> frozenset[str]:
        return frozenset() if self._path(planned).exists() else frozenset(planned.instances)

    def replaced(self, planned: Planned) -> str:  # noqa: ARG002 - a folder holds one version
        return ""

    def store(self, planned: Planned, made: Iterable[Dataset]) -> None:
        """Write a series, which appears when it is complete."""
        path = self._path(planned)
        part = path.with_name(f".{path.name}.part")
        shutil.rmtree(part, ignore_errors=True)  # of an export that was killed
        part.mkdir(parents=True)
        files = []
        for number, dataset in enumerate(made, 1):
            files.append(part / f"{number:04d}.dcm")
            dataset.save_as(files[-1], enforce_file_format=True)
        if planned.form is Form.PARAMETRIC_MAP:
            (only,) = files
            only.rename(path)
            part.rmdir()
        else:
            part.rename(path)
