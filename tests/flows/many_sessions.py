"""A source of many tiny sessions in many groups, and a stand-in for preprocessing that makes heads of three slabs.

What stays is what a cohort costs beside its arithmetic: planning, orchestration, reading, writing and commits.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from distributed import Client
from numpy.typing import NDArray

from qmri_core.calibration.population import population
from qmri_core.physics.registry import signal
from qmri_core.preprocessing.session import Preprocessed
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.series.geometry import FIELD_SHAPE, Grid, Volume
from qmri_core.tissues import TISSUES
from tests.storage.niftis import SIDECARS, write_nifti

SPACING = 16.0
"""Millimetres between the voxels of the source; its groups' grids have the coarsest there is, of 8 mm."""
SHAPE = (12, 14, 12)
SCALES = {Contrast.T1W: 700.0, Contrast.T2W: 900.0, Contrast.FLAIR: 500.0}


def write_source(folder: Path, *, n_sessions: int, n_groups: int) -> Path:
    """Write a BIDS tree: two visits of each person, two protocols on each scanner, the groups of equal size."""
    rng = np.random.default_rng(n_sessions)
    for number in range(n_sessions):
        write_session(folder, number, n_groups=n_groups, rng=rng)
    (folder / "dataset_description.json").write_text('{"Name": "many", "BIDSVersion": "1.9.0"}')
    return folder


def write_session(folder: Path, number: int, *, n_groups: int, rng: np.random.Generator) -> Path:
    """Write one session of such a tree; the folder of its images."""
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    group = number // 2 % n_groups
    person, visit = f"sub-{number // 2:05d}", f"ses-{1 + number % 2}"
    common = {"DeviceSerialNumber": str(10_000 + group // 2), "SoftwareVersions": "1"}
    for suffix, sidecar in SIDECARS.items():
        stated = sidecar | common | ({"RepetitionTime": 5.4} if suffix == "T2w" and group % 2 else {})
        data = rng.integers(0, 2000, SHAPE).astype(np.int16)
        path = folder / person / visit / "anat" / f"{person}_{visit}_{suffix}.nii.gz"
        write_nifti(path, stated, data=data, sform=(affine, 1), qform=(affine, 1))
    return folder / person / visit / "anat"


def preprocess(
    volumes: Mapping[Contrast, Volume], grid: Grid, acquisitions: Mapping[Contrast, Acquisition]
) -> Preprocessed:
    """Slabs of fluid, grey and white matter with the signals of a person, in place of images of a head."""
    rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(volumes[Contrast.T1W].array).tobytes()))
    tissue = np.zeros(grid.shape, dtype=np.uint8)
    for label, start in ((TISSUES["CSF"], 0), (TISSUES["GM"], 4), (TISSUES["WM"], 8)):
        tissue[start : start + 4] = label
    person = 1 + 0.02 * rng.standard_normal(4)
    images = {}
    for contrast, acquisition in acquisitions.items():
        levels = SCALES[contrast] * person * np.asarray([0.0, *_levels(acquisition)])
        noisy = levels[tissue] * (1 + 0.02 * rng.standard_normal(grid.shape))
        images[contrast] = noisy.astype(np.float32)
    return Preprocessed(
        images=images,
        brain_mask=(tissue > 0).astype(np.uint8),
        tissue=tissue,
        affine=np.diag([*grid.spacing, 1.0]),
        reference=Contrast.T2W,
        bias_fields={contrast: np.ones(FIELD_SHAPE, dtype=np.float32) for contrast in acquisitions},
        marks=(),
        quality={"brain_volume": 1.4, "coverage": 1.0, "alignment_residual": 0.2},
    )


@lru_cache(maxsize=64)
def _levels(acquisition: Acquisition) -> tuple[float, ...]:
    """Signals of CSF, grey and white matter by the accurate model."""
    values = population(acquisition.field_strength)
    tissues = (values.csf, values.grey_matter, values.white_matter)
    maps = (torch.tensor([getattr(one, name) for one in tissues], dtype=torch.float64) for name in ("pd", "t1", "t2"))
    levels: NDArray[np.float64] = signal(acquisition, *maps).abs().numpy()
    return tuple(map(float, levels))


def take_away_preprocessing(client: Client) -> None:
    """Put the stand-in in the place of preprocessing on all workers."""
    client.run(_replace)


def _replace() -> None:
    import flows.ingest.repeats

    flows.ingest.repeats.preprocess = preprocess  # type: ignore[assignment]
