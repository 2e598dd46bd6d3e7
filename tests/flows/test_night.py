"""The night run: exactly what depends on a change is done, nothing where there is none."""

from __future__ import annotations

import re
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pydicom
import pytest
from distributed import Client

from flows.calibration.calibrate import read_calibrations
from flows.ingest.rows import is_done
from flows.ingest.run import _Ingest as Ingest
from flows.maps.infer import infer
from flows.night import Reprocessed, reprocess
from flows.statistics.aggregate import read_statistics
from flows.tables.summary import RunSummary
from qmri_core.series.acquisition import Contrast
from storage.store.checkpoints import register
from storage.store.cohort import Cohort, history, open_cohort, open_repository
from storage.store.lifecycle.verify import verify
from tests.flows.end_to_end import Processed, arrays, assert_same_arrays, last_snapshot, other_weights, values

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]  # four minutes; test_deployments.py has the empty night


class Untouchable:
    """Client of a run that has nothing to do for workers."""

    def __getattr__(self, name: str) -> Any:
        pytest.fail(f"a cluster was started: {name} of its client was asked for")


def messages(store: str, *, since: str) -> list[str]:
    """Of the commits after the snapshot ``since``, oldest first."""
    snapshots = history(open_repository(store))
    (position,) = [index for index, snapshot in enumerate(snapshots) if snapshot.id == since]
    return [snapshot.message for snapshot in reversed(snapshots[:position])]


def files(store: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path(store).rglob("*") if path.is_file()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """A cohort before and after a night in which one session was added and one had changed."""

    cohort: Processed
    before: str
    added: str
    edited: str
    result: Reprocessed


@pytest.fixture(scope="module")
def cohort(processed: Processed, tmp_path_factory: pytest.TempPathFactory) -> Processed:
    """A copy whose weights are the promoted ones."""
    folder = tmp_path_factory.mktemp("night")
    copy = replace(processed, source=folder / "in", store=str(folder / "store"))
    shutil.copytree(processed.source, copy.source)
    shutil.copytree(processed.store, copy.store)
    register(copy.store, processed.checkpoint.read_bytes(), record={}, promote=True)
    return copy


def run(cohort: Processed, client: object) -> Reprocessed:
    index = Path(cohort.store).parent / "index.sqlite"
    return reprocess(cohort.source, cohort.store, key=cohort.key, client=cast(Client, client), index=index)[0]


@pytest.fixture(scope="module")
def quiet_night(cohort: Processed, workers: Client) -> tuple[Reprocessed, dict[str, int], dict[str, int]]:
    assert run(cohort, workers).snapshot is None  # nothing new either, but the source is read for the first time
    before = files(cohort.store)
    return run(cohort, Untouchable()), before, files(cohort.store)


@pytest.fixture(scope="module")
def night(cohort: Processed, quiet_night: object, workers: Client) -> Night:
    del quiet_night  # comes first
    before = last_snapshot(cohort.store)
    (_,), (edited, other) = sorted(_groups(cohort), key=len)
    _edit(cohort, edited)
    _add_twin(cohort, other)
    (added,) = {plan.session for plan in cohort.plans()} - set(Cohort.open(cohort.store).slots)
    return Night(cohort=cohort, before=before, added=added, edited=edited, result=run(cohort, workers))


def _groups(cohort: Processed) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for slot in Cohort.open(cohort.store).slots.values():
        groups.setdefault(slot.group, []).append(slot.session)
    return [sorted(members) for members in groups.values()]


def _edit(cohort: Processed, session: str) -> None:
    (plan,) = [plan for plan in cohort.plans() if plan.session == session]
    path = plan.chosen[Contrast.T1W].paths[10]
    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array.copy()
    pixels[5, 5] += 1
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path)


def _add_twin(cohort: Processed, session: str) -> None:
    """Nearly the same images as another person's."""
    (plan,) = [plan for plan in cohort.plans() if plan.session == session]
    for contrast, series in plan.chosen.items():
        folder = cohort.source / "twin" / str(contrast)
        folder.mkdir(parents=True)
        for number, path in enumerate(series.paths):
            dataset = pydicom.dcmread(path)
            dataset.PatientID = "twin"
            dataset.PixelData = (dataset.pixel_array + 1).tobytes()  # a copy would be recognised as one
            for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                setattr(dataset, name, f"{getattr(dataset, name)}.1"[-64:].lstrip("."))
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.save_as(folder / f"{number}.dcm")


