"""Maps as DICOM objects in a folder, read again by other programs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from storage.exports.dicom.folder import export_to_folder
from storage.exports.dicom.form import Form
from storage.exports.dicom.mr_images import LEVELS, steps_of
from storage.exports.dicom.quantities import QUANTITIES
from storage.exports.selection import Selection
from storage.store.cohort import Cohort, StoreError, begin_append, begin_update, commit, write_arrays, writing
from tests.storage.cohorts import GRID, images, maps, placement, row

SESSION, OTHER, EMPTY = "ses-1", "ses-2", "ses-3"
FACTOR = {"T1map": 1e3, "T2map": 1e3, "PDmap": 1.0}
NAMES = [*FACTOR, *(f"{name}_sd" for name in FACTOR)]


def affine() -> NDArray[np.float64]:
    """A head turned a little."""
    result = np.eye(4)
    result[:3, :3] = Rotation.from_euler("xyz", [0.11, -0.06, 0.19]).as_matrix() * np.asarray(GRID.spacing)
    result[:3, 3] = [-31.237, 20.411, -7.773]
    return result


def with_uncertainties(session: str) -> dict[str, NDArray[Any]]:
    """Maps and uncertainties of a session, not computed at the edge."""
    found = maps(session)
    found |= {f"{name}_sd": 0.1 * values for name, values in found.items()}
    for values in found.values():
        values[[0, -1]] = values[:, [0, -1]] = np.nan
    return found


def make_store(folder: Path) -> Path:
    """Two sessions with maps, one without."""
    location = folder / "store"
    with writing(location, create=True) as repository:
        places = [placement(name) for name in (SESSION, OTHER, EMPTY)]
        wave = begin_append(repository, places)
        forks = [
            write_arrays(wave.session.fork(), wave.slots[one.session], images(one.session) | {"affine": affine()})
            for one in places
        ]
        values = {SESSION: {"age": 40.0, "sex": "F"}}
        rows = [row(one.session, person="sub-7f", contrasts="T1w,T2w") for one in places]
        commit(repository, wave, forks, values=values, rows=rows, message="Ingest")
    infer(location, [SESSION, OTHER])
    return location


def infer(location: Path, sessions: list[str], *, checkpoint: str = "c0ffee") -> None:
    with writing(location) as repository:
        update = begin_update(repository, sessions)
        forks = [
            write_arrays(update.session.fork(), slot, with_uncertainties(name)) for name, slot in update.slots.items()
        ]
        rows = [row(name, checkpoint_digest=checkpoint, calibration_version="1/1") for name in sessions]
        commit(repository, update, forks, values={}, rows=rows, message="Infer")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("dicom"))


@pytest.fixture(scope="module")
def exported(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Form], Path]:
    folder = tmp_path_factory.mktemp("out")
    for form in Form:
        done = export_to_folder(Cohort.open(store), folder / form, form=form)
        assert (done.sessions, done.stored, done.there, done.left_out) == (2, 12, 0, {"no maps yet": 1})
    return lambda form: folder / form


def stored(store: Path, name: str) -> NDArray[np.floating]:
    """A map as the store has it, in the unit of the objects."""
    cohort = Cohort.open(store)
    return cohort.read(cohort.slots[SESSION], [name])[name] * FACTOR[name.removesuffix("_sd")]


def series(exported: Callable[[Form], Path], form: Form, name: str) -> list[pydicom.Dataset]:
    path = exported(form) / "sub-7f" / SESSION / (f"{name}.dcm" if form is Form.PARAMETRIC_MAP else name)
    return [pydicom.dcmread(one) for one in ([path] if path.is_file() else sorted(path.iterdir()))]


def dcm2niix(source: Path, folder: Path) -> nibabel.Nifti1Image:
    program = Path(sys.executable).with_name("dcm2niix")
    folder.mkdir()
    subprocess.run(
        [program, "-b", "n", "-s", "y" if source.is_file() else "n", "-f", "map", "-o", folder, source],
        capture_output=True,
        check=True,
    )
    (found,) = folder.glob("*.nii")
    return nibabel.load(found)


def as_stored(image: nibabel.Nifti1Image) -> NDArray[np.float64]:
    """Voxels of an image on the grid of the store, whose index counts otherwise along its axes."""
    voxels = np.indices(GRID.shape[::-1]).reshape(3, -1)
    places = np.linalg.inv(image.affine) @ affine() @ np.vstack([voxels, np.ones(voxels.shape[1])])
    np.testing.assert_allclose(places[:3], np.rint(places[:3]), atol=0.002)  # of a voxel: 0.004 mm
    index = np.rint(places[:3]).astype(int)
    return image.get_fdata()[tuple(index)].reshape(GRID.shape[::-1]).T


@pytest.mark.parametrize("name", NAMES)
def test_a_parametric_map_is_what_dcm2niix_reads(
    store: Path, exported: Callable[[Form], Path], tmp_path: Path, name: str
) -> None:
    path = exported(Form.PARAMETRIC_MAP) / "sub-7f" / SESSION / f"{name}.dcm"
    np.testing.assert_allclose(as_stored(dcm2niix(path, tmp_path / "nii")), stored(store, name), rtol=2**-23)


@pytest.mark.parametrize("name", NAMES)
def test_mr_images_are_within_half_a_step(
    store: Path, exported: Callable[[Form], Path], tmp_path: Path, name: str
) -> None:
    step = float(series(exported, Form.MR, name)[0].RescaleSlope)
    found = as_stored(dcm2niix(exported(Form.MR) / "sub-7f" / SESSION / name, tmp_path / "nii"))
    expected = stored(store, name)
    inside = np.isfinite(expected)
    assert np.nanmax(expected) / step > 2 * LEVELS / 5 - 2  # no step is coarser than need be
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.5001 * step, rtol=1e-6)
    np.testing.assert_allclose(found[~inside], -step, rtol=1e-6)


@given(low=st.floats(-10, 0), high=st.floats(1e-6, 1e6))
def test_steps_reach_every_value(low: float, high: float) -> None:
    step, intercept = steps_of(np.array([low, high]))
    levels = (np.array([min(low, 0.0), 0.0, high]) - intercept) / step
    assert levels.min() > 0.5
    assert levels.max() < LEVELS + 1.5
    assert len(f"{step}") <= 16
    assert len(f"{intercept}") <= 16


@pytest.mark.parametrize("form", Form)
def test_pydicom_reads_where_slices_lie(exported: Callable[[Form], Path], form: Form) -> None:
    """The corners of the grid are those of the store, by DICOM's own formula (PS3.3 C.7.6.2.1.1)."""
    objects = series(exported, form, "T1map")
    if form is Form.MR:
        planes = [(one.ImagePositionPatient, one.ImageOrientationPatient, one.PixelSpacing) for one in objects]
    else:
        shared = objects[0].SharedFunctionalGroupsSequence[0]
        orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        spacing = shared.PixelMeasuresSequence[0].PixelSpacing
        frames = objects[0].PerFrameFunctionalGroupsSequence
        planes = [(one.PlanePositionSequence[0].ImagePositionPatient, orientation, spacing) for one in frames]
    corners = []
    for position, orientation, (between_rows, between_columns) in planes:
        along_row, along_column = np.array(orientation[:3], float), np.array(orientation[3:], float)
        for row_index in (0, objects[0].Rows - 1):
            for column_index in (0, objects[0].Columns - 1):
                place = np.array(position, float) + along_row * between_columns * column_index
                corners.append(place + along_column * between_rows * row_index)
    z, y, x = GRID.shape
    voxels = [(i, j, k, 1) for k in range(z) for j in (0, y - 1) for i in (0, x - 1)]
    expected = (np.array(voxels) @ affine().T)[:, :3] * [-1, -1, 1]
    distances = np.linalg.norm(np.array(corners)[:, None] - expected, axis=2)
    assert distances.min(axis=0).max() < 1e-3
    assert distances.min(axis=1).max() < 1e-3
    assert objects[0].ImageType[0] == "DERIVED"
    first = np.array(planes[0][1], float)
    assert first[0] > 0.9  # rows run to the left, columns to the back
    assert first[4] > 0.9
    assert form is Form.PARAMETRIC_MAP or planes[-1][0][2] > planes[0][0][2]


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda one: one.variable)
def test_objects_say_what_they_are(exported: Callable[[Form], Path], form: Form, quantity: Any) -> None:
    for dataset in series(exported, form, quantity.variable):
        assert "NOT FOR CLINICAL USE" in dataset.SeriesDescription
        assert "NOT FOR CLINICAL USE" in dataset.DerivationDescription
        assert len(dataset.SeriesDescription) <= 64
        assert dataset.PatientID == "sub-7f"
        assert dataset.PatientIdentityRemoved == "YES"
        assert (dataset.StudyDate, dataset.PatientBirthDate, dataset.AccessionNumber) == ("", "", "")
        assert (dataset.PatientAge, dataset.PatientSex) == ("040Y", "F")
        mapping = dataset if form is Form.MR else dataset.SharedFunctionalGroupsSequence[0]
        (mapping,) = mapping.RealWorldValueMappingSequence
        unit = mapping.MeasurementUnitsCodeSequence[0]
        expected = "1" if quantity.variable.startswith("PD") else "ms"
        assert (unit.CodeValue, unit.CodingSchemeDesignator) == (expected, "UCUM")
        codes = [item.ConceptCodeSequence[0] for item in mapping.QuantityDefinitionSequence]
        code = {"T1": "113063", "T2": "113065", "PD": "113058"}[quantity.variable[:2]]
        assert [(one.CodeValue, one.CodingSchemeDesignator) for one in codes] == [
            (code, "DCM"),
            *([("386136009", "SCT")] if quantity.variable.endswith("_sd") else []),
        ]
        (equipment,) = dataset.ContributingEquipmentSequence
        assert next(iter(equipment.SoftwareVersions)) == "c0ffee"
        assert "calibration 1/1" in equipment.ContributionDescription
        for keyword in ("RepetitionTime", "EchoTime", "InversionTime", "FlipAngle"):
            assert not dataset.get(keyword)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian: dicom3tools)")
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("form", Form)
def test_dciodvfy_finds_no_error(store: Path, tmp_path: Path, form: Form, zeros: bool) -> None:
    export_to_folder(Cohort.open(store), tmp_path / "out", Selection(sessions=[SESSION], zeros=zeros), form=form)
    files = sorted((tmp_path / "out").rglob("*.dcm"))
    assert len(files) == 6 * (1 if form is Form.PARAMETRIC_MAP else GRID.shape[0])
    for path in files[:: 1 if form is Form.PARAMETRIC_MAP else 5]:
        assert errors(path) == []
    broken = pydicom.dcmread(files[0])
    del broken.Modality  # the program does see what is wrong
    broken.save_as(files[0])
    assert errors(files[0])


