"""Tables of an evaluation as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from flows.tables.text import records


def write_evaluation(
    out: Path, tables: Mapping[str, pd.DataFrame], *, more: Mapping[str, object], picture: bytes | None
) -> None:
    """Write each table that is not empty as CSV, all with ``more`` as ``evaluation.json``, and ``evaluation.png``.

    What is not known is empty in a CSV and null in the JSON, which has no NaN.
    """
    out.mkdir(parents=True, exist_ok=True)
    if picture is not None:
        (out / "evaluation.png").write_bytes(picture)
    for name, table in tables.items():
        if not table.empty:
            table.to_csv(out / f"{name}.csv", index=False)
    content: dict[str, object] = {name: records(table) for name, table in tables.items()}
    plain = json.loads(json.dumps({**content, **more}, default=str), parse_constant=lambda _: None)
    (out / "evaluation.json").write_text(json.dumps(plain, indent=1, allow_nan=False))
