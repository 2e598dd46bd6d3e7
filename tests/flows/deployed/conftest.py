"""Databases for Prefect servers."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.prefect_processes import free_port


@pytest.fixture
def database() -> Iterator[str]:
    """Address of an empty database of a PostgreSQL server that runs as the user postgres where this one is root."""
    found = [shutil.which("initdb"), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")))]
    programs = [Path(program).resolve().parent for program in found if program]
    if not programs:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    as_user = {"user": "postgres"} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="qmri-postgres-"))
    if as_user:
        shutil.chown(folder, "postgres")
    port, name = free_port(), as_user.get("user", "postgres")

    def run(program: str, *arguments: object) -> None:
        subprocess.run(
            [programs[0] / program, *map(str, arguments)], cwd=folder, check=True, stdout=subprocess.DEVNULL, **as_user
        )

    try:
        run("initdb", "--pgdata", folder / "data", "--auth", "trust", "--username", name)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        run("pg_ctl", "--pgdata", folder / "data", "--log", folder / "log", "--wait", "-o", options, "start")
        try:
            run("createdb", "--host", "127.0.0.1", "--port", port, "--username", name, "prefect")
            yield f"postgresql+asyncpg://{name}@127.0.0.1:{port}/prefect"
        finally:
            run("pg_ctl", "--pgdata", folder / "data", "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
