"""The compose file, brought up by podman-compose: PostgreSQL, Prefect, Dask; a cohort is ingested in it by its name.

Five minutes with the image of test_container.py. PostgreSQL and Prometheus are Debian's, under the names that the file
says, with as much of the official images as the file uses.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flows.end_to_end import ROOT
from tests.podman import IMAGE, Podman, cache, context_of, needs_podman

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(5400),
    needs_podman,
    pytest.mark.skipif(shutil.which("podman-compose") is None, reason="pip install podman-compose"),
]

POSTGRES = "docker.io/library/postgres:17"
PROMETHEUS = "docker.io/prom/prometheus:v3.5.0"
PAGES = "http://127.0.0.1:4200"
FIGURES = "http://127.0.0.1:9090"
USER = 1000

ENTRY = """#!/bin/sh
set -e
export PGDATA=/var/lib/postgresql/data
if [ "$(id -u)" = 0 ]; then
    install -d -o postgres -g postgres -m 700 "$PGDATA"
    chown postgres: "$PGDATA"
    exec setpriv --reuid postgres --regid postgres --clear-groups "$0"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    printf %s "$POSTGRES_PASSWORD" > /tmp/password
    initdb --username "$POSTGRES_USER" --pwfile /tmp/password --auth-host scram-sha-256 --auth-local trust -E UTF8
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl -o "-c listen_addresses=''" -w start
    createdb --username "$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl -m fast -w stop
fi
exec postgres -c listen_addresses='*'
"""
DOCKERFILE = """FROM python:3.11-slim
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql \\
    && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/15
