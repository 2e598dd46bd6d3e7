"""Export of maps as DICOM objects: which sessions, under whose name, in which version, and where they go.

Identifiers follow from what a map rests on. The same map of the same inputs has the same ones, whenever and wherever it
is exported, so that a receiver that has it is sent nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from storage.exports.dicom.content import Map, instance_of
from storage.exports.dicom.form import MODALITIES, Form
from storage.exports.dicom.objects import n_objects, objects
from storage.exports.dicom.quantities import QUANTITIES, Quantity
from storage.exports.dicom.subject import NoSubjectError, Subjects, pseudonyms, uid_of
from storage.exports.selection import Exported, Record, Selection, choose
from storage.store.cohort import Cohort
from storage.store.repository import snapshot_of
from storage.store.schema import DIGEST, IMAGE_NAMES

LAYOUT = 1
"""Version of what the objects say beside a map's values; another one gives the objects other identifiers."""
RESTS_ON = ("checkpoint_digest", "calibration_version", "preprocessing_version", "code_version", "contrasts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A series that is to be where the export goes."""

    place: str
    """Name of the session's folder."""
    quantity: Quantity
    form: Form
    study: str
    series: str
    instances: tuple[str, ...]
    """Identifiers of its objects, in their order."""

    @property
    def modality(self) -> str:
        """Modality of its objects."""
        return MODALITIES[self.form]


class Receiver(Protocol):
    """Where objects go: a folder or a server."""

    def lacking(self, planned: Planned) -> frozenset[str]:
        """Identifiers of the objects of a series that are not there."""
        ...

    def replaced(self, planned: Planned) -> str:
        """Identifier of the newest series that is there of another version of the map; empty if there is none."""
        ...

    def store(self, planned: Planned, made: Iterable[Dataset]) -> None:
        """Take objects of a series."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedObjects(Exported):
    """What `export_dicom` has stored, in series, and what was there already."""

    stored: int
    there: int


def export_dicom(
    cohort: Cohort,
    receiver: Receiver,
    selection: Selection | None = None,
    *,
    form: Form = Form.PARAMETRIC_MAP,
    subjects: Subjects | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExportedObjects:
    """Bring the maps of sessions that have some and count to a receiver, one series per map and per uncertainty.

    Parameters
    ----------
    subjects
        Whose maps they are said to be; default: the pseudonyms'.
    progress
        Called with the number of sessions done and of all.

    Raises
    ------
    StoreError
        If the selection names what the store does not have, or the receiver is a folder that cannot be written.
    ServerError
        If the receiver is a server that fails.
    """
    selection, subjects = selection or Selection(), subjects or pseudonyms()
    chosen = choose(cohort, selection)
    export = _Export(cohort, receiver, selection, form, subjects)
    n_sessions = 0
    for done, record in enumerate(chosen.records, 1):
        try:
            has_maps = export.session(record)
        except NoSubjectError as error:
            chosen.left_out[str(error)] += 1
        else:
            n_sessions += has_maps
            if not has_maps:
                chosen.left_out[chosen.obstacle(record)] += 1
        if progress is not None:
            progress(done, len(chosen.records))
    return ExportedObjects(
        sessions=n_sessions,
        left_out=dict(sorted(chosen.left_out.items())),
        chosen=chosen.sessions,
        stored=export.stored,
        there=export.there,
    )


class _Export:
    """One run, and the number of series that it has stored and met."""

    def __init__(
        self, cohort: Cohort, receiver: Receiver, selection: Selection, form: Form, subjects: Subjects
    ) -> None:
        self._cohort, self._receiver, self._selection = cohort, receiver, selection
        self._form, self._subjects = form, subjects
        self._made = snapshot_of(cohort.repository, cohort.snapshot).time
        self.stored = self.there = 0

    def session(self, record: Record) -> bool:
        """Export a session; whether it has maps. What is there already is not read."""
        slot = self._cohort.slots[str(record["session"])]
        known = self._cohort.read(slot, [DIGEST.name, "affine"])
        digests = dict(zip(IMAGE_NAMES, map(str, known[DIGEST.name]), strict=True))
        if not digests["T1map"]:
            return False
        study = self._subjects.study(record)
        shape = self._cohort.nodes.array(slot.group, "T1map").shape[1:]
        planned = [
            self._planned(one, record, study, digests[one.variable], known["affine"], shape)
            for one in QUANTITIES
            if digests[one.variable]
        ]
        lacking = {one: missing for one in planned if (missing := self._receiver.lacking(one))}
        self.there += len(planned) - len(lacking)
        if not lacking:
            return True
        arrays = self._cohort.read(slot, [one.quantity.variable for one in lacking])
        if not any(np.isfinite(array).any() for array in arrays.values()):  # its maps have failed
            return False
        subject = self._subjects.subject(record)
        for one, missing in lacking.items():
            array = arrays[one.quantity.variable]
            if not np.isfinite(array).any():
                continue
            made = Map(
                quantity=one.quantity,
                record=record,
                array=array,
                affine=known["affine"],
                study=study,
                series=one.series,
                made=self._made,
                zeros=self._selection.zeros,
                replaced=self._receiver.replaced(one),
            )
            found = objects(made, subject, self._form)
            self._receiver.store(one, (dataset for dataset in found if dataset.SOPInstanceUID in missing))
            self.stored += 1
        return True

    def _planned(
        self,
        quantity: Quantity,
        record: Record,
        study: str,
        digest: str,
        affine: NDArray[np.float64],
        shape: tuple[int, ...],
    ) -> Planned:
        rests_on: Mapping[str, Any] = {name: record[name] for name in RESTS_ON}
        content = (quantity.variable, digest, affine.astype("<f8").tobytes().hex(), *rests_on.values())
        how = (LAYOUT, self._form, self._selection.zeros)
        series = uid_of("series", study, record["session"], *how, *content)
        n_instances = n_objects(shape, affine, self._form)
        return Planned(
            place=self._subjects.place(record),
            quantity=quantity,
            form=self._form,
            study=study,
            series=series,
            instances=tuple(instance_of(series, number) for number in range(1, n_instances + 1)),
        )
