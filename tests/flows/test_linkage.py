"""Maps under the names of the people whose images they were made from, on those images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from flows.cli.main import app
from flows.ingest.run import write_linkage
from flows.ingest.session_plan import SessionPlan, plan_sessions
from flows.linkage import people_of
from qmri_core.preprocessing.alignment import resample
from qmri_core.series.geometry import Grid
from storage.exports.dicom.export import export_dicom
from storage.exports.dicom.folder import export_to_folder
from storage.exports.dicom.form import Form
from storage.exports.dicom.receiver import server_receiver
from storage.pseudonyms import load_key
from storage.source.discovery import LinkageRow, discover, read_volume
from storage.source.origin import Limits, Source, source_of
from storage.store.cohort import Cohort, Placement, begin_append, begin_update, commit, write_arrays, writing
from tests.orthanc import Orthanc, needs_orthanc
from tests.storage.exports.dicom.test_folder import dcm2niix
from tests.storage.slices import PATIENT, PATIENT_ID, SECRETS, STUDY, voxels, write_series

FLAIR = {"ScanningSequence": ["SE", "IR"], "InversionTime": "2500", "RepetitionTime": "9000", "EchoTime": "120"}
TILT = [0.9992, 0.0399893, 0, -0.0399893, 0.9992, 0]
"""Direction of rows and columns of a head turned by 2.3 degrees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """A source of one session, and a store with its maps, whose voxels are those of the T1w."""

    source: Any
    store: Path
    linkage: Path
    key_file: Path
    plan: SessionPlan

    def export(self, out: Path, form: Form = Form.PARAMETRIC_MAP, source: Path | None = None) -> dict[str, int]:
        cohort, key = Cohort.open(self.store), load_key(self.key_file)
        with people_of(cohort, self.linkage, source or self.source, key=key) as people:
            done = export_to_folder(cohort, out, form=form, subjects=people)
        assert done.sessions + sum(done.left_out.values()) == 1
        return dict(done.left_out)


def write_source(folder: Path) -> None:
    common = {"ImageOrientationPatient": TILT, "StudyTime": "101112", "AccessionNumber": "A-77", "StudyID": "S7"}
    write_series(folder / "a", voxels(8, 12, 10), **common)
    write_series(folder / "b", voxels(8, 12, 10, seed=2), series=2, SeriesNumber="5", **FLAIR, **common)
    write_series(folder / "c", voxels(8, 12, 10, seed=3), series=3, SeriesNumber="6", **FLAIR, **common)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("small")
    write_source(folder / "in")
    return small_of(folder / "in", folder)


def small_of(source: Source, folder: Path, *, turned: bool = False) -> Small:
    """A store in a folder with the maps of the one session of a source, as ingest and infer would have left it.

    Voxels of the maps are those of the T1w, or of a grid of its own that is turned against it, as groups have.
    """
    store, linkage, key_file = (folder / name for name in ("store", "linkage.csv", "key"))
    key_file.write_text("5e" * 32)
    found = discover(source, key=load_key(key_file))
    write_linkage(found.linkage, linkage)
    (plan,) = plan_sessions(found.series)
    t1w = plan.chosen["T1w"]
    grid, volume = Grid(shape=t1w.shape[::-1], spacing=t1w.spacing), read_volume(t1w)
    shown, affine = volume.array, volume.affine
    if turned:
        middle = (volume.affine @ [*(np.asarray(t1w.shape) - 1) / 2, 1])[:3]
        grid = Grid(shape=(20, 24, 22), spacing=(2.5, 2.5, 2.5))
        affine = grid.affine(Rotation.from_euler("xyz", [0.1, -0.08, 0.15]).as_matrix(), middle)
        shown = resample(volume, grid, affine)
    scanner, protocol = plan.group.split("/")
    place = Placement(session=plan.session, scanner=scanner, protocol=protocol, grid=grid)
    with writing(store, create=True) as repository:
        wave = begin_append(repository, [place])
        arrays = {"T1w": shown, "affine": affine}
        forks = [write_arrays(wave.session.fork(), wave.slots[plan.session], arrays)]
        row = {"session": plan.session, "person": plan.person, "status": "partial", "code_version": "0.2.0"}
        row |= {"input_digest": plan.input_digest, "series": plan.series_text, "contrasts": "T1w,FLAIR"}
        values = {plan.session: {"reference_contrast": "T1w"}}
        commit(repository, wave, forks, values=values, rows=[row], message="Ingest")
        update = begin_update(repository, [plan.session])
        maps = {"T1map": shown / 1000, "T1map_sd": shown / 10_000}
        forks = [write_arrays(update.session.fork(), slot, maps) for slot in update.slots.values()]
        row = {"session": plan.session, "checkpoint_digest": "c0ffee", "calibration_version": "1/1"}
        commit(repository, update, forks, values={}, rows=[row], message="Infer")
    return Small(source=source, store=store, linkage=linkage, key_file=key_file, plan=plan)


