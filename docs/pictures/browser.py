"""Pictures of the browser's pages for the documentation: ``python docs/pictures/browser.py STORE`` with Chromium.

Those of groups and of a session that stand here are of ``qmri demo --sessions 8 --groups 2 --resolution 3``; those of
outliers and drift are of a cohort with planted trouble: ``PYTHONPATH=. python docs/pictures/browser.py planted``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Playwright, sync_playwright

FOLDER = Path(__file__).parent
OPTIONS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


def planted() -> None:
    """Pictures of a cohort with five bad sessions, a scanner that drifts and one whose software changes."""
    from tests.flows.browser.cohorts import write_cohort

    with TemporaryDirectory() as folder:
        served(write_cohort(Path(folder), n_sessions=60, n_groups=2, is_small=True).store, "outliers", "drift")


def served(store: str, *names: str) -> None:
    """Serve the store, and take pictures of some of its pages; of sessions, of the first of the outliers."""
    command = [sys.executable, "-m", "flows.cli.main", "browse", "--store", store, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:  # noqa: S603
        address = server.stdout.readline().split()[1] if server.stdout else ""
        try:
            pictures(playwright, address, names)
        finally:
            server.terminate()


def pictures(playwright: Playwright, address: str, names: Iterable[str]) -> None:
    """Take them."""
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
    page = browser.new_page(viewport={"width": 1300, "height": 820})
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    for name in names:
        first = "document.querySelector('#outlier-table a').hash"
        page.evaluate(f"location.hash = {first if name == 'session' else repr('#' + name)}")
        page.wait_for_function(f"() => document.body.dataset.ready?.startsWith('#{name}')", timeout=120_000)
        if name == "session":
            page.wait_for_selector("body[data-volume]", timeout=120_000)
        page.wait_for_timeout(1500)
        page.screenshot(path=FOLDER / f"browser-{name}.png")
    browser.close()


if __name__ == "__main__":
    planted() if sys.argv[1] == "planted" else served(sys.argv[1], "groups", "session")
