"""Tissues, maps and reference values: what they are called, and where each number comes from.

Two populations share these numbers and are two things. `REFERENCE_VALUES` is what calibration takes the mean of a
group to be; the absolute level of stored maps rests on it. `SIMULATED` is what simulated people are drawn about; they
are the truth of tests and training. Both are centred on the same values, so that calibration is right on average about
simulated people; `REFERENCE_VALUES` can be compared with real cohorts only by its sources.
"""

from __future__ import annotations

from collections.abc import Mapping
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


_WANSAPURA = "Wansapura 1999, J Magn Reson Imaging 9:531 (not checked)"
_GELMAN = "Gelman 2001, Magn Reson Med 45:71 (not checked)"
_WRIGHT = "Wright 2008, doi:10.1007/s10334-008-0104-8 (abstract)"
_STANISZ = "Stanisz 2005, doi:10.1002/mrm.20605 (excised tissue; not checked)"
_ROONEY = "Rooney 2007, doi:10.1002/mrm.21122 (not checked)"
_OROS = "Oros-Peusquens 2019, doi:10.3389/fneur.2019.01333 (abstract)"
_VOLZ = "Volz 2012, doi:10.1016/j.neuroimage.2012.06.076 (not checked)"
_CHOI = "Choi 2022, doi:10.1093/cercor/bhac292 (abstract)"
_SEVERAL = "middle of the range of several spin-echo studies (not checked against a source)"

_SPREADS: Mapping[str, Mapping[str, Sourced]] = {
    "CSF": {
        "t1_spread": Sourced(0.05, "assumed; not checked against a source"),
        "t2_spread": Sourced(0.2, "assumed, with partial volume and flow; not checked against a source"),
        "pd_spread": Sourced(0.01, "assumed: PD is relative to CSF; not checked against a source"),
    },
    "GM": {
        "t1_spread": Sourced(0.035, f"{_CHOI}: 3.5 % over 40 people"),
        "t2_spread": Sourced(0.05, f"below the 7.3 % of {_CHOI}, which hold the error of measurement"),
        "pd_spread": Sourced(0.02, f"above the 1.2 % of {_OROS}, for the cortex"),
    },
    "WM": {
        "t1_spread": Sourced(0.04, "assumed, as of grey matter; not checked against a source"),
        "t2_spread": Sourced(0.04, "assumed; not checked against a source"),
        "pd_spread": Sourced(0.02, f"{_OROS}: standard deviation 1.7 of 69.1 % over 21 people"),
    },
}
"""Coefficients of variation between healthy adults, the same at every field strength."""

_PD = {
    "CSF": Sourced(1.0, "by definition"),
    "GM": Sourced(0.82, f"between 0.837, {_OROS}, and 0.81 at this T1, {_VOLZ}"),
    "WM": Sourced(0.69, f"{_OROS}: 69.1 %"),
}
_FLUID = {
    "t1": Sourced(4.3, f"{_ROONEY}: the same at every field strength to within errors"),
    "t2": Sourced(2.0, "Spijkerman 2018, doi:10.1007/s10334-017-0659-3 (3 T; not checked)"),
}

REFERENCE_VALUES: Mapping[float, Mapping[str, Mapping[str, Sourced]]] = {
    3.0: {
        "CSF": {**_FLUID, "pd": _PD["CSF"], **_SPREADS["CSF"]},
        "GM": {
            "t1": Sourced(1.40, f"between 1.331 s, {_WANSAPURA}, and 1.607 s, {_WRIGHT}"),
            "t2": Sourced(0.095, f"between 0.099 s, {_STANISZ}, and 0.090 s of software citing {_WANSAPURA}"),
            "pd": _PD["GM"],
            **_SPREADS["GM"],
        },
        "WM": {
            "t1": Sourced(0.85, f"0.847 s, {_GELMAN}; 0.838 s, {_WRIGHT}; 0.832 s, {_WANSAPURA}"),
            "t2": Sourced(0.07, f"0.069 s, {_STANISZ}; 0.080 s, {_WANSAPURA}"),
            "pd": _PD["WM"],
            **_SPREADS["WM"],
        },
    },
    1.5: {
        "CSF": {**_FLUID, "pd": _PD["CSF"], **_SPREADS["CSF"]},
        "GM": {
            "t1": Sourced(1.19, f"{_ROONEY}; 1.197 s, {_WRIGHT}"),
            "t2": Sourced(0.100, "assumed: 5 % longer than at 3 T; not checked against a source"),
            "pd": _PD["GM"],
            **_SPREADS["GM"],
        },
        "WM": {
            "t1": Sourced(0.656, f"{_ROONEY}; 0.646 s, {_WRIGHT}"),
            "t2": Sourced(0.074, "assumed: 5 % longer than at 3 T; not checked against a source"),
            "pd": _PD["WM"],
            **_SPREADS["WM"],
        },
    },
}
"""T1 and T2 in seconds, PD (CSF = 1) and spreads between people of healthy adults, by field strength in tesla."""

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
PD_OFFSET = Sourced(0.858, f"{_VOLZ}, after Fatouros and Marmarou 1991")
"""A of 1/PD = A + B/T1 in simulated brain tissue."""
PD_SLOPE = Sourced(0.522, f"{_VOLZ}, after Fatouros and Marmarou 1991")
"""B of 1/PD = A + B/T1 in simulated brain tissue, in seconds."""

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
