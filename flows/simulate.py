"""A cohort with known truth as files: plan it, make each session on its own, write images and truth apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flows.progress import Progress, quiet
from qmri_core.simulation.cohort import Design, PlannedSession, plan_cohort
from qmri_core.simulation.effects import effects_of

if TYPE_CHECKING:
    from distributed import Client

    from qmri_core.simulation.atlas import Atlas

FORMATS = ("dicom", "bids")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSummary:
    """What was written: ``sessions`` in ``groups`` on ``scanners``; ``files`` in ``out``, the truth in ``truth``."""

    out: Path
    truth: Path
    sessions: int
    groups: int
    scanners: int
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOrder:
    """One session to make: everything a worker needs."""

    plan: PlannedSession
    out: str
    truth: str
    resolution: float
    output_format: str
    labels: str | None


def simulate(
    out: Path,
    *,
    sessions: int = 12,
    groups: int | None = None,
    protocols: Sequence[str] = (),
    resolution: float = 2.0,
    seed: int = 0,
    design: str = "cohort",
    effects: str = "default",
    output_format: str = "dicom",
    labels: Path | None = None,
    truth: Path | None = None,
    client: Client | None = None,
    progress: Progress | None = None,
) -> SimulationSummary:
    """Simulate a cohort of conventional brain MRI whose T1, T2 and proton density are known.

    The function is long by its settings, each of which has its meaning here.

    Parameters
    ----------
    out
        The input tree to write; must be empty or not exist.
    sessions, groups
        Sessions in all; groups of scanner and protocol that they are spread over, by default as many as ``protocols``
        are named, else 4.
    protocols
        Names of the protocols that groups take in turn; by default those of the table, from its first.
    resolution
        Finest voxel spacing in millimetres; 2D series keep their slice thickness.
    seed
        Everything follows from it; a session does not depend on how many there are.
    design
        ``cohort``, ``travelling-heads``, ``retest``, or ``faults``: one broken session of each kind in turn, with
        ``manifest.csv`` beside the truth that says what must become of each.
    effects
        What scans suffer from, see `qmri_core.simulation.effects.effects_of`.
    output_format
        ``dicom`` or ``bids``.
    labels
        Folder of FreeSurfer-coded label maps to start from instead of the packaged templates.
    truth
        Folder for the truth, default ``out`` with ``-truth`` appended; never inside ``out``.
    client
        Dask client whose workers share the file system; without one the sessions are made in this process.
    progress
        Called with the count done, the total and a text.

    Raises
    ------
    ValueError
        If a setting is not possible, ``out`` is not empty, or ``truth`` lies inside ``out``.
    """
    plans = plan_cohort(
        sessions=sessions,
        groups=(len(protocols) or 4) if groups is None else groups,
        seed=seed,
        design=design,
        effects=effects_of(effects),
        protocols=protocols,
    )
    _check_settings(design, output_format, resolution)
    out = out.absolute()  # workers may run in another folder
    truth = out.with_name(out.name + "-truth") if truth is None else truth.absolute()
    _check_folders(out, truth)
    from storage.simulated.templates import label_maps
    from storage.simulated.truth import write_bids_description, write_manifest, write_truth_table

    if labels is not None:
        label_maps(labels)
    if output_format == "bids":
        write_bids_description(out)
    orders = [
        SessionOrder(
            plan=plan,
            out=str(out),
            truth=str(truth),
            resolution=resolution,
            output_format=output_format,
            labels=None if labels is None else str(labels.absolute()),
        )
        for plan in plans
    ]
    made = _make_all(orders, client, progress or quiet)
    write_truth_table((session.row for session in made), truth)
    if design == Design.FAULTS:
        write_manifest((session.manifest for session in made), truth)
    return _summary(out, truth, plans, made)


def _check_settings(design: str, output_format: str, resolution: float) -> None:
    if output_format not in FORMATS:
        raise ValueError(f"format {output_format!r} is none of {', '.join(FORMATS)}")
    if design == Design.FAULTS and output_format != "dicom":
        raise ValueError("the design faults breaks DICOM files; BIDS has none of them")
    if not 0.5 <= resolution <= 8.0:
        raise ValueError(f"resolution {resolution:g} mm not in [0.5, 8]; coarser slices hold no brain")


def _summary(out: Path, truth: Path, plans: Sequence[PlannedSession], made: Sequence[MadeSession]) -> SimulationSummary:
    return SimulationSummary(
        out=out,
        truth=truth,
        sessions=len(made),
        groups=len({plan.group for plan in plans}),
        scanners=len({(plan.protocol.model, plan.serial_number) for plan in plans}),
        files=sum(session.files for session in made),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeSession:
    """What became of an order: number of ``files``, its ``row`` of the truth table and of the manifest."""

    index: int
    files: int
    row: dict[str, str | float]
    manifest: dict[str, str]


def make_session(order: SessionOrder) -> MadeSession:
    """Simulate one session and write it."""
    from qmri_core.simulation.sessions import simulate_session
    from storage.simulated.truth import manifest_row, write_bids_session, write_truth
    from storage.simulated.writer import write_session

    atlas = _atlas(order.labels, order.plan.person.number, order.resolution)
    session = simulate_session(order.plan, atlas, resolution=order.resolution)
    is_bids = order.output_format == "bids"
    count = (write_bids_session if is_bids else write_session)(session, Path(order.out))
    return MadeSession(
        index=order.plan.index,
        files=count,
        row=write_truth(session, Path(order.truth), is_bids=is_bids),
        manifest=manifest_row(session),
    )


def _make_all(orders: list[SessionOrder], client: Client | None, progress: Progress) -> list[MadeSession]:
    made = []
    if client is None:
        progress(0, len(orders), "simulating")
        for done, order in enumerate(orders, start=1):
            made.append(make_session(order))
            progress(done, len(orders), "simulating")
        return made
    from flows.cluster.driver import completed

    made = [session for _, session in completed(client, make_session, orders, progress=progress, text="simulating")]
    return sorted(made, key=lambda session: session.index)


def _atlas(labels: str | None, person: int, resolution: float) -> Atlas:
    """Atlas of a person, kept per process; with label maps, people take them in turn."""
    if labels is None:
        return _loaded_atlas(None, 0, resolution)
    from storage.simulated.templates import label_maps

    return _loaded_atlas(labels, person % len(label_maps(Path(labels))), resolution)


@lru_cache(maxsize=2)
def _loaded_atlas(labels: str | None, index: int, resolution: float) -> Atlas:
    from qmri_core.preprocessing.template.brain import tissue_templates
    from qmri_core.simulation.atlas import atlas_from_labels, atlas_from_templates
    from storage.simulated.templates import label_maps, read_label_map

    if labels is None:
        return atlas_from_templates(tissue_templates(), resolution=resolution)
    return atlas_from_labels(read_label_map(label_maps(Path(labels))[index]), resolution=resolution)


def _check_folders(out: Path, truth: Path) -> None:
    for folder in (out, truth):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} exists and is not an empty folder; give a new one")
    if truth.resolve().is_relative_to(out.resolve()) or out.resolve().is_relative_to(truth.resolve()):
        raise ValueError(f"truth {truth} and input tree {out} contain each other; the truth must lie beside")
