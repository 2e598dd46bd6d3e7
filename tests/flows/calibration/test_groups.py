"""What calibration takes a group for, from the stored values of its sessions."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from flows.calibration.groups import sessions_of_groups
from qmri_core.series.acquisition import Contrast
from qmri_core.tissues import MEMBERS
from storage.store.acquisitions import acquisition_values
from tests.protocols import plain_protocol


def stored(slices: list[int | None], fields: list[float | None]) -> pd.DataFrame:
    """Sessions of one group that cover their heads with so many slices."""
    rows: list[dict[str, object]] = []
    for number, (n, field) in enumerate(zip(slices, fields, strict=True)):
        row: dict[str, object] = {"group": "g", "session": f"ses-{number}", "person": str(number), "age": 50, "sex": ""}
        for contrast, one in plain_protocol().items():
            row |= acquisition_values(replace(one, slices=n, b1_rms=field))
            row |= {f"{contrast}_{member}_signal": 100.0 for member in MEMBERS.values()}
        rows.append(row)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("slices", "typical"),
    [([24, 30, 44], 30), ([None, 30, 31], 30), ([None, None, None], None), ([44, None, None], 44)],
)
def test_a_group_has_the_median_of_what_its_sessions_know(slices: list[int | None], typical: int | None) -> None:
    known = sessions_of_groups(stored(slices, [None, 2.5e-6, 2.7e-6]))
    assert list(known) == ["g"]
    one = known["g"].acquisitions[Contrast.T2W]
    assert one.slices == typical
    assert one.b1_rms == pytest.approx(2.6e-6)
    assert known["g"].acquisitions == plain_protocol()
