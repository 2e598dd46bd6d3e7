"""Tables of tissue values and their variation, as rows for people: the same in the terminal and in the report."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from qmri_core.calibration.reliability import TELLS_APART
from qmri_core.tissues import WHITE_FIRST

if TYPE_CHECKING:
    import pandas as pd

MAP_FORMATS: Mapping[str, tuple[str, str, float]] = {
    "T1map": ("T1", "ms", 1000.0),
    "T2map": ("T2", "ms", 1000.0),
    "PDmap": ("PD", "", 1.0),
}
"""Name, unit and factor in which people read each map; the store holds seconds, and PD relative to CSF."""

WORTHLESS_ALONE = (
    "A coefficient of variation alone is worthless: maps painted with constants have 0 %. Read it together with the "
    "bias, and with the slope of estimated on true regional means (1: faithful, 0: a constant)."
)
IMPOSED_AWAY = (
    "Imposed away: what groups differ by beyond what data tell; calibration draws them together by as much. The CoV of "
    "the true means is the root of the sum of both squares, give or take the error (levels of groups alone; a dash: "
    "not known)."
)
TELLS_NO_PEOPLE_APART = (
    "In parentheses: the signals determine less than half of what people differ by, so that these figures tell no "
    "people apart (`qmri calibration` has the shares; of PD and CSF they are not known)."
)

Rows = list[list[str]]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as dictionaries by column."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out a table: in a terminal to its width, else in ASCII and as wide as it is, so that no key is broken.

    Columns of numbers stand to the right. There are no colours.
    """
    return next(table_parts(header, lambda: rows, n_rows=max(1, len(rows))))


def table_parts(
    header: Sequence[str], rows: Callable[[], Iterable[Sequence[object]]], *, n_rows: int = 1000
) -> Iterator[str]:
    """The same table in parts of ``n_rows`` rows, so that memory holds no more; a terminal shows the header above each.

    ``rows`` gives the rows twice: first for the widths of the columns.
    """
    widths, numeric = [0] * len(header), [True] * len(header)
    for row in rows():
        for column, value in enumerate(map(str, row)):
            widths[column] = max(widths[column], len(value))
            numeric[column] = numeric[column] and _is_number(value)
    rest = iter(rows())
    part = list(islice(rest, n_rows))
    yield _laid_out(header, widths, numeric, part, has_header=True)
    while part := list(islice(rest, n_rows)):
        yield _laid_out(header, widths, numeric, part, has_header=sys.stdout.isatty())


def _laid_out(
    header: Sequence[str],
    widths: Sequence[int],
    numeric: Sequence[bool],
    rows: Iterable[Sequence[object]],
    *,
    has_header: bool,
) -> str:
    from rich.box import SIMPLE_HEAD, Box
    from rich.console import Console
    from rich.table import Table

    is_terminal = sys.stdout.isatty()
    plain = Box("    \n    \n -  \n    \n    \n    \n    \n    \n", ascii=True)
    table = Table(box=SIMPLE_HEAD if is_terminal else plain, show_edge=False, pad_edge=False, show_header=has_header)
    for name, width, is_number in zip(header, widths, numeric, strict=True):
        justify: Literal["left", "right"] = "right" if is_number else "left"
        least = None if is_terminal else max(width, len(name))
        table.add_column(name, justify=justify, overflow="fold", no_wrap=not is_terminal, min_width=least)
    for row in rows:
        table.add_row(*map(str, row))
    console = Console(file=io.StringIO(), color_system=None, markup=False, highlight=False, emoji=False)
    if not is_terminal:
        console.width = max(1, console.measure(table, options=console.options.update(width=_ANY_WIDTH)).maximum)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


_ANY_WIDTH = 100_000
"""Characters; wider than any table."""


def labels_of(groups: Iterable[str], labels: Mapping[str, str]) -> dict[str, str]:
    """The labels, by group, of those of the store's ``labels`` whose groups occur in ``groups``."""
    occurring = set(groups)
    return {group: label for group, label in labels.items() if group in occurring}


def quantities() -> list[tuple[str, str, str]]:
    """Tissue, map and title of each column, WM T1 first."""
    titles = {name: f"{short} [{unit}]" if unit else short for name, (short, unit, _) in MAP_FORMATS.items()}
    return [(tissue, name, f"{tissue} {titles[name]}") for name in MAP_FORMATS for tissue in WHITE_FIRST]


def group_table(groups: pd.DataFrame, labels: Mapping[str, str]) -> tuple[list[str], Rows]:
    """Header and rows of the mean of session medians with its standard deviation, one row per group.

    ``groups`` has the columns group, tissue, map, n_sessions, mean_of_medians, sd_of_medians, and determined, where
    that is known: deviations that tell no people apart are in parentheses.
    """
    values = {(row["group"], row["tissue"], row["map"]): row for row in records(groups)}
    columns = quantities()
    rows: Rows = []
    for group, label in labels.items():
        of_group = [values.get((group, tissue, name)) for tissue, name, _ in columns]
        n = max((int(row["n_sessions"]) for row in of_group if row is not None), default=0)
        cells = [
            "-" if row is None else mean_and_sd(row["mean_of_medians"], row["sd_of_medians"], name, is_weak(row))
            for row, (_, name, _) in zip(of_group, columns, strict=True)
        ]
        rows.append([label, str(n), *cells])
    return ["group", "n", *(title for _, _, title in columns)], rows


