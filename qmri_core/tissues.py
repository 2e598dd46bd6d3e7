"""Tissues, maps and reference values: what they are called, and where each number comes from.

Two populations share these numbers and are two things. `REFERENCE_VALUES` is what calibration takes the mean of a
group to be; the absolute level of stored maps rests on it. `SIMULATED` is what simulated people are drawn about; they
are the truth of tests and training. Both are centred on the same values, so that calibration is right on average about
simulated people; `REFERENCE_VALUES` can be compared with real cohorts only by its sources, which stand in
``population.csv``, with the trends and spreads that calibration expects.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

CSF, GREY_MATTER, WHITE_MATTER = 1, 2, 3
"""Labels of a segmentation; 0 is outside."""
TISSUES: Mapping[str, int] = {"CSF": CSF, "GM": GREY_MATTER, "WM": WHITE_MATTER}
"""Labels by the names of tissues in statistics and tables, in the order of the labels."""
WHITE_FIRST = ("WM", "GM", "CSF")
"""Names of tissues in the order in which tables list them."""
MEMBERS: Mapping[str, str] = {"CSF": "csf", "GM": "grey_matter", "WM": "white_matter"}
"""Names of tissues in `qmri_core.calibration.population.Population` and in the values of a session, by short names."""
MAPS = ("T1map", "T2map", "PDmap")
"""Maps by their BIDS suffixes: T1 and T2 in seconds, PD relative to CSF."""


class Sourced(NamedTuple):
    """A number and where it comes from.

    "not checked" means that the number was not compared with the paper itself, "abstract" that its abstract states it.
    """

    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulationValue:
    """One line of ``population.csv``: what is known or believed of people's tissue, and where it comes from.

    ``field_strength`` in tesla, ``None`` for every one; ``tissue`` as in `TISSUES`; ``quantity``: ``t1``, ``t2`` or
    ``pd``; ``what``: ``value`` (T1 and T2 in seconds, PD of CSF = 1), ``spread`` (coefficient of variation between
    people), ``per decade`` and ``per decade squared`` (changes of the log at 45 years), ``women beside men`` (of the
    log), ``method`` (standard deviation of the log between methods of measurement), ``clinic share``. ``sd`` is that of
    ``value``, or over people or methods, in its unit; NaN where not known. ``people`` and ``ages``: of how many of what
    age it is; ``checked``: ``read`` in data or code, ``abstract`` (the abstract states it), ``second-hand``,
    ``not checked``, ``judgement`` (what the authors of this package made of their sources), ``definition``. What
    ``is_used`` is what calibration rests on; the others are what judgements rest on.
    """

    field_strength: float | None
    tissue: str
    quantity: str
    what: str
    value: float
    sd: float
    people: int | None
    ages: str
    method: str
    source: str
    doi: str
    checked: str
    is_used: bool
    note: str


def _read_population() -> tuple[PopulationValue, ...]:
    text = files("qmri_core").joinpath("population.csv").read_text(encoding="utf-8")
    return tuple(
        PopulationValue(
            field_strength=float(row["field_strength"]) if row["field_strength"] else None,
            value=float(row["value"] or math.nan),
            sd=float(row["sd"] or math.nan),
            people=int(row["people"]) if row["people"] else None,
            is_used=row["is_used"] == "yes",
            **{
                name: row[name] for name in ("tissue", "quantity", "what", "ages", "method", "source", "doi", "checked")
            },
            note=row["note"],
        )
        for row in csv.DictReader(text.splitlines())
    )


POPULATION_VALUES = _read_population()
"""All lines of ``population.csv``."""


def used_value(what: str, tissue: str = "", quantity: str = "", field_strength: float | None = None) -> PopulationValue:
    """The line of `POPULATION_VALUES` that calibration rests on; one of every field strength stands for each.

    Raises
    ------
    KeyError
        If there is none.
    """
    for one in POPULATION_VALUES:
        is_it = one.is_used and (one.what, one.tissue, one.quantity) == (what, tissue, quantity)
        if is_it and one.field_strength in (None, field_strength):
            return one
    raise KeyError(f"no {what} of {tissue} {quantity} at {field_strength} T")


def _references(field_strength: float, tissue: str) -> dict[str, Sourced]:
    lines = {
        f"{quantity}{ending}": used_value(what, tissue, quantity, field_strength)
        for what, ending in (("value", ""), ("spread", "_spread"))
        for quantity in ("t1", "t2", "pd")
    }
    return {name: Sourced(one.value, f"{one.source} ({one.checked})") for name, one in lines.items()}


REFERENCE_VALUES: Mapping[float, Mapping[str, Mapping[str, Sourced]]] = {
    field_strength: {tissue: _references(field_strength, tissue) for tissue in TISSUES} for field_strength in (3.0, 1.5)
}
"""T1 and T2 in seconds, PD (CSF = 1) and spreads between people of healthy adults, by field strength in tesla."""

_GELMAN = "Gelman 2001, Magn Reson Med 45:71 (not checked)"
_SEVERAL = "middle of the range of several spin-echo studies (not checked against a source)"
_FLUID = REFERENCE_VALUES[3.0]["CSF"]
_WHITE, _GREY = REFERENCE_VALUES[3.0]["WM"], REFERENCE_VALUES[3.0]["GM"]
SIMULATED: Mapping[str, Mapping[str, Sourced]] = {
    "csf": {"t1": _FLUID["t1"], "t2": _FLUID["t2"]},
    "gm": {"t1": _GREY["t1"], "t2": _GREY["t2"]},
    "wm": {"t1": _WHITE["t1"], "t2": _WHITE["t2"]},
    "caudate": {
        "t1": Sourced(1.38, f"below the 1.483 s of {_GELMAN}, as cortex is below its value there"),
        "t2": Sourced(0.085, _SEVERAL),
    },
    "putamen": {"t1": Sourced(1.28, f"below the 1.337 s of {_GELMAN}"), "t2": Sourced(0.078, _SEVERAL)},
    "thalamus": {"t1": Sourced(1.15, f"below the 1.218 s of {_GELMAN}"), "t2": Sourced(0.082, _SEVERAL)},
    "pallidum": {"t1": Sourced(0.98, f"below the 1.043 s of {_GELMAN}"), "t2": Sourced(0.052, _SEVERAL)},
}
"""T1 and T2 in seconds about which simulated people are drawn, at 3 T, by the classes of the simulation."""
_WRIGHT = "Wright 2008, doi:10.1007/s10334-008-0104-8 (abstract)"
SIMULATED_OVER_3T: Mapping[float, Mapping[str, tuple[float, ...]]] = {
    1.5: {
        **{
            tissue: tuple(low[name].value / REFERENCE_VALUES[3.0][tissue][name].value for name in ("t1", "t2"))
            for tissue, low in REFERENCE_VALUES[1.5].items()
        },
        "nuclei": (
            Sourced(0.81, f"putamen 1.084 over 1.332 s, caudate 1.109 over 1.395 s: {_WRIGHT}; no others found").value,
            Sourced(1.05, "assumed, as of white and grey matter; not checked against a source").value,
        ),
    },
}
"""T1 and T2 of simulated tissue at other field strengths over those at 3 T, of `TISSUES` and nuclei. PD is equal."""

NOMINAL: Mapping[str, tuple[float, float, float]] = {
    "WM": (0.85, 0.075, 0.70),
    "GM": (1.35, 0.095, 0.82),
    "CSF": (4.3, 1.8, 1.0),
}
"""Nominal T1 [s], T2 [s] and PD by which a sequence is classified: rounded values near `REFERENCE_VALUES` at 3 T, not
checked against a source. Only the order of the tissues' signals counts, which is the same at 1.5 T."""
TRAIN_DESIGN_GREY = (1.3, 0.09)
"""Nominal T1 [s] and T2 [s] of the grey matter for which vendors shape variable flip trains, at 3 T; assumed, and not
checked against a source."""

