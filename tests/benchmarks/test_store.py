"""Speed and size of the cohort store against plain files: ``pytest -m bench -s tests/benchmarks/test_store.py``."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.typing import NDArray
from scipy import ndimage
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore

from qmri_core.preprocessing.template.brain import tissue_templates
from qmri_core.series.geometry import Grid
from storage.store.cohort import (
    Cohort,
    begin_append,
    begin_update,
    commit,
    open_cohort,
    write_arrays,
    write_table,
    writing,
)
from storage.store.schema import (
    BLOCK_BYTES,
    IMAGES,
    WORKER_VARIABLES,
    ZSTD_LEVEL,
    chunks_of,
    create_variable,
    rounded,
)
from storage.store.slots import Placement
from storage.store.tables import load_table

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

N_SESSIONS = 200
MAPS = ("T1map", "T2map", "PDmap")
SPREAD = {"T1w": 30.0, "T2w": 40.0, "FLAIR": 35.0, "T1map": 0.03, "T2map": 0.003, "PDmap": 0.02}


def best(work: Callable[[], object], times: int = 3) -> float:
    """Least time of a few runs, in seconds."""

    def once() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return min(once() for _ in range(times))


def head(step: int) -> dict[str, NDArray[Any]]:
    """Noisy images, maps and masks of a template head at ``step`` mm: what a session of the store looks like."""
    found = tissue_templates()
    grey, white = (found[name].array[::step, ::step, ::step] for name in ("gm", "wm"))
    brain = grey + white > 0.2
    wide = ndimage.distance_transform_edt(~brain) * step <= 10  # type: ignore[operator]
    rng = np.random.default_rng(0)
    level = np.where(brain, 0.3 + 0.4 * grey + 0.7 * white, 0.05 * wide)

    def noisy(scale: float, spread: float, where: NDArray[Any]) -> NDArray[np.float32]:
        values = np.abs(scale * level + rng.normal(0, spread, level.shape))
        return np.where(where, values, np.nan).astype(np.float32)

    arrays: dict[str, NDArray[Any]] = {name: noisy(900.0, SPREAD[name], wide) for name in ("T1w", "T2w", "FLAIR")}
    arrays |= {name: noisy(1.2, SPREAD[name], brain) for name in MAPS}
    arrays |= {f"{name}_sd": noisy(0.05, SPREAD[name] / 10, brain) for name in MAPS}
    arrays["residual"] = noisy(0.05, 0.01, brain)
    arrays["brain_mask"] = brain.astype(np.uint8)
    arrays["tissue"] = np.where(brain, np.where(white > grey, 3, 2), 0).astype(np.uint8)
    return arrays


@dataclass(frozen=True, kw_only=True)
class Stores:
    """The same maps of `N_SESSIONS` sessions in the store, as .npy and as gzipped NIfTI."""

    store: Path
    files: Path
    grid: Grid


def names() -> list[str]:
    return [f"ses-{n:03d}" for n in range(N_SESSIONS)]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    folder = tmp_path_factory.mktemp("bench")
    arrays = head(3)
    grid = Grid(shape=arrays["T1map"].shape, spacing=(3.0, 3.0, 3.0))  # type: ignore[arg-type]
    stored = {name: rounded(arrays[name], WORKER_VARIABLES[name]) for name in ("T1w", "T1map", "tissue")}
    members = [Placement(session=name, scanner="scanner", protocol="protocol", grid=grid) for name in names()]
    with writing(folder / "store", create=True) as repository:
        wave = begin_append(repository, members)
        for name in names():
            write_arrays(wave.fork, wave.slots[name], stored | {"affine": np.eye(4)})
        rows = [{"session": name, "status": "partial"} for name in names()]
        commit(repository, wave, [wave.fork], values={}, rows=rows, message="images")
        table = xr.Dataset({"session": ("row", np.repeat(names(), 9)), "median": ("row", np.zeros(9 * N_SESSIONS))})
        write_table(repository, "statistics", table, message="statistics")
    for name in names():
        np.save(folder / f"{name}.npy", stored["T1map"])
        nibabel.save(nibabel.Nifti1Image(stored["T1map"].T, np.eye(4)), folder / f"{name}.nii.gz")
    return Stores(store=folder / "store", files=folder, grid=grid)


def report(what: str, store: float, npy: float, nifti: float) -> None:
    print(f"\n{what}: {store * 1e3:.1f} ms; .npy {npy * 1e3:.1f} ms ({store / npy:.1f} times that); ", end="")
    print(f"gzipped NIfTI {nifti * 1e3:.1f} ms ({store / nifti:.2f} times that)")


def test_one_volume(stores: Stores) -> None:
    slot = Cohort.open(stores.store).slots["ses-100"]
    group = open_cohort(stores.store)[slot.group]
    store = best(lambda: group["T1map"][slot.index].values)
    npy = best(lambda: np.load(stores.files / "ses-100.npy"))
    nifti = best(lambda: nibabel.load(stores.files / "ses-100.nii.gz").get_fdata(dtype=np.float32))
    report("one volume of one session", store, npy, nifti)
    whole = best(lambda: Cohort.open(stores.store).read(slot, ["T1map"]))
    print(f"with opening the store: {whole * 1e3:.1f} ms")
    assert store < 3 * nifti


@pytest.mark.parametrize("what", ["slice", "voxel"])
def test_many_sessions(stores: Stores, what: str) -> None:
    z, y, x = (size // 2 for size in stores.grid.shape)
    index: Any = (z,) if what == "slice" else (z, y, x)
    array = open_cohort(stores.store)["scanner/protocol"]["T1map"]
    store = best(lambda: array[(slice(None), *index)].values)
    npy = best(lambda: [np.load(stores.files / f"{name}.npy", mmap_mode="r")[index].copy() for name in names()])

    def nifti() -> list[Any]:
        loaded = (nibabel.load(stores.files / f"{name}.nii.gz") for name in names())
        return [np.asarray(image.dataobj[(..., *index[::-1])]) for image in loaded]

    seconds = best(nifti, 1)
    report(f"one {what} of {N_SESSIONS} sessions", store, npy, seconds)
    assert store < seconds


def test_all_tissue_tables(stores: Stores) -> None:
    seconds = best(lambda: load_table(Cohort.open(stores.store).session, "statistics"))
    print(f"\nstatistics of {N_SESSIONS} sessions, 9 rows each: {seconds * 1e3:.0f} ms with opening the store")


def test_bytes_and_write_speed_of_a_session_at_1_mm(tmp_path: Path) -> None:
    """All twelve volumes, through the functions of ingest and inference, beside their mere encoding in memory."""
    arrays = head(1)
    shape = arrays["T1w"].shape
    grid = Grid(shape=shape, spacing=(1.0, 1.0, 1.0))  # type: ignore[arg-type]
    images = {name: array for name, array in arrays.items() if "map" not in name and name != "residual"}
    maps = {name: array for name, array in arrays.items() if name not in images}
    raw = sum(array.nbytes for array in arrays.values())
    location = tmp_path / "store"

    def store() -> float:
        member = Placement(session="ses-1", scanner="scanner", protocol="protocol", grid=grid)
        with writing(location, create=True) as repository:
            wave = begin_append(repository, [member])
            began = time.perf_counter()
            write_arrays(wave.fork, wave.slots["ses-1"], images | {"affine": np.eye(4)})
            seconds = time.perf_counter() - began
            row = {"session": "ses-1", "status": "partial"}
            began = time.perf_counter()
            commit(repository, wave, [wave.fork], values={}, rows=[row], message="images")
            seconds += time.perf_counter() - began
            wave = begin_update(repository, ["ses-1"])
            began = time.perf_counter()
            write_arrays(wave.fork, wave.slots["ses-1"], maps)
            commit(repository, wave, [wave.fork], values={}, rows=[row], message="maps")
            return seconds + time.perf_counter() - began

    def encode() -> None:
        group = zarr.create_group(MemoryStore())
        for variable in IMAGES:
            create_variable(group, variable, (1, *shape))
            group[variable.name][0] = rounded(arrays[variable.name], variable)  # type: ignore[index]

    seconds, memory = min(store() for _ in range(3)), best(encode)
    print(f"\nwrite one session at 1 mm: {raw / seconds / 1e6:.0f} MB/s, {memory / seconds:.2f} of encoding in memory")
    stored = sum(path.stat().st_size for path in (location / "chunks").iterdir()) / 3  # written three times
    nifti = sum(
        len(gzip.compress(nibabel.Nifti1Image(rounded(arrays[v.name], v).T, np.eye(4)).to_bytes(), 6)) for v in IMAGES
    )
    print(f"bytes: {stored / 1e6:.1f} MB, {stored / nifti:.2f} of gzipped NIfTI ({nifti / 1e6:.1f} MB)")
    assert stored <= 0.8 * nifti


CODECS = [("lz4", 5, "bitshuffle", 0), ("lz4", 5, "shuffle", 0), ("zstd", 1, "shuffle", 0), ("zstd", 3, "shuffle", 0),
          ("zstd", 5, "shuffle", 0), ("zstd", 1, "shuffle", BLOCK_BYTES), ("zstd", ZSTD_LEVEL, "shuffle", BLOCK_BYTES),
          ("zstd", 3, "shuffle", BLOCK_BYTES)]  # fmt: skip


def test_codecs() -> None:
    """The candidates of the schema: size against gzipped NIfTI of the same values, speed in memory."""
    arrays = head(1)
    print()
    for name in ("T1w", "T1map", "tissue"):
        variable = WORKER_VARIABLES[name]
        values = rounded(arrays[name], variable)
        nifti = len(gzip.compress(nibabel.Nifti1Image(values.T, np.eye(4)).to_bytes(), 6))
        chunks = chunks_of(variable, (1, *values.shape))[1:]
        for codec, level, shuffle, block in CODECS:
            store = MemoryStore()
            array = zarr.create_array(
                store, shape=values.shape, chunks=chunks, dtype=values.dtype, fill_value=variable.fill,
                compressors=BloscCodec(
                    cname=codec, clevel=level, shuffle=shuffle, typesize=values.dtype.itemsize, blocksize=block  # type: ignore[arg-type]
                ),
            )  # fmt: skip
            write = best(lambda: array.__setitem__(slice(None), values))  # noqa: B023 - called at once
            read = best(lambda: array[:])  # noqa: B023
            size = sum(len(content.to_bytes()) for key, content in store._store_dict.items() if key.startswith("c/"))
            print(
                f"{name:7s}{codec:5s}{level} {shuffle:11s}{block:7d}{size / nifti:5.2f} of gzipped NIfTI, "
                f"write {values.nbytes / write / 1e6:5.0f} MB/s, read {values.nbytes / read / 1e6:5.0f} MB/s"
            )
