"""Speed and memory of ingest: discovery, decoding against dcm2niix, and a whole session by stage.

Times are processor time, of child processes too: what else runs on the machine does not count, nor do waits for a disk.
Figures are ratios within one run, or per core; the table is printed (``make bench`` shows it).
"""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from qmri_core.series.acquisition import Contrast
from qmri_core.simulation.cohort import plan_cohort
from qmri_core.simulation.sessions import simulate_session
from storage.simulated.writer import write_session
from storage.source.discovery import decide_session, discover, read_volume, scan_source
from storage.source.series import Series

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

KEY = bytes(32)
RESOLUTION = 1.0
PASSES = 3


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One session at 1 mm, as its scanner would export it."""
    from flows.simulate import _atlas

    folder = tmp_path_factory.mktemp("archive")
    (plan,) = plan_cohort(sessions=1, groups=1, seed=1)
    write_session(simulate_session(plan, _atlas(None, plan.person.number, RESOLUTION), resolution=RESOLUTION), folder)
    return folder


@pytest.fixture(scope="module")
def chosen(archive: Path) -> dict[Contrast, Series]:
    found = discover(archive, key=KEY).series
    return {
        decision.contrast: one
        for one, decision in zip(found, decide_session(found), strict=True)
        if decision.reason is None and decision.contrast is not None
    }


def processor_time() -> float:
    """Seconds of this process and of those of its children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def spent(function: Callable[[], object]) -> float:
    began = processor_time()
    function()
    return processor_time() - began


def best(function: Callable[[], object]) -> float:
    """Shortest processor time of some passes."""
    return min(spent(function) for _ in range(PASSES))


def test_discovery(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n_files = sum(1 for path in archive.rglob("*") if path.is_file())

    def scan(index: Path | None = None) -> None:
        with scan_source(archive, key=KEY, index=index) as scanned:
            assert scanned.n_files == n_files

    first = best(scan)
    scan(tmp_path / "index.sqlite")
    again = best(lambda: scan(tmp_path / "index.sqlite"))
    with capsys.disabled():
        print(f"\ndiscovery: {n_files / first:.0f} files per second and core; {n_files / again:.0f} from the index")
    assert again < first


def _read_all(series: list[Series]) -> float:
    """Processor time of decoding all of them."""
    return spent(lambda: [read_volume(one) for one in series])


def test_decoding_against_dcm2niix(
    chosen: dict[Contrast, Series], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same files: decoded to arrays here, converted by dcm2niix with and without compression."""
    converter = pytest.importorskip("dcm2niix")
    folders = []
    for contrast, series in chosen.items():
        folder = tmp_path / "in" / str(contrast)
        folder.mkdir(parents=True)
        for index, path in enumerate(series.paths):
            os.link(path, folder / f"{index:05}.dcm")
        folders.append(folder)

    def convert(compress: str) -> None:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        for folder in folders:
            command = [converter.bin, "-z", compress, "-b", "n", "-w", "1", "-f", folder.name, "-o", str(out)]
            subprocess.run([*command, str(folder)], check=True, capture_output=True)

    series = list(chosen.values())
    plain, compressed = best(lambda: convert("n")), best(lambda: convert("y"))
    ours = min(_read_all(series) for _ in range(PASSES))
    with ProcessPoolExecutor(2) as pool:
        two = min(max(pool.map(_read_all, [series, series])) for _ in range(PASSES + 1))  # the first one imports
    with capsys.disabled():
        print(
            f"\ndecoding {sum(len(one.paths) for one in series)} files: {ours:.2f} s, two at once "
            f"{two:.2f} s each; dcm2niix -z n {plain:.2f} s ({ours / plain:.2f}), -z y {compressed:.2f} s "
            f"({ours / compressed:.2f})"
        )
    assert ours < compressed


class Clock:
    """Times of named functions of a module, while they are replaced by timed ones."""

    def __init__(self, module: object, names: tuple[str, ...], patch: pytest.MonkeyPatch) -> None:
        self.seconds = dict.fromkeys(names, 0.0)
        for name in names:
            patch.setattr(module, name, self._timed(name, getattr(module, name)))

    def _timed(self, name: str, function: Callable[..., object]) -> Callable[..., object]:
        def timed(*arguments: object, **options: object) -> object:
            began = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[name] += time.process_time() - began

        return timed


@pytest.fixture
def single_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("single_thread")
def test_a_session_by_stage(
    chosen: dict[Contrast, Series], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.ingest.session_plan import plan_session
    from qmri_core.preprocessing import session

    (plan,) = [plan_session(tuple(chosen.values()))]
    assert plan.placement is not None
    grid = plan.placement.grid
    names = ("brain_mask", "align", "resample", "bias_field", "segment", "figures_of_contrast", "grown", "_distance")
    clock = Clock(session, names, monkeypatch)
    began = time.process_time()
    volumes = {contrast: read_volume(one) for contrast, one in chosen.items()}
    read = time.process_time() - began
    began = time.process_time()
    session.preprocess(volumes, grid)
    whole = time.process_time() - began
    stages = {"read": read, **clock.seconds, "rest": whole - sum(clock.seconds.values())}
    bound = max(stages, key=lambda name: stages[name])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with capsys.disabled():
        print(f"\na session at {RESOLUTION:g} mm, one thread: {read + whole:.1f} s, most of it {bound}")
        print("  " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.items()))
        print(f"  peak memory of the process {peak:.1f} GiB")
    assert peak < 6.0
