"""A real Chromium on the pages: brushes, clicks, keys, voxels, decisions; no foreign request, no error, and axe."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from flows.browser import offline
from flows.browser.view import View
from qmri_core.series.geometry import Grid
from storage.store.cohort import Cohort, Placement, begin_append, begin_update, commit, write_arrays, writing
from storage.store.lifecycle.upkeep import rollback
from tests.flows.browser.cohorts import Planted, group_name, write_cohort
from tests.flows.end_to_end import ROOT
from tests.flows.tiny_cohort import maps, row_of

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.walk,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is here (Debian: apt-get install chromium)"),
]
PAGES = ("overview", "groups", "outliers", "drift", "wall", "compare", "failures", "decisions")
FIVE_DIGITS = 5.1e-5
"""Relative error of a number that is told with five digits."""
OPTIONS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


INKED = """frame => {
  const plot = frame.querySelector('.plot'), {xaxis, yaxis} = plot._fullLayout;
  const canvas = frame.querySelector('.marks').getContext('2d');
  return plot.data.filter((trace) => trace.customdata).flatMap((trace) => trace.customdata.map((_, k) => {
    const [x, y] = [xaxis._offset + xaxis.l2p(trace.x[k]), yaxis._offset + yaxis.l2p(trace.y[k])];
    return [trace.text[k].split('<br>')[0], canvas.getImageData(Math.round(x), Math.round(y), 1, 1).data[3] > 0];
  }));
}"""
"""Of a panel: each session that is drawn, and whether it is marked where it lies."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return write_cohort(tmp_path_factory.mktemp("walk"), n_sessions=24, n_groups=2)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield launched
        launched.close()


