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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zarr
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, sync_playwright

from flows.statistics.aggregate import VALUES
from flows.statistics.thumbnails import identities
from qmri_core.series.geometry import Grid
from storage.store.cohort import Cohort, Placement, begin_append, commit, write_arrays, writing
from storage.store.tables import array_of, change, group_of
from storage.store.thumbnails import PICTURED, SIZE, Thumbnail, write
from tests.flows.browser.cohorts import (
    SMALLEST,
    VISITS,
    drawn_medians,
    drawn_row,
    group_name,
    plant,
    session_name,
    write_statistics,
)
from tests.flows.end_to_end import ROOT

N_SESSIONS, N_GROUPS = map(int, os.environ.get("BROWSE", "5000,100").split(","))
FULL = Grid(shape=(176, 224, 192), spacing=(1.0, 1.0, 1.0))
"""Of the first group, one of whose sessions has volumes."""
SHOWN = session_name(0)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is here (Debian: apt-get install chromium)"),
]


def head(grid: Grid) -> NDArray[np.bool_]:
    """Voxels of a brain, an ellipsoid that fills most of the grid."""
    axes = [np.linspace(-1.2, 1.2, size) for size in grid.shape]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.asarray(z**2 + y**2 + x**2 < 1)


def full_volumes() -> dict[str, Any]:
    """What the session that is opened shows first, of a million voxels of brain, with noise."""
    rng, inside = np.random.default_rng(0), head(FULL)
    noisy = rng.normal(1.0, 0.05, FULL.shape).astype(np.float32)
    volume = np.where(inside, noisy, np.float32(np.nan))
    return {
        "T1w": 700 * volume,
        "T1map": volume,
        "T1map_sd": 0.05 * volume,
        "tissue": np.where(inside, 3, 0).astype(np.uint8),
        "brain_mask": inside.astype(np.uint8),
        "affine": np.eye(4),
    }


def write_many(folder: Path) -> str:
    """Write a store in one commit, with all values and tables, thumbnails, and the volumes of one session."""
    location, rng = str(folder / "store"), np.random.default_rng(5)
    names = [session_name(number) for number in range(N_SESSIONS)]
    place = {name: number // VISITS % N_GROUPS for number, name in enumerate(names)}
    rows = {name: drawn_row(rng, number, place[name]) for number, name in enumerate(names)}
    medians = {name: drawn_medians(rng, rows[name]["values"]["age"]) for name in names}
    plant(tuple(names[k] for k in np.linspace(N_SESSIONS * 0.55, N_SESSIONS - 2, 5).astype(int)), rows, medians)
    made = {"checkpoint_digest": "c0ffee", "calibration_version": "1/1"}
    placements = [
        Placement(
            session=name,
            **dict(zip(("scanner", "protocol"), group_name(place[name]).split("/"), strict=True)),
            grid=SMALLEST if place[name] else FULL,
        )
        for name in names
    ]
    with writing(location, create=True) as repository:
        wave = begin_append(repository, placements)
        fork = wave.session.fork()
        root = zarr.open_group(fork.store, mode="r+", zarr_format=3)
        for group in {one.group for one in placements}:
            affines = array_of(group_of(root, group), "affine")
            affines[...] = np.broadcast_to(np.eye(4), affines.shape)
            digests = array_of(group_of(root, group), "digest")
            digests[...] = np.full(digests.shape, "0123456789abcdef" * 2, dtype=object)
        write_arrays(fork, wave.slots[SHOWN], full_volumes())
        commit(
            repository,
            wave,
            [fork],
            values={name: rows[name]["values"] for name in names},
            rows=[{**rows[name]["row"], **made} for name in names],
            message=f"Ingest {N_SESSIONS} sessions",
        )
        failed = [{"session": name, **rows[name]["after"]} for name in names if rows[name]["after"]]
        commit(repository, None, [], values={}, rows=failed, message="Infer")
        write_statistics(repository, location, medians)
        thumbnails = drawn_thumbnails(identities(Cohort.open(location).values_of(VALUES)))
        change(repository, lambda root: write(root, thumbnails), "Make thumbnails", {})
    return location


def drawn_thumbnails(made_with: Mapping[str, str]) -> dict[str, Thumbnail]:
    """Noise within a brain."""
    rng, inside = np.random.default_rng(1), head(Grid(shape=(3, SIZE, SIZE), spacing=(1.0, 1.0, 1.0)))[1]
    noise = rng.integers(90, 160, (64, len(PICTURED), SIZE, SIZE), np.uint8) * inside
    return {
        name: Thumbnail(made_with=made, levels=noise[number % 64])
        for number, (name, made) in enumerate(made_with.items())
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Address and process."""
    kept = Path(os.environ.get("BROWSE_STORE") or tmp_path_factory.mktemp("many"))
    if not (kept / "store").exists():
        kept.mkdir(parents=True, exist_ok=True)
        write_many(kept)
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


def pressed(page: Page, key: str, volume: str) -> None:
    """Press the key of a volume of the session that is shown, and wait until it is drawn."""
    page.keyboard.press(key)
    page.wait_for_selector(f"body[data-volume={volume}]", timeout=300_000)


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
