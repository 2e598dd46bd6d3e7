"""Levels of several sites from their exports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.pool.export import PoolError
from flows.tables.text import text_table
from qmri_core import versions
from qmri_core.calibration.groups import GroupSessions
from qmri_core.calibration.pooling import Pooled, solve_together
from qmri_core.calibration.session_model import LEVELS
from storage.exports.pool import (
    SiteExport,
    answer_to,
    exported_anchors,
    exported_groups,
    read_export,
    write_answer,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """The groups of each export, in the order in which these were given, and what was found of them."""

    sites: Sequence[Mapping[str, GroupSessions]]
    pooled: Pooled
    n_without_study: int
    """Exports whose people are nobody elsewhere."""


def solve_pool(exports: Sequence[Path], out: Path, *, has_transfer: bool = True) -> Solved:
    """Solve the levels of all groups of all exports as if they lay in one store, and write the answer for all sites.

    ``has_transfer``: whether slices of echo trains saturate each other by magnetization transfer.

    Raises
    ------
    PoolError
        If exports are of different studies or versions of the preprocessing, or one store stands in two.
    storage.exports.sealed.SealedFileError
        If a file is damaged, of another kind or version, or the answer cannot be written.
    qmri_core.calibration.pooling.PoolingError
        If what they say does not fit together.
    """
    read = [read_export(path) for path in exports]
    _refuse_mixed([export for export, _ in read], [path.name for path in exports])
    sites = [exported_groups(export) for export, _ in read]
    pooled = solve_together(sites, [exported_anchors(export) for export, _ in read], has_transfer=has_transfer)
    write_answer(out, answer_to(read, sites, pooled, has_transfer=has_transfer))
    return Solved(sites=sites, pooled=pooled, n_without_study=sum(not export.study for export, _ in read))


def _refuse_mixed(exports: Sequence[SiteExport], names: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for export, name in zip(exports, names, strict=True):
        if export.preprocessing != versions.PREPROCESSING:
            is_older = export.preprocessing < versions.PREPROCESSING
            where = "there, run `qmri ingest`" if is_older else "here, and at the other sites"
            raise PoolError(
                f"{name}: its signals were measured by {'an older' if is_older else 'a newer'} preprocessing (version "
                f"{export.preprocessing}, here {versions.PREPROCESSING}). Upgrade {where}, and export again"
            )
        if export.state in first:
            raise PoolError(f"{name} and {first[export.state]} are exports of one store; give one of them")
        first[export.state] = name
    studies = {export.study: name for export, name in zip(exports, names, strict=True) if export.study}
    if len(studies) > 1:
        one, other = list(studies.values())[:2]
        raise PoolError(
            f"{one} and {other} were exported under different study keys, so that people of both cannot be found. "
            "Export again under one key, or without"
        )


def pool_lines(solved: Solved, names: Sequence[str]) -> Iterator[str]:
    """What was found, for people."""
    rows = []
    for number, (site, name) in enumerate(zip(solved.sites, names, strict=True)):
        for code, one in site.items():
            found = solved.pooled.groups.get((number, code))
            if found is None:
                yield f"{name}: no session of {code} tells of it; it has no level"
                continue
            level = found.level
            of_levels = [
                f"{mean:+.1%} ± {sd:.1%} ({share:.0%})"
                for mean, sd, share in zip(level.mean, level.sd, level.measured, strict=True)
            ]
            rows.append(
                [name, code, str(len(one.sessions)), *of_levels, str(level.n_bridging), str(level.component + 1)]
            )
    header = ["export", "group", "n", *(f"{tissue} {quantity.upper()}" for tissue, quantity in LEVELS)]
    yield text_table([*header, "bridging", "connected"], rows)
    yield "levels of groups beside the population, with their standard deviation, and the share that was measured"
    yield f"{solved.pooled.n_shared} people were seen at several sites"
    if solved.pooled.n_apart:
        yield f"{solved.pooled.n_apart} more have another sex or age at each; they were taken for others"
    if solved.n_without_study:
        yield f"{solved.n_without_study} of {len(names)} exports have no study key: their people are nobody elsewhere"
