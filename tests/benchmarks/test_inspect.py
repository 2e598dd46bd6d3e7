"""Memory and speed of `qmri inspect` by the number of files, on two worker processes.

``QMRI_BENCH_FILES`` says how many (10,000). Memory is the proportional set size of all processes together at its peak.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.storage.slices import voxels, write_series

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]

ROOT = Path(__file__).parents[2]
N_FILES = int(os.environ.get("QMRI_BENCH_FILES", "10000"))
SLICES = 48
CONTRASTS = (
    {"SliceThickness": "2.5"},
    {"ScanningSequence": "SE", "InversionTime": None, "RepetitionTime": "5000", "EchoTime": "100", "FlipAngle": "150"},
    {"ScanningSequence": ["SE", "IR"], "InversionTime": "2500", "RepetitionTime": "9000", "EchoTime": "120"},
)


def write_archive(folder: Path, n_sessions: int) -> int:
    """Sessions of three series, on ten scanners; the number of files."""
    for number in range(n_sessions):
        study = f"1.2.826.0.1.3680043.10.9999.{number + 10}"
        for place, contrast in enumerate(CONTRASTS, start=1):
            write_series(
                folder / f"{number:05}" / str(place), voxels(SLICES, 8, 8, seed=3 * number + place), name="{z}",
                StudyInstanceUID=study, SeriesInstanceUID=f"{study}.{place}", FrameOfReferenceUID=f"{study}.0",
                SeriesNumber=str(place), PatientID=f"N{number}", PatientName=f"N{number}", PixelSpacing=[25, 25],
                StudyDate=f"2024{1 + number % 12:02}{1 + number // 12 % 28:02}", DeviceSerialNumber=str(number % 10),
                **contrast,
            )  # fmt: skip
    return n_sessions * len(CONTRASTS) * SLICES


def family_of(process: int) -> list[int]:
    """A process and all that it has started."""
    found, todo = [], [process]
    while todo:
        found.append(todo.pop())
        for task in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            todo += map(int, task.read_text().split())
    return found


def memory_of(process: int) -> float:
    """Proportional set size in MB; 0 of a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("Pss:")), 0.0)


def inspect(source: Path, key: Path) -> tuple[float, float]:
    """Processor seconds, and MB at the peak."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "flows.cli.main", "inspect", str(source), "--workers", "2"]
    environment = os.environ | {"QMRI_KEY_FILE": str(key)}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, env=environment) as process:
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, sum(map(memory_of, family_of(process.pid))))
            time.sleep(0.2)
    assert process.returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is told by Linux")
def test_inspect_of_many_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    per_session = len(CONTRASTS) * SLICES
    few = write_archive(tmp_path / "few", max(24, N_FILES // 4 // per_session))
    many = write_archive(tmp_path / "many", max(72, N_FILES // per_session))
    (_, small), (seconds, large) = (inspect(tmp_path / name, tmp_path / name / "key") for name in ("few", "many"))
    again, _ = inspect(tmp_path / "many", tmp_path / "many" / "key")
    growth = 1e6 * (large - small) / (many - few)
    with capsys.disabled():
        print(
            f"\ninspect of {many} files: {1000 * seconds / many:.1f} ms of processor time per file, {large:.0f} MB "
            f"({growth:.0f} bytes more per file beyond {few}); {again / seconds:.2f} of the time where nothing is new"
        )
    assert large < 500
    assert again < 0.3 * seconds
