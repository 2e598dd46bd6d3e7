"""Maps of z of sessions in a store: a lesion is seen where it is, in template space, and few people are refused."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from distributed import Client
from numpy.typing import NDArray

from flows.analysis.reference_maps import SessionMaps, reference_maps
from flows.pictures.places import places_picture
from qmri_core.analysis.centiles import FEWEST_PEOPLE, TooFewPeopleError
from qmri_core.preprocessing.template.brain import template
from qmri_core.series.geometry import Grid
from qmri_core.tissues import MAPS, WHITE_MATTER
from storage.exports.template_space import write_maps
from storage.store.acquisitions import acquisition_values
from storage.store.cohort import Cohort
from storage.store.repository import StoreError, writing
from storage.store.slots import Placement
from storage.store.waves import begin_append, commit, write_arrays
from tests.protocols import plain_protocol
from tests.qmri_core.preprocessing.template.test_registration import RESOLUTION, head, images_of
from tests.storage.cohorts import row

N_PEOPLE = FEWEST_PEOPLE + 2
SPREAD, NOISE = 0.03, 0.02
PATIENT = "ses-05"


def lesion() -> NDArray[np.bool_]:
    """A ball of 12 mm in the white matter of one side, in the head's own space."""
    white = np.argwhere(head().tissue == WHITE_MATTER)
    aim = [np.quantile(white[:, axis], share) for axis, share in enumerate((0.6, 0.5, 0.8))]
    middle = white[np.abs(white - aim).sum(axis=1).argmin()]
    apart = np.stack(np.indices(head().tissue.shape)) - middle.reshape(3, 1, 1, 1)
    return np.asarray(((apart**2).sum(axis=0) < (12 / RESOLUTION) ** 2) & (head().tissue == WHITE_MATTER))


def make_cohort(location: Path) -> pd.DataFrame:
    """A store of people with the same head, whose maps differ by person and voxel; one has a lesion. Its people."""
    rng = np.random.default_rng(1)
    anatomy, grid = head(), Grid(shape=head().tissue.shape, spacing=(RESOLUTION,) * 3)
    people = pd.DataFrame({"session": [f"ses-{k:02d}" for k in range(N_PEOPLE)]})
    people["person"] = people["session"].str.replace("ses", "sub")
    people = people.assign(label="a", day=0.0, age=rng.uniform(20, 80, N_PEOPLE), sex=np.resize(["F", "M"], N_PEOPLE))
    common = {str(contrast): image for contrast, image in images_of(anatomy).items()}
    common |= {"tissue": anatomy.tissue, "brain_mask": (anatomy.tissue > 0).astype(np.uint8), "affine": anatomy.affine}
    values = {name: value for one in plain_protocol().values() for name, value in acquisition_values(one).items()}
    with writing(location, create=True) as repository:
        places = [
            Placement(session=name, scanner="scanner-h", protocol="protocol-h", grid=grid) for name in people["session"]
        ]
        wave = begin_append(repository, places)
        forks = []
        for name in people["session"]:
            arrays = dict(common)
            for of, true in zip(MAPS, (anatomy.t1, anatomy.t2, anatomy.pd), strict=True):
                logs = SPREAD * rng.standard_normal() + NOISE * rng.standard_normal(true.shape)
                logs[lesion()] += np.log(1.5) * (name == PATIENT and of == "T1map")
                arrays |= {of: (true * np.exp(logs)).astype(np.float32), f"{of}_sd": (NOISE * true).astype(np.float32)}
            forks.append(write_arrays(wave.session.fork(), wave.slots[name], arrays))
        kept = {name: {**values, "magnetic_field_strength": 3.0} for name in people["session"]}
        rows = [row(name, checkpoint_digest="c0ffee") for name in people["session"]]
        commit(repository, wave, forks, values=kept, rows=rows, message="Ingest", metadata={})
    return people


def where_z(maps: SessionMaps, name: str, more: float) -> NDArray[np.float64]:
    """Middle of the voxels above so many deviates, in RAS mm of the template."""
    index = np.argwhere(np.nan_to_num(maps.z[name]) > more)[:, ::-1]
    return np.asarray(index.mean(axis=0) @ maps.affine[:3, :3].T + maps.affine[:3, 3])


@pytest.mark.walk
def test_a_lesion_is_seen_where_it_is(tmp_path: Path) -> None:
    people = make_cohort(tmp_path / "store")
    cohort = Cohort.open(tmp_path / "store")
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as client:
        with (
            pytest.raises(StoreError, match="ses-none: has no place"),
            reference_maps(cohort, people, ["ses-none"], client=client),
        ):
            pass
        with (
            pytest.raises(TooFewPeopleError, match="19 people"),
            reference_maps(cohort, people[: FEWEST_PEOPLE - 1], client=client),
        ):
            pass
        asked = [PATIENT, "ses-06"]
        with reference_maps(cohort, people, asked, client=client, millimetres=4) as (made, left_out):
            patient, other = made
    assert (patient.session, other.session, left_out) == (PATIENT, "ses-06", ())
    assert patient.z["T1map"].shape == template(4).priors.shape[1:]
    known = np.isfinite(patient.z["T1map"])
    assert known.sum() > 0.5 * (template(4).priors[1:].sum(axis=0) > 0.5).sum()
    assert (patient.n_people["T1map"][known] >= FEWEST_PEOPLE).all()
    assert np.nanmax(patient.z["T1map"]) > 6  # 40 % in the log beside 3.6 %
    assert np.nanmax(other.z["T1map"]) < 6
    assert np.nanmax(patient.z["T2map"]) < 6
    assert 0.3 < np.nanmedian(patient.deviation["T1map"]) < 1.0  # 2 % beside 3.6 %, of 22 people
    from qmri_core.preprocessing.template.registration import register

    registered = register(images_of(head()), head().tissue > 0, head().affine, plain_protocol())
    middle = np.argwhere(lesion())[:, ::-1].mean(axis=0) @ head().affine[:3, :3].T + head().affine[:3, 3]
    expected = registered.warp.points(middle.astype(np.float32)[:, None])[:, 0]
    assert np.linalg.norm(where_z(patient, "T1map", 6) - expected) < 4.0  # a voxel
    assert places_picture(PATIENT, patient.z, patient.affine).startswith(b"\x89PNG")
    files = write_maps(tmp_path / "maps", PATIENT, {"z": patient.z}, patient.affine)
    assert files[0].name == f"{PATIENT}_space-MNI152NLin2009aSym_desc-T1map_z.nii.gz"
    image = nibabel.load(files[0])
    assert int(image.header["sform_code"]) == 4  # MNI
    np.testing.assert_allclose(image.affine, patient.affine)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32).T, patient.z["T1map"])
