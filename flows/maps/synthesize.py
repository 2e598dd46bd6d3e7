"""``qmri synthesize``: another contrast from stored maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.tables.protocol import parse_series
from qmri_core.physics.synthesis import synthesise
from qmri_core.series.acquisition import Acquisition
from storage.store.cohort import Cohort, StoreError


def run_synthesize(
    *,
    store: str,
    session: str,
    series: str,
    out: Path,
    manufacturer: str = "",
    field_strength: float = 3.0,
    noise: float = 0.0,
) -> Acquisition:
    """Write the magnitude image that a series would give of a stored session, as NIfTI.

    Parameters
    ----------
    store
        Location of the cohort.
    session
        Pseudonym of a session with maps.
    series
        As `flows.tables.protocol.parse_series` reads it, for example
        ``flair TR=9000 TE=81 TI=2200 FA=150`` or ``dir TR=11000 TE=25 TI=3400 TI2=325 FA=150``.
    out
        File to write, ``.nii`` or ``.nii.gz``; values relative to PD of cerebrospinal fluid, NaN without maps.
    manufacturer, field_strength
        As in `parse_series`; the field must be the one of the maps.
    noise
        Standard deviation per channel, relative to PD of cerebrospinal fluid.

    Returns
    -------
    Acquisition
        The series as it was interpreted.

    Raises
    ------
    AcquisitionError
        If the series cannot be understood.
    StoreError
        If the session is not stored or has no maps.
    ValueError
        If the file's name is not that of a NIfTI file.
    """
    if not out.name.endswith((".nii", ".nii.gz")):
        raise ValueError("the output must end in .nii or .nii.gz")
    acquisition = parse_series(series, manufacturer=manufacturer, field_strength=field_strength)
    cohort = Cohort.open(store)
    slot = cohort.slots.get(session)
    if slot is None:
        raise StoreError(f"{session} is not stored; `qmri status` lists the sessions")
    arrays = cohort.read(slot, ("PDmap", "T1map", "T2map", "affine"))
    if not np.isfinite(arrays["T1map"]).any():
        raise StoreError(f"{session} has no maps; run `qmri infer`")
    image = synthesise(acquisition, arrays["PDmap"], arrays["T1map"], arrays["T2map"], noise=noise)
    _write_image(image, arrays["affine"], out)
    return acquisition


def _write_image(image: NDArray[np.float32], affine: NDArray[np.float64], out: Path) -> None:
    import nibabel

    file: Any = nibabel.Nifti1Image(  # type: ignore[no-untyped-call, unused-ignore]
        np.ascontiguousarray(image.T), np.asarray(affine, dtype=np.float64)
    )
    file.header.set_xyzt_units("mm", "sec")
    out.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(file, out)
