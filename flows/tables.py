"""Tables of tissue values and their variation, as rows for people: the same in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

TISSUES: Mapping[str, str] = {"white_matter": "WM", "grey_matter": "GM", "csf": "CSF"}
"""Tissues by their names in the statistics, in the order of the tables."""

MAPS: Mapping[str, tuple[str, str, float]] = {
    "T1map": ("T1", "ms", 1000.0),
    "T2map": ("T2", "ms", 1000.0),
    "PDmap": ("PD", "", 1.0),
}
"""Name, unit and factor in which people read each map; the store holds seconds, and PD relative to CSF."""

WORTHLESS_ALONE = (
    "A coefficient of variation alone is worthless: maps painted with constants have 0 %. Read it together with the "
    "bias, and with the slope of estimated on true regional means (1: faithful, 0: a constant)."
)

Rows = list[list[str]]


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out a table for the terminal: columns padded, numbers to the right."""
    cells = [[str(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(header), *cells]) for column in range(len(header))]
    to_right = [all(_is_number(row[column]) for row in cells) for column in range(len(header))]
    lines = [list(header), ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, to_right, strict=True)
        ).rstrip()
        for line in lines
    )


def group_labels(groups: Sequence[str]) -> dict[str, str]:
    """Short labels G1, G2, ... of the groups, in the order of their names."""
    return {group: f"G{number}" for number, group in enumerate(sorted(set(groups)), start=1)}


def quantities() -> list[tuple[str, str, str]]:
    """Tissue, map and title of each column, WM T1 first."""
    titles = {name: f"{short} [{unit}]" if unit else short for name, (short, unit, _) in MAPS.items()}
    return [(tissue, name, f"{TISSUES[tissue]} {titles[name]}") for name in MAPS for tissue in TISSUES]


def group_table(groups: pd.DataFrame, labels: Mapping[str, str]) -> tuple[list[str], Rows]:
    """Header and rows of the mean of session medians with its standard deviation, one row per group.

    ``groups`` has the columns group, tissue, map, n_sessions, mean_of_medians, sd_of_medians.
    """
    values = {(row.group, row.tissue, row.map): row for row in groups.itertuples(index=False)}
    columns = quantities()
    rows: Rows = []
    for group, label in labels.items():
        found = [values.get((group, tissue, name)) for tissue, name, _ in columns]
        n = max((int(row.n_sessions) for row in found if row is not None), default=0)
        cells = [
            "-" if row is None else mean_and_sd(row.mean_of_medians, row.sd_of_medians, name)
            for row, (_, name, _) in zip(found, columns, strict=True)
        ]
        rows.append([label, str(n), *cells])
    return ["group", "n", *(title for _, _, title in columns)], rows


def variation_table(variation: pd.DataFrame) -> tuple[list[str], Rows]:
    """Header and rows of the variation between groups; columns tissue, map, n_groups, mean, sd, cov."""
    values = {(row.tissue, row.map): row for row in variation.itertuples(index=False)}
    rows: Rows = []
    for tissue, name, title in quantities():
        row = values.get((tissue, name))
        if row is not None:
            rows.append([title, str(int(row.n_groups)), number(row.mean, name), number(row.sd, name), percent(row.cov)])
    return ["quantity", "groups", "mean", "sd", "CoV"], rows


def mean_and_sd(mean: float, sd: float, name: str) -> str:
    """Mean and standard deviation of a map in the unit in which people read it."""
    if pd.isna(mean):
        return "-"
    return number(mean, name) if pd.isna(sd) else f"{number(mean, name)} ± {number(sd, name)}"


def number(value: float, name: str) -> str:
    """Value of the map ``name`` in the unit in which people read it; a dash where it is not known."""
    if pd.isna(value):
        return "-"
    short, _, factor = MAPS[name]
    scaled = value * factor
    if short == "PD":
        return f"{scaled:.3f}"
    return f"{scaled:.0f}" if abs(scaled) >= 200 else f"{scaled:.1f}"


def percent(value: float) -> str:
    """Share as a percentage; a dash where it is not known."""
    return "-" if pd.isna(value) else f"{100 * value:.1f} %"


def frame_table(frame: pd.DataFrame) -> tuple[list[str], Rows]:
    """Header and rows of any table of figures, numbers to three significant digits."""
    header = [str(column).replace("_", " ") for column in frame.columns]
    return header, [[_cell(value) for value in row] for row in frame.itertuples(index=False)]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if pd.isna(value) else f"{value:.3g}"
    return str(value)


def _is_number(text: str) -> bool:
    return text == "-" or text[:1].isdigit() or (text[:1] in "+-." and text[1:2].isdigit())
