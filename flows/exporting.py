"""Maps of a store as DICOM objects, to a folder or a server: what the command and the deployments share."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from flows.progress import Progress, quiet
from flows.settings import Settings
from storage.exports.dicom.form import Form
from storage.exports.selection import Selection
from storage.source.origin import Source
from storage.store.cohort import Cohort
from storage.store.lifecycle.copies import copies_of
from storage.store.opened.values import counting

if TYPE_CHECKING:
    from storage.exports.dicom.export import ExportedObjects


@dataclass(frozen=True, slots=True, kw_only=True)
class Originals:
    """By what maps are given the people, studies and frames of reference of the images that they were made from."""

    linkage: Path
    source: Source
    key_file: Path | None
    assume: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Of the settings' source, where there is a linkage table."""
        if settings.linkage is None:
            return None
        source, key_file = settings.require_source(), settings.key_file
        return cls(linkage=settings.linkage, source=source, key_file=key_file, assume=settings.assume)


def export_maps(
    cohort: Cohort,
    destination: Source,
    selection: Selection | None = None,
    *,
    form: Form = Form.PARAMETRIC_MAP,
    originals: Originals | None = None,
    progress: Progress = quiet,
) -> ExportedObjects:
    """Bring maps of sessions that have some and count to a folder or a server; what is there is not sent again.

    Parameters
    ----------
    originals
        Default: the maps are the pseudonyms'.

    Raises
    ------
    StoreError
        If the selection names what the store does not have, or a folder cannot be written.
    LinkageError, SourceError, AssumptionError
        If what tells whose the maps are cannot be used, or a server fails.
    """
    # pydicom and highdicom take a second to import
    from flows.ingest.scanning import index_beside
    from flows.linkage import people_of
    from storage.exports.dicom.export import export_dicom
    from storage.exports.dicom.folder import export_to_folder
    from storage.exports.dicom.receiver import server_receiver
    from storage.pseudonyms import load_key

    with ExitStack() as stack:
        subjects = None
        if originals is not None:
            people = people_of(
                cohort,
                originals.linkage,
                originals.source,
                key=load_key(originals.key_file),
                assume=originals.assume,
                index=index_beside(originals.key_file, originals.source),
                progress=progress,
            )
            subjects = stack.enter_context(people)
        if isinstance(destination, Path):
            return export_to_folder(cohort, destination, selection, form=form, subjects=subjects, progress=progress)
        receiver = stack.enter_context(server_receiver(destination))
        return export_dicom(cohort, receiver, selection, form=form, subjects=subjects, progress=progress)


def is_exported(store: str) -> bool:
    """Whether the store has a record of an export of all maps that count, as the cohort is now."""
    cohort = Cohort.open(store)
    made = [copy for copy in copies_of(cohort.repository) if copy.kind == "export-dicom"]
    return any(copy.snapshot == cohort.snapshot and counting(cohort) <= copy.sessions for copy in made)


def exported_lines(done: ExportedObjects, where: str) -> list[str]:
    """What an export has done, for people, and what it has left out."""
    line = f"maps of {done.sessions} sessions in {where}: {done.stored} series written, {done.there} were there"
    return [line, *(f"left out: {count} sessions: {why}" for why, count in done.left_out.items())]
