"""Mistakes of our own code in reading headers and pixels: they end a run, and never pass for a damaged file."""

from __future__ import annotations

import gzip
import inspect
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset

from storage.source import assume_file, files, index
from storage.source.bids import nifti
from storage.source.damage import PYDICOM, DamagedError, library_errors
from storage.source.dicom import elements, frames, header, pixels
from storage.source.discovery import discover, read_volume
from storage.source.scans import ScanTask, scan_files
from tests.storage.slices import voxels, write_enhanced, write_series

KEY = b"a key for tests, of thirty-two b"
MISTAKES = (AttributeError, TypeError, KeyError, ValueError)
MODULES = (assume_file, elements, files, frames, header, index, nifti, pixels)
CALLED_BY_A_LIBRARY = {"_past_classic"}  # pydicom asks it where to stop; it compares two numbers
Patch = pytest.MonkeyPatch


def classic(folder: Path) -> None:
    write_series(folder, voxels(2))


def multi_frame(folder: Path) -> None:
    write_enhanced(folder / "e", voxels(3), [2, 0, 1])


def gzipped(folder: Path) -> None:
    classic(folder)
    for path in list(folder.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def zipped(folder: Path) -> None:
    classic(folder / "plain")
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (folder / "plain").iterdir():
            archive.write(path, path.name)
    shutil.rmtree(folder / "plain")


def in_tar(folder: Path) -> None:
    classic(folder / "plain")
    with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
        archive.add(folder / "plain", "in")
    shutil.rmtree(folder / "plain")


def volume(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels(), np.diag([2.0, 2.0, 2.0, 1.0]))
    nibabel.save(image, folder / "sub-01_T1w.nii.gz")
    (folder / "sub-01_T1w.json").write_text('{"EchoTime": 0.003, "Manufacturer": "GE", "SoftwareVersions": "27"}')


READERS: dict[str, tuple[Callable[[Path], None], int]] = {
    "classic": (classic, 30),
    "enhanced": (multi_frame, 30),
    "gzipped": (gzipped, 30),
    "zip": (zipped, 30),
    "tar": (in_tar, 30),
    "nifti": (volume, 15),
}
"""How to write a source, and how many of our functions reading its headers calls at least."""


def scan(folder: Path) -> None:
    paths = tuple(str(path) for path in files.walk(str(folder), []))
    for result in scan_files(ScanTask(paths=paths, root=str(folder), key=KEY)):
        assert result.records
        assert not result.other


def own_functions() -> Iterator[tuple[Any, str]]:
    """Every function and method of the modules that read a source, with what holds it."""
    for module in MODULES:
        for name, thing in vars(module).items():
            if getattr(thing, "__module__", "") != module.__name__ or name in CALLED_BY_A_LIBRARY:
                continue
            if inspect.isfunction(thing):
                yield module, name
            elif inspect.isclass(thing) and not issubclass(thing, BaseException):
                yield from ((thing, inner) for inner, part in vars(thing).items() if inspect.isfunction(part))


def replace_everywhere(patch: Patch, holder: Any, name: str, function: Callable[..., Any]) -> None:
    """Replace one of our functions under each name by which it is called."""
    original = getattr(holder, name)
    for module in (holder, *MODULES):
        if vars(module).get(name) is original:
            patch.setattr(module, name, function)


def called(action: Callable[[], object]) -> list[tuple[Any, str]]:
    """Our functions that ``action`` calls."""
    calls: dict[tuple[Any, str], None] = {}

    def noting(place: tuple[Any, str], original: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*values: Any, **named: Any) -> Any:
            calls[place] = None
            return original(*values, **named)

        return noted

    with pytest.MonkeyPatch.context() as patch:
        for holder, name in list(own_functions()):
            replace_everywhere(patch, holder, name, noting((holder, name), getattr(holder, name)))
        action()
    return list(calls)


def muted(action: Callable[[], object], places: list[tuple[Any, str]]) -> list[str]:
    """Functions with a mistake that does not reach the caller of ``action``."""
    names = []
    for mistake in MISTAKES:

        def wrong(*_: Any, mistake: type[Exception] = mistake, **__: Any) -> None:
            raise mistake("a mistake of ours")

        for holder, name in places:
            with pytest.MonkeyPatch.context() as patch:
                replace_everywhere(patch, holder, name, wrong)
                try:
                    action()
                except mistake as error:
                    if "a mistake of ours" in str(error):
                        continue
                except Exception:  # noqa: BLE001, S110 - another error in its place is muting too
                    pass
            names.append(f"{mistake.__name__} in {holder.__name__}.{name}")
    return names


@pytest.mark.parametrize("reader", READERS)
def test_a_mistake_in_any_function_that_reads_headers_is_raised(tmp_path: Path, reader: str) -> None:
    write, n_expected = READERS[reader]
    write(tmp_path)
    places = called(lambda: scan(tmp_path))
    assert len(places) >= n_expected
    assert muted(lambda: scan(tmp_path), places) == []


@pytest.mark.parametrize("reader", READERS)
def test_a_mistake_in_any_function_that_reads_pixels_is_raised(tmp_path: Path, reader: str) -> None:
    write, _ = READERS[reader]
    write(tmp_path)
    (series,) = discover(tmp_path, key=KEY).series
    places = called(lambda: read_volume(series))
    assert len(places) >= (1 if reader == "nifti" else 15)
    assert muted(lambda: read_volume(series), places) == []


def test_library_errors_are_named_without_their_text() -> None:
    with pytest.raises(DamagedError) as caught, library_errors(PYDICOM):
        raise KeyError("Zyxwvut^Quentin")
    assert (caught.value.kind, str(caught.value)) == ("KeyError", "KeyError")
    with pytest.raises(MemoryError), library_errors(PYDICOM):
        raise MemoryError


def test_several_inversion_times_are_no_damage(tmp_path: Path) -> None:
    """The element may hold many values; they were no key of a dictionary, and the file was no image."""
    write_enhanced(tmp_path / "e", voxels(3), [0, 1, 2], inversion_times=[900.0, 1200.0])
    (series,) = discover(tmp_path, key=KEY).series
    assert series.header.inversion_time == 0.9


@pytest.mark.parametrize("text", ['{"EchoTime": 1%s}' % ("0" * 400), '{"SoftwareVersions": "\\ud800"}', "[" * 5000])
def test_odd_sidecars_are_no_mistake_of_ours(tmp_path: Path, text: str) -> None:
    volume(tmp_path)
    (tmp_path / "sub-01_T1w.json").write_text(text)
    (series,) = discover(tmp_path, key=KEY).series
    assert series.header.echo_time is None


def test_a_value_that_is_no_sequence_has_no_items() -> None:
    dataset = Dataset()
    dataset.add_new("SharedFunctionalGroupsSequence", "LO", "text")
    assert elements.first_item(dataset, "SharedFunctionalGroupsSequence") is None