def errors(path: Path) -> list[str]:
    run = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
    return [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")]


def test_the_same_map_has_the_same_identifiers_and_another_version_has_others(tmp_path: Path) -> None:
    location = make_store(tmp_path)

    def identifiers(name: str) -> dict[str, tuple[str, ...]]:
        export_to_folder(Cohort.open(location), tmp_path / name, Selection(sessions=[SESSION]))
        found = [pydicom.dcmread(path) for path in sorted((tmp_path / name).rglob("*.dcm"))]
        assert len({one.SOPInstanceUID for one in found}) == len({one.SeriesInstanceUID for one in found}) == 6
        assert len({(one.StudyInstanceUID, one.FrameOfReferenceUID) for one in found}) == 1
        return {
            one.SeriesDescription: (one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID) for one in found
        }

    first = identifiers("first")
    infer(location, [OTHER])  # the store goes on
    assert identifiers("second") == first
    infer(location, [SESSION], checkpoint="f00d")
    third = identifiers("third")
    for name, (study, *others) in third.items():
        assert study == first[name][0]
        assert not set(others) & set(first[name])


def test_an_export_of_one_snapshot_is_the_same_to_the_byte(store: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        export_to_folder(Cohort.open(store), tmp_path / name, Selection(sessions=[SESSION]))
    for path in sorted((tmp_path / "one").rglob("*.dcm")):
        assert path.read_bytes() == (tmp_path / "other" / path.relative_to(tmp_path / "one")).read_bytes()


@pytest.mark.parametrize("form", Form)
def test_an_export_that_was_cut_short_goes_on(store: Path, tmp_path: Path, form: Form) -> None:
    class CutError(Exception):
        pass

    def cut(done: int, total: int) -> None:
        if done < total:
            raise CutError

    out, part = tmp_path / "out", tmp_path / ".out.part"
    with pytest.raises(CutError):
        export_to_folder(Cohort.open(store), out, form=form, progress=cut)
    assert not out.exists()
    first = sorted(part.rglob("*.dcm"))[0]
    written = first.stat().st_mtime_ns
    left = (
        part / "sub-7f" / OTHER / (".T1map.dcm.part" if form is Form.PARAMETRIC_MAP else ".T1map.part")
    )  # as a kill within a series leaves it
    left.mkdir(parents=True)
    (left / "9999.dcm").touch()
    done = export_to_folder(Cohort.open(store), out, form=form)
    assert (done.sessions, done.stored, done.there) == (2, 6, 6)
    assert (out / first.relative_to(part)).stat().st_mtime_ns == written
    assert not [path for path in out.rglob("*") if path.name.startswith(".") or path.name == "9999.dcm"]
    with pytest.raises(StoreError, match="is there already"):
        export_to_folder(Cohort.open(store), out, form=form)


def test_zeros_for_programs_that_know_no_nan(store: Path, tmp_path: Path) -> None:
    export_to_folder(Cohort.open(store), tmp_path / "out", Selection(sessions=[SESSION], zeros=True))
    dataset = pydicom.dcmread(tmp_path / "out" / "sub-7f" / SESSION / "T1map.dcm")
    assert dataset.FloatPixelPaddingValue == 0
    assert np.isfinite(dataset.pixel_array).all()
    assert "is 0." in (tmp_path / "out" / "README.txt").read_text()
