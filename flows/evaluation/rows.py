"""Rows of an evaluation: as workers give them, and as files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from flows.cluster.boundary import Outcome
from flows.tables.text import records
from storage.store.repository import StoreError
from storage.store.schema import Status


def rows_of(results: Iterable[tuple[object, Outcome | BaseException]], purpose: str) -> list[Mapping[str, object]]:
    """All rows that workers gave.

    Raises
    ------
    StoreError
        If a session failed: it "could not be" what ``purpose`` says.
    """
    rows: list[Mapping[str, object]] = []
    for _, result in results:
        if not isinstance(result, Outcome) or result.status is Status.FAILED:
            why = result.explanation if isinstance(result, Outcome) else type(result).__name__
            raise StoreError(f"a session could not be {purpose}: {why}")
        rows += result.rows
    return rows


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
