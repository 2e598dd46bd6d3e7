"""A group has one label, whatever shows it: that of the store, not a number of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import zarr
from distributed import Client
from typer.testing import CliRunner

from flows.cli.main import app
from flows.cluster.clusters import dask_client
from flows.deployed import publish
from flows.ingest.inspection import Inspection, cohort_at, labels_to_be
from flows.report.build import write_report
from flows.settings import Settings
from flows.statistics.aggregate import aggregate
from storage.store.cohort import writing
from storage.store.labels import LABELS
from storage.store.tables import change
from tests.flows.tiny_cohort import GROUPS, make_store

LABELLED = {GROUPS[0]: "Prisma-4", GROUPS[1]: "Ingenia-7"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two groups with labels of a longer life than the store has had."""

    def relabel(root: zarr.Group) -> None:
        root.attrs[LABELS] = LABELLED | {"siemens-prisma-3t-9/gone": "Prisma-5"}
        for group, label in LABELLED.items():
            root[group].attrs["label"] = label

    location = make_store(tmp_path_factory.mktemp("labels"))
    with writing(location) as repository:
        change(repository, relabel, "labels", {})
    return location


def test_tables_report_and_artifacts_show_the_labels_of_the_store(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, Any] = {}

    def keep(content: object, *, key: str, **_: object) -> None:
        shown[key] = content

    monkeypatch.setattr(publish, "create_table_artifact", keep)
    monkeypatch.setattr(publish, "create_markdown_artifact", keep)
    with dask_client(Settings.model_construct(workers=1), processes=False) as client:
        assert isinstance(client, Client)
        result = aggregate(store, client=client)
    publish.publish_report("run", result, None)
    assert [row["group"] for row in shown["run-groups"]] == ["Ingenia-7", "Prisma-4"]
    assert shown["run-labels"] == f"- Ingenia-7 = `{GROUPS[1]}`\n- Prisma-4 = `{GROUPS[0]}`"
    page = write_report(store, tmp_path, aggregate=result).read_text(encoding="utf-8")
    assert set(re.findall(r"\b(?:Prisma|Ingenia)-\d+", page)) == set(LABELLED.values())
    status = CliRunner().invoke(app, ["status", "--store", store])
    assert set(re.findall(r"\b(?:Prisma|Ingenia)-\d+", status.output)) == set(LABELLED.values())


@pytest.mark.parametrize("is_known", [True, False])
def test_inspect_shows_the_labels_that_groups_have_or_would_get(store: str, tmp_path: Path, *, is_known: bool) -> None:
    new = GROUPS[0].replace("2300", "1900")
    whole = f"{GROUPS[1]}01234567"  # as keys of now end; the store has the short one of release 0.1
    sizes = dict.fromkeys((new, GROUPS[0], whole), 1)
    source = Inspection(n_sessions=3, n_series=3, n_files=3, other_files={}, group_sizes=sizes, unmatched=())
    labels, unsure = labels_to_be(source, cohort_at(store if is_known else str(tmp_path / "none yet")))
    if is_known:
        assert labels == {GROUPS[0]: "Prisma-4", whole: "Ingenia-7", new: "Prisma-6"}
        assert unsure == {new}
    else:
        assert labels == {new: "Prisma-1", GROUPS[0]: "Prisma-2", whole: "Ingenia-1"}
        assert unsure == set(labels)
        assert labels_to_be(source, None) == (labels, unsure)