COPY --chmod=755 entry /usr/local/bin/entry
ENV PATH=/usr/lib/postgresql/15/bin:$PATH
ENTRYPOINT ["entry"]
"""
OF_PROMETHEUS = """FROM python:3.11-slim
RUN apt-get update && apt-get install --yes --no-install-recommends prometheus \\
    && rm -rf /var/lib/apt/lists/* \\
    && install -d -o nobody /prometheus
USER nobody
VOLUME /prometheus
ENTRYPOINT ["prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
"""


class Compose:
    """All services of the file, and the deployments in them."""

    def __init__(self, podman: Podman, data: Path) -> None:
        self.podman = podman
        folders = {f"QMRI_HOST_{name.upper()}": str(data / name) for name in ("source", "store", "keys")}
        self.environment = podman.environment | folders | {"QMRI_IMAGE": IMAGE, "POSTGRES_PASSWORD": "secret"}

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            ["podman-compose", "-f", "deploy/compose/compose.yaml", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, (arguments, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    def up(self) -> None:
        """Start all in the order of the file.

        podman has no timer for checks of health without systemd, and starts nothing whose dependency has ended.
        """
        self("up", "-d", "postgres", "dask-scheduler", "dask-worker")
        self.wait_for(lambda: self.is_healthy("postgres"), "PostgreSQL")
        self("up", "-d", "--no-deps", "prefect-server")
        self.wait_for(lambda: self.is_healthy("prefect-server"), "Prefect's server")
        self("up", "-d", "--no-deps", "deploy")
        assert self.podman("wait", "qmri_deploy_1").strip() == "0", self.podman("logs", "qmri_deploy_1")
        self("up", "-d", "--no-deps", "prefect-worker")

    def is_healthy(self, service: str) -> bool:
        """The check of health that the file has for a service."""
        command = ["podman", "healthcheck", "run", f"qmri_{service}_1"]
        return subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode == 0

    def wait_for(self, condition: Callable[[], Any], what: str, patience: float = 1200) -> Any:
        end = time.monotonic() + patience
        while not (value := condition()):
            assert time.monotonic() < end, f"waited {patience:.0f} s in vain for {what}: {self.logs()}"
            time.sleep(1)
        return value

    def logs(self) -> str:
        command = ["podman", "logs", "--tail", "60", "qmri_prefect-worker_1"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def scraped(self) -> dict[str, list[float]]:
        """What Prometheus has: of each of its jobs who answers, and the store's sessions."""
        queries = {job: f'up{{job="{job}"}}' for job in ("qmri", "dask-scheduler", "dask-workers")}
        found = {}
        for name, query in (queries | {"sessions": "sum(qmri_sessions)"}).items():
            try:
                with urllib.request.urlopen(  # noqa: S310 - our own server
                    f"{FIGURES}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=30
                ) as answer:
                    found[name] = [float(one["value"][1]) for one in json.loads(answer.read())["data"]["result"]]
            except OSError:
                found[name] = []
        return found

    def run(self, line: str) -> None:
        """Run a command as it is typed, in the container of Prefect's worker."""
        self("exec", "-T", "prefect-worker", *line.split())

    def states(self) -> list[tuple[str, str]]:
        """Name and state of each run of the deployments, from the first on."""
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{PAGES}/api/flow_runs/filter",
            data=json.dumps({"sort": "EXPECTED_START_TIME_ASC", "flow_runs": {"tags": {}}}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                runs = json.loads(answer.read())
        except OSError:
            return []
        return [(run["state"]["name"], run["state"]["message"]) for run in runs if run["state_name"] != "Scheduled"]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 4200)) == 0:
            pytest.skip("the port of Prefect's pages is in use")
    engine = Podman(cache())
    engine.make_base()
    engine.build(context_of("HEAD", tmp_path_factory.mktemp("context") / "clone"))
    folder = tmp_path_factory.mktemp("postgres")
    (folder / "entry").write_text(ENTRY)
    for tag, text in ((POSTGRES, DOCKERFILE), (PROMETHEUS, OF_PROMETHEUS)):
        (folder / "Dockerfile").write_text(text)
        engine("build", "--network", "host", "--layers", "--format", "docker", "--tag", tag, folder)
    return engine


@pytest.fixture
def services(podman: Podman, tmp_path: Path) -> Iterator[Compose]:
    """A simulated archive of two sessions, a key, and everything up."""
    for name in ("source", "store", "keys"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, USER, USER)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    podman(
        *(
            "run",
            "--rm",
            "--volume",
            f"{tmp_path}/source:/data/source",
            IMAGE,
            "qmri",
            "simulate",
            "/data/source/archive",
        ),
        *("--truth", "/tmp/truth", "--sessions", 2, "--groups", 1, "--resolution", 5, "--workers", 1),  # noqa: S108
    )
    (tmp_path / "keys" / "key").write_text("5e" * 32)
    os.chown(tmp_path / "keys" / "key", USER, USER)
    compose = Compose(podman, tmp_path)
    try:
        compose.up()
        yield compose
    finally:
        compose("--profile", "metrics", "down", "-v")


def is_done(services: Compose, count: int) -> bool:
    return [name for name, _ in services.states()].count("Completed") == count


def test_the_literal_command_completes_and_what_restarts_costs_nothing(services: Compose, tmp_path: Path) -> None:
    """Two minutes. Prefect's pages open; then a Dask worker, the server and the database restart in the middle."""
    with urllib.request.urlopen(PAGES, timeout=30) as page:
        assert b"<title>Prefect" in page.read()
    services.run("prefect deployment run ingest-cohort")
    services.wait_for(lambda: "ingest: 0 of" in services.logs(), "the first wave")
    for name in ("dask-worker", "prefect-server", "postgres"):
        services.podman("restart", "--time", 2, f"qmri_{name}_1")
    services.wait_for(lambda: services.is_healthy("prefect-server"), "the server to come back")
    services.wait_for(lambda: is_done(services, 1), "the run")
    said = services("exec", "-T", "prefect-worker", "qmri", "status", "--store", "/data/cohort/store")
    assert "2 sessions, 2 stale" in said, said  # ingested once each, whatever was restarted, and without maps so far
    services.run("prefect deployment run ingest-cohort")
    services.wait_for(lambda: is_done(services, 2), "the second run, which has nothing to do")
    assert {path.stat().st_uid for path in (tmp_path / "store").rglob("*")} == {USER}
    services("--profile", "metrics", "up", "-d", "--no-deps", "metrics", "prometheus")
    expected = {"qmri": [1.0], "dask-scheduler": [1.0], "dask-workers": [1.0], "sessions": [2.0]}
    services.wait_for(lambda: services.scraped() == expected, f"{expected} in Prometheus, which asks twice a minute")
