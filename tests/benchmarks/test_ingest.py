"""Speed and memory of ingest: discovery, decoding against dcm2niix, and a whole session by stage.

Times are processor time, of child processes too: what else runs on the machine does not count, nor do waits for a disk.
Figures are ratios within one run, or per core; the table is printed (``make bench`` shows it).
"""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian
from scipy import ndimage

from flows.cluster.kinds import CONFIGURATION, ONE_THREAD
from qmri_core.preprocessing.alignment import to_image
from qmri_core.series.acquisition import CONTRASTS, Contrast
from qmri_core.series.geometry import Grid, Volume, spacing_of
from qmri_core.simulation.cohort import plan_cohort
from qmri_core.simulation.sessions import simulate_session
from storage.simulated.encoding import SYNTAXES, transcode
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


def _converted(folders: list[Path], out: Path, *, compress: bool = False, n_at_once: int = 1) -> float:
    """Processor time of dcm2niix on all of some folders, each run with its own copy of the result."""
    converter = pytest.importorskip("dcm2niix")

    def convert() -> None:
        for folder in folders:
            runs = []
            for number in range(n_at_once):
                to = out / str(number)
                to.mkdir(parents=True, exist_ok=True)
                options = ["-z", "y" if compress else "n", "-b", "n", "-w", "1", "-f", folder.name, "-o", str(to)]
                runs.append(subprocess.Popen([converter.bin, *options, str(folder)], stdout=subprocess.DEVNULL))
            assert [run.wait() for run in runs] == [0] * n_at_once

    return best(convert) / n_at_once


