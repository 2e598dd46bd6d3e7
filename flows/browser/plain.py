"""Values as scripts of pages take them: numbers with five digits, or all, or null; codes as words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def plain(values: pd.Series[Any]) -> list[float | None]:
    """Numbers with five digits, None for what is not known."""
    return [None if value != value or math.isinf(value) else float(f"{value:.5g}") for value in values.astype(float)]


def number(value: object) -> float | None:
    """The same of one number."""
    known = isinstance(value, (int, float, np.number)) and math.isfinite(float(value))
    return float(f"{float(str(value)):.5g}") if known else None


def exact(value: NDArray[Any], missing: int) -> float | None:
    """A number as it is stored, of no dimension; None for what is not known: NaN, or in integers ``missing``."""
    known = bool(np.isfinite(value)) if value.dtype.kind == "f" else int(value) != missing
    return float(value) if known else None


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """The same of all numbers within a dictionary."""
    return {
        name: [finite(one) for one in value]
        if isinstance(value, (list, tuple))
        else number(value)
        if isinstance(value, float)
        else value
        for name, value in values.items()
    }


def words(text: object) -> str:
    """A code as words."""
    return str(text).replace("_", " ") or "-"
