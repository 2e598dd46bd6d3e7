"""The browser on 5,000 sessions in 100 groups, in a real Chromium: seconds until a page, a brush, a session; sizes.

``BROWSE=400,10`` takes fewer; ``BROWSE_STORE=FOLDER`` keeps the store, whose writing takes longest, for another run.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.benchmarks.many_sessions import SHOWN, write_many
from tests.flows.end_to_end import ROOT

N_SESSIONS, N_GROUPS = map(int, os.environ.get("BROWSE", "5000,100").split(","))
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is here (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Address and process."""
    kept = Path(os.environ.get("BROWSE_STORE") or tmp_path_factory.mktemp("many"))
    if not (kept / "store").exists():
        kept.mkdir(parents=True, exist_ok=True)
        write_many(kept, n_sessions=N_SESSIONS, n_groups=N_GROUPS)
    command = [sys.executable, "-m", "flows.cli.main", "browse", "--store", str(kept / "store"), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as started:
        assert started.stdout is not None
        found = started.stdout.readline().split()[1]
        waited, worked = time.perf_counter() - began, sum(psutil.Process(started.pid).cpu_times()[:2])
        print(f"\n{N_SESSIONS} sessions in {N_GROUPS} groups")
        print(f"server says its address: {waited:.2f} s, {worked:.2f} s of processor time")
        yield found, started.pid
        started.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield launched
        launched.close()


class Clock:
    """Seconds of what is done, and processor time of the browser and of the server meanwhile."""

    def __init__(self, server: int) -> None:
        self.server = psutil.Process(server)

    def tell(self, what: str, action: Callable[[], object]) -> None:
        began, before = time.perf_counter(), self._worked()
        action()
        waited = time.perf_counter() - began
        browser, server = (now - then for now, then in zip(self._worked(), before, strict=True))
        print(f"{what}: {waited:.2f} s; processor time {browser:.2f} s of the browser, {server:.2f} s of the server")

    def _worked(self) -> tuple[float, float]:
        others = [one for one in psutil.Process().children(recursive=True) if one.pid != self.server.pid]
        return sum(map(worked, others)), worked(self.server)


def worked(process: psutil.Process) -> float:
    """Processor time in seconds; 0 of a process that has ended."""
    try:
        return float(sum(process.cpu_times()[:2]))
    except psutil.Error:
        return 0.0


def opened(page: Page, place: str) -> None:
    """Open a page, and wait until it is drawn."""
    page.evaluate("place => { location.hash = place }", f"#{place}")
    page.wait_for_function("place => document.body.dataset.ready === place", arg=f"#{place}", timeout=300_000)
    if place.startswith("session"):
        page.wait_for_selector("body[data-volume]", timeout=300_000)
        drawn(page)


def pressed(page: Page, key: str, volume: str) -> None:
    """Press the key of a volume of the session that is shown, and wait until it is drawn."""
    page.keyboard.press(key)
    page.wait_for_selector(f"body[data-volume={volume}]", timeout=300_000)
    drawn(page)


def drawn(page: Page) -> None:
    """Wait for what stands in for a graphics card: until then only its orders are written."""
    read = "gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4))"
    page.evaluate(f"() => {{ const {{ gl }} = qmriViewer; {read}; }}")


def first(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("body[data-ready]")


def test_pages_of_many_sessions(browser: Browser, server: tuple[str, int]) -> None:
    """Prints seconds and sizes; the aims are 2 s for the first page, 0.3 s for a brush and 2 s for a session."""
    address, clock = server[0], Clock(server[1])
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    sizes: dict[str, int] = {}

    def note(response: Any) -> None:
        name = response.url.removeprefix(address).split("?")[0]
        if response.ok and not name.endswith(".jpg"):
            sizes[name.rsplit("/", 1)[-1] or "document"] = int(response.headers.get("content-length", 0))

    page.on("response", note)
    clock.tell("first page", lambda: first(page, address))
    page.wait_for_function("() => window.Plotly && window.niivue", timeout=120_000)  # what is loaded ahead
    for place in ("groups", "outliers", "drift", "failures", "wall"):
        clock.tell(place, lambda place=place: opened(page, place))  # type: ignore[misc]
    in_sight = "() => [...document.querySelectorAll('.tile img')].slice(0, 20).every((one) => one.naturalWidth)"
    clock.tell("thumbnails in sight", lambda: page.wait_for_function(in_sight))
    opened(page, "groups")
    brushes = sorted(brush(page, part) for part in (0.2, 0.5, 0.8))
    print(f"brush: {brushes[1]:.2f} s (of three, {brushes[0]:.2f} to {brushes[2]:.2f} s)")
    clock.tell("a brush by the mouse, from its release", brush_by_mouse(page))
    clock.tell("session at 1 mm, the first", lambda: opened(page, f"session/{SHOWN}"))
    opened(page, "groups")
    clock.tell("the same again", lambda: opened(page, f"session/{SHOWN}"))
    clock.tell("another volume of it", lambda: pressed(page, "4", "T1w"))
    for name, size in sizes.items():
        print(f"{name}: {size / 1e6:.3f} MB")
    document = page.evaluate("fetch('.').then((answer) => answer.text())")
    table = page.evaluate("fetch(`at/${document.body.dataset.snapshot}/table.json`).then((answer) => answer.text())")
    for name, text in (("document", document), ("table.json", table)):
        print(f"{name}: {len(text.encode()) / 1e6:.2f} MB, {len(gzip.compress(text.encode())) / 1e6:.2f} MB compressed")
    assert table.count("ses-") >= N_SESSIONS


def brush_by_mouse(page: Page) -> Callable[[], object]:
    """Draw a box over a part of the first panel; what releases the button, and waits until all has followed."""
    area = page.locator(".nsewdrag").first.bounding_box()
    assert area is not None
    page.evaluate("() => document.getElementById('selected').replaceChildren()")
    page.mouse.move(area["x"] + 0.3 * area["width"], area["y"] + 2)
    page.mouse.down()
    page.mouse.move(area["x"] + 0.6 * area["width"], area["y"] + area["height"] - 2, steps=6)
    drawn = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    page.evaluate(drawn)

    def released() -> None:
        page.mouse.up()
        page.wait_for_selector("#selected tbody a", state="attached")
        page.evaluate(drawn)

    return released


def brush(page: Page, part: float) -> float:
    """Seconds from a brush over a part of the groups until all panels and the list have followed."""
    return float(
        page.evaluate(
            """async (part) => {
              const plot = document.querySelector('.plot'), range = plot._fullLayout.xaxis.range;
              const width = range[1] - range[0], [low, high] = plot._fullLayout.yaxis.range;
              const began = performance.now();
              const box = { x: [range[0] + part * width / 2, range[0] + part * width], y: [low, high] };
              plot.emit('plotly_selected', { points: [], range: box });
              await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
              return (performance.now() - began) / 1000;
            }""",
            part,
        )
    )
