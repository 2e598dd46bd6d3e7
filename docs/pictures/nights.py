"""Pictures of nights on the pages of Prefect: ``python docs/pictures/nights.py http://127.0.0.1:4200`` with Chromium.

Of the server at that address: the newest run of ``reprocess-nightly`` that ended well, that found known failures, and
in which sessions failed, this one with its summary. Those that stand here are of days 4 to 6 of
``tests/flows/test_month.py``.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent
OPTIONS = ["--no-sandbox"]
STATES = {"good": "Completed", "partial": "CompletedWithFailures", "failed": "SessionsFailed"}
PATIENCE = 120_000


def main(server: str) -> None:
    """Take them."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        for name, state in STATES.items():
            run = newest(server, "flow_runs", {"flow_runs": {"state": {"name": {"any_": [state]}}}}, "END_TIME_DESC")
            picture(page, f"{server}/runs/flow-run/{run}", state, FOLDER / f"night-{name}.png")
        of_failed = {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": ["reprocess-nightly-night"]}}}
        artifact = newest(server, "artifacts", of_failed, "CREATED_DESC")
        picture(page, f"{server}/artifacts/artifact/{artifact}", "Night of", FOLDER / "night-summary.png")
        browser.close()


def newest(server: str, what: str, asked: dict[str, Any], order: str) -> str:
    """Identifier of the newest flow run or artifact that is asked for."""
    body = {**asked, "flows": {"name": {"any_": ["reprocess-nightly"]}}, "sort": order, "limit": 1}
    (found,) = httpx.post(f"{server}/api/{what}/filter", json=body, timeout=60).raise_for_status().json()
    return str(found["id"])


def picture(page: Page, address: str, shows: str, file: Path) -> None:
    """Take a picture of a page when it shows a text."""
    page.goto(address, timeout=PATIENCE)
    page.get_by_text(shows).first.wait_for(timeout=PATIENCE)
    page.wait_for_timeout(3000)
    page.screenshot(path=file)


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
