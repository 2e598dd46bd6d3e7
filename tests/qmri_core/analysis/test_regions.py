"""Regions of a session by the labels of the template."""

from __future__ import annotations

import numpy as np

from qmri_core.analysis.regions import CEREBELLUM, LOBES, NUCLEI, PLACED, placed, regions_in
from qmri_core.preprocessing.template.brain import template
from qmri_core.tissues import CSF, GREY_MATTER, WHITE_MATTER

NAMES = {
    1: ("superiorfrontal", "L"),
    2: ("cuneus", "R"),
    3: ("thalamusproper", "L"),
    4: ("brainstem", "B"),
    5: ("cerebellum", "R"),
}


def test_every_label_of_the_template_is_in_one_region() -> None:
    names = {name for name, _ in template().names.values()}
    of_lobes = [label for members in LOBES.values() for label in members]
    assert len(of_lobes) == len(set(of_lobes))
    assert names == {*of_lobes, *NUCLEI, CEREBELLUM}


def test_nuclei_hold_no_fluid_cortex_is_grey_and_white_matter_is_of_the_nearest_lobe() -> None:
    labels, tissue = np.zeros((2, 1, 1, 40), dtype=np.uint8)
    labels[..., 0:4], tissue[..., 0:4] = 1, GREY_MATTER
    tissue[..., 1] = CSF  # a sulcus
    tissue[..., 4:20] = WHITE_MATTER
    labels[..., 20:23], tissue[..., 20:23] = 2, GREY_MATTER
    labels[..., 12:14] = 3  # a nucleus that was segmented as white matter
    labels[..., 30:34], tissue[..., 30:34] = 4, (CSF, WHITE_MATTER, GREY_MATTER, 0)
    labels[..., 23:28], tissue[..., 23:28] = 5, (WHITE_MATTER, WHITE_MATTER, CSF, GREY_MATTER, 0)  # beside a lobe
    found = {
        name: np.flatnonzero(where).tolist() for name, where in regions_in(labels, tissue, NAMES, (1, 1, 1)).items()
    }
    assert found["frontal_cortex_L"] == [0, 2, 3]
    assert found["occipital_cortex_R"] == [20, 21, 22]
    assert found["thalamus_L"] == [12, 13]
    assert found["brain_stem"] == [31, 32]
    assert found["frontal_white_L"] == [4, 5, 6, 7, 8]  # within 5 mm
    assert found["occipital_white_R"] == [15, 16, 17, 18, 19]
    assert found["cerebellum_white_R"] == [23, 24]
    assert found["cerebellum_cortex_R"] == [26]
    wide = regions_in(labels, tissue, NAMES, (1, 1, 2.5))  # two voxels are 5 mm
    assert np.flatnonzero(wide["frontal_white_L"]).tolist() == [4, 5]


def test_every_region_is_said_to_be_placed_somehow_and_others_are_not() -> None:
    cortex = next(number for number, (name, _) in template().names.items() if name == "insula")
    voxel = np.ones((1, 1, 1), dtype=np.uint8)
    regions = regions_in(cortex * voxel, GREY_MATTER * voxel, template().names, (1, 1, 1))
    assert {placed(name) for name in regions} == set(PLACED.values())
    assert placed("frontal_white_L") == PLACED["white"]
    assert placed("cerebellum_white_L") == PLACED["cerebellum_white"]
    assert np.isnan([placed("own.caudate_L"), placed("masks.lesion"), placed("none")]).all()