def read(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]


@pytest.mark.parametrize("form", Form)
def test_maps_are_of_the_person_and_the_study_and_lie_on_the_images(small: Small, tmp_path: Path, form: Form) -> None:
    assert small.export(tmp_path / "out", form) == {}
    image = pydicom.dcmread(next((small.source / "a").iterdir()))
    found = read(tmp_path / "out")
    assert len(found) == (2 if form is Form.PARAMETRIC_MAP else 16)
    for dataset in found:
        for keyword in (
            "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
            "AccessionNumber", "StudyID", "ReferringPhysicianName", "FrameOfReferenceUID",
        ):  # fmt: skip
            assert dataset[keyword].value == image[keyword].value, keyword
        assert dataset.Manufacturer == "qmri-cohort"
        assert dataset.SeriesInstanceUID not in {f"{STUDY}.{number}" for number in (1, 2, 3)}
        assert small.plan.session not in dataset.to_json()  # nor is it known which pseudonym the person has
        assert small.plan.person not in dataset.to_json()
        used = [item.ReferencedSOPInstanceUID for item in sources(dataset, form)]
        assert len(used) == 16
        taken = {one.number - 3 for one in small.plan.chosen.values()}
        assert set(used) == {f"{STUDY}.{number}.{z}" for number in taken for z in range(1, 9)}
        listed = {item.SeriesInstanceUID for item in dataset.ReferencedSeriesSequence}
        assert listed == {f"{STUDY}.{number}" for number in taken}
    names = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")]
    assert not [name for name in names if re.search(r"sub-|ses-|MRN|Zyx|1\.2\.826", name)]
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0
    assert "NAME PEOPLE" in (tmp_path / "out" / "README.txt").read_text()
    path = next(path for path in (tmp_path / "out").rglob("*") if path.stem == "T1map")
    ours, theirs = dcm2niix(path, tmp_path / "ours"), dcm2niix(small.source / "a", tmp_path / "theirs")
    np.testing.assert_allclose(on(ours, theirs), theirs.get_fdata(), rtol=2**-12, atol=0.06)


def test_maps_on_a_turned_grid_lie_on_the_images_to_a_hundredth_of_a_millimetre(tmp_path: Path) -> None:
    """Read by dcm2niix, images and maps: no shift of one against the other fits better than none."""
    smooth = gaussian_filter(np.random.default_rng(4).random((24, 34, 26)), 2.5)
    shown = np.rint(4000 * (smooth - smooth.min()) / np.ptp(smooth))
    write_series(tmp_path / "in" / "a", shown, ImageOrientationPatient=TILT)
    write_series(tmp_path / "in" / "b", shown, series=2, SeriesNumber="5", ImageOrientationPatient=TILT, **FLAIR)
    small = small_of(tmp_path / "in", tmp_path, turned=True)
    theirs = dcm2niix(small.source / "a", tmp_path / "theirs")
    for form in Form:
        assert small.export(tmp_path / form, form) == {}
        path = next(path for path in (tmp_path / form).rglob("*") if path.stem == "T1map")
        ours = dcm2niix(path, tmp_path / f"ours-{form}")
        assert np.linalg.norm(shift(ours, theirs)) < 0.01
        moved = nibabel.Nifti1Image(ours.get_fdata(), ours.affine + np.eye(4, k=3) * 0.05)  # to the right
        np.testing.assert_allclose(shift(moved, theirs), [0.05, 0, 0], atol=0.01)


