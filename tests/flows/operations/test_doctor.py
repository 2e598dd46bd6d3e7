"""What is looked at before a run: each thing that is missing is told with what to do, and nothing is made."""

from __future__ import annotations

import http.server
import socket
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.operations.doctor import Mark, findings, other_versions
from flows.settings import Settings
from storage.pseudonyms import load_key
from storage.store.cohort import writing


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("QMRI_KEY_FILE", str(tmp_path / "key"))


def marks(**values: Any) -> dict[str, Mark]:
    return {one.what: one.mark for one in findings(Settings(**values))}


def test_a_key_is_looked_at_and_not_made(tmp_path: Path) -> None:
    key = tmp_path / "key"
    assert marks(key_file=key)["key"] is Mark.DOUBT
    assert not key.exists()
    load_key(key)
    assert marks(key_file=key)["key"] is Mark.GOOD
    key.chmod(0o644)
    assert marks(key_file=key)["key"] is Mark.BAD
    key.chmod(0o600)
    key.write_text("no key")
    assert marks(key_file=key)["key"] is Mark.BAD


def test_source_and_store_are_looked_at_and_not_made(tmp_path: Path) -> None:
    source, store = tmp_path / "in", tmp_path / "store"
    found = marks(source=str(source), store=str(store))
    assert (found["source"], found["store"]) == (Mark.BAD, Mark.GOOD)
    assert not store.exists()
    source.mkdir()
    store.mkdir()
    (store / "other").write_text("")
    found = marks(source=str(source), store=str(store))
    assert (found["source"], found["store"]) == (Mark.GOOD, Mark.BAD)
    with writing(str(tmp_path / "made"), create=True):
        pass
    assert marks(store=str(tmp_path / "made"))["store"] is Mark.GOOD
    assert marks(source="ftp://host")["source"] is Mark.BAD


class Well(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_servers_answer_or_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        assert marks(scheduler=f"tcp://127.0.0.1:{port}")["cluster"] is Mark.GOOD
    assert marks(scheduler=f"tcp://127.0.0.1:{port}")["cluster"] is Mark.BAD
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    assert marks()["Prefect server"] is Mark.BAD
    with http.server.HTTPServer(("127.0.0.1", 0), Well) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
        assert marks()["Prefect server"] is Mark.GOOD
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/other")
        assert marks()["Prefect server"] is Mark.BAD
        server.shutdown()


def test_versions_are_compared_with_the_tested_ones() -> None:
    numpy = version("numpy")
    assert list(other_versions(f"# comment\nnumpy=={numpy}\nno-such-package==1\n")) == []
    assert list(other_versions("numpy==0.1\n")) == [("numpy", "0.1", numpy)]


def test_the_exit_status_says_whether_a_run_would_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMRI_SOURCE", str(tmp_path))
    done = CliRunner().invoke(app, ["doctor"])
    assert (done.exit_code, "good  source" in done.output) == (0, True)
    monkeypatch.setenv("QMRI_SOURCE", str(tmp_path / "away"))
    done = CliRunner().invoke(app, ["doctor"])
    assert (done.exit_code, "bad   source" in done.output) == (1, True)
    assert "QMRI_SOURCE" in done.output
