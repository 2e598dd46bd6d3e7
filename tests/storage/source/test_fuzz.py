"""Mutated real files: discovery and reading end with a record or a named error, in bounded time and memory."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import resource
import tarfile
import time
import zipfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from storage.source.dicom.frames import Frame, scan_stream
from storage.source.discovery import ReadError, Series, decide, discover, read_volume
from storage.source.scans import ScanTask, scan_files
from tests.storage.slices import header, voxels, write

DATA = Path(os.environ.get("QMRI_DATA_DIR", Path(__file__).parents[3].parent / "shared" / "data"))
KEY = bytes(32)
SECONDS = 10.0
"""No file of these sizes may take longer, on a busy machine."""
LARGEST = 250_000  # bytes of a seed file, decompressed


@cache
def seeds(most_per_set: int) -> tuple[bytes, ...]:
    """Small real files of every set, and invented ones where there are none."""
    found: list[bytes] = []
    for folder in sorted((DATA / "dicom").glob("*")) if DATA.exists() else []:
        files: dict[str, bytes] = {}
        for path in sorted(folder.rglob("*")):
            if path.name.endswith(".tar.gz"):
                with tarfile.open(path) as archive:
                    for member in archive:
                        stream = archive.extractfile(member) if member.isfile() and member.size < LARGEST else None
                        if stream is not None:
                            files[member.name] = stream.read()
            elif path.is_file() and path.stat().st_size < LARGEST:
                data = path.read_bytes()
                files[str(path)] = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        # spread over the set, not the first ones only: their order follows series
        files = {name: data for name, data in files.items() if len(data) <= LARGEST}
        names = sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest())
        found += [files[name] for name in names[:most_per_set]]
    return tuple(found)


def invented(folder: Path) -> bytes:
    write(folder / "seed", header(), voxels(1, 16, 16)[0])
    return (folder / "seed").read_bytes()


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage as disks, networks and bad programs do it: mostly in the header, where it hurts."""
    result = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        end = len(result) if rng.random() < 0.3 else min(len(result), 4096)
        if end < 8:
            break
        place = int(rng.integers(0, end - 4))
        kind = int(rng.integers(0, 7))
        if kind == 0:
            result[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            result[place : place + 4] = rng.bytes(4)
        elif kind == 2:  # lengths and dimensions
            result[place : place + 4] = b"\xff\xff\xff\xff" if rng.random() < 0.5 else b"\xff\xff\x00\x00"
        elif kind == 3:
            del result[place : place + int(rng.integers(1, 64))]
        elif kind == 4:
            result[place:place] = rng.bytes(int(rng.integers(1, 64)))
        elif kind == 5:
            other = int(rng.integers(0, end - 4))
            size = int(rng.integers(1, 256))
            result[place : place + size] = result[other : other + size]
        else:
            del result[place:]
    return bytes(result)


@dataclass(slots=True)
class Tally:
    """What became of the mutants."""

    scanned: int = 0
    frames: int = 0
    slowest: float = 0.0


def try_one(data: bytes, tally: Tally) -> None:
    began = time.perf_counter()
    frames = scan_stream(io.BytesIO(data), "/source/mutant")
    assert frames is None or all(isinstance(frame, Frame) for frame in frames)
    tally.scanned += 1
    tally.frames += len(frames or ())
    tally.slowest = max(tally.slowest, time.perf_counter() - began)


def read_all(root: Path) -> list[str]:
    """Discover a folder of mutants and read each series, however little of a volume it is.

    Values are those that parsing each file gives. What parsing cannot read may still be read: damage behind all that is
    asked of a header hides the pixels from a parser, not from who knows where they lie.
    """
    results = []
    for series in discover(root, key=KEY).series:
        decide(series)
        for one in _readable(series):
            result = _outcome(one)
            parsed = _outcome(replace(one, known=None))
            assert result == parsed or (isinstance(result, bytes) and isinstance(parsed, str))
            results.append(result if isinstance(result, str) else "read")
    return results


def _outcome(series: Series) -> str | bytes:
    """Values, or the error that is told."""
    try:
        volume = read_volume(series)
    except ReadError as error:
        return str(error)
    assert volume.array.shape == series.shape[::-1]
    return volume.array.tobytes()


def _readable(series: Series) -> list[Series]:
    """The series, and its first slice alone, so that pixels are decoded too."""
    if not series.frames or series.problem:
        return [series]
    known = series.known and replace(series.known, scales=series.known.scales[:1], positions=series.known.positions[:1])
    return [series, replace(series, frames=series.frames[:1], shape=(*series.shape[:2], 1), known=known)]


def fuzz(folder: Path, data: tuple[bytes, ...], count: int, *, read_every: int, seed: int) -> Tally:
    rng = np.random.default_rng(seed)
    tally = Tally()
    outside = sorted(path for path in folder.rglob("*") if path.is_file())
    root = folder / "mutants"
    root.mkdir()
    for number in range(count):
        mutant = mutate(data[number % len(data)], rng)
        try_one(mutant, tally)
        if number % read_every == 0:
            (root / str(number % 8)).write_bytes(mutant)
            if number % (8 * read_every) == 0:
                try:
                    texts = read_all(root)
                except ValueError as error:
                    texts = [str(error)]
                assert not [text for text in texts if "Zyxwvut" in text]
    for path in root.iterdir():
        path.unlink()
    root.rmdir()
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == outside  # nothing is written anywhere
    return tally


def test_mutated_files_give_records_or_named_errors(tmp_path: Path) -> None:
    """A short run; `test_fifty_thousand_mutants` is the long one."""
    data = (*seeds(1), invented(tmp_path))
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tally = fuzz(tmp_path, data, 400, read_every=10, seed=1)
    assert tally.scanned == 400
    assert tally.slowest < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began < 1_500_000  # KiB


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_mutated_archives_are_counted(tmp_path: Path, kind: str) -> None:
    packed = io.BytesIO()
    data = invented(tmp_path)
    if kind == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in "abc":
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name in "abc":
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    rng = np.random.default_rng(2)
    for _ in range(150):
        path = tmp_path / f"mutant.{kind}"
        path.write_bytes(mutate(packed.getvalue(), rng))
        (scan,) = scan_files(ScanTask(paths=(str(path),), root=str(tmp_path), key=KEY))
        assert len(scan.records) + sum(scan.other.values()) >= 1
        assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([f"mutant.{kind}", "seed"])


@pytest.mark.parametrize("seed", range(8))
def test_declared_sizes_beyond_all_memory_are_refused(tmp_path: Path, seed: int) -> None:
    """Huge rows, columns, frames and bits, in files of a few hundred bytes."""
    rng = np.random.default_rng(seed)
    rows, columns = (int(value) for value in rng.choice([65_535, 60_000, 30_000], 2))
    dataset = header(NumberOfFrames=str(rng.choice([1, 2**31 - 1])), BitsAllocated=int(rng.choice([16, 32, 64])))
    write(tmp_path / "huge", dataset, voxels(1)[0])
    dataset.Rows, dataset.Columns = rows, columns
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import RLELossless

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = RLELossless
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, "1.2.3"
    dataset.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x04\x00\x00\x00\x00\x00\x00\x00"
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    FileDataset("", dataset, preamble=bytes(128), file_meta=meta).save_as(tmp_path / "huge", enforce_file_format=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for series in discover(tmp_path, key=KEY).series:
        for one in _readable(series):
            with pytest.raises(ReadError):
                read_volume(one)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_fifty_thousand_mutants(tmp_path: Path) -> None:
    """At least 50,000 mutants of real files; three minutes on one core."""
    data = (*seeds(12), invented(tmp_path))
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tally = fuzz(tmp_path, data, 50_000, read_every=20, seed=3)
    print(f"{tally.scanned} mutants of {len(data)} files, {tally.frames} frames, slowest {tally.slowest:.2f} s")
    assert tally.slowest < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began < 2_000_000  # KiB
