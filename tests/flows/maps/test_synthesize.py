"""From stored maps to an image file; the store itself is replaced by its reading functions."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from flows.maps import synthesize
from flows.maps.synthesize import run_synthesize
from qmri_core.physics.registry import signal
from qmri_core.series.acquisition import AcquisitionError
from storage.store.cohort import Slot, StoreError

SESSION = "ses-0123456789ab"
SHAPE = (3, 4, 5)
SERIES = "flair TR=9000 TE=81 TI=2200 FA=150 ETL=16"


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = (-5, 6, 7)
    values = {
        "PDmap": rng.uniform(0.6, 1.0, SHAPE).astype(np.float32),
        "T1map": rng.uniform(0.6, 2.0, SHAPE).astype(np.float32),
        "T2map": rng.uniform(0.05, 0.2, SHAPE).astype(np.float32),
        "affine": affine,
    }
    values["T1map"][0, 0, 0] = np.nan

    class Stored:
        slots = {SESSION: Slot(group="scanner/protocol", index=0, session=SESSION)}  # noqa: RUF012

        @classmethod
        def open(cls, location: str) -> Stored:
            assert location == "store"
            return cls()

        def read(self, slot: Slot, names: tuple[str, ...]) -> dict[str, np.ndarray]:
            assert slot.session == SESSION
            return {name: values[name] for name in names}

    monkeypatch.setattr(synthesize, "Cohort", Stored)
    return values


def test_image_is_the_model_in_the_frame_of_the_session(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    out = tmp_path / "new" / "flair.nii.gz"
    acquisition = run_synthesize(store="store", session=SESSION, series=SERIES, out=out, manufacturer="Siemens")
    image = nibabel.load(out)
    found = np.asarray(image.dataobj).T  # type: ignore[attr-defined]
    maps = [torch.from_numpy(arrays[name]).double() for name in ("PDmap", "T1map", "T2map")]
    expected = signal(acquisition, *maps).abs().numpy()
    assert found.shape == SHAPE
    assert np.isnan(found[0, 0, 0])
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5)
    np.testing.assert_allclose(image.affine, arrays["affine"])  # type: ignore[attr-defined]


def test_unknown_session_missing_maps_and_bad_names_are_said(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    out = tmp_path / "x.nii.gz"
    with pytest.raises(StoreError, match="is not stored"):
        run_synthesize(store="store", session="ses-ffffffffffff", series=SERIES, out=out)
    with pytest.raises(ValueError, match=r"\.nii"):
        run_synthesize(store="store", session=SESSION, series=SERIES, out=tmp_path / "x.png")
    with pytest.raises(AcquisitionError, match="does not begin with"):
        run_synthesize(store="store", session=SESSION, series="swi TR=30", out=out)
    arrays["T1map"][:] = np.nan
    with pytest.raises(StoreError, match="no maps"):
        run_synthesize(store="store", session=SESSION, series=SERIES, out=out)
    assert not out.exists()
