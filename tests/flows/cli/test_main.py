"""The command line: fast help, exit statuses, and messages that say what is wrong without naming anybody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from flows.cli.main import app
from flows.errors import explain
from flows.progress import reporting
from flows.tables.summary import RunSummary, summarise
from storage.store.cohort import Cohort
from tests.flows.tiny_cohort import GROUPS, make_store

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("QMRI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("QMRI_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setattr(sys, "argv", ["qmri"])


@pytest.fixture
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def nothing(*_: object, **__: object) -> Iterator[None]:
        yield None

    monkeypatch.setattr("flows.cluster.clusters.dask_client", nothing)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(tmp_path_factory.mktemp("cohort"))


def qmri(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli.main", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, env=os.environ | environment
    )


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; began = time.process_time(); import flows.cli.main\n"
        "try: flows.cli.main.main(['--help'])\n"
        "except SystemExit as end: assert end.code in (0, None)\n"
        "print(time.process_time() - began, *sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    *text, last = run.stdout.splitlines()
    seconds, *modules = last.split()
    assert any("ingest" in line for line in text)
    assert not {"torch", "prefect", "distributed", "pandas", "numpy", "pydantic", "icechunk"} & set(modules)
    assert float(seconds) < 1.0


def test_every_command_of_the_contract_is_there() -> None:
    contract = (
        "export-dicom "
        "demo simulate inspect ingest calibrate calibration train infer aggregate report evaluate status verify "
        "history rollback compact forget migrate export-bids export-zarr protocol synthesize run qc pool "
        "compare harmonisation power reference export-tables browse regions show linkage diff doctor metrics "
        "key weights"
    )
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) == set(contract.split())
    assert all(command.help for command in commands.values())


@pytest.mark.parametrize(
    "arguments",
    [
        ("unknown",),
        ("status",),
        ("ingest", "source"),
        ("status", "--store", "cohort", "--colour"),
        ("infer", "--store", "cohort", "--workers", "0"),
        ("simulate", "out", "--format", "paper"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    assert qmri(*arguments).exit_code == 2


def test_a_wrong_setting_is_wrong_usage_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMRI_SCHEDULER", "host")
    result = qmri("inspect", "source")
    assert result.exit_code == 2
    assert "QMRI_SCHEDULER=host" in result.output


def test_settings_take_the_place_of_options(monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    monkeypatch.setenv("QMRI_STORE", store)
    assert qmri("status").exit_code == 0


def test_calibration_shows_what_each_scale_rests_on(
    store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from qmri_core.calibration.scales import ScaleCalibration
    from qmri_core.calibration.session_model import PersonLevels
    from qmri_core.series.acquisition import Contrast

    assert "no group is calibrated yet" in qmri("calibration", "--store", store).output
    scale = ScaleCalibration(
        scale=1000.0,
        reference_signal=0.2,
        white_matter_signal=200.0,
        grey_matter_signal=150.0,
        csf_signal=30.0,
        spread=0.05,
        common_spread=0.02,
        determined=0.25,
        n_sessions=3,
        n_people=3.0,
    )
    current = {min(GROUPS): (2, {Contrast.T1W: scale}, "white matter of a book")}
    monkeypatch.setattr("flows.calibration.tables.current_calibrations", lambda _: current)
    monkeypatch.setattr("flows.calibration.tables.session_scales", lambda *_: {Contrast.T1W: 1010.0})
    people = PersonLevels(
        mean=np.array([0.01, -0.02, 0.0, 0.03]),
        determined=np.array([0.25, 0.64, 0.5, 0.36]),
        spread=np.full(4, 0.04),
        n_people=3.0,
    )
    monkeypatch.setattr("flows.calibration.tables.session_person", lambda *_: people)
    monkeypatch.setattr("flows.calibration.tables.is_nobodys", lambda *_: False)
    monkeypatch.setattr("flows.calibration.tables.odd_scales", lambda *_: {})
    result = qmri("calibration", "--store", store, "--out", tmp_path / "table.csv")
    assert result.exit_code == 0, result.exception
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "Ingenia-1 T1w 2 3 1000 0.2000 5.0% 2.0% 25% +1.0% to +1.0%" in lines
    for line in ("WM T1 25% +2.0% to +2.0%", "WM T2 64% -3.1% to -3.1%", "GM T2 36% +6.0% to +6.0%"):
        assert f"Ingenia-1 {line}" in lines
    assert "rests on: white matter of a book" in result.output
    assert (tmp_path / "table.csv").read_text().startswith("group,contrast,version,scale")
    assert "nobody's" not in result.output
    monkeypatch.setattr("flows.calibration.tables.is_nobodys", lambda *_: True)
    result = qmri("calibration", "--store", store)
    assert result.output.count("(Ingenia-1): the signals of its tissues are nobody's") == 2


def test_status_counts_sessions_and_names_the_snapshot(store: str) -> None:
    result = qmri("status", "--store", store)
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines()]
    for expected in (
        ["Ingenia-1", "complete", "-", "2"],
        ["Prisma-1", "complete", "-", "3"],
        ["-", "failed", "read_error", "1"],
        ["-", "skipped", "missing_contrast", "1"],
        ["Ingenia-1", "=", min(GROUPS)],
    ):
        assert expected in lines
    assert "7 sessions" in result.output
    assert "Infer maps of 4 sessions" in result.output


def test_verify_finds_a_store_as_it_was_written(store: str) -> None:
    result = qmri("verify", "--store", store)
    assert result.exit_code == 0
    assert "everything is as it was written" in result.output


def test_verify_ends_with_1_where_something_is_damaged(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from storage.store.lifecycle.verify import Problem

    problem = Problem(session="ses-1", variable="T1map", message="its content is not what was written")
    monkeypatch.setattr("storage.store.lifecycle.verify.verify", lambda *_args, **_options: [problem])
    result = qmri("verify", "--store", store)
    assert result.exit_code == 1
    assert "ses-1  T1map  its content is not what was written" in result.output


def bids_session(folder: Path) -> Path:
    """A T1w and a FLAIR with sidecars, under the name of somebody."""
    anat = folder / "sub-SecretName" / "anat"
    anat.mkdir(parents=True)
    common = {"MagneticFieldStrength": 3.0, "Manufacturer": "Siemens", "ManufacturersModelName": "Prisma"}
    sidecars: dict[str, dict[str, Any]] = {
        "T1w": {"RepetitionTime": 2.3, "EchoTime": 0.0023, "InversionTime": 0.9, "FlipAngle": 9}
        | {"MRAcquisitionType": "3D", "ScanningSequence": ["GR", "IR"], "SequenceVariant": ["SP", "MP"]},
        "FLAIR": {"RepetitionTime": 9.0, "EchoTime": 0.09, "InversionTime": 2.5, "FlipAngle": 150}
        | {"MRAcquisitionType": "2D", "ScanningSequence": ["SE", "IR"], "EchoTrainLength": 16},
    }
    for name, sidecar in sidecars.items():
        image = nib.Nifti1Image(np.zeros((20, 24, 16), np.float32), np.diag([8.0, 8.0, 10.0, 1.0]))
        nib.save(image, anat / f"sub-SecretName_{name}.nii.gz")
        (anat / f"sub-SecretName_{name}.json").write_text(json.dumps(common | sidecar))
    return folder


def test_inspect_tells_every_series_without_naming_anybody(tmp_path: Path) -> None:
    result = qmri("inspect", bids_session(tmp_path / "source"))
    assert result.exit_code == 0, result.exception
    assert "T1w mprage" in result.output
    assert "FLAIR inversion_recovery_tse" in result.output
    assert "2 series, 1 sessions" in result.output
    assert "ses-" in result.output
    assert "Secret" not in result.output


def test_inspect_ends_with_what_to_decide_and_what_it_would_take(tmp_path: Path) -> None:
    source = bids_session(tmp_path / "source")
    (source / "cut.zip").write_bytes(b"PK\x03\x04")
    lines = qmri("inspect", source, "--workers", 1).output.splitlines()
    decide = lines.index("To decide:")
    assert [line.split(":")[0].strip() for line in lines[decide + 1 : decide + 4]] == [
        "1 session partial, missing_contrast",
        "1 file unreadable",
        "1 group small",
    ]
    assert lines[-2].startswith("1 sessions to ingest: about 1 min with 1 workers and no GPU")
    assert lines[-1].startswith("2 series, 1 sessions; 3 files")


def test_inspect_for_machines_is_one_object_that_names_nobody(tmp_path: Path) -> None:
    result = qmri("inspect", bids_session(tmp_path / "source"), "--json", "--workers", 3)
    told = json.loads(result.stdout)
    assert "Secret" not in result.output
    (session,) = told["sessions"]
    assert (session["status"], session["reason"]) == ("partial", "missing_contrast")
    assert [(one["decision"], one["reason"]) for one in session["series"]] == [
        ("FLAIR inversion_recovery_tse", ""),
        ("T1w mprage", ""),
    ]
    assert told["groups"] == [{"label": session["label"], "group": session["group"], "sessions": 1}]
    assert [problem["name"] for problem in told["problems"]] == ["partial, missing_contrast", "small"]
    assert (told["forecast"]["n_sessions"], told["forecast"]["workers"]) == (1, 3)
    assert (told["n_sessions"], told["n_series"], told["n_files"]) == (1, 2, 2)


@pytest.mark.parametrize("how", ["option", "environment"])
def test_inspect_names_sessions_that_still_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    source = bids_session(tmp_path / "source")
    assert "still_arriving" not in qmri("inspect", source).output
    if how == "environment":
        monkeypatch.setenv("QMRI_QUIET_FOR", "60")
    lines = qmri("inspect", source, *(["--quiet-for", 60] if how == "option" else [])).output.splitlines()
    assert any("skipped" in line and "still_arriving" in line for line in lines)
    assert lines[lines.index("To decide:") + 1].strip().startswith("1 session skipped, still_arriving: Its files had")
    assert lines[-2] == "nothing to ingest"


def test_inspect_opens_the_store_once(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = Cohort.open

    def counted(location: str, **options: Any) -> Cohort:
        opened.append(location)
        return real(location, **options)

    monkeypatch.setattr(Cohort, "open", counted)
    assert qmri("inspect", bids_session(tmp_path / "source"), "--store", store).exit_code == 0
    assert opened == [store]


def test_inspect_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    code = (
        "import sys, flows.cli.main\n"
        f"try: flows.cli.main.main(['inspect', {str(bids_session(tmp_path / 'source'))!r}])\n"
        "except SystemExit as end: assert end.code in (0, None)\n"
        "print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    modules = set(run.stdout.splitlines()[-1].split())
    assert {"pydicom", "nibabel"} <= modules
    assert not {"torch", "SimpleITK", "pandas", "xarray", "prefect", "highdicom", "scipy.ndimage"} & modules


@pytest.mark.parametrize(
    ("rooms", "absent"),
    [
        (("flows.statistics.aggregate", "flows.report.build", "flows.tables.summary"), {"torch", "pydicom", "nibabel"}),
        (("flows.browser.server", "flows.night"), {"torch"}),
    ],
    ids=["tables", "browser and nights"],
)
def test_what_only_reads_tables_imports_no_libraries_of_images(rooms: tuple[str, ...], absent: set[str]) -> None:
    """PyTorch is 700 MB and two seconds of each such command, the readers of files 36 MB."""
    code = f"import sys, {', '.join(rooms)}\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    modules = set(run.stdout.split())
    assert set(rooms) <= modules
    assert not absent & modules


def test_inspect_names_assume_entries_that_match_nothing(tmp_path: Path) -> None:
    assume = tmp_path / "assume.yaml"
    assume.write_text("- {match: '*.img', contrast: T1w}\n")
    result = qmri("inspect", bids_session(tmp_path / "source"), "--assume", assume)
    assert "entry 1 of the assume file matched no series" in result.output


def test_protocol_prints_its_table_and_refuses_what_it_cannot_read() -> None:
    result = qmri("protocol", "--t1w", "mprage TR=2300 TE=3 TI=900 FA=9 ESP=7.4 READOUTS=176")
    assert result.exit_code == 0, result.exception
    assert "white matter" in result.output
    assert "'TX' is none of" in failing("protocol", "--t1w", "mprage TX=1")


def test_synthesize_writes_an_image_of_a_stored_session(store: str, tmp_path: Path) -> None:
    series = "tse TR=6000 TE=100 FA=150 ETL=15"
    result = qmri("synthesize", "ses-000000000000", series, "--store", store, "--out", tmp_path / "image.nii.gz")
    assert result.exit_code == 0, result.exception
    assert nib.load(tmp_path / "image.nii.gz").shape == (32, 40, 14)
    assert "is not stored" in failing("synthesize", "ses-1", series, "--store", store, "--out", tmp_path / "image.nii")


def failing(*arguments: object) -> str:
    """Message of a command that must end with 1 without a traceback."""
    result = qmri(*arguments)
    assert result.exit_code == 1
    assert result.exception is not None
    return explain(result.exception)


def test_a_source_that_is_not_there_or_empty_is_told(tmp_path: Path) -> None:
    assert "does not exist" in failing("inspect", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no file" in failing("inspect", tmp_path / "empty")


def test_a_source_without_images_is_told(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "SecretName.dcm").write_text("no DICOM at all")
    message = failing("inspect", tmp_path / "source")
    assert "source" in message
    assert "Secret" not in message


def test_a_store_that_is_none_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for command in ("status", "verify"):
        assert "no such folder" in failing(command, "--store", tmp_path / "nowhere")
        assert "is a file" in failing(command, "--store", file)
        assert "is not a cohort store" in failing(command, "--store", tmp_path)


@pytest.mark.usefixtures("_no_cluster")
def test_a_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    message = failing("ingest", bids_session(tmp_path / "source"), "--store", file / "store")
    assert "cannot be made" in message


@pytest.mark.usefixtures("_no_cluster")
def test_a_checkpoint_of_another_version_is_told(store: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "old.safetensors"
    save_file({"weight": torch.zeros(1)}, path, {"format": "qmri-cohort-checkpoint", "version": "0"})
    message = failing("infer", "--store", store, "--checkpoint", path)
    assert "old.safetensors is a checkpoint of format version 0" in message


@pytest.mark.usefixtures("_no_cluster")
@pytest.mark.parametrize("status", ["complete", "partial", "skipped", "failed"])
def test_only_failed_sessions_end_with_3(status: str, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(*_: object, **__: object) -> RunSummary:
        return summarise([("ses-1", "complete", "", ""), ("ses-2", status, "alignment", "preprocess")], snapshot="X1")

    monkeypatch.setattr("flows.maps.infer.infer", infer)
    result = qmri("infer", "--store", store)
    assert result.exit_code == (3 if status == "failed" else 0)
    assert "2 sessions found" in result.output
    assert ("failed: ses-2 in preprocess: alignment" in result.output) == (status == "failed")


def test_an_error_is_one_line_and_debug_shows_where(tmp_path: Path) -> None:
    short = process("status", "--store", tmp_path)
    assert short.returncode == 1
    assert short.stdout == ""
    assert short.stderr.startswith("qmri: ")
    assert len(short.stderr.splitlines()) == 1
    long = process("status", "--store", tmp_path, QMRI_DEBUG="1")
    assert long.returncode == 1
    assert "Traceback" in long.stderr


def test_texts_of_foreign_errors_are_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "/archive/SecretName/scan.dcm"  # noqa: S105 - a name
    for error in (KeyError(secret), RuntimeError(secret), PermissionError(13, "Permission denied", secret)):
        assert "Secret" not in explain(error)
    assert explain(PermissionError(13, "Permission denied", secret)) == "PermissionError: Permission denied"
    monkeypatch.setattr(sys, "argv", ["qmri", "report", "--out", "report"])
    assert explain(PermissionError(13, "Permission denied", "report")) == "report: Permission denied"


def test_value_errors_are_told_where_this_project_raised_them() -> None:
    with pytest.raises(ValueError, match="status") as own:
        summarise([("ses-1", "gone", "", "")])
    assert "gone" in explain(own.value)
    with pytest.raises(ValueError, match="invalid literal") as foreign:
        int("SecretName")
    assert "Secret" not in explain(foreign.value)


def test_summaries_add_up() -> None:
    with pytest.raises(ValueError, match="a session was lost"):
        RunSummary(found=3, complete=2)
    outcomes = [
        ("b", "failed", "read_error", "read"),
        ("a", "complete", "", ""),
        ("c", "partial", "missing_contrast", ""),
    ]
    summary = summarise(outcomes, unchanged=1)
    assert (summary.found, summary.complete, summary.partial, summary.skipped, summary.failed) == (3, 1, 1, 0, 1)
    assert summary.reasons == {"read_error": 1, "missing_contrast": 1}
    assert "3 sessions found = 1 complete + 1 partial + 0 skipped + 1 failed, 1 of them unchanged" in summary.text()


def test_progress_in_a_log_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting("ingest", interval=1e9) as progress:
        for done in range(100):
            progress(done, 99, "read" if done < 50 else "write")
    counts = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert counts == ["ingest: 0/99", "ingest: 50/99", "ingest: 99/99"]
