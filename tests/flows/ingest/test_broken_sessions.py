"""Broken sessions: what ingest decides of each before decoding, and (soak) what becomes of each after it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from distributed import Client

from flows.ingest.session_plan import SessionPlan, plan_sessions
from qmri_core.simulation.faults import EXPECTATIONS, Fault
from storage.simulated.truth import manifest_row
from storage.simulated.writer import write_session
from storage.source.discovery import SourceError, discover
from storage.store.cohort import Cohort
from storage.store.schema import Reason, Status
from tests.simulated import plan_with, quick_session

LATER = {"read_error", "field_of_view", "brain_mask", "alignment"}
"""Reasons that show only when pixels are decoded and images aligned."""


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[Fault, SessionPlan]:
    """What ingest plans for each kind of broken session, all in one source."""
    folder = tmp_path_factory.mktemp("faults")
    studies = {}
    for fault in Fault:
        session = quick_session(plan_with(fault), resolution=16.0)
        write_session(session, folder)
        studies[session.plan.study_instance_uid] = fault
    found = discover(folder, key=bytes(32))
    assert (
        found.unreadable["not_image"] >= 1
    )  # the file that ends within its header names no study: no session of its own
    faults = {row.session: studies[row.study_instance_uid] for row in found.linkage}
    return {faults[plan.session]: plan for plan in plan_sessions(found.series)}


def test_expectations_use_the_names_of_the_catalogue() -> None:
    assert set(EXPECTATIONS) == set(Fault)
    for expected in EXPECTATIONS.values():
        assert expected.status in set(Status)
        assert expected.reason in {*Reason, ""}
        assert expected.series_reason in {*Reason, ""}
        assert (expected.reason == "") == (expected.status == "complete")


@pytest.mark.parametrize("fault", Fault)
def test_every_session_is_planned_as_it_must_be(fault: Fault, plans: dict[Fault, SessionPlan]) -> None:
    expected, plan = EXPECTATIONS[fault], plans[fault]
    if expected.reason in LATER:
        assert plan.status == Status.COMPLETE
        return
    assert (str(plan.status), str(plan.reason or "")) == (expected.status, expected.reason)
    row = manifest_row(quick_session(plan_with(fault), resolution=40.0)) if expected.contrast else None
    if row is not None and row["series_number"]:
        assert str(plan.chosen[expected.contrast].number) == row["series_number"]
    if expected.series_reason:
        reasons = {str(one.reason) for one in plan.decisions if one.contrast is expected.contrast}
        if fault is not Fault.MIXED_ORIENTATION:  # whether it is a scout or incomplete is a matter of taste
            assert expected.series_reason in reasons | {str(d.reason) for d in plan.decisions}


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_every_session_ends_as_its_manifest_says(tmp_path: Path, workers: Client) -> None:
    """About seven minutes on two cores."""
    from flows.ingest.run import ingest
    from flows.simulate import simulate
    from flows.tables.text import records
    from storage.pseudonyms import load_key

    simulated = simulate(
        tmp_path / "in", sessions=len(Fault), groups=4, resolution=3.0, seed=3, design="faults", client=workers
    )
    store, linkage = str(tmp_path / "store"), tmp_path / "linkage.csv"
    ingest(simulated.out, store, key=load_key(tmp_path / "key"), linkage=linkage, client=workers)
    rows = {str(row["session"]): row for row in records(Cohort.open(store).catalogue)}
    with linkage.open(encoding="utf-8") as file:
        sessions = {row["study_instance_uid"]: row["session"] for row in csv.DictReader(file)}
    with (simulated.truth / "manifest.csv").open(encoding="utf-8") as file:
        manifest = list(csv.DictReader(file))
    assert [row["fault"] for row in manifest] == list(Fault)
    wrong = {}
    for row in manifest:
        found = rows[sessions[row["study_instance_uid"]]]
        got = str(found["status"]), str(found["reason"] or "")
        if got != (row["status"], row["reason"]):
            wrong[row["fault"]] = got
    assert not wrong


def test_source_of_foreign_files_alone_is_refused(tmp_path: Path) -> None:
    for file in ("README", "empty"):
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(SourceError, match="none of them DICOM"):
        discover(tmp_path, key=bytes(32))