def shift(ours: nibabel.Nifti1Image, theirs: nibabel.Nifti1Image) -> np.ndarray:
    """Millimetres, along RAS axes, by which the image of a map lies beside another one.

    Least squares: what the map shows as the other image at its places and the gradient of that.
    """
    values = ours.get_fdata().ravel()
    places = ours.affine @ np.vstack([np.indices(ours.shape).reshape(3, -1), np.ones(values.size)])

    def sampled(offset: np.ndarray) -> np.ndarray:
        moved = np.linalg.inv(theirs.affine) @ (places + np.append(offset, 0)[:, None])
        return map_coordinates(theirs.get_fdata(), moved[:3], order=3, mode="constant", cval=np.nan)

    plain = sampled(np.zeros(3))
    gradient = [sampled(axis) - sampled(-axis) for axis in np.eye(3) * 0.5]  # per millimetre
    design = np.stack([*gradient, plain])
    inside = np.isfinite(values) & (values > 0) & np.isfinite(design).all(axis=0)
    assert inside.sum() > 2000
    fit = np.linalg.lstsq(design[:, inside].T, values[inside], rcond=None)[0]
    return -fit[:3] / fit[3]


def sources(dataset: pydicom.Dataset, form: Form) -> pydicom.Sequence:
    if form is Form.MR:
        return dataset.SourceImageSequence
    return dataset.SharedFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence


def on(image: nibabel.Nifti1Image, other: nibabel.Nifti1Image) -> np.ndarray:
    """Values of an image at the voxels of another one, which must be voxels of it too, to 0.01 mm."""
    voxels = np.vstack([np.indices(other.shape).reshape(3, -1), np.ones(other.get_fdata().size)])
    places = (np.linalg.inv(image.affine) @ other.affine @ voxels)[:3]
    index = np.rint(places).astype(int)
    off = image.affine[:3, :3] @ (places - index)
    assert np.linalg.norm(off, axis=0).max() < 0.01
    return image.get_fdata()[tuple(index)].reshape(other.shape)


@pytest.mark.parametrize("form", Form)
def test_our_maps_beside_the_images_change_nothing(small: Small, tmp_path: Path, form: Form) -> None:
    """As they lie in an archive that they were stored on: same person, same study, read again."""
    both = tmp_path / "both"
    write_source(both)
    before = discover(both, key=load_key(small.key_file))
    small.export(both / "maps", form)
    after = discover(both, key=load_key(small.key_file))
    n_maps = 2 if form is Form.PARAMETRIC_MAP else 16
    assert after.series == before.series
    assert after.unreadable == {"own_map": n_maps}
    assert [plan.input_digest for plan in plan_sessions(after.series)] == [small.plan.input_digest]
    assert small.export(tmp_path / "again", form, source=both) == {}
    renamed = tmp_path / "renamed"  # an archive that puts its own name in place of ours
    for number, dataset in enumerate(read(both / "maps")):
        dataset.Manufacturer = "SIEMENS"
        renamed.mkdir(exist_ok=True)
        dataset.save_as(renamed / str(number))
    plans = plan_sessions(discover(renamed, key=load_key(small.key_file)).series)
    assert [plan.placement for plan in plans] == [None]
    assert {str(one.reason) for plan in plans for one in plan.decisions} <= {"derived", "not_mr"}


def test_a_pseudonymous_export_leaks_nothing(small: Small, tmp_path: Path) -> None:
    for form in Form:
        export_to_folder(Cohort.open(small.store), tmp_path / form, form=form)
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    everything += "\n".join(path.as_posix() for path in tmp_path.rglob("*")).encode()
    secrets = [*SECRETS, STUDY, "20240110", "A-77"]
    assert not [secret for secret in secrets if secret.lower().encode() in everything.lower()]
    assert small.plan.session.encode() in everything
    small.export(tmp_path / "named")
    named = b"".join(path.read_bytes() for path in (tmp_path / "named").rglob("*.dcm"))
    assert [secret for secret in (PATIENT, PATIENT_ID, STUDY) if secret.encode() not in named] == []
    both = [{one.SOPInstanceUID for one in read(tmp_path / name)} for name in (Form.PARAMETRIC_MAP, "named")]
    assert not both[0] & both[1]  # the identifiers do not tell that they are the same maps


