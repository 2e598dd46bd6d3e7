"""An S3-compatible server for the tests of object stores: moto, in this process, on a free port."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator

import pytest

BUCKET = "cohorts"


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Address of the server; its bucket `BUCKET` is there."""
    moto = pytest.importorskip("moto.server", reason="pip install -e .[dev] brings moto")
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=address,
        aws_access_key_id="x",
        aws_secret_access_key="x",  # noqa: S106 - of a server for tests
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    yield address
    running.stop()


def credentials(address: str) -> dict[str, str]:
    """Environment in which the server is the object store."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "KEYIDTHATNOBODYMAYSEE",
        "AWS_SECRET_ACCESS_KEY": "secret-that-nobody-may-see",
        "AWS_REGION": "us-east-1",
    }


_numbers = itertools.count()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Give locations of stores that are not there yet."""
    for name, value in credentials(server).items():
        monkeypatch.setenv(name, value)
    return lambda: f"s3://{BUCKET}/store-{next(_numbers)}"
