"""What of a variation between groups is not known: its own error, and what is imposed away by construction."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from flows.calibration.tables import QUANTITY_OF
from qmri_core.statistics import unseen_variation


def unseen_of(tissue: str, name: str, means: Mapping[str, float], levels: pd.DataFrame | None) -> dict[str, float]:
    """``cov_imposed`` and ``cov_error`` of one tissue and map, relative to the mean over groups; NaN where not known.

    The means of groups in the maps are what calibration takes their people for, on average; see
    `qmri_core.statistics.unseen_variation`.

    Parameters
    ----------
    means
        Of the session medians of each group; NaN where it has none. They are relative to a mean, so that one of 0 says
        nothing.
    levels
        `flows.calibration.tables.levels_table`.
    """
    unknown = {"cov_imposed": math.nan, "cov_error": math.nan}
    known = {group: mean for group, mean in means.items() if math.isfinite(mean)}
    if levels is None or name not in QUANTITY_OF or len(known) < 2 or min(known.values()) <= 0:
        return unknown
    of_level = levels[(levels["tissue"] == tissue) & (levels["quantity"] == QUANTITY_OF[name])].set_index("group")
    values = np.asarray(list(known.values()), dtype=np.float64)
    of_groups = of_level[["apart", "freedom"]].reindex(list(known)).astype(float)
    freedom = min(float(of_groups["freedom"].mean()), max(len(known) - 1, 1))
    found = unseen_variation(values / values.mean(), of_groups["apart"].to_numpy(), freedom)
    return {"cov_imposed": found.imposed, "cov_error": found.error}
