"""Short labels of groups, such as ``Skyra-2``: given once, kept in the store, and never given to another group.

The root attribute `LABELS` holds the label of every group that the store has ever had, so that a group that comes back
has the label that it had; the group's node has its own as the attribute ``label``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import zarr

from storage.store.tables import group_of

LABELS = "group_labels"
"""Root attribute: label of each group by its key, those of groups that are gone included."""
LABEL = "label"
"""Attribute of a group's node."""

MAX_WORDS = 3
"""Words of a scanner's model that a label takes."""

_SCANNER = re.compile(r"(?P<manufacturer>[^-]+)-(?P<model>.+)-(?:[0-9.]+t|unknown-field)-")


def labels_in(root: zarr.Group) -> dict[str, str]:
    """Label of every group that the store has ever had, by the group's key, in the order of the labels."""
    stated: Any = root.attrs.get(LABELS, {})
    return in_order(stated)


def in_order(labels: Mapping[str, str]) -> dict[str, str]:
    """The same labels, sorted by name and number."""
    return dict(sorted(labels.items(), key=lambda item: _parts(item[1])))


def with_labels(groups: Iterable[str], given: Mapping[str, str]) -> dict[str, str]:
    """The labels that were ``given``, and one for each of the ``groups`` that has none, numbered in their order.

    A label is the scanner's model in words (its manufacturer where the model is unknown) and the next number that no
    group of that name has ever had.
    """
    labels = dict(given)
    for group in groups:
        if group not in labels:
            name = model_name(group)
            taken = (number for other, number in map(_parts, labels.values()) if other == name)
            labels[group] = f"{name}-{max(taken, default=0) + 1}"
    return in_order(labels)


def give_labels(root: zarr.Group, groups: Iterable[str]) -> None:
    """Label those of the groups' nodes that have no label yet, in the order that is given."""
    before: Any = root.attrs.get(LABELS, {})
    labels = with_labels(groups := list(groups), before)
    if labels != before:
        root.attrs[LABELS] = labels
    for group in groups:
        node = group_of(root, group)
        if node.attrs.get(LABEL) != labels[group]:
            node.attrs[LABEL] = labels[group]


def model_name(group: str) -> str:
    """Model of the scanner of a group in words, from the group's key: ``Ingenia-Elition-X``, ``Skyra``, ``MR750W``."""
    scanner = group.split("/")[0]
    match = _SCANNER.match(scanner)
    model = scanner if match is None else match["manufacturer"] if match["model"] == "model" else match["model"]
    words = [word for word in re.split(r"[^a-z0-9]+", model.lower()) if word]
    return "-".join(word.upper() if re.search(r"\d", word) else word.capitalize() for word in words[:MAX_WORDS])


def _parts(label: str) -> tuple[str, int]:
    name, _, number = label.rpartition("-")
    return name, int(number)
