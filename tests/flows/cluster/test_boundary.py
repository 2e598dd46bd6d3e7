"""The session boundary: what a worker says of a session that fails, and of one that does not."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from distributed import KilledWorker

from flows.cluster.boundary import REASONS, Outcome, Stage, at_boundary, outcome_of
from flows.cluster.dispatch import ClusterError
from flows.ingest.session import IngestTask, ingest_session
from flows.maps.batch import infer_session
from flows.maps.session import InferTask
from flows.maps.weights import Weights
from flows.statistics.session import SummariseTask, summarise_sessions, summarise_tasks
from qmri_core.calibration.population import FieldStrengthError
from qmri_core.calibration.scales import CalibrationError
from qmri_core.calibration.session_model import PersonLevels
from qmri_core.mapping.checkpoint import load_checkpoint
from qmri_core.preprocessing.alignment import AlignmentError
from qmri_core.preprocessing.brain_mask import BrainMaskError
from qmri_core.preprocessing.checks import ImageMismatchError
from qmri_core.preprocessing.session import FieldOfViewError
from qmri_core.preprocessing.tissue import TissueError
from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence
from storage.source.discovery import discover
from storage.source.series import ReadError
from storage.source.server.failures import ServerAwayError, ServerChangedError, ServerError, ServerRefusedError
from storage.store.cohort import Cohort, Placement, begin_append, begin_update, writing
from storage.store.locations import StorageFaultError
from storage.store.schema import Reason, Status
from tests.flows.tiny_cohort import GRID, GROUPS, images, make_store

SECRET = "/archive/SecretName/scan.dcm"  # noqa: S105 - a path that must not show
OWN: dict[type[Exception], Reason] = {
    AlignmentError: Reason.ALIGNMENT,
    BrainMaskError: Reason.BRAIN_MASK,
    TissueError: Reason.BRAIN_MASK,
    FieldOfViewError: Reason.FIELD_OF_VIEW,
    ImageMismatchError: Reason.IMAGE_MISMATCH,
    FieldStrengthError: Reason.FIELD_STRENGTH,
    CalibrationError: Reason.NO_CALIBRATION,
    ReadError: Reason.READ_ERROR,
    ServerError: Reason.SERVER_ERROR,
    ServerAwayError: Reason.SERVER_AWAY,
    ServerRefusedError: Reason.SERVER_REFUSED,
    ServerChangedError: Reason.SERVER_CHANGED,
}


def failing(error: BaseException) -> Outcome:
    def work(stage: Stage) -> Outcome:
        with stage("read"):
            pass
        with stage("preprocess"):
            raise error

    return at_boundary("ses-1", work)


def test_every_reason_belongs_to_an_error_that_exists() -> None:
    assert {kind.__name__: reason for kind, reason in OWN.items()} == REASONS


@pytest.mark.parametrize("kind", OWN)
def test_own_errors_keep_their_text_and_stage(kind: type[Exception]) -> None:
    outcome = failing(kind("the series share 3 % of the brain"))
    assert (outcome.status, outcome.reason, outcome.stage) == (Status.FAILED, OWN[kind], "preprocess")
    assert (outcome.error, outcome.explanation) == (kind.__name__, "the series share 3 % of the brain")
    assert outcome.fork is None
    assert outcome.duration >= 0


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        OSError(5, "Input/output error", SECRET),
        KeyError(SECRET),
        MemoryError(SECRET),
        RuntimeError(SECRET),
        UnicodeDecodeError("ascii", SECRET.encode(), 0, 1, SECRET),
        type("ReadError", (Exception,), {"__module__": "tarfile"})(SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_texts_of_other_errors_are_lost_but_not_their_place(error: Exception) -> None:
    outcome = failing(error)
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.INTERNAL_ERROR)
    assert outcome.error == type(error).__name__
    assert outcome.explanation.startswith(f"{type(error).__name__} in ")
    file, line = outcome.explanation.split(" in ")[1].split(":")
    assert file.endswith(".py")
    assert int(line) > 0
    assert "Secret" not in repr(outcome) + outcome.explanation
    assert "/" not in outcome.explanation


def test_the_place_is_the_last_line_of_our_own_code() -> None:
    def work(stage: Stage) -> Outcome:
        stage.name = "preprocess"
        nothing = np.zeros((20, 20, 20), dtype=np.uint8)
        from qmri_core.preprocessing.distances import grown

        grown(nothing > 0, (1.0, 1.0), 10.0)  # two spacings for three axes: fails inside
        raise AssertionError

    assert "IndexError in distances.py:" in at_boundary("ses-1", work).explanation


@pytest.mark.parametrize("folder", ["distributed/storage", "tool/flows/qmri_core"])
def test_a_library_is_not_ours_whatever_its_folders_are_called(folder: str) -> None:
    library = {"__name__": f"{folder.replace('/', '.')}.disk"}
    path = f"/usr/lib/python3/site-packages/{folder}/disk.py"
    exec(compile("def write():\n    raise KeyError('x')", path, "exec"), library)  # noqa: S102 - stands for a library

    def work(stage: Stage) -> Outcome:
        stage.name = "write"
        write: Any = library["write"]
        write()
        raise AssertionError

    explanation = at_boundary("ses-1", work).explanation
    assert explanation.startswith("KeyError in boundary.py:")
    assert "disk.py" not in explanation


@pytest.mark.parametrize("kind", [ClusterError, StorageFaultError])
def test_a_fault_of_cluster_or_storage_is_not_a_failed_session(kind: type[Exception]) -> None:
    with pytest.raises(kind):
        failing(kind("it does not answer"))


def test_a_worker_that_died_is_told_from_a_task_that_could_not_be_sent() -> None:
    lost = outcome_of("ses-1", "ingest", KilledWorker("task", None, 3))  # type: ignore[no-untyped-call]
    assert (lost.status, lost.reason, lost.stage) == (Status.FAILED, Reason.WORKER_LOST, "ingest")
    unsent = outcome_of("ses-1", "ingest", TypeError(f"cannot pickle {SECRET}"))
    assert (unsent.status, unsent.reason, unsent.explanation) == (Status.FAILED, Reason.INTERNAL_ERROR, "TypeError")


def test_an_interrupt_is_not_a_failed_session() -> None:
    with pytest.raises(KeyboardInterrupt):
        failing(KeyboardInterrupt())


def test_a_damaged_file_is_a_failed_session_without_a_name(tmp_path: Path) -> None:
    source, location = tmp_path / "source", tmp_path / "store"
    anat = source / "sub-SecretName" / "anat"
    anat.mkdir(parents=True)
    pixels = np.random.default_rng(0).normal(size=(20, 24, 16)).astype(np.float32)
    path = anat / "sub-SecretName_T1w.nii.gz"
    nib.save(nib.Nifti1Image(pixels, np.diag([8.0, 8.0, 10.0, 1.0])), path)
    path.write_bytes(path.read_bytes()[:5000])
    (series,) = discover(source, key=bytes(32)).series
    scanner, protocol = GROUPS[0].split("/")
    with writing(location, create=True) as repository:
        place = Placement(session=series.session, scanner=scanner, protocol=protocol, grid=GRID)
        wave = begin_append(repository, [place])
        task = IngestTask(
            slot=wave.slots[series.session],
            status=Status.COMPLETE,
            series={Contrast.T1W: ((series, True),)},
            acquisitions={},
            grid=GRID,
            fork=wave.fork,
        )
        outcome = ingest_session(task)
    assert outcome.session == series.session
    assert (outcome.status, outcome.reason, outcome.stage) == (Status.FAILED, Reason.READ_ERROR, "read")
    assert (outcome.error, outcome.fork, outcome.values) == ("ReadError", None, {})
    assert "copy it again" in outcome.explanation
    assert "Secret" not in f"{outcome!r} {outcome.explanation} {task!r}"
    assert pickle.loads(pickle.dumps(outcome)) == outcome  # noqa: S301 - made above


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(tmp_path_factory.mktemp("stages"))


ACQUISITIONS = {
    Contrast.T1W: Acquisition(
        contrast=Contrast.T1W,
        sequence=PulseSequence.SPIN_ECHO,
        repetition_time=0.6,
        echo_time=0.012,
        flip_angle=math.radians(90),
        refocusing_angle=math.pi,
        field_strength=3.0,
    ),
    Contrast.T2W: Acquisition(
        contrast=Contrast.T2W,
        sequence=PulseSequence.SPIN_ECHO,
        repetition_time=5.0,
        echo_time=0.09,
        flip_angle=math.radians(90),
        refocusing_angle=math.pi,
        field_strength=3.0,
    ),
}


def infer_task(store: str, checkpoint: Path) -> InferTask:
    name = sorted(Cohort.open(store).slots)[0]
    with writing(store) as repository:
        wave = begin_update(repository, [name])
    return InferTask(
        cohort=Cohort.open(store),
        slot=wave.slots[name],
        acquisitions=ACQUISITIONS,
        scales={Contrast.T1W: 250.0, Contrast.T2W: 300.0},
        person=PersonLevels(mean=np.zeros(4), determined=np.ones(4), spread=np.full(4, 0.04), n_people=9.0),
        is_adult=False,  # of no brain, closure does not hold
        weights=Weights(digest=load_checkpoint(checkpoint).digest, file=checkpoint),
        fork=pickle.dumps(wave.fork),
    )


def test_maps_are_written_to_the_fork(store: str, checkpoint: Path) -> None:
    import zarr

    task = infer_task(store, checkpoint)
    outcome = infer_session(task)
    assert (outcome.status, outcome.error, outcome.stage) == (Status.COMPLETE, "", "")
    assert outcome.fork is not None
    group = zarr.open_group(outcome.fork.store, path=task.slot.group, mode="r")
    written = np.asarray(group["T1map"][task.slot.index])  # type: ignore[index]
    np.testing.assert_array_equal(np.isfinite(written), images(0)["brain_mask"] == 1)
    unchanged = Cohort.open(store).read(task.slot, ["T1map"])["T1map"]
    assert (np.nan_to_num(unchanged) != np.nan_to_num(written)).any()  # readers see nothing of it yet


def test_a_checkpoint_that_changed_meanwhile_fails_the_session(store: str, checkpoint: Path) -> None:
    changed = Weights(digest="0" * 64, file=checkpoint)
    outcome = infer_session(replace(infer_task(store, checkpoint), weights=changed))
    assert (outcome.status, outcome.stage, outcome.fork) == (Status.FAILED, "load_model", None)
    assert outcome.error == "CheckpointError"


def test_a_scale_that_is_none_fails_the_session(store: str, checkpoint: Path) -> None:
    scales = {Contrast.T1W: 250.0, Contrast.T2W: float("nan")}
    outcome = infer_session(replace(infer_task(store, checkpoint), scales=scales))
    assert (outcome.status, outcome.reason, outcome.stage) == (Status.FAILED, Reason.INTERNAL_ERROR, "infer")
    assert outcome.explanation.startswith("ValueError in inference.py:")


def test_statistics_of_a_session(store: str) -> None:
    slot = Cohort.open(store).slots[sorted(Cohort.open(store).slots)[1]]
    outcome = summarise_sessions(SummariseTask(cohort=Cohort.open(store), slots=(slot,)))
    stored = Cohort.open(store).read(slot, ["T2map", "tissue"])
    (row,) = (row for row in outcome.rows if (row["tissue"], row["map"]) == ("GM", "T2map"))
    inside = stored["T2map"][stored["tissue"] == 2]
    assert len(outcome.rows) == 9
    assert (row["session"], row["group"], row["n"]) == (slot.session, slot.group, inside.size)
    assert row["median"] == pytest.approx(float(np.median(inside)), rel=1e-6)


def test_a_slot_that_belongs_to_another_fails(store: str) -> None:
    first, second, *_ = (slot for slot in Cohort.open(store).slots.values() if slot.group == GROUPS[0])
    taken = replace(first, session=second.session)
    outcome = summarise_sessions(SummariseTask(cohort=Cohort.open(store), slots=(taken,)))
    assert (outcome.status, outcome.error, outcome.stage) == (Status.FAILED, "StoreError", "read")


def test_sessions_in_one_task_have_the_rows_that_they_have_alone(store: str) -> None:
    cohort = Cohort.open(store)
    slots = tuple(slot for slot in cohort.slots.values() if slot.group == GROUPS[0])[::-1]
    together = summarise_sessions(SummariseTask(cohort=cohort, slots=slots))
    alone = [summarise_sessions(SummariseTask(cohort=cohort, slots=(slot,))) for slot in slots]
    assert len(slots) > 1
    assert repr(together.rows) == repr(tuple(row for outcome in alone for row in outcome.rows))  # NaN is not itself


@pytest.mark.parametrize("place", [0, 1])
def test_of_sessions_in_one_task_the_one_that_fails_is_named(store: str, place: int) -> None:
    cohort = Cohort.open(store)
    slots = [slot for slot in cohort.slots.values() if slot.group == GROUPS[0]]
    slots[place] = replace(slots[place], session=f"ses-{place}")
    outcome = summarise_sessions(SummariseTask(cohort=cohort, slots=tuple(slots)))
    assert (outcome.session, outcome.status, outcome.stage) == (f"ses-{place}", Status.FAILED, "read")


def test_as_many_sessions_are_in_one_task_as_their_volumes_allow(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = Cohort.open(store)
    names = sorted(cohort.slots)
    by_group = [{slot.group for slot in task.slots} for task in summarise_tasks(cohort, names)]
    assert sorted(group for (group,) in by_group) == sorted(GROUPS)
    monkeypatch.setattr("flows.statistics.session.VOXELS_PER_TASK", 1)
    single = list(summarise_tasks(cohort, names))
    assert sorted(slot.session for task in single for slot in task.slots) == names
    assert {len(task.slots) for task in single} == {1}
