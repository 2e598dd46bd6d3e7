"""MRIQC's group report of 5,000 rows in the same Chromium as the browser: seconds until it is made, and until it shows.

``MRIQC_PYTHON`` is a Python that has MRIQC, in an environment of its own. Of MRIQC 24.0.2 the group report needs
``pip install --no-deps mriqc niworkflows~=1.10.1 nipype~=1.8 traits<6.4 templateflow`` and what their modules import.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.benchmarks.test_browser import CHROMIUM, OPTIONS, Clock

PYTHON = os.environ.get("MRIQC_PYTHON", "")
N_ROWS = 5000
SCRIPT = """
import sys, time
from pathlib import Path
import mriqc, numpy, pandas
from mriqc.reports.group import gen_html
own = pandas.read_csv(Path(mriqc.__file__).parent / "data/testdata/group_T1w.tsv", sep="\\t")
rows, table = int(sys.argv[1]), Path(sys.argv[2])
figures = [name for name in own if name != "bids_name"]
many = own.iloc[numpy.arange(rows) % len(own)].reset_index(drop=True)
noise = numpy.exp(0.1 * numpy.random.default_rng(0).standard_normal((rows, len(figures))))
many[figures] = many[figures] * noise
many["bids_name"] = [f"sub-{number:05d}_T1w" for number in range(rows)]
many.to_csv(table, sep="\\t", index=False)
began, before = time.perf_counter(), time.process_time()
gen_html(table, "T1w", out_file=table.with_suffix(".html"))
print(f"MRIQC {mriqc.__version__}, {rows} rows: made in {time.perf_counter() - began:.2f} s,",
      f"{time.process_time() - before:.2f} s of processor time")
"""
"""Rows of the table that MRIQC tests itself with, its own figures with noise of 10 %."""

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is here (Debian: apt-get install chromium)"),
    pytest.mark.skipif(not PYTHON, reason="MRIQC_PYTHON names no Python that has MRIQC"),
]


def test_report_of_as_many_rows(tmp_path: Path) -> None:
    """Prints seconds and size."""
    table = tmp_path / "group_T1w.tsv"
    told = subprocess.run([PYTHON, "-c", SCRIPT, str(N_ROWS), str(table)], check=True, capture_output=True, text=True)
    report = table.with_suffix(".html")
    print(f"\n{told.stdout.strip()}; {report.stat().st_size / 1e6:.1f} MB")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        clock = Clock(os.getpid())

        def shown() -> None:
            page.goto(report.as_uri(), timeout=600_000)
            page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

        clock.tell("its page", shown)
        points = page.locator("circle").count()
        print(f"{points} points")
        browser.close()
    assert points >= N_ROWS
