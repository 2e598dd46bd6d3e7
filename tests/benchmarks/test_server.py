"""What an empty night costs over 4,000 studies of a server: requests, and seconds of the scan.

``QMRI_BENCH_STUDIES`` says how many.
"""

from __future__ import annotations

import io
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests

from storage.source.index import Index
from storage.source.origin import Limits, Server, source_of
from storage.source.scans import Scan
from storage.source.server.archive import connect
from storage.source.server.listing import Listing, list_studies
from storage.source.server.scan import scan_server
from tests.orthanc import Orthanc, needs_orthanc
from tests.storage.slices import STUDY, header, voxels, write

pytestmark = [pytest.mark.bench, needs_orthanc]

N_STUDIES = int(os.environ.get("QMRI_BENCH_STUDIES", "4000"))
KEY = b"a key for tests, of thirty-two b"


def fill(orthanc: Orthanc, folder: Path) -> None:
    """Store studies of one small image each, in one request."""
    pixels, file = voxels(1)[0], folder / "one"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in range(N_STUDIES):
            study = f"{STUDY}.{number + 1}"
            day = f"{2015 + number % 10}{1 + number % 12:02}{1 + number % 28:02}"
            write(
                file,
                header(
                    StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1", SOPInstanceUID=f"{study}.1.1",
                    PatientID=f"P{number}", StudyDate=day,
                ),
                pixels,
            )  # fmt: skip
            archive.writestr(f"{number}.dcm", file.read_bytes())
    answer = orthanc.session.post(f"{orthanc.rest}/instances", data=content.getvalue())
    answer.raise_for_status()
    assert orthanc.get("/statistics")["CountStudies"] == N_STUDIES


def test_an_empty_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Orthanc(tmp_path / "orthanc", HttpTimeout=600) as orthanc:
        fill(orthanc, tmp_path)
        server = source_of(orthanc.web, Limits(spool=tmp_path / "spool"))
        assert isinstance(server, Server)
        index = Index(tmp_path / "index", server, KEY)
        with connect(server) as archive:
            listing = list_studies(archive, dict(server.filters), Listing())
        index.add(  # as a first scan leaves it
            Scan(path=uid, stamp=known[0], n_files=1, records=(), other={"not_image": 1})
            for uid, known in listing.studies.items()
        )
        index.finish()
        index.keep_note(listing.packed())
        index.close()
        requests_made = []
        send = requests.Session.send

        def counting(self: requests.Session, request: Any, **options: Any) -> requests.Response:
            requests_made.append(request.path_url)
            return send(self, request, **options)

        monkeypatch.setattr(requests.Session, "send", counting)
        again = Index(tmp_path / "index", server, KEY)
        began, used = time.monotonic(), time.process_time()
        scan_server(again, server, KEY)
        wall, used = time.monotonic() - began, time.process_time() - used
        assert again.n_files == N_STUDIES
        again.close()
    print(f"{N_STUDIES} studies: {len(requests_made)} requests, {wall:.1f} s, of them {used:.1f} s of this process")
    assert len(requests_made) <= 20
    assert used < 10
