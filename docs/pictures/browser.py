"""Pictures of the browser's pages for the documentation: ``python docs/pictures/browser.py STORE`` with Chromium.

Those that stand here are of ``qmri demo --sessions 8 --groups 2 --resolution 3``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Playwright, sync_playwright

FOLDER = Path(__file__).parent
OPTIONS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


def main(store: str) -> None:
    """Serve the store, and take a picture of the groups and of the first session of the outliers."""
    command = [sys.executable, "-m", "flows.cli.main", "browse", "--store", store, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:  # noqa: S603
        address = server.stdout.readline().split()[1] if server.stdout else ""
        try:
            pictures(playwright, address)
        finally:
            server.terminate()


def pictures(playwright: Playwright, address: str) -> None:
    """Take them."""
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
    page = browser.new_page(viewport={"width": 1300, "height": 820})
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    for name in ("groups", "session"):
        first = "document.querySelector('#outlier-table a').hash"
        page.evaluate(f"location.hash = {first if name == 'session' else repr('#' + name)}")
        page.wait_for_function(f"() => document.body.dataset.ready?.startsWith('#{name}')", timeout=120_000)
        if name == "session":
            page.wait_for_selector("body[data-volume]", timeout=120_000)
        page.wait_for_timeout(1500)
        page.screenshot(path=FOLDER / f"browser-{name}.png")
    browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