LESION_3T: Mapping[str, Sourced] = {
    "t1": Sourced(1.40, "within the 1.0 to 1.6 s of multiple-sclerosis lesions in several studies (not checked)"),
    "t2": Sourced(0.150, "within the 0.095 to 0.190 s of several studies (not checked)"),
    "pd": Sourced(0.85, "within the 0.78 to 0.95 of several studies (not checked)"),
}
"""A typical T2-bright lesion at 3 T, for which `qmri protocol` prints a row."""
PUTAMEN_3T: Mapping[str, Sourced] = {
    "t1": Sourced(1.25, f"below the 1.337 s of {_GELMAN}"),
    "t2": SIMULATED["putamen"]["t2"],
    "pd": Sourced(0.80, "middle of the 0.76 to 0.84 of deep grey matter in several studies (not checked)"),
}
"""An iron-rich nucleus at 3 T, for which `qmri protocol` prints a row."""
RECIPE_WHITE_MATTER = (0.85, 0.07, 0.70)
"""T1 [s], T2 [s] and PD to which the published recipe ties its scales: our reference at 3 T, PD rounded."""


def numbers_of(entries: Mapping[str, Sourced]) -> dict[str, float]:
    """The numbers without their sources."""
    return {name: entry.value for name, entry in entries.items()}
