"""A real DICOM server for tests: Orthanc on the loopback, by DICOMweb; tests skip where it is missing.

Debian: ``apt-get install orthanc orthanc-dicomweb orthanc-gdcm``.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import requests

PLUGINS = Path("/usr/share/orthanc/plugins")
WEB, GDCM = PLUGINS / "libOrthancDicomWeb.so", PLUGINS / "libOrthancGdcm.so"

needs_orthanc = pytest.mark.skipif(
    shutil.which("Orthanc") is None or not WEB.exists(), reason="Orthanc and its DICOMweb plugin are not installed"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Orthanc:
    """A server with its state in a folder; started by the context, and again by `start` after `kill`."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder, self.http, self.dicom, self.mover = folder, free_port(), free_port(), free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.rest = f"http://127.0.0.1:{self.http}"
        self.web = f"dicomweb+http://127.0.0.1:{self.http}/dicom-web"
        self.dimse = f"dimse://ORTHANC@127.0.0.1:{self.dicom}"
        self.session = requests.Session()
        if users := options.get("RegisteredUsers"):
            self.session.auth = next(iter(users.items()))
        settings = {
            "Name": "test", "StorageDirectory": str(folder), "IndexDirectory": str(folder), "SyncStorageArea": False,
            "HttpServerEnabled": True, "HttpPort": self.http, "RemoteAccessAllowed": False, "HttpTimeout": 60,
            "AuthenticationEnabled": False, "HttpCompressionEnabled": False,
            "DicomServerEnabled": True, "DicomPort": self.dicom, "DicomAet": "ORTHANC", "DicomCheckCalledAet": True,
            "DicomModalities": {"qmri": ["QMRI", "127.0.0.1", self.mover]}, "DicomCheckModalityHost": True,
            "DicomScpTimeout": 2, "StableAge": 1,
            "Plugins": [str(path) for path in (WEB, GDCM) if path.exists()],
            "Gdcm": {"RestrictTransferSyntaxes": ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"]},
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "Host": "127.0.0.1"},
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings | options))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop(signal.SIGTERM)
        self.session.close()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        quiet = subprocess.DEVNULL
        command = ["Orthanc", str(self.folder / "orthanc.json")]
        self.process = subprocess.Popen(command, stdout=quiet, stderr=quiet, cwd=self.folder)
        until = time.monotonic() + 20
        while True:
            try:
                self.session.get(f"{self.rest}/system", timeout=1).raise_for_status()
                return
            except requests.RequestException:
                assert time.monotonic() < until
                assert self.process.poll() is None
                time.sleep(0.05)

    def kill(self) -> None:
        """End it without a word."""
        self.stop(signal.SIGKILL)

    def stop(self, how: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(30)

    def store(self, files: Iterable[Path]) -> int:
        """Store files; their number."""
        sent = [self.session.post(f"{self.rest}/instances", data=path.read_bytes()) for path in files]
        assert all(answer.ok for answer in sent)
        return len(sent)

    def get(self, path: str) -> Any:
        answer = self.session.get(self.rest + path)
        answer.raise_for_status()
        return answer.json()

    def delete(self, path: str) -> None:
        self.session.delete(self.rest + path).raise_for_status()
