"""Regions that a user brings to `qmri regions`: an atlas in Montreal space, and masks drawn in sessions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qmri_core.series.geometry import Affine, Volume
from qmri_core.tissues import CSF
from storage.exports.bids import bids_session
from storage.source.labels import LabelsError, digest_of, read_label_names, read_labels
from storage.store.opened.values import MASKS, TEMPLATE

LEAST_IN_BRAIN = 0.5
"""Share of an atlas's labelled voxels that lie in the template's brain, at least; of one in another space few do."""
_ATLAS = re.compile(r"(?:^|_)(?:atlas|seg)-([A-Za-z0-9]+)")
_SESSION = re.compile(
    r"(?:^|_)ses-([A-Za-z0-9]+)_(?:[A-Za-z0-9-]+_)*?label-([A-Za-z0-9]+)_(?:[A-Za-z0-9-]+_)*mask\.nii(?:\.gz)?$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Atlas:
    """File of labels in Montreal space, what the atlas and its labels are called, and a digest of the files."""

    name: str
    image: Path
    names: Mapping[int, str]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """Masks of one session: file by label."""

    files: Mapping[str, Path]
    digest: str


def read_atlas(image: Path, names: Path) -> Atlas:
    """An atlas from an image of labels in Montreal space (MNI152) and a table of their names.

    It is called by its BIDS entity ``atlas`` or ``seg``, else by the name of its file.

    Raises
    ------
    LabelsError
        If a file cannot be used, a label of the image has no name, or the labels do not lie in Montreal space.
    """
    from qmri_core.preprocessing.template.brain import template
    from qmri_core.preprocessing.template.deformable import sampled

    labels, named = read_labels(image), read_label_names(names)
    found = {int(label) for label in np.unique(labels.array)} - {0}
    if unknown := sorted(found - set(named)):
        raise LabelsError(f"{names.name} has no name of label {unknown[0]}, which is in {image.name}")
    at = template()
    index = np.argwhere(labels.array > 0)[:, ::-1]
    places = (index @ labels.affine[:3, :3].T + labels.affine[:3, 3]).T
    inside = float((sampled(at.priors.sum(axis=0)[None], at.affine, places)[0] > 0.5).mean())
    if inside < LEAST_IN_BRAIN:
        raise LabelsError(
            f"{image.name} does not lie in Montreal space (MNI152): {inside:.0%} of its labels are in the brain"
        )
    entity = _ATLAS.search(image.name)
    name = entity[1] if entity else re.sub(r"[^A-Za-z0-9]+", "", image.name.split(".")[0])
    if name in {"", TEMPLATE, MASKS}:
        raise LabelsError(f"{image.name}: rename it, as atlas-NAME_dseg.nii.gz; it cannot be called {name!r}")
    return Atlas(name=name, image=image.resolve(), names=named, digest=digest_of(image, names))


def find_masks(folder: Path, sessions: Iterable[str]) -> dict[str, Masks]:
    """Masks below a folder by the session that their names tell, as `qmri export-bids` names files.

    That is ``sub-..._ses-SESSION_label-NAME_mask.nii.gz``, in space of the exported images, on any grid.

    Raises
    ------
    LabelsError
        If there is none, a session has two of one label, or a session of which there is a mask is not in the store.
    """
    stored = {bids_session(session): session for session in sessions}
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    unknown = 0
    for path, session, label in _named(folder):
        if session not in stored:
            unknown += 1
        elif label in files[stored[session]]:
            raise LabelsError(f"{stored[session]} has two masks of the label {label}")
        else:
            files[stored[session]][label] = path
    for of_label in files.values():
        for path in of_label.values():
            read_labels(path)  # what cannot be used is told before anything is measured
    expected = "names are sub-..._ses-SESSION_label-NAME_mask.nii.gz, with sessions as export-bids calls them"
    if unknown:
        raise LabelsError(f"{unknown} masks are of sessions that this store does not have; {expected}")
    if not files:
        raise LabelsError(f"no mask is in {folder.name}; {expected}")
    return {
        session: Masks(
            files=dict(sorted(of_label.items())), digest=digest_of(*(of_label[name] for name in sorted(of_label)))
        )
        for session, of_label in files.items()
    }


def _named(folder: Path) -> Iterator[tuple[Path, str, str]]:
    for path in sorted(folder.rglob("*_mask.nii*")):
        if found := _SESSION.search(path.name):
            yield path, f"ses-{found[1]}", found[2]


@lru_cache(maxsize=1)
def labels_of_atlas(atlas_image: Path, digest: str) -> Volume:  # noqa: ARG001 - tells one content from another
    """Labels of an atlas, read once in a process."""
    return read_labels(atlas_image)


def atlas_regions(atlas: Atlas, labels: NDArray[np.int32], tissue: NDArray[np.uint8]) -> dict[str, NDArray[np.bool_]]:
    """Voxels of each region of an atlas, by ``ATLAS.NAME``: what is labelled so, in the brain, and no fluid."""
    solid = (tissue > 0) & (tissue != CSF)
    return {f"{atlas.name}.{name}": solid & (labels == label) for label, name in atlas.names.items()}


def mask_regions(masks: Masks, mask: NDArray[np.uint8], affine: Affine) -> dict[str, NDArray[np.bool_]]:
    """Voxels of the brain that a session's masks hold, by ``masks.NAME``; of another grid the nearest voxel counts.

    Raises
    ------
    LabelsError
        If a file cannot be used.
    """
    from qmri_core.preprocessing.template.deformable import places_of, sampled

    places = places_of(mask.shape, affine)
    found = {}
    for label, path in masks.files.items():
        drawn = read_labels(path)
        found[f"{MASKS}.{label}"] = (sampled(drawn.array[None], drawn.affine, places, is_nearest=True)[0] > 0) & (
            mask > 0
        )
    return found
