"""Asks the application of the pages without a socket, and all that it answers of a store."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from flows.browser.server import Site, application
from storage.store.cohort import Cohort
from storage.store.schema import IMAGE_NAMES

TOKEN = "the-token-of-a-test"  # noqa: S105 - of no server
HOST = "127.0.0.1:8717"
SAME_SITE = {"Origin": f"http://{HOST}"}


class Visitor:
    """A browser, as far as requests go; ``base`` is the address with the token."""

    def __init__(self, store: str, **options: Any) -> None:
        self.app = application(Site(cohort=Cohort.open(store), **options), TOKEN)
        self.base = f"/{TOKEN}/"

    def ask(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, content: Any = None
    ) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
                return await client.request(method, path, headers=headers, json=content)

        return asyncio.run(asked())

    def get(self, path: str = "") -> httpx.Response:
        return self.ask("GET", self.base + path)

    def post(self, path: str, content: Any) -> httpx.Response:
        return self.ask("POST", self.base + path, headers=SAME_SITE, content=content)

    def snapshot(self) -> str:
        """Which snapshot the document that is served now shows."""
        found = re.search(r'data-snapshot="([A-Z0-9]+)"', self.get().text)
        assert found
        return found[1]

    def table(self) -> dict[str, Any]:
        answer = self.get(f"at/{self.snapshot()}/table.json")
        assert answer.status_code == 200
        table: dict[str, Any] = json.loads(answer.content)
        return table


def all_answers(client: Visitor, *, volumes: tuple[str, ...] = IMAGE_NAMES) -> Iterator[tuple[str, httpx.Response]]:
    """Every address of the pages and what it answers, libraries apart; of the volumes some."""
    snapshot = client.snapshot()
    table = client.table()
    paths = ["", "static/browser.js", "static/browser.css", f"at/{snapshot}/table.json", "static/none", "nothing"]
    for session in table["session"]:
        paths.append(f"at/{snapshot}/session/{session}.json")
        paths += [f"at/{snapshot}/volume/{session}/{name}.nii" for name in volumes]
        paths += [f"at/{snapshot}/value/{session}/{name}/2/3/1.json" for name in volumes]
        paths += [f"at/{snapshot}/difference/{session}/{snapshot}/{session}/{name}.nii" for name in volumes]
        paths += [f"at/{snapshot}/thumbnail/{session}/{name}.jpg" for name in volumes]
    for path in paths:
        yield path, client.get(path)
