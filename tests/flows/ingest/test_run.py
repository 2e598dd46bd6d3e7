"""The linkage table, which names what is in a source as the source does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.ingest.run import write_linkage
from storage.source.discovery import LinkageRow


@pytest.mark.parametrize("name", [b"M\xfcller", "Müller".encode(), b'a,"b"\n'])
def test_the_linkage_table_holds_the_very_bytes_of_a_name(tmp_path: Path, name: bytes) -> None:
    row = LinkageRow(session="ses-1", patient_id="1", study_instance_uid="2", path=os.fsdecode(name))
    write_linkage([row], tmp_path / "linkage.csv")
    assert name.replace(b'"', b'""') in (tmp_path / "linkage.csv").read_bytes()
