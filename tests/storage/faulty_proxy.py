"""An HTTP server in front of the object store that answers some requests with an error, or hangs up."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

DROP = -1
"""Instead of a status: the connection is closed."""


class FaultyProxy:
    """Forwards to ``upstream``; ``fault(method, path)`` may give the status of an error instead, or `DROP`."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.fault: Callable[[str, str], int | None] = lambda _method, _path: None
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self.handle_any
                raise AttributeError(name)

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status = proxy.fault(self.command, self.path)
                if status == DROP:
                    self.close_connection = True
                elif status is not None:
                    self._answer(status, {}, b"<Error><Code>InternalError</Code></Error>")
                else:
                    connection = http.client.HTTPConnection(proxy.upstream, timeout=60)
                    connection.request(self.command, self.path, body, dict(self.headers))
                    response = connection.getresponse()
                    self._answer(response.status, dict(response.headers), response.read())
                    connection.close()

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                        self.send_header(name, value)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
                self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    """Run a proxy while the block lasts."""
    proxy = FaultyProxy(upstream)
    thread = threading.Thread(target=proxy.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join(10)


def first(n: int, method: str, part: str, status: int) -> Callable[[str, str], int | None]:
    """Fault of the first ``n`` requests of a method whose path contains ``part``."""
    left, lock = [n], threading.Lock()

    def fault(asked: str, path: str) -> int | None:
        with lock:
            if asked != method or part not in path or not left[0]:
                return None
            left[0] -= 1
            return status

    return fault


__all__ = ["DROP", "FaultyProxy", "faulty_proxy", "first"]