def test_who_it_is_must_be_certain(small: Small, tmp_path: Path) -> None:
    cohort, key, session = Cohort.open(small.store), load_key(small.key_file), small.plan.session

    def why(name: str, row: LinkageRow | None = None, source: Path | None = None) -> str:
        linkage = small.linkage
        if row is not None:
            linkage = tmp_path / f"{name}.csv"
            write_linkage([row], linkage)
        with people_of(cohort, linkage, source or small.source, key=key) as people:
            done = export_to_folder(cohort, tmp_path / name, subjects=people)
        assert (done.sessions, done.stored) == (0, 0)
        (reason,) = done.left_out
        return reason

    row = LinkageRow(session=session, patient_id="OTHER", study_instance_uid=STUDY, path="a")
    assert why("other", row) == "linkage table and source do not agree whose it is"
    row = LinkageRow(session=session, patient_id=PATIENT_ID, study_instance_uid="01", path="a")
    assert why("bids", row) == "its images are no DICOM of a study"
    write_source(tmp_path / "changed")
    first = next((tmp_path / "changed" / "b").iterdir())
    dataset = pydicom.dcmread(first)
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(first)
    assert why("late", source=tmp_path / "changed") == "its source is not what was ingested (with --assume?)"
    row = LinkageRow(session="ses-9", patient_id=PATIENT_ID, study_instance_uid=STUDY, path="a")
    with pytest.raises(ValueError, match="names no session of this store"):
        why("none", row)


def test_the_command_says_what_it_did(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMRI_KEY_FILE", str(small.key_file))

    def qmri(*arguments: object) -> str:
        result = CliRunner().invoke(app, ["export-dicom", "--store", str(small.store), *map(str, arguments)])
        assert result.exit_code == (2 if "Usage" in result.output else 0), result.output
        return " ".join(result.output.split())

    told = qmri("--out", tmp_path / "one")
    assert told.endswith(f"maps of 1 sessions in {tmp_path / 'one'}: 2 series written, 0 were there")
    people = ("--linkage", small.linkage, "--source", small.source)
    assert "2 series written" in qmri("--out", tmp_path / "two", "--as", "mr", *people)
    assert read(tmp_path / "two")[0].PatientID == PATIENT_ID
    assert "left out: 1 sessions: not accepted by a person" in qmri("--out", tmp_path / "three", "--accepted")
    assert "give a folder" in qmri()
    assert "go together" in qmri("--out", tmp_path / "four", "--linkage", small.linkage)
    assert "takes the address of a server" in qmri("--to", tmp_path)
    assert "for this machine alone" in qmri("--to", "dicomweb+http://pacs.example.org/dicom-web")
    assert "has no ?" in qmri("--to", "dicomweb+https://pacs.example.org/dicom-web?StudyDate=20240101")


@needs_orthanc
@pytest.mark.walk
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize("way", ["web", "dimse"])
def test_a_server_is_source_and_destination(tmp_path: Path, way: str) -> None:
    """Maps are stored into the study that the images lie in; the server as a source is what it was, but for them."""
    write_source(tmp_path / "in")
    with Orthanc(tmp_path / "orthanc") as orthanc:
        orthanc.store(path for path in (tmp_path / "in").rglob("*") if path.is_file())
        server = source_of(getattr(orthanc, way), Limits(spool=tmp_path / "spool", timeout=10.0))
        small = small_of(server, tmp_path)
        cohort, key = Cohort.open(small.store), load_key(small.key_file)
        for stored in (2, 0):
            with people_of(cohort, small.linkage, server, key=key) as people, server_receiver(server) as receiver:
                done = export_dicom(cohort, receiver, subjects=people)
            assert (done.sessions, done.stored, done.left_out) == (1, stored, {})
        (study,) = orthanc.get("/studies")
        assert len(orthanc.get(f"/studies/{study}")["Series"]) == 3 + 2
        after = discover(server, key=key)
        assert after.unreadable == {"own_map": 2}
        assert [plan.input_digest for plan in plan_sessions(after.series)] == [small.plan.input_digest]