def test_decoding_against_dcm2niix(
    chosen: dict[Contrast, Series], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same files: decoded to arrays here, converted by dcm2niix with and without compression."""
    folders = []
    for contrast, series in chosen.items():
        folder = tmp_path / "in" / str(contrast)
        folder.mkdir(parents=True)
        for index, path in enumerate(series.paths):
            os.link(path, folder / f"{index:05}.dcm")
        folders.append(folder)
    series = list(chosen.values())
    plain, compressed = (_converted(folders, tmp_path / "out", compress=compress) for compress in (False, True))
    ours = min(_read_all(series) for _ in range(PASSES))
    with capsys.disabled():
        print(
            f"\ndecoding {sum(len(one.paths) for one in series)} files: {ours:.3f} s; dcm2niix -z n {plain:.3f} s "
            f"({ours / plain:.2f}), -z y {compressed:.2f} s ({ours / compressed:.2f})"
        )
    assert ours < plain


def _big_endian(dataset: pydicom.FileDataset) -> None:
    list(dataset)  # what was not converted would be written as it was read
    dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=False)


AT_MOST = {"rle": 2.0, "jpeg": 1.4, "jpeg-ls": 1.4}
"""Ratio to dcm2niix: pydicom's decoder of run lengths is Python; of JPEG, GDCM hands bytes over as text."""


def test_decoding_by_transfer_syntax(
    chosen: dict[Contrast, Series], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One series in each transfer syntax, beside dcm2niix without compression, alone and two processes at once."""
    rows, worse = [], []
    paths = chosen[Contrast.T1W].paths
    with ProcessPoolExecutor(2) as pool:
        for name in (*SYNTAXES, "big endian"):
            folder = tmp_path / name.replace(" ", "-")
            folder.mkdir()
            for index, path in enumerate(paths):
                dataset = pydicom.dcmread(path)
                _big_endian(dataset) if name == "big endian" else transcode(dataset, name)
                dataset.save_as(folder / f"{index:05}.dcm", enforce_file_format=True)
            series = list(discover(folder, key=KEY).series)
            list(pool.map(_read_all, [series] * 2))  # imports
            ours = min(_read_all(series) for _ in range(PASSES))
            two = min(max(pool.map(_read_all, [series] * 2)) for _ in range(PASSES))
            theirs, theirs_two = (_converted([folder], tmp_path / "out", n_at_once=number) for number in (1, 2))
            ratios = ours / theirs, two / theirs_two
            milliseconds = f"{1e3 * ours / len(paths):.2f} ms a file, dcm2niix {1e3 * theirs / len(paths):.2f} ms"
            rows.append(f"  {name:10} {milliseconds}: {ratios[0]:.2f}; two at once {ratios[1]:.2f}")
            worse += [name] if max(ratios) > AT_MOST.get(name, 1.0) else []
    with capsys.disabled():
        print(f"\ndecoding {len(paths)} files as times dcm2niix -z n", *rows, sep="\n")
    assert not worse


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
    names = (
        *("brain_mask", "align", "resample", "depth", "grown", "bias_field", "check", "segment"),
        *("brain_in", "figures_of_contrast"),
    )
    clock = Clock(session, names, monkeypatch)
    began = time.process_time()
    volumes = {contrast: read_volume(one) for contrast, one in chosen.items()}
    read = time.process_time() - began
    began = time.process_time()
    session.preprocess(volumes, grid)
    whole = time.process_time() - began
    stages = {"read": read, **clock.seconds, "rest": whole - sum(clock.seconds.values())}
    bound = max(stages, key=lambda name: stages[name])
    mask = spent(lambda: _by_deepbet(volumes[Contrast.T1W]))
    others = [volume for contrast, volume in volumes.items() if contrast is not Contrast.T1W]
    aligned = spent(lambda: [_registered(volumes[Contrast.T1W], other) for other in others])
    with capsys.disabled():
        print(f"\na session at {RESOLUTION:g} mm, one thread: {read + whole:.1f} s, most of it {bound}")
        print("  " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.items()))
        print(f"  {(read + whole) / mask:.1f} times deepbet alone ({mask:.1f} s)")
        print(f"  {(read + whole) / aligned:.1f} times two plain registrations by SimpleITK ({aligned:.1f} s)")
    assert read + whole < 2 * (mask + aligned)


def _by_deepbet(t1w: Volume) -> None:
    """The brain mask of a volume as deepbet makes it, its import and its weights included."""
    import nibabel
    from deepbet import BrainExtraction

    image = nibabel.Nifti1Image(t1w.array.T, t1w.affine)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.load")  # deepbet ships TorchScript
        BrainExtraction(no_gpu=True).run(image)


def _registered(fixed: Volume, moving: Volume) -> None:
    """A plain rigid registration, after SimpleITK's own example: three levels, a hundredth of the voxels at random."""
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    images = [sitk.Cast(to_image(volume), sitk.sitkFloat32) for volume in (fixed, moving)]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.01, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescent(learningRate=1.0, numberOfIterations=100, convergenceWindowSize=10)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    start = sitk.CenteredTransformInitializer(
        *images, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method.SetInitialTransform(start, inPlace=False)
    method.Execute(*images)


PEAK = """
import pickle, sys
from pathlib import Path
import distributed.nanny, flows.ingest.repeats, flows.ingest.session, qmri_core.calibration.scales, storage.store.waves
from qmri_core.preprocessing.session import preprocess

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith(name)]  # getrusage counts the parent too
    return int(kilobytes) / 2**20

imports = memory("VmHWM")
with open(sys.argv[1], "rb") as file:
    volumes, grid = pickle.load(file)
preprocess(volumes, grid)
print(imports, memory("VmHWM"), memory("RssFile"))
"""


@pytest.mark.parametrize("spacing", [1.0, 0.7])
def test_peak_memory_of_a_worker(
    chosen: dict[Contrast, Series], spacing: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fresh process that imports what a worker does; three 3D series of a voxel size, on a grid of 1 mm.

    What is of files are libraries: workers share these pages, and the system may drop them. The rest is private.
    """
    t1w = read_volume(chosen[Contrast.T1W])
    size = [
        round(length * step / spacing)
        for length, step in zip(t1w.array.shape, spacing_of(t1w.affine)[::-1], strict=True)
    ]
    scale = [length / new for length, new in zip(t1w.array.shape, size, strict=True)]
    fine = Volume(
        array=ndimage.affine_transform(t1w.array, scale, output_shape=tuple(size), order=1, mode="nearest"),
        affine=t1w.affine @ np.diag([*scale[::-1], 1.0]),
    )
    grid = Grid(shape=(184, 224, 184), spacing=(1.0, 1.0, 1.0))
    path = tmp_path / "volumes.pickle"
    volumes = {contrast: Volume(array=fine.array.copy(), affine=fine.affine) for contrast in CONTRASTS}
    path.write_bytes(pickle.dumps((volumes, grid), protocol=5))
    del t1w, fine, volumes
    command = [sys.executable, "-c", PEAK, str(path)]
    head = "distributed.nanny.pre-spawn-environ."  # a worker's allocator
    allocator = {key.removeprefix(head): str(value) for key, value in CONFIGURATION.items() if key.startswith(head)}
    environment = {**os.environ, **ONE_THREAD, **allocator}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    imports, peak, files = map(float, output.split())
    with capsys.disabled():
        print(
            f"\nthree 3D series of {spacing:g} mm: peak memory {peak:.2f} GiB, of which {peak - files:.2f} private and "
            f"{files:.2f} pages of libraries; imports {imports:.2f}"
        )
    assert peak - files < 1.3
    assert peak < (1.6 if spacing == 1.0 else 1.85)
