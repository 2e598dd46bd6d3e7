"""The alerts of ``deploy/automations.yaml``: of which states they are, and that a real Prefect server sends them."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import State
from prefect.states import Completed, Crashed, Failed, Running

from flows.deployed.publish import _FAILED_STATE
from flows.prefect_plugin import DEPLOYMENTS
from tests.flows.end_to_end import ROOT
from tests.flows.prefect_processes import Prefect, prefect, readme_lines, wait_until

FILE = ROOT / "deploy" / "automations.yaml"
PLACE = "ID-OF-YOUR-BLOCK"


def test_alerts_are_of_every_deployment_and_of_every_state_that_calls() -> None:
    automations = {one["name"]: one for one in yaml.safe_load(FILE.read_text())["automations"]}
    for one in automations.values():
        assert one["trigger"]["match_related"]["prefect.resource.name"] == list(DEPLOYMENTS)
        assert [action["block_document_id"] for action in one["actions"]] == [PLACE]
    states = {f"prefect.flow-run.{name}" for name in ("Failed", "TimedOut", _FAILED_STATE)}  # TimedOut: Prefect's own
    assert set(automations["qmri-run-failed"]["trigger"]["expect"]) == states


@dataclass(slots=True)
class Inbox:
    """Whoever is called: an HTTP server that keeps what it is sent."""

    address: str
    calls: list[dict[str, str]] = field(default_factory=list)

    def subjects(self) -> list[str]:
        return [call["subject"] for call in self.calls]

    def waits_for(self, subject: str) -> dict[str, str]:
        wait_until(lambda: subject in self.subjects(), f"{subject} among {self.subjects()}", patience=180)
        return self.calls[self.subjects().index(subject)]


@pytest.fixture(scope="module")
def inbox() -> Iterator[Inbox]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            one.calls.append(json.loads(body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        one = Inbox(f"http://127.0.0.1:{server.server_port}/")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield one
        server.shutdown()


BLOCK = """
from prefect.blocks.notifications import CustomWebhookNotificationBlock

sent = {"subject": "{{subject}}", "body": "{{body}}"}
print(CustomWebhookNotificationBlock(name="inbox", url="ADDRESS", json_data=sent).save("inbox"))
"""


@pytest.fixture(scope="module")
def running(inbox: Inbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """The deployments and their alerts on a server, with a notification block and no worker; late is late at once."""
    folder = tmp_path_factory.mktemp("prefect")
    lines = [line for line in readme_lines("Deployments") if "worker start" not in line]
    with prefect(folder, lines=lines, PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS=1) as installation:
        installation.command(f"python {written(folder, 'block.py', BLOCK.replace('ADDRESS', inbox.address))}")
        (block,) = installation.api("/block_documents/filter", {})
        text = FILE.read_text().replace(PLACE, block["id"])
        assert text.count("within: 1800") == 1
        file = written(folder, "automations.yaml", text.replace("within: 1800", "within: 10"))
        installation.command(f"prefect automation create --from-file {file}")
        yield installation


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def ended_run(running: Prefect, deployment: str, state: State[Any]) -> str:
    """A run whose process is none of ours: its states are told to the server; its identifier."""
    with SyncPrefectClient(running.environment["PREFECT_API_URL"]) as client:  # asks again where the server is busy
        found = client.read_deployment_by_name(f"{deployment}/{deployment}")
        run = client.create_flow_run_from_deployment(found.id)
        for each in (Running(), state):
            assert client.set_flow_run_state(run.id, each, force=True).status == "ACCEPT"
        return str(run.id)


@pytest.mark.walk
@pytest.mark.timeout(900)
def test_the_file_without_the_id_of_a_block_is_refused(running: Prefect) -> None:
    line = ["prefect", "automation", "create", "--from-file", str(FILE)]
    done = subprocess.run(line, env=running.environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "block_document_id" in done.stdout
    listed = running.command("prefect automation ls")
    created: list[Any] = running.api("/automations/filter", {})
    assert sorted(one["name"] for one in created) == ["qmri-run-crashed", "qmri-run-failed", "qmri-run-late"]
    assert all(one["enabled"] and one["name"] in listed for one in created)


@pytest.mark.walk
@pytest.mark.timeout(900)
def test_runs_that_fail_or_crash_call_and_others_do_not(running: Prefect, inbox: Inbox) -> None:
    ended_run(running, "aggregate-cohort", Completed())
    ended_run(running, "ingest-cohort", Completed(name="CompletedWithFailures"))
    ended_run(running, "ingest-cohort", Failed(name=_FAILED_STATE))
    run = ended_run(running, "reprocess-nightly", Crashed())
    assert inbox.waits_for(f"qmri: ingest-cohort {_FAILED_STATE}")["body"].startswith("qmri-run-failed\n")
    call = inbox.waits_for("qmri: reprocess-nightly Crashed")
    assert call["body"].startswith("qmri-run-crashed\n")
    assert run in call["body"]  # where to look
    assert not [subject for subject in inbox.subjects() if "Completed" in subject or "aggregate" in subject]


@pytest.mark.walk
@pytest.mark.timeout(900)
def test_a_run_that_nobody_begins_calls_and_so_does_its_failure_at_last(running: Prefect, inbox: Inbox) -> None:
    """Without a worker it is late; then one comes, and the run has no store to work on."""
    run = running.trigger("prefect deployment run infer-maps/infer-maps")
    call = inbox.waits_for("qmri: infer-maps Late")
    assert call["body"].startswith("qmri-run-late\n")
    assert run in call["body"]
    (worker,) = [line for line in readme_lines("Deployments") if "worker start" in line]
    running.start(worker.removesuffix("&").strip())
    assert "QMRI_STORE is not set" in running.finished(run)["message"]
    call = inbox.waits_for("qmri: infer-maps Failed")
    assert call["body"].startswith("qmri-run-failed\n")
    assert "QMRI_STORE" not in json.dumps(inbox.calls)  # what went wrong is told by its page alone
    assert inbox.subjects().count("qmri: infer-maps Late") == 1
