"""A night without anything new: its own time on the cohort of ``make demo``, which must have been run before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 5.0
"""Seconds of a processor, imports apart, that a night without anything new may take."""

NIGHT = """
import json, sys, time
began = time.perf_counter()
from pathlib import Path
import torch  # what planning needs for the echo trains of 3D sequences
from flows.cluster.clusters import client_on_demand
from flows.night import reprocess
from flows.settings import Settings
from storage.pseudonyms import load_key
source, store, key, index = map(Path, sys.argv[1:])
loaded, before = time.perf_counter(), time.process_time()
with client_on_demand(Settings(workers=1)) as client:
    result, _ = reprocess(source, str(store), key=load_key(key), client=client, index=index)
done, after = time.perf_counter(), time.process_time()
print(json.dumps([result.text(), loaded - began, done - loaded, after - before]))
"""


@pytest.mark.bench
@pytest.mark.timeout(600)
def test_a_night_without_anything_new(tmp_path: Path) -> None:
    """Prints seconds; the first night reads all headers, the second one only looks whether files have changed."""
    demo = Path(os.environ.get("DEMO", ROOT / "demo"))
    if not (demo / "store").is_dir():
        pytest.skip(f"no demo in {demo}; run make demo, or set DEMO to its folder")
    store = tmp_path / "store"
    shutil.copytree(demo / "store", store)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    n_files = sum(1 for path in (demo / "input").rglob("*") if path.is_file())
    arguments = [str(path) for path in (demo / "input", store, demo / "key", tmp_path / "index.sqlite")]
    for name in ("first", "second"):
        done = subprocess.run(
            [sys.executable, "-c", NIGHT, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
        text, loading, seconds, own = json.loads(done.stdout)
        print(
            f"\n{name} night over {n_files} files: {own:.1f} s of the processor in {seconds:.1f} s, "
            f"after {loading:.1f} s of imports"
        )
        assert text.startswith("nothing new")
    assert own < LIMIT
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before
