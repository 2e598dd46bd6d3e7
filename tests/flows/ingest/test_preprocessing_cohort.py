"""Preprocessing of a simulated cohort that has travelled through DICOM, against its truth."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from flows.ingest.session_plan import plan_sessions
from flows.simulate import _atlas
from qmri_core.preprocessing import session as preprocessing
from qmri_core.preprocessing.alignment import resample
from qmri_core.series.acquisition import Contrast
from qmri_core.series.geometry import Affine, Grid, Volume
from qmri_core.simulation.cohort import plan_cohort
from qmri_core.simulation.sessions import SimulatedSession, simulate_session
from storage.simulated.writer import write_session
from storage.source.discovery import discover, read_volume
from tests.flows.end_to_end import Processed, arrays

KEY = bytes(32)
GREY, WHITE = 2, 3


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.soak
def test_masks_and_tissue_of_a_small_cohort_are_near_the_truth(processed: Processed) -> None:
    """Voxels of 3 mm, of which half hold two tissues; the limits of the soak run hold at 2 mm."""
    truth = pd.read_csv(processed.truth / "sessions.csv", dtype=str)
    links = pd.read_csv(processed.linkage, dtype=str).merge(truth, on="study_instance_uid")
    for name, stored in arrays(processed.store).items():
        folder = links.set_index("session").loc[name, "folder"]
        image = nibabel.load(processed.truth / str(folder) / "tissue.nii.gz")
        true = Volume(array=np.asarray(image.dataobj, dtype=np.float32).T, affine=np.asarray(image.affine))
        spacing = tuple(float(step) for step in np.linalg.norm(stored["affine"][:3, :3], axis=0))
        grid = Grid(shape=stored["tissue"].shape, spacing=(spacing[0], spacing[1], spacing[2]))
        tissue = np.nan_to_num(resample(true, grid, stored["affine"], order=0))
        assert dice(stored["brain_mask"] == 1, tissue > 0) > 0.94
        assert dice(stored["tissue"] == GREY, tissue == GREY) > 0.80
        assert dice(stored["tissue"] == WHITE, tissue == WHITE) > 0.80


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Of one session: millimetres over the brain, and Dice."""

    group: str
    true_group: str
    mean_error: float
    worst_error: float
    mask: float
    grey: float
    white: float


def measure(truth: SimulatedSession, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Measured:
    write_session(truth, folder)
    (plan,) = plan_sessions(discover(folder, key=KEY).series)
    assert plan.placement is not None
    grid = plan.placement.grid
    found: list[Affine] = []
    original = preprocessing.align

    def align(fixed: Volume, moving: Volume, mask: NDArray[np.uint8], margin: float) -> tuple[Affine, float]:
        result = original(fixed, moving, mask, margin)
        found.append(result[0])
        return result

    with monkeypatch.context() as patch:
        patch.setattr(preprocessing, "align", align)
        result = preprocessing.preprocess({c: read_volume(one) for c, one in plan.chosen.items()}, grid)
    poses = {image.series.contrast: image.pose for image in truth.images}
    anatomy = truth.anatomy
    to_world = poses[Contrast.T1W] @ anatomy.affine
    points = np.argwhere(anatomy.tissue > 0)[::97, ::-1] @ to_world[:3, :3].T + to_world[:3, 3]
    errors = []
    for contrast, matrix in zip((Contrast.T2W, Contrast.FLAIR), found, strict=False):
        difference = matrix - poses[contrast] @ np.linalg.inv(poses[Contrast.T1W])
        errors.append(np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1))
    true = Volume(array=anatomy.tissue.astype(np.float32), affine=truth.pose @ anatomy.affine)
    tissue = np.nan_to_num(resample(true, grid, result.affine, order=0))
    return Measured(
        group=plan.placement.group,
        true_group=truth.plan.group,
        mean_error=float(np.mean(errors)),
        worst_error=float(np.max(errors)),
        mask=dice(result.brain_mask == 1, tissue > 0),
        grey=dice(result.tissue == GREY, tissue == GREY),
        white=dice(result.tissue == WHITE, tissue == WHITE),
    )


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_cohort_of_eight_sessions_in_four_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads at 2 mm; about 5 minutes on one core."""
    measured = []
    for plan in plan_cohort(sessions=8, groups=4, seed=3):
        truth = simulate_session(plan, _atlas(None, plan.person.number, 2.0), resolution=2.0)
        measured.append(measure(truth, tmp_path / str(plan.index), monkeypatch))
        print(measured[-1])
    groups: dict[str, set[str]] = defaultdict(set)
    for one in measured:
        groups[one.true_group].add(one.group)
    assert all(len(found) == 1 for found in groups.values())
    assert len({one.group for one in measured}) == len(groups) == 4
    assert np.mean([one.mean_error for one in measured]) <= 0.5
    assert max(one.worst_error for one in measured) <= 1.5
    assert min(one.mask for one in measured) >= 0.96
    assert min(one.grey for one in measured) >= 0.85
    assert min(one.white for one in measured) >= 0.88