def test_nothing_new_writes_nothing_and_starts_no_cluster(
    quiet_night: tuple[Reprocessed, dict[str, int], dict[str, int]],
) -> None:
    result, before, after = quiet_night
    assert after == before
    assert (result.snapshot, result.tag) == (None, None)
    assert result.text() == "nothing new: 3 sessions are as they were, nothing was written"


def test_only_the_added_and_the_changed_session_are_done(processed: Processed, night: Night) -> None:
    store, result = night.cohort.store, night.result
    assert messages(store, since=night.before) == [
        "Ingest 2 sessions",
        "Account of an ingest",
        "Infer maps of 2 sessions",
        "Aggregate 2 sessions",
    ]
    assert (result.ingested.found, result.ingested.unchanged) == (4, 2)
    assert (result.summary.found, result.summary.complete, result.summary.unchanged) == (4, 4, 2)
    done = {night.added, night.edited}
    found, expected = arrays(store), arrays(processed.store)
    for session in set(expected) - done:
        assert_same_arrays(found[session], expected[session])
    kept = sorted(set(expected) - done)
    pd.testing.assert_frame_equal(values(store).loc[kept], values(processed.store).loc[kept])
    assert set(read_statistics(Cohort.open(store))["session"]) == set(expected) | {night.added}
    assert verify(Cohort.open(store)) == []


def test_the_night_makes_no_new_calibration(processed: Processed, night: Night) -> None:
    pd.testing.assert_frame_equal(
        read_calibrations(Cohort.open(night.cohort.store)),
        read_calibrations(Cohort.open(processed.store)),
        check_like=True,
    )


def test_the_new_state_is_tagged_with_the_day(night: Night) -> None:
    assert night.result.tag is not None
    assert re.fullmatch(r"nightly-\d{4}-\d\d-\d\d", night.result.tag)
    assert night.result.snapshot == last_snapshot(night.cohort.store)
    assert open_cohort(night.cohort.store, at=night.result.tag)["catalogue"].sizes["row"] == 4
    assert night.result.tag in night.result.text()


def test_a_promoted_checkpoint_makes_all_maps_anew_and_no_image(night: Night, workers: Client) -> None:
    store = night.cohort.store
    before = arrays(store)
    digest = register(store, other_weights(), record={}, promote=True)
    since = last_snapshot(store)
    result = run(night.cohort, workers)
    assert messages(store, since=since) == ["Infer maps of 4 sessions", "Aggregate 4 sessions"]
    assert (result.ingested.unchanged, result.summary.unchanged) == (4, 0)
    assert set(values(store)["checkpoint_digest"]) == {digest}
    assert all(made.startswith(digest) for made in read_statistics(Cohort.open(store))["made_with"])
    after = arrays(store)
    for session, stored in before.items():
        images = {name: after[session][name] for name in ("T1w", "T2w", "FLAIR", "brain_mask", "tissue", "affine")}
        assert_same_arrays(images, {name: stored[name] for name in images})
        assert after[session]["T1map_sd"].tobytes() != stored["T1map_sd"].tobytes()
    assert run(night.cohort, Untouchable()).snapshot is None
    assert result.tag is not None
    assert night.result.tag is not None
    assert result.tag.startswith(night.result.tag[: len("nightly-")])
    assert result.tag != night.result.tag  # a second change of one day has a name of its own


def test_two_runs_at_once_do_nothing_twice(processed: Processed, workers: Client, tmp_path: Path) -> None:
    """The second one starts, and plans, while the first one works; then it finds its work done."""
    store = str(tmp_path / "store")
    shutil.copytree(processed.store, store)
    register(store, other_weights(), record={}, promote=True)
    since = last_snapshot(store)
    second: list[RunSummary] = []
    thread = threading.Thread(target=lambda: second.append(infer(store, client=workers)))

    def progress(done: int, total: int, text: str = "") -> None:
        del done, total
        if text == "infer" and thread.ident is None:
            thread.start()

    first = infer(store, client=workers, progress=progress)
    thread.join()
    assert (first.complete, first.unchanged) == (3, 0)
    assert [(summary.complete, summary.unchanged, summary.snapshot) for summary in second] == [(3, 3, None)]
    assert messages(store, since=since) == ["Infer maps of 3 sessions"]


def test_a_wave_that_another_run_has_ingested_is_left_alone(processed: Processed) -> None:
    plans = {plan.session: plan for plan in processed.plans()}
    assert len(plans) == 3
    cohort = Cohort.open(processed.store)
    with cohort.writing() as repository:
        assert Ingest(plan=plans.__getitem__, is_done=is_done).begin(repository, cohort, sorted(plans)) is None
