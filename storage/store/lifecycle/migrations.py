"""Steps that bring a store from each older version of the schema to the next; `upkeep.migrate` takes them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import zarr

from qmri_core.mapping.checkpoint import FILE_DIGESTS_BEFORE, CheckpointError, content_digest
from qmri_core.series.acquisition import CONTRASTS
from storage.store.checkpoints import NODE, PROMOTED, keep
from storage.store.labels import give_labels
from storage.store.schema import (
    CATALOGUE_COLUMNS,
    DIGEST,
    IMAGE_NAMES,
    IMAGES,
    SESSION_VARIABLES,
    Variable,
    create_image_names,
    create_variable,
)
from storage.store.slots import group_paths
from storage.store.tables import array_of, column, group_of, groups_of


def _join_digests(root: zarr.Group) -> None:
    """Version 2 has one array for the digests of all images; images keep the codec that they were written with."""
    for path in group_paths(root):
        group = group_of(root, path)
        old = [f"{name}_digest" for name in IMAGE_NAMES]
        columns = [column(array_of(group, name)) for name in old]
        create_variable(group, DIGEST, (len(columns[0]), len(IMAGES)))
        create_image_names(group)
        array_of(group, DIGEST.name)[...] = np.stack(columns, axis=1)
        for name in old:
            del group[name]


def _add_tissue_signals(root: zarr.Group) -> None:
    """Version 3 keeps the signals of grey matter and CSF; calibrations that rest on white matter alone end."""
    for path in group_paths(root):
        group = group_of(root, path)
        n_sessions = len(column(array_of(group, "session")))
        for contrast in CONTRASTS:
            for tissue in ("grey_matter", "csf"):
                create_variable(group, SESSION_VARIABLES[f"{contrast}_{tissue}_signal"], (n_sessions,))
    if "calibration" in root:
        del root["calibration"]


def _to_version_4(root: zarr.Group) -> None:
    """Integers stay integers, groups have labels, and releases make nothing stale; no chunk of an image is touched."""
    _keep_integers(root)
    _name_by_content(root)
    _add_remarks(root)
    _add_figures(root)
    _add_later_values(root)
    in_catalogue = groups_of(root).values()
    give_labels(root, dict.fromkeys((*in_catalogue, *group_paths(root))))


def _add_remarks(root: zarr.Group) -> None:
    """Older ingests made none, and told no stages: the columns are empty until a session is ingested again."""
    _create(group_of(root, "catalogue"), [CATALOGUE_COLUMNS[name] for name in ("remarks", "stages")])


def _add_figures(root: zarr.Group) -> None:
    """Figures of ghosts and focus: not known until a session is ingested again."""
    names = [f"{contrast}_{figure}" for contrast in CONTRASTS for figure in ("ghosts", "focus")]
    for path in group_paths(root):
        _create(group_of(root, path), [SESSION_VARIABLES[name] for name in names])
    _create(group_of(root, "catalogue"), [CATALOGUE_COLUMNS[name] for name in names])


def _add_later_values(root: zarr.Group) -> None:
    """Not known until an ingest runs where the site keeps days, and until maps are made again."""
    for path in group_paths(root):
        _create(group_of(root, path), [SESSION_VARIABLES[name] for name in ("scanner_day", "synthesis_residual")])


def _create(group: zarr.Group, variables: Sequence[Variable]) -> None:
    """Create variables with one value per session, where they are not there."""
    n_sessions = len(column(array_of(group, "session")))
    for variable in variables:
        if variable.name not in group:
            create_variable(group, variable, (n_sessions,))


def _keep_integers(root: zarr.Group) -> None:
    """State *not computed* as a flag value of masks and classes: xarray makes floats of what has a fill value."""
    for path in group_paths(root):
        for variable in IMAGES:
            if variable.flags:
                array_of(group_of(root, path), variable.name).attrs.put(variable.attributes)


def _name_by_content(root: zarr.Group) -> None:
    """Name checkpoints by their content, and take the version of the package out of what statistics rest on.

    Version 3 names them by the SHA-256 of their file; its statistics rest on checkpoint, calibration, input, package
    and preprocessing, in this order. A checkpoint that neither the store holds nor the package has ever brought keeps
    its name, which inference knows when it is given that file again.
    """
    names = {**FILE_DIGESTS_BEFORE, **_renamed_checkpoints(root)}
    for path in (*group_paths(root), "catalogue"):
        array = array_of(root, f"{path}/checkpoint_digest")
        before = [str(name) for name in column(array)]
        after = [names.get(name, name) for name in before]
        if after != before:
            array[...] = np.asarray(after, dtype=object)
    if "statistics" in root and "made_with" in group_of(root, "statistics"):
        array = array_of(root, "statistics/made_with")
        parts = [str(text).split(",") for text in column(array)]
        texts = [",".join((names.get(each[0], each[0]), *each[1:3], *each[4:])) for each in parts]
        array[...] = np.asarray(texts, dtype=object)


def _renamed_checkpoints(root: zarr.Group) -> dict[str, str]:
    """Rename the checkpoints that the store holds; the new name of each by the old one.

    Those that are damaged, or of a format that nothing reads any more, keep their names.
    """
    names: dict[str, str] = {}
    if NODE not in root:
        return names
    node = group_of(root, NODE)
    for name, array in sorted(node.arrays()):
        content = np.asarray(array[...], dtype=np.uint8).tobytes()
        if hashlib.sha256(content).hexdigest() != name:
            continue
        with contextlib.suppress(CheckpointError):
            names[name] = content_digest(content, name=name)
            record: Any = array.attrs["record"]
            keep(node, names[name], content, record)
            del node[name]
    promoted = str(root.attrs.get(PROMOTED, ""))
    if promoted in names:
        root.attrs[PROMOTED] = names[promoted]
    return names


MIGRATIONS: dict[int, Callable[[zarr.Group], None]] = {1: _join_digests, 2: _add_tissue_signals, 3: _to_version_4}
"""From each older version to the next."""
