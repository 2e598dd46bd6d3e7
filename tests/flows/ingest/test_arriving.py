"""Sessions that still arrive, as `inspect` tells them: what the night would leave for the next one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.ingest import arriving
from flows.ingest.inspection import Inspection, inspect_source
from flows.ingest.rows import known_rows
from storage.store.cohort import Cohort
from tests.flows.ingest.test_source_plans import KEY, record, source
from tests.storage.slices import voxels, write_series


def told(folder: Path, quiet_for: float, known: Mapping[str, Mapping[str, object]] | None = None) -> Inspection:
    with inspect_source(folder, key=KEY, quiet_for=quiet_for, known=known or {}) as inspection:
        rows = list(inspection.rows())
    assert [session[1:3] for _, session, _ in rows if session] == [
        problem.name.split(", ") for problem in inspection.problems if problem.of == "session"
    ]
    return inspection


def names(inspection: Inspection) -> set[str]:
    return {problem.name for problem in inspection.problems}


@pytest.mark.parametrize("quiet_for", [3600.0, 0.0])
def test_a_new_session_whose_files_have_just_changed(tmp_path: Path, quiet_for: float) -> None:
    inspection = told(source(tmp_path / "in"), quiet_for)
    is_left = quiet_for > 0
    assert ("skipped, still_arriving" in names(inspection)) is is_left
    assert inspection.need.n_sessions == (0 if is_left else 1)
    assert len(inspection.group_sizes) == (0 if is_left else 1)
    assert (inspection.n_sessions, inspection.n_series) == (1, 2)


def test_a_session_that_has_been_quiet_for_long_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = source(tmp_path / "in")
    time.sleep(0.05)
    between = time.time()
    time.sleep(0.05)
    write_series(tmp_path / "in" / "late", voxels(3), PatientID="another", StudyInstanceUID="1.2.3")
    monkeypatch.setattr(arriving, "time", SimpleNamespace(time=lambda: between + 100))
    inspection = told(folder, 100.0)
    assert {problem.name: problem.count for problem in inspection.problems if problem.of == "session"} == {
        "skipped, still_arriving": 1,
        "partial, missing_contrast": 1,
    }


def test_a_stored_session_is_left_only_where_it_would_be_ingested_again(tmp_path: Path) -> None:
    folder, store, assume = source(tmp_path / "in"), str(tmp_path / "store"), tmp_path / "assume.yaml"
    assume.write_text("[]")
    record(folder, store, assume, by_software=False)
    known = known_rows(Cohort.open(store))
    inspection = told(folder, 3600.0, known)
    assert "skipped, still_arriving" not in names(inspection)
    assert inspection.need.n_sessions == 0
    write_series(folder / "1.0", voxels(1, seed=5), SeriesNumber="1", ImagePositionPatient=[-80, -80, -80])
    assert "skipped, still_arriving" in names(told(folder, 3600.0, known))
    assert "skipped, still_arriving" not in names(told(folder, 0.0, known))
