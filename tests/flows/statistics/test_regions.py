"""Regions of sessions in a store, against what a simulated head truly has there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributed import Client

from flows.statistics.regions import NOTHING, measure_regions
from qmri_core.series.geometry import Grid
from storage.store.acquisitions import acquisition_values
from storage.store.cohort import Cohort
from storage.store.lifecycle.forget import remove_from_table
from storage.store.opened.values import are_believed, long_table, session_values
from storage.store.repository import writing
from storage.store.slots import Placement
from storage.store.tables import change
from storage.store.waves import begin_append, begin_update, commit, write_arrays
from tests.protocols import plain_protocol
from tests.qmri_core.preprocessing.template.test_registration import RESOLUTION, head, images_of
from tests.storage.cohorts import row
from tests.storage.store.opened.analysed import make_store

NUCLEI = {"caudate": 4, "putamen": 5, "thalamus": 6, "pallidum": 7}
"""Labels of a simulated head."""


def with_the_head(location: Path) -> Path:
    """Add a session of a simulated head of 80 years at 4 mm, whose maps are true."""
    anatomy = head()
    grid = Grid(shape=anatomy.tissue.shape, spacing=(RESOLUTION,) * 3)
    place = Placement(session="ses-head", scanner="scanner-h", protocol="protocol-h", grid=grid)
    arrays = {str(contrast): image for contrast, image in images_of(anatomy).items()}
    arrays |= {"tissue": anatomy.tissue, "brain_mask": (anatomy.tissue > 0).astype(np.uint8), "affine": anatomy.affine}
    maps = {"T1map": anatomy.t1, "T2map": anatomy.t2, "PDmap": anatomy.pd}
    maps |= {f"{name}_sd": np.full_like(values, 0.01) for name, values in maps.items()}
    values = {name: value for one in plain_protocol().values() for name, value in acquisition_values(one).items()}
    with writing(location) as repository:
        wave = begin_append(repository, [place])
        fork = write_arrays(wave.session.fork(), wave.slots["ses-head"], arrays)
        kept = {"ses-head": {**values, "magnetic_field_strength": 3.0}}
        commit(repository, wave, [fork], values=kept, rows=[row("ses-head")], message="Ingest", metadata={})
        update = begin_update(repository, ["ses-head"])
        fork = write_arrays(update.session.fork(), update.slots["ses-head"], maps)
        done = [row("ses-head", checkpoint_digest="c0ffee")]
        commit(repository, update, [fork], values={}, rows=done, message="Infer", metadata={})
    return location


@pytest.mark.slow
def test_regions_are_those_of_the_head_and_measured_once(tmp_path: Path) -> None:
    location = str(with_the_head(make_store(tmp_path / "store")))
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        first = measure_regions(location, client=client)
        again = measure_regions(location, client=client)
        assert (first.measured, first.unchanged) == (5, 0)
        assert (again.measured, again.unchanged, again.snapshot) == (0, 5, None)
        cohort = Cohort.open(location)
        table = cohort.regions
        assert table is not None
        tiny = table[table["session"] != "ses-head"]
        assert set(tiny["region"]) == {NOTHING}  # 1,344 voxels are too few to bring a template to
        assert are_believed(first.quality).sort_index().tolist() == [False] * 4 + [True]
        of_head = table[table["session"] == "ses-head"].set_index(["region", "map"])
        for name, label in NUCLEI.items():
            true = np.median(head().t1[head().labels == label])
            for side in ("L", "R"):
                assert of_head.loc[(f"{name}_{side}", "T1map"), "median"] == pytest.approx(true, rel=0.12), (name, side)
        cortex = [of_head.loc[(f"{lobe}_cortex_L", "T1map"), "mode"] for lobe in ("frontal", "parietal", "temporal")]
        white = [of_head.loc[(f"{lobe}_white_L", "T1map"), "mode"] for lobe in ("frontal", "parietal", "temporal")]
        assert min(cortex) > 1.3 * max(white)
        assert of_head.loc[("thalamus_L", "T1map"), "stated_sd"] == pytest.approx(0.01, rel=1e-3)
        long = long_table(cohort, session_values(cohort, ["sex"]), ["median"])
        assert {"thalamus_L", "frontal_white_R"} <= set(long["region"])
        assert NOTHING not in set(long["region"])
    with writing(location) as repository:
        change(repository, lambda root: remove_from_table(root, "regions", "ses-head"), "Forget", {})
    left = Cohort.open(location).regions
    assert left is not None
    assert "ses-head" not in set(left["session"])
