"""Flow and deployment ``infer-maps``."""

from __future__ import annotations

from pathlib import Path

from prefect import State, flow, task

from flows.deployed.publish import end_state, failed_sessions
from flows.deployed.run import RESUMED, Explained, run_settings, working
from flows.selection import EVERYTHING, Selection
from flows.settings import Settings
from flows.tables.summary import RunSummary

INFER_MAPS = "infer-maps"


@task(name="infer-sessions", **RESUMED)
def infer_sessions(settings: Settings, only: Selection) -> RunSummary:
    """Infer the maps that are missing or stale, and commit them."""
    from flows.maps.infer import infer

    with working(INFER_MAPS, settings) as (client, progress):
        store, checkpoint = settings.require_store(), settings.checkpoint
        return infer(
            store,
            checkpoint=checkpoint,
            check_room=settings.room_check,
            selection=only,
            client=client,
            progress=progress,
        )


@flow(name=INFER_MAPS)
def infer_maps(
    store: str | None = None, checkpoint: Path | None = None, only: Selection = EVERYTHING
) -> State[RunSummary]:
    """Infer T1, T2 and PD maps of every session that lacks current ones.

    Parameters
    ----------
    store, checkpoint
        Default: ``QMRI_STORE`` and ``QMRI_CHECKPOINT`` of the worker's environment; without a checkpoint the promoted
        one, else the shipped one.
    only
        Which sessions; default: all.
    """
    with Explained():
        settings = run_settings(store=store, checkpoint=checkpoint)
        before = failed_sessions(settings.require_store())
    summary = infer_sessions(settings, only)
    return end_state(INFER_MAPS, summary, before=before)