def variation_table(variation: pd.DataFrame) -> tuple[list[str], Rows]:
    """Header and rows of the variation between groups; columns of `flows.statistics.aggregate.AggregateResult`."""
    values = {(row["tissue"], row["map"]): row for row in records(variation)}
    rows: Rows = []
    for tissue, name, title in quantities():
        row = values.get((tissue, name))
        if row is not None:
            cells = [number(row["mean"], name), number(row["sd"], name), percent(row["cov"])]
            cells += [percent(row[name]) for name in ("cov_error", "cov_imposed", "cov_of_modes")]
            rows.append([title, str(int(row["n_groups"])), *cells])
    return ["quantity", "groups", "mean", "sd", "CoV", "error", "imposed away", "CoV of modes"], rows


def evaluation_table(evaluation: pd.DataFrame) -> tuple[list[str], Rows]:
    """Header and rows of the comparison with the truth; each tissue and map with the null model below.

    ``evaluation`` has the columns tissue, map, model, n_sessions, bias, slope, r, cov, true_cov, and determined, where
    that is known: slopes and correlations that tell no people apart are in parentheses.
    """
    rows: Rows = []
    for tissue, name, title in quantities():
        for row in records(evaluation):
            if (row["tissue"], row["map"]) == (tissue, name):
                cells = [
                    percent(row["bias"]),
                    *(marked(_plain(row[figure]), is_weak(row)) for figure in ("slope", "r")),
                ]
                cells += [percent(row["cov"]), percent(row["true_cov"])]
                rows.append([title.split(" [")[0], row["model"], str(int(row["n_sessions"])), *cells])
    return ["quantity", "model", "n", "bias", "slope", "r", "CoV", "true CoV"], rows


def detail_tables(result: Mapping[str, pd.DataFrame]) -> list[tuple[str, list[str], Rows]]:
    """Title, header and rows of each table of an evaluation by voxels that is not empty, in the order of ``result``.

    Keys and columns as in `flows.evaluation.tables` and `flows.evaluation.plausibility_tables`.
    """
    columns: Mapping[str, tuple[str, Mapping[str, Callable[[float], str]]]] = {
        "levels": (
            "Means of groups (trend: of the error with the groups' ages, ageing: of people within them; per 15 years)",
            dict.fromkeys(("bias", "error", "trend", "cov", "true_cov", "within_one", "within_two"), percent)
            | {"ageing": percent, "true_ageing": percent},
        ),
        "voxels": (
            "Voxels of which at least 97 % is one tissue",
            {"n_sessions": _count, "median_error": percent, "bias": percent, "ccc": _plain, "within_r": _plain}
            | {"within_one": percent, "within_two": percent},
        ),
        "regions": (
            "Medians of regions over sessions",
            {"n_sessions": _count, "bias": percent, "slope": _plain, "r": _plain, "cov": percent, "true_cov": percent},
        ),
        "lesions": ("Contrast of lesions to white matter, estimated / true", {"n_sessions": _count, "ratio": _plain}),
        "pairs": (
            "Two sessions of one person: voxels of one tissue of the truth, and those of both sessions' grids",
            {"n_pairs": _count, "r": _plain, "ccc": _plain, "difference": percent},
        ),
        "resynthesis": (
            "Images given back from the maps: median error in the brain, and structural similarity",
            {"n_sessions": _count, "error": percent, "similarity": _precise},
        ),
        "visits": (
            "Visits of one person: median difference over pairs, absolute and signed (shift)",
            {"n_pairs": _count, "difference": percent, "shift": percent},
        ),
        "candidates": (
            "White matter that is bright on FLAIR: volume, and its maps over those of other white matter",
            {"n_sessions": _count, "millilitres": _plain, "n_ratios": _count}
            | {f"{name}_ratio": _plain for name in MAP_FORMATS},
        ),
    }
    tables = []
    for name, frame in result.items():
        if frame.empty:
            continue
        title, numbers = columns[name]
        keys = [str(key) for key in frame.columns if isinstance(frame[key].iloc[0], str)]
        rows = [
            [*(str(row[key]) for key in keys), *(show(row[number]) for number, show in numbers.items())]
            for row in records(frame)
        ]
        tables.append((title, [*keys, *(number.replace("_", " ") for number in numbers)], rows))
    return tables


def is_weak(row: Mapping[str, Any]) -> bool:
    """Whether the figures of a row tell no people apart, by its share ``determined``; False where that is not known."""
    return float(row.get("determined", math.nan)) < TELLS_APART


def marked(text: str, is_weak: bool) -> str:
    """The text, in parentheses where it tells no people apart."""
    return f"({text})" if is_weak and text != "-" else text


def mean_and_sd(mean: float, sd: float, name: str, is_weak: bool = False) -> str:
    """Mean and standard deviation of a map, in the unit in which people read it and with the decimals of the mean.

    The deviation is in parentheses where it ``is_weak``.
    """
    if math.isnan(mean) or math.isnan(sd):
        return number(mean, name)
    deviation = marked(f"± {sd * MAP_FORMATS[name][2]:.{_decimals(mean, name)}f}", is_weak)
    return f"{number(mean, name)} {deviation}"


def number(value: float, name: str) -> str:
    """Value of the map ``name`` in the unit in which people read it; a dash where it is not known."""
    return "-" if math.isnan(value) else f"{value * MAP_FORMATS[name][2]:.{_decimals(value, name)}f}"


def _decimals(value: float, name: str) -> int:
    short, _, factor = MAP_FORMATS[name]
    if short == "PD":
        return 3
    return 0 if abs(value * factor) >= 200 else 1


def percent(value: float) -> str:
    """Share as a percentage; a dash where it is not known."""
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def _count(value: float) -> str:
    return str(int(value))


def _plain(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _precise(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _is_number(text: str) -> bool:
    text = text.removeprefix("(")
    return text == "-" or text[:1].isdigit() or (text[:1] in "+-." and text[1:2].isdigit())
