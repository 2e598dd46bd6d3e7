"""Labels that people have drawn or an atlas brings: NIfTI images of whole numbers, and tables of their names."""

from __future__ import annotations

import csv
import hashlib
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from qmri_core.series.geometry import Volume
from storage.source.bids.place import place_of
from storage.source.damage import NIBABEL, DamagedError, library_errors

LARGEST = 2**24
"""Labels are kept as float32, which holds whole numbers so far."""
LONGEST_NAME = 64


class LabelsError(ValueError):
    """A file of labels, or of their names, cannot be used."""


def read_labels(path: Path) -> Volume:
    """An image of labels, 0 for none.

    Raises
    ------
    LabelsError
        If the file is damaged, is not of three axes, does not say where it lies, or holds anything but whole numbers
        from 0 to `LARGEST`.
    """
    try:
        with library_errors(NIBABEL):
            image: Any = nibabel.load(path)
            array = np.asarray(image.dataobj)
    except DamagedError as error:
        raise LabelsError(f"{path.name} cannot be read as NIfTI ({error.kind})") from None
    if array.ndim > 3 and array.shape[3:] == (1,) * (array.ndim - 3):
        array = array.reshape(array.shape[:3])
    if array.ndim != 3 or array.dtype.kind not in "iuf":
        raise LabelsError(f"{path.name} is not one volume of numbers, but of shape {array.shape}, {array.dtype}")
    if not (
        np.isfinite(array).all() and (array == np.rint(array)).all() and array.min() >= 0 and array.max() < LARGEST
    ):
        raise LabelsError(f"{path.name} holds values that are no labels: whole numbers from 0 to {LARGEST} are")
    if not array.any():
        raise LabelsError(f"{path.name} is empty: all of its labels are 0")
    place = place_of(image.header, array.shape)
    if place.problem:
        raise LabelsError(f"{path.name}: {place.problem}")
    return Volume(array=np.ascontiguousarray(array.T, dtype=np.float32), affine=place.affine)


def read_label_names(path: Path) -> dict[int, str]:
    """What each label is called: columns ``index`` and ``name`` (BIDS, ``dseg.tsv``), TSV, or CSV by the file's name.

    What is neither a letter, a digit nor one of ``_ - +`` becomes ``_``.

    Raises
    ------
    LabelsError
        With the line, if a column is missing, an index is no whole number above 0, or an index or name comes twice.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t"))
    if not lines or not {"index", "name"} <= set(lines[0]):
        raise LabelsError(f"{path.name} needs the columns index and name, and a line for each label")
    names: dict[int, str] = {}
    for number, line in enumerate(lines, start=2):
        where = f"{path.name}, line {number}"
        text = (line["index"] or "").strip()
        name = re.sub(r"[^A-Za-z0-9_+-]+", "_", (line["name"] or "").strip())
        if not text.isdecimal() or not 0 <= int(text) < LARGEST:
            raise LabelsError(f"{where}: the index is no whole number from 0 to {LARGEST}")
        if int(text) == 0:  # BIDS lets the background have a line
            continue
        if not 0 < len(name) <= LONGEST_NAME:
            raise LabelsError(f"{where}: a name has 1 to {LONGEST_NAME} characters")
        if int(text) in names or name in names.values():
            raise LabelsError(f"{where}: label {text} or its name {name} stands twice")
        names[int(text)] = name
    return names


def digest_of(*paths: Path) -> str:
    """Short digest of what files hold."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
