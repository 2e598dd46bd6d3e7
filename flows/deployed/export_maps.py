"""Flow and deployment ``export-maps``."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact

from flows.deployed.run import RESUMED, Explained, run_settings, working
from flows.settings import Settings

EXPORT_MAPS = "export-maps"


@task(name="export-sessions", **RESUMED)
def export_sessions(settings: Settings, name: str, *, accepted: bool = False) -> str:
    """Store what is not there yet, and say how much."""
    from flows.exporting import Originals, export_maps, exported_lines
    from storage.exports.selection import Selection
    from storage.store.cohort import Cohort
    from storage.store.lifecycle.copies import note_copy

    with working(name, settings) as (_, progress):
        cohort, destination = Cohort.open(settings.require_store()), settings.require_export_to()
        originals = Originals.of(settings)
        done = export_maps(cohort, destination, Selection(accepted=accepted), originals=originals, progress=progress)
        note_copy(cohort, "export-dicom", done.chosen)
    lines = exported_lines(done, "the folder" if isinstance(destination, Path) else "the server")
    create_markdown_artifact("\n\n".join(lines), key=f"{name}-export", description="What was exported")
    return lines[0]


def export_news(settings: Settings, name: str) -> list[str]:
    """At the end of the flow ``name``: store maps where that is set, and the store has no record of it yet."""
    from flows.exporting import is_exported

    wanted = settings.export_to is not None and not is_exported(settings.require_store())
    return [export_sessions(settings, name)] if wanted else []


@flow(name=EXPORT_MAPS)
def export_maps(
    store: str | None = None,
    to: str | None = None,
    source: str | Path | None = None,
    linkage: Path | None = None,
    accepted: bool = False,
) -> str:
    """Store the maps of sessions that count as DICOM objects on a server or in a folder; what is there is left.

    What is not given is ``QMRI_STORE``, ``QMRI_EXPORT_TO``, ... of the worker's environment; with a linkage table maps
    are given the people and studies of the source's images. ``accepted``: only what a person has accepted.
    """
    with Explained():
        settings = run_settings(store=store, export_to=to, source=source, linkage=linkage)
        settings.require_export_to()
    return export_sessions(settings, EXPORT_MAPS, accepted=accepted)
