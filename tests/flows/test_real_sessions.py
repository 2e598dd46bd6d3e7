"""Real scans: clinical 2D sessions whose parameters are assumed, and DICOM T1w series that stand alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

from flows.ingest.run import ingest
from flows.ingest.session_plan import plan_sessions
from qmri_core.physics.header import acquisition_from_header
from qmri_core.series.acquisition import Contrast, PulseSequence
from qmri_core.series.classification import SkipReason
from qmri_core.series.grouping import scanner_key
from storage.source.discovery import discover, load_assumptions
from storage.store.cohort import Cohort
from storage.store.schema import Reason, Status
from tests.flows.end_to_end import finite, qmri

DATA = Path(os.environ.get("QMRI_DATA_DIR", Path(__file__).parents[2].parent / "shared" / "data"))
OPEN_MS = DATA / "sessions" / "open_ms_longitudinal"
ASSUME = Path(__file__).parents[1] / "data" / "assume_open_ms.yaml"
KEY = bytes(32)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not OPEN_MS.is_dir(), reason="no real data: set QMRI_DATA_DIR to the folder that holds sessions/ and dicom/"
    ),
]


def test_what_is_assumed_reaches_complete_sessions_only() -> None:
    assume = load_assumptions(ASSUME)
    found = discover(OPEN_MS, key=KEY, assume=assume)
    assert found.unmatched == ()
    plans = {plan.series[0].paths[0]: plan for plan in plan_sessions(found.series)}
    complete = {
        Path(path).parent.relative_to(OPEN_MS).as_posix()
        for path, plan in plans.items()
        if plan.status is Status.COMPLETE
    }
    assert complete == {f"patient{number}/study{study}" for number in ("01", "12") for study in (1, 2)}
    rest = [plan for plan in plans.values() if plan.status is not Status.COMPLETE]
    assert {(plan.status, plan.reason) for plan in rest} == {(Status.SKIPPED, Reason.NO_PARAMETERS)}
    for plan in plans.values():
        assert plan.status is not Status.COMPLETE or len(plan.series) == 3  # neither masks nor lesions
        for acquisition in plan.acquisitions.values():
            assert acquisition.field_strength == 1.5
            assert acquisition.mark("echo_time") == acquisition.mark("field_strength") == "assumed"
    # the same person twice with one protocol is one group; another slice thickness is another
    (twice,) = {
        plan.placement.group for path, plan in plans.items() if "patient12/study" in path and plan.placement is not None
    }
    assert "_t2w-tse-tr4500-te100_flair-irtse-tr9000-ti2500_" in twice


def test_sessions_without_t2w_end_partial_where_the_rest_is_stated(tmp_path: Path) -> None:
    assume = tmp_path / "assume.yaml"
    assume.write_text(ASSUME.read_text().replace("patient12/", "patient*/"))
    plans = plan_sessions(discover(OPEN_MS, key=KEY, assume=load_assumptions(assume)).series)
    partial = [plan for plan in plans if plan.status is Status.PARTIAL]
    assert len(partial) == 2
    assert {plan.explanation for plan in partial} == {"no T2w"}


@pytest.mark.parametrize(
    "studies",
    [
        pytest.param(["patient12/study1"], id="one", marks=pytest.mark.walk),
        pytest.param(
            [f"patient{number}/study{study}" for number in ("01", "12") for study in (1, 2)],
            id="all",
            marks=pytest.mark.soak,  # four minutes
        ),
    ],
)
def test_raw_clinical_sessions_become_maps_and_a_report(
    studies: list[str], checkpoint: Path, workers: Client, tmp_path: Path
) -> None:
    source, store, key = tmp_path / "source", tmp_path / "store", tmp_path / "key"
    for study in (*studies, "patient19/study2"):
        shutil.copytree(OPEN_MS / study, source / study)
    ingested = qmri("ingest", source, "--store", store, "--assume", ASSUME, key_file=key, workers=workers, timeout=800)
    assert ingested.returncode == 0, ingested.stderr
    n = len(studies)
    assert f"{n + 1} sessions found = {n} complete + 0 partial + 1 skipped + 0 failed" in ingested.stdout
    infer = qmri("infer", "--store", store, "--checkpoint", checkpoint, key_file=key, workers=workers)
    assert infer.returncode == 0, infer.stderr
    aggregate = qmri("aggregate", "--store", store, "--out", tmp_path / "tables", key_file=key, workers=workers)
    assert aggregate.returncode == 0, aggregate.stderr
    report = qmri("report", "--store", store, "--out", tmp_path / "report", key_file=key, workers=workers)
    assert report.returncode == 0, report.stderr

    stored = Cohort.open(store).sessions.set_index("session")
    assert len(stored) == n
    assert ((stored["brain_volume"] > 0.9) & (stored["brain_volume"] < 1.8)).all()
    assert (stored["coverage"] > 0.9).all()
    # aligned: shifted by 2 cm, the mutual information of these images is about 0.1
    assert (stored[["T2w_alignment", "FLAIR_alignment"]] > 0.3).all(axis=None)
    for _, of_person in stored.groupby("person"):
        assert of_person["brain_volume"].max() / of_person["brain_volume"].min() < 1.1  # scanned twice
    marks = dict(json.loads(stored["T2w_model_parameters"].iloc[0])["marks"])
    assert marks["repetition_time"] == marks["echo_time"] == "assumed"
    for slot in Cohort.open(store).slots.values():
        volumes = Cohort.open(store).read(slot, ["T1map", "T2map", "PDmap", "brain_mask", "tissue"])
        for name in ("T1map", "T2map", "PDmap"):
            np.testing.assert_array_equal(finite(volumes[name]), volumes["brain_mask"] == 1, name)
        white, grey, fluid = (np.median(volumes["T1map"][volumes["tissue"] == label]) for label in (3, 2, 1))
        assert 0.3 < white < grey < 2.5
        assert grey < fluid
        slow, fast = (np.median(volumes["T2map"][volumes["tissue"] == label]) for label in (1, 3))
        assert 0.04 < fast < 0.12 < slow
    assert "WM T1 [ms]" in aggregate.stdout
    assert "<img" in (tmp_path / "report" / "report.html").read_text()
    told = ingested.stdout + ingested.stderr + infer.stdout + Cohort.open(store).catalogue.to_csv()
    assert not re.search(r"patient(01|12|19)", told)


@pytest.mark.parametrize(
    ("name", "scanner", "repetition_time", "inversion_time"),
    [
        ("philips-mprage-classic", "philips-", None, 0.9),
        ("siemens-xa30-mprage-enhanced", "siemens-", 1.8, 0.9),
    ],
)
@pytest.mark.walk
def test_a_real_t1w_alone_is_read_and_recognised_and_lacks_contrasts(
    name: str, scanner: str, repetition_time: float | None, inversion_time: float, workers: Client, tmp_path: Path
) -> None:
    with tarfile.open(DATA / "dicom" / name / f"{name}.tar.gz") as archive:
        archive.extractall(tmp_path / "source", filter="data")
    inspect = qmri("inspect", tmp_path / "source", key_file=tmp_path / "key")
    assert inspect.returncode == 0, inspect.stderr
    assert "T1w mprage" in inspect.stdout
    assert "missing_contrast" in inspect.stdout
    (plan,) = plan_sessions(discover(tmp_path / "source", key=KEY).series)
    assert (plan.status, plan.reason, plan.placement) == (Status.SKIPPED, Reason.MISSING_CONTRAST, None)
    assert list(plan.chosen) == [Contrast.T1W]
    taken = [decision for decision in plan.decisions if decision.reason is None]
    assert [(decision.contrast, decision.sequence) for decision in taken] == [(Contrast.T1W, PulseSequence.MPRAGE)]
    others = {decision.reason for decision in plan.decisions if decision.reason is not None}
    assert others <= {SkipReason.DUPLICATE}
    one = plan.chosen[Contrast.T1W]
    assert one.header.magnetic_field_strength == pytest.approx(3.0, abs=0.2)
    assert scanner_key(one.header, one.device).startswith(scanner)
    assert scanner_key(one.header, one.device).endswith(f"-3t-{one.device}")
    acquisition = acquisition_from_header(one.header, Contrast.T1W, PulseSequence.MPRAGE)
    assert acquisition.inversion_time == pytest.approx(inversion_time, abs=0.15)
    assert acquisition.repetition_time == pytest.approx(repetition_time or acquisition.repetition_time)
    assert acquisition.repetition_time > 1.0  # a cycle between inversions, not an echo spacing
    summary = ingest(tmp_path / "source", str(tmp_path / "store"), key=KEY, client=workers)
    assert (summary.found, summary.skipped, summary.reasons, summary.exit_status) == (1, 1, {"missing_contrast": 1}, 0)
    (row,) = Cohort.open(tmp_path / "store").catalogue.to_dict("records")
    assert (row["status"], row["reason"], row["contrasts"], row["group"]) == ("skipped", "missing_contrast", "T1w", "")