@contextmanager
def served(store: str, *options: str) -> Iterator[str]:
    """Address of the command as a person starts it."""
    command = [sys.executable, "-m", "flows.cli.main", "browse", "--store", store, "--port", "0", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        found = re.fullmatch(r"open (http://127\.0\.0\.1:\d+/[\w-]{32}/)\n", server.stdout.readline())
        assert found
        yield found[1]
        server.terminate()


@pytest.fixture(scope="module")
def address(cohort: Planted) -> Iterator[str]:
    with served(cohort.store, "--qc", "--rater", "r1") as found:
        yield found


class Seen:
    """A page, and what it should not have: errors, and requests of other places."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.errors: list[str] = []
        self.foreign: list[str] = []
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._asked(request.url))
        page.goto(address)
        page.wait_for_selector("body[data-ready]")

    def _asked(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.foreign.append(url)

    def open(self, place: str) -> None:
        self.page.evaluate("place => { location.hash = place }", f"#{place}")
        self.page.wait_for_function("place => document.body.dataset.ready === place", arg=f"#{place}", timeout=120_000)

    def session(self, name: str) -> None:
        self.open(f"session/{name}")
        self.page.wait_for_selector("body[data-volume]", timeout=120_000)


@pytest.fixture
def seen(browser: Browser, address: str) -> Iterator[Seen]:
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    one = Seen(page, address)
    yield one
    page.close()
    assert one.errors == []
    assert one.foreign == []


def stored(cohort: Planted, session: str, name: str) -> np.ndarray:
    opened = Cohort.open(cohort.store)
    return np.asarray(opened.read(opened.slots[session], [name])[name])


def readout(seen: Seen, selector: str = "#readout") -> tuple[tuple[int, int, int], float | None]:
    seen.page.wait_for_function(
        "place => /voxel x .*[^…] *$/.test(document.querySelector(place).textContent)", arg=selector, timeout=60_000
    )
    text = seen.page.inner_text(selector)
    found = re.search(r"voxel x (\d+), y (\d+), z (\d+) +\w+ (?:difference )?(not computed|[-\d.e]+)", text)
    assert found, text
    x, y, z = (int(found[k]) for k in (1, 2, 3))
    return (x, y, z), None if found[4] == "not computed" else float(found[4])


def test_a_brush_marks_the_same_sessions_in_every_panel_and_lists_them(seen: Seen) -> None:
    page = seen.page
    seen.open("groups")
    snapshot = page.get_attribute("body", "data-snapshot")
    table = json.loads(page.evaluate(f"fetch('at/{snapshot}/table.json').then(answer => answer.text())"))
    area = page.locator(".panel").first.locator(".nsewdrag").first.bounding_box()
    assert area is not None
    page.mouse.move(area["x"] + 2, area["y"] + 2)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] - 2, steps=6)
    page.mouse.up()
    page.wait_for_selector("#selected tbody a")
    expected = {
        name
        for name, group, value in zip(table["session"], table["group"], table["values"]["WM_T1map_median"], strict=True)
        if group == 0 and value is not None
    }
    assert set(page.locator("#selected tbody th a").all_inner_texts()) == expected
    page.wait_for_function("() => [...document.querySelectorAll('.plot')].every((plot) => plot._fullLayout)")
    for panel in page.locator(".panel").all():
        has_ink = dict(panel.evaluate(INKED))
        assert len(has_ink) >= 23  # one has no maps
        assert {name for name in has_ink if has_ink[name]} == expected & set(has_ink)
    page.fill("#search", table["session"][5])
    assert page.locator("#selected tbody th a").all_inner_texts() == [table["session"][5]]


def test_a_click_on_a_mark_without_a_point_opens_the_session(seen: Seen) -> None:
    page = seen.page
    seen.open("groups")
    place = page.evaluate(
        """async () => {
          const plot = document.querySelector('.plot'), {xaxis, yaxis} = plot._fullLayout;
          const trace = plot.data.find((one) => one.customdata && one.customdata.length);
          const [x, y, text] = [trace.x[3], trace.y[3], trace.text[3]];
          await Plotly.relayout(plot, {'yaxis.range': [...yaxis.range]});
          await Plotly.restyle(plot, {visible: false});
          const box = plot.getBoundingClientRect();
          const [left, top] = [box.left + xaxis._offset, box.top + yaxis._offset];
          return [left + xaxis.l2p(x), top + yaxis.l2p(y), text.split('<br>')[0]];
        }"""
    )
    page.mouse.click(place[0], place[1])
    assert page.evaluate("location.hash") == "#groups"  # nothing is there
    page.fill("#search", place[2])
    page.mouse.move(place[0] + 1, place[1])
    assert page.locator(".hint:visible").inner_text().startswith(place[2])
    page.mouse.click(place[0] + 1, place[1])
    page.wait_for_function("place => location.hash === place", arg=f"#session/{place[2]}")
    page.wait_for_selector("body[data-volume]", timeout=120_000)


def test_a_click_on_a_point_opens_the_session(seen: Seen) -> None:
    page = seen.page
    seen.open("groups")
    place = page.evaluate(
        """() => {
          const plot = document.querySelector('.plot');
          const trace = plot.data.find((one) => one.customdata && one.customdata.length);
          const box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout;
          const [x, y] = [xaxis._offset + xaxis.l2p(trace.x[0]), yaxis._offset + yaxis.l2p(trace.y[0])];
          return [box.left + x, box.top + y, trace.text[0]];
        }"""
    )
    page.mouse.move(place[0], place[1])
    page.mouse.click(place[0], place[1])
    page.wait_for_function("() => location.hash.startsWith('#session/')")
    assert page.evaluate("location.hash") == "#session/" + place[2].split("<br>")[0]
    page.wait_for_selector("body[data-volume]", timeout=120_000)


def test_the_voxel_that_is_shown_is_that_of_the_store(seen: Seen, cohort: Planted) -> None:
    session = cohort.bad[0]
    seen.session(session)
    canvas = seen.page.locator(".viewer canvas").bounding_box()
    assert canvas is not None
    expected = stored(cohort, session, "T1map")
    found = set()
    for across, down in ((0.3, 0.25), (0.36, 0.3), (0.33, 0.62), (0.3, 0.72), (0.62, 0.22)):
        seen.page.mouse.click(canvas["x"] + across * canvas["width"], canvas["y"] + down * canvas["height"])
        seen.page.wait_for_timeout(300)
        (x, y, z), value = readout(seen)
        found.add((x, y, z))
        truth = 1000 * float(expected[z, y, x])
        assert (value is None) == np.isnan(truth)
        if value is not None:
            assert value == pytest.approx(truth, rel=FIVE_DIGITS)
    assert len(found) >= 3
    seen.page.keyboard.press("4")
    seen.page.wait_for_selector("body[data-volume=T1w]")
    (x, y, z), value = readout(seen)
    assert value == pytest.approx(float(stored(cohort, session, "T1w")[z, y, x]), rel=FIVE_DIGITS)


def test_the_voxel_of_a_grid_finer_than_the_screen_is_that_of_the_store(browser: Browser, tmp_path: Path) -> None:
    grid = Grid(shape=(6, 10, 601), spacing=(0.25, 15.0, 25.0))  # z, y, x; of x every second voxel travels
    store, session = str(tmp_path / "store"), "ses-000000000001"
    stored = np.random.default_rng(0).uniform(100, 900, grid.shape).astype(np.float32)
    with writing(store, create=True) as repository:
        scanner, protocol = group_name(0).split("/")
        wave = begin_append(repository, [Placement(session=session, scanner=scanner, protocol=protocol, grid=grid)])
        fork = write_arrays(wave.session.fork(), wave.slots[session], {"T1w": stored, "affine": np.eye(4)})
        commit(repository, wave, [fork], values={}, rows=[row_of(session)], message="Ingest 1 session")
    stored = np.asarray(Cohort.open(store).read(Cohort.open(store).slots[session], ["T1w"])["T1w"])
    with served(store) as address:
        seen = Seen(browser.new_page(viewport={"width": 1500, "height": 1000}), address)
        seen.session(session)
        assert seen.page.evaluate("window.qmriViewer.volumes[0].hdr.dims.slice(1, 4)") == [301, 10, 6]
        canvas = seen.page.locator(".viewer canvas").bounding_box()
        assert canvas is not None
        found = set()
        for across in np.linspace(0.05, 0.6, 12):
            seen.page.mouse.click(canvas["x"] + across * canvas["width"], canvas["y"] + 0.3 * canvas["height"])
            seen.page.wait_for_timeout(100)
            (x, y, z), value = readout(seen)
            assert value == pytest.approx(float(stored[z, y, x]), rel=FIVE_DIGITS)
            found.add(x)
        assert {x % 2 for x in found} == {0, 1}  # also between those that travel
        assert seen.errors == []
        seen.page.close()


@pytest.mark.parametrize("name", ["brain_mask", "tissue"])
def test_outlines_are_the_borders_of_the_labels(seen: Seen, cohort: Planted, name: str) -> None:
    session = cohort.bad[0]
    seen.session(session)
    seen.page.select_option("#outline", name)
    seen.page.wait_for_function("() => window.qmriViewer.volumes.length === 2 && document.body.dataset.volume")
    drawn = np.asarray(seen.page.evaluate("Array.from(window.qmriViewer.volumes[1].img)"))
    labels = stored(cohort, session, name)
    known = np.where(labels == 255, 0, labels).astype(int)
    inner = np.ones(known.shape, dtype=bool)
    for axis in range(3):  # a voxel is inside where both neighbours along each axis are like it
        for shift in (-1, 1):
            other = np.roll(known, shift, axis)
            edge = np.zeros(known.shape, dtype=bool)
            np.moveaxis(edge, axis, 0)[0 if shift == 1 else -1] = True
            inner &= (other == known) | edge
    np.testing.assert_array_equal(drawn.reshape(known.shape), np.where(inner, 0, 85 * known))
    seen.page.evaluate("document.activeElement.blur()")  # a choice takes keys itself
    seen.page.keyboard.press("o")
    expected = {"brain_mask": "tissue", "tissue": ""}[name]
    assert seen.page.input_value("#outline") == expected


def test_the_history_of_a_session_leads_to_how_it_was(seen: Seen, cohort: Planted) -> None:
    seen.session(cohort.bad[0])
    seen.page.click("#history summary")
    seen.page.wait_for_selector("#history tbody a")
    rows = seen.page.locator("#history tbody tr").all_inner_texts()
    assert "Infer maps of 24 sessions" in rows[0]
    assert "Ingest 24 sessions" in rows[1]


def test_drift_by_days_of_the_scanner_is_in_the_top_row(browser: Browser, tmp_path: Path) -> None:
    planted = write_cohort(tmp_path, n_sessions=240, n_groups=4, is_small=True, has_scanner_days=True)
    label = sorted(Cohort.open(planted.store).labels.values())[0]
    context = browser.new_context(offline=True)
    path = offline.write_pages(planted.store, tmp_path / "pages")
    one = Seen(context.new_page(), path.as_uri())
    one.open("drift")
    assert one.page.locator("#drift-days").count() == 0  # nothing to advise
    row = one.page.locator("#drift tbody tr").first.inner_text().split("\t")
    assert row[:3] == [label, "T1w contrast", "days of the scanner"]
    assert one.errors == []
    context.close()


def test_the_crosshair_of_two_sessions_is_one(seen: Seen, cohort: Planted) -> None:
    opened = Cohort.open(cohort.store)
    first, second = sorted(opened.slots)[0:2]
    seen.open(f"compare/{first}/{second}")
    views = seen.page.locator("#compare .viewer canvas").all()
    box = views[0].bounding_box()
    assert box is not None
    seen.page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    seen.page.wait_for_timeout(500)
    places = [readout(seen, f"#compare .pair > div:nth-child({k}) .readout") for k in (1, 2)]
    assert places[0][0] == places[1][0]
    (x, y, z), _ = places[0]
    for (_, value), session in zip(places, (first, second), strict=True):
        truth = 1000 * float(stored(cohort, session, "T1map")[z, y, x])
        assert (value is None and np.isnan(truth)) or value == pytest.approx(truth, rel=FIVE_DIGITS)


def test_a_session_in_two_snapshots_is_compared(browser: Browser, tmp_path: Path) -> None:
    store, session = write_cohort(tmp_path, n_sessions=6, n_groups=2).store, "ses-000000000000"
    before = Cohort.open(store)
    with writing(store) as repository:
        wave = begin_update(repository, [session])
        fork = write_arrays(wave.session.fork(), wave.slots[session], maps(6))
        commit(repository, wave, [fork], values={}, rows=[{"session": session}], message="Infer again")
    now = Cohort.open(store)
    with served(store) as address:
        seen = Seen(browser.new_page(viewport={"width": 1500, "height": 1000}), address)
        seen.open(f"compare/{session}/{session}/{before.snapshot}")
        found = [readout(seen, f"#compare .pair > div:nth-child({k}) .readout") for k in (1, 2, 3)]
        (x, y, z), _ = found[0]
        new, old = (
            1000 * float(opened.read(opened.slots[session], ["T1map"])["T1map"][z, y, x]) for opened in (now, before)
        )
        assert new != old
        assert [value for _, value in found] == pytest.approx([new, old, old - new], rel=10 * FIVE_DIGITS)
        assert (seen.errors, seen.foreign) == ([], [])
        seen.page.close()


def coloured(seen: Seen, first: str, second: str) -> float:
    """Share of the left half of the third view, which shows differences, that has a colour; the crosshair has one."""
    seen.open(f"compare/{first}/{second}")
    seen.page.wait_for_selector("body[data-volume]", timeout=120_000)
    picture = seen.page.locator("#compare .pair > div:nth-child(3) canvas").screenshot()
    colours = np.asarray(Image.open(BytesIO(picture)).convert("RGB")).astype(int)
    half = colours[: int(0.9 * len(colours)), : colours.shape[1] // 2]  # a scale of colours lies below
    return float(((half.max(axis=-1) - half.min(axis=-1)) > 40).mean())


def test_no_difference_has_no_colour(seen: Seen) -> None:
    first, second = "ses-000000000000", "ses-000000000006"  # of one group; T1 of CSF differs by 0.2 s
    assert coloured(seen, first, first) < 0.03 < 0.06 < coloured(seen, first, second)


def test_keys_go_through_the_wall(seen: Seen) -> None:
    page = seen.page
    seen.open("wall")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.tile img')].slice(0, 3).every((one) => one.naturalWidth > 0)"
    )
    page.locator(".tile").first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "Home", "ArrowRight"):
        page.keyboard.press(key)
    wanted = page.locator(".tile").nth(1).get_attribute("href")
    page.keyboard.press("Enter")
    page.wait_for_function("place => location.hash === place", arg=wanted)


def test_planted_trouble_is_in_the_top_rows(seen: Seen, cohort: Planted) -> None:
    page = seen.page
    seen.open("outliers")
    expected = [one.session for one in View(Cohort.open(cohort.store)).outliers]
    assert page.locator("#outlier-table tbody th").all_inner_texts() == expected
    assert {cohort.bad[1], cohort.bad[2], cohort.bad[4]} <= set(expected[:9])  # of 60 sessions, all: test_outliers
    seen.open("drift")
    rows = [row.split("\t")[:2] for row in page.locator("#drift tbody tr").all_inner_texts()]
    labels = sorted(label for label in Cohort.open(cohort.store).labels.values())
    assert sorted(rows[:2]) == sorted([[labels[0], "T1w contrast"], [labels[1], "T2w scale"]])
    seen.open("failures")
    assert cohort.bad[4] in page.locator("#page-failures tbody th").first.inner_text()


def test_a_rejection_by_keys_changes_statistics_and_rollback_brings_them_back(seen: Seen, cohort: Planted) -> None:
    page, bad = seen.page, cohort.bad[0]
    start, before = page.get_attribute("body", "data-snapshot"), page.inner_text("#page-overview table.numeric")
    assert start is not None
    seen.session(bad)
    page.keyboard.press("r")
    page.wait_for_selector("dialog[open]")
    assert page.is_disabled("#decide-commit")
    page.check("[name=grounds][value=values]")
    page.click("#decide-preview")
    page.wait_for_function("() => document.getElementById('decide-change').textContent.includes('count no more')")
    assert page.inner_text("#decide-change") == "1 decisions would be made: 1 sessions count no more."
    page.click("#decide-commit")
    page.wait_for_function("old => document.body.dataset.snapshot !== old && document.body.dataset.ready", arg=start)
    seen.open("overview")
    assert page.inner_text("#page-overview table.numeric") != before
    assert "1 rejected" in page.inner_text("#page-overview")
    rollback(cohort.store, start)
    page.goto(seen.address)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.inner_text("#page-overview table.numeric") == before


@pytest.mark.parametrize("name", [*PAGES, "session"])
def test_axe_finds_nothing(seen: Seen, cohort: Planted, name: str) -> None:
    if name == "session":
        seen.session(cohort.bad[1])
    else:
        seen.open(name)
    found = Axe().run(seen.page)
    told = [(one["id"], [node["target"] for node in one["nodes"]][:3]) for one in found.response["violations"]]
    assert told == []


@pytest.mark.parametrize("most", [300, 5], ids=["one file", "with a folder"])
def test_pages_open_from_disk_without_a_network(
    browser: Browser, cohort: Planted, tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "MOST_IN_ONE", most)
    path = offline.write_pages(cohort.store, tmp_path / "pages")
    assert (path.parent / "sessions").is_dir() == (most == 5)
    context = browser.new_context(offline=True)
    one = Seen(context.new_page(), path.as_uri())
    one.address = path.parent.as_uri()
    one.foreign.clear()
    one.open("groups")
    assert one.page.locator(".panel").count() == 4
    one.open("wall")
    assert one.page.locator(".tile").count() == 24
    one.open(f"session/{cohort.bad[0]}")
    assert one.page.locator(".planes img").count() == 18
    assert "WM T1, median" in one.page.inner_text("#session dl")
    one.open("drift")
    assert one.errors == []
    assert one.foreign == []
    context.close()
