"""Bad input, through the command line: what, where and what to do, the right exit status, and no name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from distributed import Client
from typer.testing import CliRunner

from flows.cli.main import app
from flows.errors import explain
from flows.ingest.run import ingest
from flows.ingest.session_plan import SessionPlan
from flows.maps.infer import infer
from qmri_core.series.acquisition import Contrast
from storage.store.cohort import Cohort
from storage.store.lifecycle.verify import verify
from tests.flows.end_to_end import Processed, last_snapshot, names_below, qmri
from tests.flows.tiny_cohort import make_store

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def _no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs that end before they need a worker, with none of the user's settings."""

    @contextmanager
    def nothing(*_: object, **__: object) -> Iterator[None]:
        yield None

    for name in [name for name in os.environ if name.startswith("QMRI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("flows.cluster.clusters.dask_client", nothing)
    monkeypatch.setenv("QMRI_KEY_FILE", str(tmp_path / "key"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(tmp_path_factory.mktemp("tiny"))


def refused(*arguments: object) -> str:
    """Message of a command that must end with 1: what the process prints as its last line."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert result.exception is not None
    assert not isinstance(result.exception, SystemExit)
    message = explain(result.exception)
    assert "internal error" not in message
    assert "Secret" not in message
    return message


@pytest.mark.usefixtures("_no_cluster")
@pytest.mark.parametrize("command", ["ingest", "inspect"])
def test_a_source_that_cannot_be_one(command: str, tmp_path: Path) -> None:
    more = ("--store", tmp_path / "store") if command == "ingest" else ()
    empty, notes, file = tmp_path / "empty", tmp_path / "notes", tmp_path / "file.dcm"
    empty.mkdir()
    (notes / "SecretName").mkdir(parents=True)
    (notes / "SecretName" / "SecretName.dcm").write_bytes(bytes(1000))
    file.write_text("no DICOM at all")
    for source, what in (
        (tmp_path / "nowhere", "does not exist; give an existing folder"),
        (empty, "holds no file; give the folder that holds the DICOM or NIfTI files"),
        (notes, "holds 1 files, none of them DICOM or NIfTI; give the folder that holds the images"),
        (file, "is neither a DICOM nor a NIfTI file; give"),
    ):
        message = refused(command, source, *more)
        assert str(source) in message
        assert what in message


@pytest.mark.usefixtures("_no_cluster")
@pytest.mark.parametrize(
    "command", ["infer", "aggregate", "calibrate", "report", "status", "verify", "evaluate", "synthesize"]
)
def test_a_store_that_is_not_one(command: str, tmp_path: Path) -> None:
    more: tuple[object, ...] = {
        "report": ("--out", tmp_path / "out"),
        "evaluate": ("--truth", tmp_path, "--linkage", tmp_path / "linkage.csv"),
        "synthesize": ("ses-1", "tse TR=6000 TE=100 FA=150 ETL=15", "--out", tmp_path / "image.nii.gz"),
    }.get(command, ())
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.touch()
    folder.mkdir()
    (folder / "zarr.json").write_text("{}")
    for store, what in (
        (tmp_path / "nowhere", "no such folder; was the store's path mistyped, or `qmri ingest` not run yet?"),
        (file, "is a file"),
        (folder, "is not a cohort store; give the place that `qmri ingest --store` wrote"),
    ):
        message = refused(command, *more, "--store", store)
        assert str(store) in message
        assert what in message
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.usefixtures("_no_cluster")
def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.touch()
    folder.mkdir()
    (folder / "letter.txt").touch()
    for store, what in (
        (file / "store", "cannot be made (Not a directory)"),
        (file, "cannot be made (File exists)"),
        (Path("/proc/qmri-store"), "cannot be made ("),  # whoever runs the tests, root included
        (folder, "holds 1 files that are no store; give a new or empty folder"),
    ):
        message = refused("ingest", tmp_path, "--store", store)
        assert str(store) in message
        assert what in message
    assert [entry.name for entry in folder.iterdir()] == ["letter.txt"]


@pytest.mark.usefixtures("_no_cluster")
def test_a_checkpoint_that_cannot_be_used(tiny: str, checkpoint: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    before = last_snapshot(tiny)
    old, other, none = tmp_path / "old.safetensors", tmp_path / "other.safetensors", tmp_path / "none"
    save_file({"weight": torch.zeros(1)}, old, {"format": "qmri-cohort-checkpoint", "version": "7"})
    save_file({"weight": torch.zeros(1)}, other)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:-100])
    for path, what in (
        (
            old,
            "old.safetensors is a checkpoint of format version 7; this code reads versions 2, 3, 4, 5: train again, or",
        ),
        (other, "other.safetensors is a safetensors file, but no checkpoint of this project"),
        (none, f"there is no checkpoint file at {none}; give one with --checkpoint or QMRI_CHECKPOINT"),
        (cut, "cut.safetensors is not a safetensors file"),
    ):
        assert what in refused("infer", "--store", tiny, "--checkpoint", path)
    assert last_snapshot(tiny) == before


@pytest.mark.usefixtures("_no_cluster")
def test_a_truth_that_is_none(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "linkage.csv").write_text("session,patient_id,study_instance_uid,path\n")
    message = refused("evaluate", "--store", tiny, "--truth", tmp_path / "x", "--linkage", tmp_path / "linkage.csv")
    assert f"{tmp_path / 'x'}: holds no truth" in message
    (tmp_path / "sessions.csv").touch()
    message = refused("evaluate", "--store", tiny, "--truth", tmp_path, "--linkage", tmp_path / "y.csv")
    assert f"{tmp_path / 'y.csv'}: no such linkage table" in message


@pytest.mark.slow
def test_processes_end_with_one_line_and_the_right_status(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    refused_run = qmri("ingest", source, "--store", tmp_path / "store", "--workers", 1, key_file=tmp_path / "key")
    assert (refused_run.returncode, refused_run.stdout) == (1, "")
    (line,) = refused_run.stderr.splitlines()
    assert line.startswith(f"qmri: source {source} holds no file; give")
    usage = qmri("ingest", source, key_file=tmp_path / "key")
    assert usage.returncode == 2
    assert "--store" in usage.stderr
    assert "Traceback" not in refused_run.stderr + usage.stderr


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """A source with a good session, one with a file cut short, one with a T1w alone, and files that are no images."""

    source: Path
    store: Path
    good: str
    damaged: str
    lone: str


def leave_t1w_alone(plan: SessionPlan) -> None:
    """Remove all series but the T1w that was chosen: the second-best ones too."""
    for series in plan.series:
        if series != plan.chosen[Contrast.T1W]:
            for path in series.paths:
                Path(path).unlink()


@pytest.fixture(scope="module")
def mixed(processed: Processed, tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    folder = tmp_path_factory.mktemp("mixed")
    source = folder / "in"
    shutil.copytree(processed.source, source)
    good, damaged, lone = processed.plans(source)
    leave_t1w_alone(lone)
    victim = Path(damaged.chosen[Contrast.T1W].paths[7])
    victim.write_bytes(victim.read_bytes()[:-3001])
    (victim.parents[2] / "SecretName.dcm").write_text("a letter to SecretName")
    return Mixed(
        source=source,
        store=folder / "store",
        good=good.session,
        damaged=damaged.session,
        lone=lone.session,
    )


@pytest.mark.walk
def test_a_damaged_session_does_not_stop_the_others(processed: Processed, mixed: Mixed, workers: Client) -> None:
    first = qmri("ingest", mixed.source, "--store", mixed.store, key_file=processed.key_file, workers=workers)
    assert first.returncode == 3, first.stderr
    assert "3 sessions found = 1 complete + 0 partial + 1 skipped + 1 failed" in first.stdout
    assert f"failed: {mixed.damaged} in read: read_error" in first.stdout
    table = Cohort.open(mixed.store).catalogue.set_index("session")
    assert dict(table["status"]) == {mixed.good: "complete", mixed.damaged: "failed", mixed.lone: "skipped"}
    failed, skipped = table.loc[mixed.damaged], table.loc[mixed.lone]
    assert (failed["reason"], failed["stage"], failed["error"]) == ("read_error", "read", "ReadError")
    assert "instance" in failed["explanation"]
    assert (skipped["reason"], skipped["stage"]) == ("missing_contrast", "plan")
    assert "found T1w, but no T2w and no FLAIR" in skipped["explanation"]
    assert set(Cohort.open(mixed.store).slots) == {mixed.good}
    assert verify(Cohort.open(mixed.store)) == []

    last = last_snapshot(mixed.store)
    second = ingest(mixed.source, str(mixed.store), key=processed.key, client=workers)
    assert (second.exit_status, second.failed, second.unchanged, second.snapshot) == (3, 1, 3, None)
    assert f"failed: {mixed.damaged} in read: read_error" in second.text()
    assert last_snapshot(mixed.store) == last

    told = "".join((first.stdout, first.stderr, second.text(), table.to_csv()))
    assert "Traceback" not in told
    assert not [name for name in names_below(mixed.source) if len(name) > 6 and name in told]


@pytest.mark.walk
def test_the_rest_of_the_way_works_on_the_good_session(processed: Processed, mixed: Mixed, workers: Client) -> None:
    inferred = infer(str(mixed.store), checkpoint=processed.checkpoint, client=workers)
    assert (inferred.complete, inferred.failed, inferred.exit_status) == (1, 1, 3)  # one has failed, earlier
    aggregated = qmri("aggregate", "--store", mixed.store, key_file=processed.key_file, workers=workers)
    assert aggregated.returncode == 0, aggregated.stderr
    assert "WM T1 [ms]" in aggregated.stdout
    (group,) = {slot.group for slot in Cohort.open(mixed.store).slots.values()}
    assert f"{Cohort.open(mixed.store).labels[group]} = {group}" in aggregated.stdout


@pytest.mark.walk
def test_a_failed_session_is_tried_again_when_its_input_has_changed(
    processed: Processed, mixed: Mixed, workers: Client
) -> None:
    before = Cohort.open(mixed.store).catalogue.set_index("session").loc[mixed.damaged]
    (plan,) = (plan for plan in processed.plans(mixed.source) if plan.session == mixed.damaged)
    leave_t1w_alone(plan)
    run = ingest(mixed.source, str(mixed.store), key=processed.key, client=workers)
    assert (run.complete, run.skipped, run.failed, run.unchanged, run.exit_status) == (1, 2, 0, 2, 0)
    after = Cohort.open(mixed.store).catalogue.set_index("session").loc[mixed.damaged]
    assert (after["status"], after["reason"], after["error"]) == ("skipped", "missing_contrast", "")
    assert before["input_digest"] != after["input_digest"]
