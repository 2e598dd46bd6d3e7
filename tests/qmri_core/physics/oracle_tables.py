"""Reads the reference tables from QMRI_ORACLE_DIR, default ../shared/physics beside the repository."""

from __future__ import annotations

import csv
import itertools
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path(os.environ.get("QMRI_ORACLE_DIR") or ROOT.parent / "shared" / "physics")
if not FOLDER.is_absolute():
    FOLDER = ROOT / FOLDER

FAMILIES: Mapping[str, tuple[Contrast, PulseSequence]] = {
    "se2d_t1w": (Contrast.T1W, PulseSequence.SPIN_ECHO),
    "tse2d_t1w": (Contrast.T1W, PulseSequence.TURBO_SPIN_ECHO),
    "spgr_t1w": (Contrast.T1W, PulseSequence.SPOILED_GRADIENT_ECHO),
    "mprage_t1w": (Contrast.T1W, PulseSequence.MPRAGE),
    "tse2d_t2w": (Contrast.T2W, PulseSequence.TURBO_SPIN_ECHO),
    "tse3d_t2w": (Contrast.T2W, PulseSequence.VARIABLE_FLIP_TSE),
    "flair2d": (Contrast.FLAIR, PulseSequence.INVERSION_RECOVERY_TSE),
    "t1flair2d": (Contrast.T1W, PulseSequence.INVERSION_RECOVERY_TSE),
    "flair3d": (Contrast.FLAIR, PulseSequence.VARIABLE_FLIP_TSE),
}


@dataclass(frozen=True)
class Table:
    """All rows of one protocol."""

    family: str
    protocol: str
    acquisition: Acquisition
    tissues: tuple[str, ...]
    t1: Tensor
    t2: Tensor
    transmit_scale: Tensor
    signal: Tensor
    signed: Tensor
    ideal: Tensor | None
    spoiling_increment: float

    def ratio(self, values: Tensor, scale: float = 1.0) -> float:
        """White over grey matter of ``values`` at a transmit scale."""
        at = {
            tissue: float(value)
            for tissue, value, here in zip(self.tissues, values, self.transmit_scale, strict=True)
            if abs(float(here) - scale) < 1e-9
        }
        return at["wm"] / at["gm_cortex"]


def read_tables() -> list[Table]:
    """Every protocol of every table in the folder; none if there is no folder."""
    if not FOLDER.is_dir():
        return []
    trains = _flip_trains()
    tables = []
    for path in sorted(FOLDER.glob("oracle_*.csv")):
        with path.open(encoding="utf-8") as file:
            rows = sorted(csv.DictReader(file), key=lambda row: row["protocol_id"])
        for name, group in itertools.groupby(rows, key=lambda row: row["protocol_id"]):
            tables.append(_table(name, list(group), trains))
    return tables


def _flip_trains() -> dict[str, tuple[float, ...]]:
    path = FOLDER / "flip_trains.csv"
    angles: dict[str, dict[int, float]] = {}
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                angles.setdefault(row["flip_train_id"], {})[int(row["echo"])] = math.radians(float(row["refocus_deg"]))
    return {name: tuple(train[echo] for echo in sorted(train)) for name, train in angles.items()}


def _table(name: str, rows: list[dict[str, str]], trains: Mapping[str, tuple[float, ...]]) -> Table:
    first = rows[0]
    contrast, sequence = FAMILIES[first["family"]]
    values: dict[str, object] = {
        "contrast": contrast,
        "sequence": sequence,
        "field_strength": 3.0,
        "repetition_time": float(first["tr_ms"]) / 1e3,
        "echo_time": float(first["te_ms"]) / 1e3,
        "flip_angle": math.radians(float(first["flip_deg"])),
    }
    for column, field, factor in (
        ("ti_ms", "inversion_time", 1e-3),
        ("esp_ms", "echo_spacing", 1e-3),
        ("inversion_efficiency", "inversion_efficiency", 1.0),
        ("t2prep_ms", "t2_preparation_time", 1e-3),
    ):
        if first.get(column):
            values[field] = float(first[column]) * factor
    if sequence not in (PulseSequence.SPIN_ECHO, PulseSequence.SPOILED_GRADIENT_ECHO):
        values["echo_train_length"] = int(first["etl"])
        values["centre_index"] = int(first["centre_index"])
    scheme = first.get("refocus_scheme", "const")
    if scheme == "table":
        values["flip_train"] = trains[first["flip_train_id"]]
    elif first.get("refocus_deg"):
        values["refocusing_angle"] = math.radians(float(first["refocus_deg"]))
        values["ramp"] = scheme == "ramp"

    def column(key: str, factor: float = 1.0) -> Tensor:
        return torch.tensor([float(row[key]) * factor for row in rows], dtype=torch.float64)

    return Table(
        family=first["family"],
        protocol=name,
        acquisition=Acquisition(**values),  # type: ignore[arg-type]
        tissues=tuple(row["tissue"] for row in rows),
        t1=column("t1_ms", 1e-3),
        t2=column("t2_ms", 1e-3),
        transmit_scale=column("b1_scale"),
        signal=column("signal"),
        signed=column("signal_signed"),
        ideal=column("signal_ideal_spoiling") if "signal_ideal_spoiling" in first else None,
        spoiling_increment=math.radians(float(first.get("rf_spoil_increment_deg") or 0.0)),
    )


def by_family(tables: list[Table], *families: str) -> Iterator[Table]:
    """Tables of the families."""
    return (table for table in tables if table.family in families)
