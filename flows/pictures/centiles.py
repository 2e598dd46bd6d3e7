"""Pictures of centiles by age."""

from __future__ import annotations

import numpy as np
import pandas as pd

from flows.pictures.volumes import png_of
from flows.tables.text import MAP_FORMATS
from qmri_core.analysis.centiles import CENTILES, TooFewPeopleError, curves

_COLOURS = {"F": "#9b2c6b", "M": "#0b5c7d"}


def centiles_picture(values: pd.DataFrame) -> bytes:
    """Draw values by age with the centiles of women and men as PNG, a panel per region and map, groups taken together.

    Parameters
    ----------
    values
        `flows.analysis.values.values_table`. Quantities of too few people are left out.
    """
    from matplotlib.figure import Figure

    drawn = []
    for (name, region), members in values.groupby(["map", "region"], sort=False):
        try:
            drawn.append((str(region), str(name), members, curves(members, np.arange(0.0, 101.0, 2.0))))
        except TooFewPeopleError:
            continue
    n_columns = min(3, max(1, len(drawn)))
    n_rows = max(1, -(-len(drawn) // n_columns))
    figure = Figure(figsize=(3.4 * n_columns, 2.8 * n_rows), layout="constrained", facecolor="white")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes, (region, name, members, table) in zip(panels, drawn, strict=False):
        short, unit, factor = MAP_FORMATS[name]
        logs = np.log(members["value"])
        levels = logs.groupby(members["label"])
        pooled = factor * np.exp(logs - levels.transform("mean") + levels.mean().mean())
        for sex, of_sex in table.groupby("sex"):
            colour = _COLOURS[str(sex)]
            is_sex = members["sex"] == sex
            axes.plot(members.loc[is_sex, "age"], pooled[is_sex], ".", color=colour, markersize=3, alpha=0.6)
            for centile in CENTILES:
                style = "-" if centile == 0.5 else "--"
                axes.plot(
                    of_sex["age"],
                    factor * of_sex[centile],
                    style,
                    color=colour,
                    linewidth=1.0 if centile == 0.5 else 0.6,
                )
        axes.set_title(f"{region} {short}" + (f" [{unit}]" if unit else ""), fontsize=9)
        axes.tick_params(labelsize=7)
    for axes in panels[len(drawn) :]:
        axes.set_axis_off()
    figure.supxlabel("age [a]; 5th to 95th centile within this cohort, no norm; women red, men blue", fontsize=8)
    return png_of(figure)
