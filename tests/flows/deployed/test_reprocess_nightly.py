"""The night comes by itself: deployed as the README says, on a real server, a run starts by its schedule."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.flows.end_to_end import Processed
from tests.flows.prefect_processes import Prefect, prefect, readme_lines, wait_until

pytestmark = [pytest.mark.walk, pytest.mark.timeout(2400)]

SOON = 240.0
"""Seconds within which a server has planned a new schedule; it looks every 5 s."""

ENDS = {"COMPLETED", "FAILED", "CRASHED"}
"""How a run can end by itself; a night that comes while one is at work is cancelled, as it is deployed."""


def runs_of_the_night(running: Prefect) -> list[dict[str, Any]]:
    """Runs of the deployment, the earliest first."""
    body = {"deployments": {"name": {"any_": ["reprocess-nightly"]}}, "sort": "EXPECTED_START_TIME_ASC"}
    return list(running.api("/flow_runs/filter", body))


def move_to_every_minute(running: Prefect) -> None:
    """Change the schedule on the server, as its page does."""
    (deployment,) = running.api("/deployments/filter", {"deployments": {"name": {"any_": ["reprocess-nightly"]}}})
    (schedule,) = deployment["schedules"]
    path = f"/deployments/{deployment['id']}/schedules/{schedule['id']}"
    every_minute = schedule["schedule"] | {"cron": "* * * * *"}
    running.api(path, {"schedule": every_minute}, method="PATCH")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_night_comes_by_its_schedule(
    processed: Processed, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A night without anything new, so that little but the schedule is tested; about two minutes."""
    settings: dict[str, object] = {"QMRI_SOURCE": processed.source, "QMRI_STORE": tmp_path / "store", "QMRI_WORKERS": 1}
    settings |= {"QMRI_QUIET_FOR": 0, "QMRI_KEY_FILE": processed.key_file, "QMRI_CHECKPOINT": processed.checkpoint}
    if kind == "postgresql":
        settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = request.getfixturevalue("database")
    shutil.copytree(processed.store, tmp_path / "store")
    with prefect(tmp_path, lines=readme_lines("Deployments"), **settings) as running:
        planned = wait_until(lambda: runs_of_the_night(running), "nights in the plan of the server", patience=SOON)
        starts = [datetime.fromisoformat(run["expected_start_time"]) for run in planned]
        zone = ZoneInfo("Europe/Amsterdam")
        assert {f"{start.astimezone(zone):%H:%M}" for start in starts} == {"01:30"}
        assert all(run["auto_scheduled"] and run["state"]["type"] == "SCHEDULED" for run in planned)

        move_to_every_minute(running)
        done = wait_until(
            lambda: [run for run in runs_of_the_night(running) if run["state"]["type"] in ENDS],
            f"the end of a run by the schedule; {running.log('server')[-3000:]}",
        )
        assert done[0]["state"]["name"] == "Completed", running.log("worker")
        assert done[0]["state"]["message"] == "nothing new: 3 sessions are as they were, nothing was written"
        assert done[0]["auto_scheduled"]
        assert done[0]["created_by"]["type"] == "SCHEDULE"
