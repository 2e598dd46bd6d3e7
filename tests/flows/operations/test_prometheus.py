"""A real Prometheus scrapes what ``qmri metrics`` writes; the dashboard asks for nothing else, and is answered."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli.main import app
from storage.store.cohort import commit, writing
from tests.flows.end_to_end import ROOT
from tests.flows.prefect_processes import free_port, stop, wait_until
from tests.flows.tiny_cohort import make_store

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no Prometheus is installed (Debian: apt-get install prometheus)"
)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def qmri(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def queries() -> list[str]:
    """All that the dashboard asks for."""
    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Five complete sessions, one with a mark and a duration and one that is excluded; one skipped; one failed."""
    monkeypatch.setenv("QMRI_KEY_FILE", str(tmp_path / "key"))
    location = make_store(tmp_path)
    stages = '{"ingest":{"read":0.5,"preprocess":3.25}}'
    rows = [{"session": "ses-000000000000", "quality_marks": "noise", "duration": 4.0, "stages": stages}]
    with writing(location) as repository:
        commit(repository, None, [], values={}, rows=rows, message="marks")
    qmri("qc", "exclude", "ses-000000000001", "--store", location, "--rater", "r1", "--reason", "motion")
    return location


def test_the_dashboard_asks_for_all_that_is_written_and_for_nothing_else(store: str) -> None:
    written = set(re.findall(r"^# TYPE (\S+) gauge$", qmri("metrics", "--store", store), flags=re.MULTILINE))
    asked = set(re.findall(r"qmri_\w+", " ".join(queries())))
    assert asked == written


@pytest.fixture(params=["file", "port"])
def scraped(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Where the figures of the store are to be had, and their path there."""
    if request.param == "file":  # as the textfile collector of a node exporter, by way of an HTTP server
        qmri("metrics", "--store", store, "--out", tmp_path / "qmri.prom")
        handler = partial(Handler, directory=str(tmp_path))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
            threading.Thread(target=files.serve_forever, daemon=True).start()
            try:
                yield f"127.0.0.1:{files.server_port}", "/qmri.prom"
            finally:
                files.shutdown()
        return
    port = free_port()
    line = [sys.executable, "-m", "flows.cli.main", "metrics", "--store", store, "--port", str(port)]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"http://127.0.0.1:{port}/metrics\n"
        yield f"127.0.0.1:{port}", "/metrics"
    finally:
        stop(process)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def prometheus(tmp_path: Path, scraped: tuple[str, str]) -> Iterator[str]:
    """Address of a Prometheus that scrapes these figures each second."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no Prometheus is installed (Debian: apt-get install prometheus)")
    target, path = scraped
    job = {"job_name": "qmri", "metrics_path": path, "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [job]}))
    address = f"127.0.0.1:{free_port()}"
    options = {"config.file": tmp_path / "prometheus.yml", "storage.tsdb.path": tmp_path / "prometheus"}
    options["web.listen-address"] = address  # type: ignore[assignment]
    with (tmp_path / "prometheus.log").open("wb") as log:
        line = [program, *(f"--{name}={value}" for name, value in options.items())]
        process = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield f"http://{address}"
    finally:
        stop(process)


class Handler(SimpleHTTPRequestHandler):
    extensions_map = {".prom": "text/plain; version=0.0.4"}  # noqa: RUF012 - as the base class has it

    def log_message(self, *_: object) -> None:
        pass


def asked(address: str, query: str) -> list[dict[str, Any]]:
    """Answer of a Prometheus to a query; nothing before it is there."""
    try:
        with urllib.request.urlopen(  # noqa: S310 - our own server
            f"{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=30
        ) as answer:
            return list(json.loads(answer.read())["data"]["result"])
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise AssertionError((query, error.read())) from None
    except OSError:
        pass
    return []


def samples(address: str) -> Samples:
    found: Samples = {}
    for one in asked(address, '{__name__=~"qmri_.*"}'):
        labels = {k: v for k, v in one["metric"].items() if k not in ("__name__", "instance", "job")}
        found[one["metric"]["__name__"], frozenset(labels.items())] = float(one["value"][1])
    return found


@needs_promtool
def test_the_file_of_what_is_scraped_is_one_that_prometheus_takes() -> None:
    file = ROOT / "deploy" / "prometheus.yml"
    done = subprocess.run(["promtool", "check", "config", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = {job["job_name"] for job in yaml.safe_load(file.read_text())["scrape_configs"]}
    assert names == {"qmri", "dask-scheduler", "dask-workers"}


@pytest.mark.walk
@pytest.mark.timeout(300)
def test_what_prometheus_has_scraped_is_what_the_store_says(store: str, prometheus: str) -> None:
    told = json.loads(qmri("status", "--store", store, "--json"))
    found = wait_until(lambda: samples(prometheus), "the first scrape", patience=120)

    def figures(name: str) -> dict[frozenset[tuple[str, str]], float]:
        return {labels: value for (metric, labels), value in found.items() if metric == f"qmri_{name}"}

    def rows(name: str) -> dict[frozenset[tuple[str, str]], float]:  # Prometheus drops labels without text
        return {
            frozenset((k, v) for k, v in row.items() if k != "sessions" and v): row["sessions"] for row in told[name]
        }

    assert sum(figures("sessions").values()) == 7
    assert figures("sessions") == rows("sessions")
    assert figures("marked_sessions") == rows("marks")
    assert figures("ingest_seconds") == {frozenset({("group", k)}): v for k, v in told["ingest_seconds"].items()}
    (label,) = told["ingest_seconds"]
    assert figures("stage_seconds") == {
        frozenset({("group", label), ("run", "ingest"), ("stage", stage)}): seconds
        for stage, seconds in {"read": 0.5, "preprocess": 3.25}.items()
    }
    assert figures("left_out_sessions") == {frozenset({("why", k)}): v for k, v in told["left_out"].items()}
    single = {"stale_sessions": "stale", "unsettled_failures": "unsettled_failures", "store_bytes": "bytes"}
    for name, key in single.items():
        assert figures(name) == {frozenset(): told[key]}, name
    (age,) = asked(prometheus, "time() - qmri_last_timestamp_seconds")
    assert told["age_seconds"] - 1 <= float(age["value"][1]) <= told["age_seconds"] + 300
    for query in queries():
        assert asked(prometheus, query), query
    status = {one["metric"]["status"]: float(one["value"][1]) for one in asked(prometheus, queries()[5])}
    assert status == {"complete": 5, "skipped": 1, "failed": 1}
