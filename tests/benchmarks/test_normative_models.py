"""Places among people beside those of pcntoolkit, on the same simulated people: as many beyond a centile as it says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qmri_core.analysis.centiles import scores
from tests.qmri_core.analysis.test_centiles import cohort

PYTHON = os.environ.get("QMRI_PCNTOOLKIT", "")
"""A Python with pcntoolkit, of an environment of its own."""
N_COHORTS = 8


@pytest.mark.bench
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not PYTHON, reason="QMRI_PCNTOOLKIT names no Python that has pcntoolkit, which is GPL")
@pytest.mark.parametrize("n_people", [40, 150])
def test_places_beside_those_of_pcntoolkit(tmp_path: Path, n_people: int) -> None:
    """Prints shares beyond the 5th and 95th centile, mean and deviation of z, and how the z of both go together."""
    rng = np.random.default_rng(n_people)
    people = pd.concat([cohort(rng, n_people).assign(cohort=k) for k in range(N_COHORTS)], ignore_index=True)
    ours = pd.concat(
        [scores(part).merge(part[["session", "person", "cohort"]]) for _, part in people.groupby("cohort")]
    )
    columns = ["cohort", "person", "label", "age", "sex"]
    people[columns].assign(log=np.log(people["value"])).to_csv(tmp_path / "people.csv", index=False)
    script = Path(__file__).with_name("normative_models.py")
    subprocess.run([PYTHON, str(script), str(tmp_path)], check=True, cwd=tmp_path)
    found = {"ours": ours} | {name: pd.read_csv(tmp_path / f"{name}.csv") for name in ("linear", "warped")}
    keys = ["cohort", "person"]
    for name, table in found.items():
        z, both = table["z"], table.merge(ours[[*keys, "z"]], on=keys)
        print(
            f"\n{name}: {n_people} people: below the 5th {(z < -1.645).mean():.1%}, above the 95th "
            f"{(z > 1.645).mean():.1%}, mean {z.mean():+.3f}, deviation {z.std():.3f}, "
            f"with ours {np.corrcoef(both['z_x'], both['z_y'])[0, 1]:.3f}"
        )
    assert ours["z"].std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(ours)))
    assert np.corrcoef(*found["linear"].merge(ours[[*keys, "z"]], on=keys)[["z_x", "z_y"]].to_numpy().T)[0, 1] > 0.9
