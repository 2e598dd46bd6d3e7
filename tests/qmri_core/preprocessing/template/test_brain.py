"""The template brain is what its sources say."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from qmri_core.preprocessing.template import brain
from qmri_core.preprocessing.template.brain import CLASSES, template, tissue_templates


def test_templates_are_probabilities_in_montreal_space() -> None:
    templates = tissue_templates()
    assert set(templates) == {"gm", "wm", "t1"}
    for volume in templates.values():
        assert volume.array.dtype == np.float32
        assert volume.array.min() >= 0
        assert volume.array.max() <= 1
        assert volume.array.shape == (189, 233, 197)  # z, y, x
        assert_allclose(np.diag(volume.affine), 1.0)
    assert (templates["gm"].array + templates["wm"].array).max() <= 1.01
    # the corpus callosum at the midline is white; the mirror image is the same head
    x, y, z = (np.linalg.inv(templates["wm"].affine) @ [0, 24, 5, 1])[:3].round().astype(int)
    assert templates["wm"].array[z, y, x] > 0.9
    assert_allclose(templates["wm"].array, templates["wm"].array[:, :, ::-1], atol=0.02)


def test_priors_are_shares_of_a_brain_of_plausible_size() -> None:
    at = template()
    assert at.priors.min() >= 0
    assert at.priors.sum(axis=0).max() <= 1 + 1e-5
    litres = dict(zip(CLASSES, (at.priors.sum(axis=(1, 2, 3)) * 8e-6).tolist(), strict=True))  # voxels of 2 mm
    assert 1.7 < sum(litres.values()) < 2.1  # the average is a tenth larger in each direction than an average head
    assert 0.02 < litres["deep"] < 0.08


def test_nuclei_lie_at_their_montreal_coordinates() -> None:
    """Of the simulation, which has them from elsewhere, and right of the middle."""
    at = template()
    for name, place in {"thalamusproper": (11, -18, 8), "putamen": (26, 4, 0), "pallidum": (18, -3, -1)}.items():
        [number] = [number for number, label in at.names.items() if label == (name, "R")]
        index = np.argwhere(at.labels.array == number).mean(axis=0)[::-1]
        centre = at.labels.affine[:3, :3] @ index + at.labels.affine[:3, 3]
        assert np.linalg.norm(centre - place) < 5.0, (name, centre)
        x, y, z = np.rint(np.linalg.inv(at.affine) @ [*centre, 1])[:3].astype(int)
        assert at.priors[CLASSES.index("deep"), z, y, x] > 0.8, name


CEREBELLAR = {
    "crus I": (40, -66, -30),
    "dentate nucleus": (16, -57, -34),
    "lobule V": (12, -52, -16),
    "tonsil": (24, -42, -46),
}
CEREBRAL = {
    "fusiform gyrus": (38, -50, -20),
    "lingual gyrus": (14, -78, -8),
    "parahippocampal gyrus": (24, -30, -18),
    "pons": (4, -26, -34),
    "occipital pole": (16, -98, 0),
}
"""Montreal coordinates of places that everybody's atlas has there; the mirrored ones are the left side's."""


@pytest.mark.parametrize(("side", "sign"), [("L", -1), ("R", 1)])
def test_the_cerebellum_is_below_the_tentorium_and_of_one_side(side: str, sign: int) -> None:
    at = template().labels
    [number] = [number for number, label in template().names.items() if label == ("cerebellum", side)]

    def label(place: tuple[float, float, float]) -> int:
        x, y, z = place
        index = np.rint(np.linalg.inv(at.affine) @ [sign * x, y, z, 1]).astype(int)
        return int(at.array[index[2], index[1], index[0]])

    assert {name: label(place) for name, place in CEREBELLAR.items()} == dict.fromkeys(CEREBELLAR, number)
    assert number not in {name: label(place) for name, place in CEREBRAL.items()}.values()
    # a side of an adult's has 0.05 to 0.08 l of tissue; the average is a third larger, and fluid between folia counts
    assert 0.07 < (at.array == number).sum() * 1e-6 < 0.12


def test_a_wheel_without_the_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brain, "_ICBM", {"t1": "other.nii.gz"})
    with pytest.raises(FileNotFoundError, match=r"other\.nii\.gz is not in the installed nilearn"):
        tissue_templates()
