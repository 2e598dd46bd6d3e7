"""The datasheet of exported tables, in the headings of Gebru et al. 2021 (doi:10.1145/3458723)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import pandas as pd

from storage.store.cohort import Cohort

_TEXT = """\
# Datasheet: quantitative values from conventional MRI

Made by qmri-cohort {version} from snapshot `{snapshot}` of {time}. For research on cohorts; **not for clinical use**.

## Motivation

T1, T2 and proton density of brain tissues, inferred from ordinary T1w, T2w and FLAIR images, so that people of an
archive can be compared.

## Composition

{sessions} sessions of {people} people in {groups} groups of a scanner with a protocol. {ages} {sexes}

| label | sessions | people |
|---|---|---|
{group_rows}

Repeats: {repeats}

What is here and what is not, of all sessions that were ever seen:

| status | reason | sessions | here |
|---|---|---|---|
{exclusion_rows}

`data_dictionary.csv` describes every column, with its unit.

## Collection

From the headers and images of an archive; only technical, numeric or coded header values, sex, and age in whole years
(90 and above as 90) were taken. Names are pseudonyms, keyed hashes whose key stays at the site. There is no date: days
count from a person's first session.

## Preprocessing

Preprocessing of version {preprocessing}; calibrations {calibrations}; weights {weights}.
{card}

## Uses

The mean of a group is imposed in part: groups are drawn together by what nothing measures. Compare people within their
groups. `determined` says what share of people's differences a session's signals determine; below one half, values tell
no people apart. Values may be no norm, and no diagnosis rests on them.

## Distribution

As the site that made it allows; nothing here identifies a person by itself, and joined with other tables it may.

## Maintenance

The snapshot can be opened again by its id: `open_cohort(STORE, at="{snapshot}")`.
"""


def datasheet(cohort: Cohort, tables: Mapping[str, pd.DataFrame], time: datetime) -> str:
    """What the tables are of, from snapshot, counts, exclusions and the model card."""
    sessions = tables["sessions"]
    digests = _different(sessions["checkpoint_digest"])
    return _TEXT.format(
        version=version("qmri-cohort"),
        snapshot=cohort.snapshot,
        time=time.strftime("%Y-%m-%d %H:%M UTC"),
        sessions=len(sessions),
        people=sessions.loc[sessions["person"] != "", "person"].nunique(),
        groups=len(tables["groups"]),
        ages=_ages(sessions["age"].astype(float).dropna()),
        sexes=_sexes(sessions["sex"].astype(str)),
        group_rows=_rows(tables["groups"], ["label", "sessions", "people"]),
        repeats=_repeats(sessions),
        exclusion_rows=_rows(tables["exclusions"], ["status", "reason", "sessions", "are_here"]),
        preprocessing=_listed(_different(sessions["preprocessing_version"])),
        calibrations=_listed(_different(sessions["calibration_version"])),
        weights=_listed([f"`{digest}`" for digest in digests]),
        card=_card(sessions),
    )


def _different(values: pd.Series[Any]) -> list[str]:
    return sorted({str(value) for value in values} - {""})


def _listed(texts: list[str]) -> str:
    shown = ", ".join(texts[:8])
    return (shown or "none") + (f" and {len(texts) - 8} more" if len(texts) > 8 else "")


def _ages(ages: pd.Series[float]) -> str:
    if ages.empty:
        return "No age is known."
    return f"Ages {ages.min():.0f} to {ages.max():.0f}, median {ages.median():.0f} (known of {len(ages)} sessions)."


def _sexes(sexes: pd.Series[str]) -> str:
    counts = sexes.replace("", "unknown").value_counts()
    return (
        "Sex: " + ", ".join(f"{count} {name}" for name, count in counts.items()) + " (sessions)." if len(counts) else ""
    )


def _repeats(sessions: pd.DataFrame) -> str:
    visits = sessions[sessions["person"] != ""].groupby("person").size()
    several = int((visits > 1).sum())
    return f"{several} people have several sessions." if several else "no person has several sessions."


def _rows(table: pd.DataFrame, names: list[str]) -> str:
    return "\n".join(
        "| " + " | ".join(str(value) for value in row) + " |" for row in table[names].itertuples(index=False)
    )


def model_card(sessions: pd.DataFrame) -> str:
    """The model card of the shipped weights, where all maps are of these; else empty."""
    card = files("qmri_core.weights").joinpath("MODEL_CARD.md").read_text(encoding="utf-8")
    digests = _different(sessions["checkpoint_digest"])
    return card if digests and all(digest in card for digest in digests) else ""


def _card(sessions: pd.DataFrame) -> str:
    if model_card(sessions):
        return "The weights are those shipped with the package; `model_card.md` is theirs."
    return "Other weights than the shipped ones: their model card is with whoever trained them."
