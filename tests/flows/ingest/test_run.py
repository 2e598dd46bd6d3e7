"""The linkage table, which names what is in a source as the source does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.deployed.run import ingest_options
from flows.ingest.run import write_linkage
from flows.settings import read_settings
from storage.source.discovery import LinkageRow


@pytest.mark.parametrize("name", [b"M\xfcller", "Müller".encode(), b'a,"b"\n'])
def test_the_linkage_table_holds_the_very_bytes_of_a_name(tmp_path: Path, name: bytes) -> None:
    row = LinkageRow(session="ses-1", patient_id="1", study_instance_uid="2", path=os.fsdecode(name))
    write_linkage([row], tmp_path / "linkage.csv")
    assert name.replace(b'"', b'""') in (tmp_path / "linkage.csv").read_bytes()


@pytest.mark.parametrize(("minutes", "stated"), [(None, {}), (0, {"quiet_for": 0.0}), (2, {"quiet_for": 120.0})])
def test_a_deployment_waits_for_quiet_files_as_the_setting_says(
    tmp_path: Path, minutes: float | None, stated: dict[str, float]
) -> None:
    settings = read_settings(source=str(tmp_path), key_file=tmp_path / "key", quiet_for=minutes)
    assert {name: value for name, value in ingest_options(settings).items() if name == "quiet_for"} == stated
