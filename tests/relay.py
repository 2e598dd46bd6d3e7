"""A relay between a client and a server on the loopback: counts what goes through, and can cut it off."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Relay:
    """Listens at ``port`` and passes on to another port of this machine; ``received`` counts the server's bytes.

    ``cut_after`` is the number of bytes of a connection after which both its ends are closed, ``down_after`` that of
    bytes of all connections after which nothing is passed on any more; None is never.
    """

    def __init__(self, to: int) -> None:
        self._to, self._listener = to, socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.received = 0
        self.cut_after: int | None = None
        self.down_after: int | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _is_down(self) -> bool:
        return self.down_after is not None and self.received > self.down_after

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._is_down():
                    client.close()
                    continue
                try:
                    server = socket.create_connection(("127.0.0.1", self._to))
                except OSError:
                    client.close()
                    continue
                for source, target, is_answer in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass_on, args=(source, target, is_answer), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(2**16):
                passed += len(data)
                if is_answer:
                    with self._lock:
                        self.received += len(data)
                    if (self.cut_after is not None and passed > self.cut_after) or self._is_down():
                        source.shutdown(socket.SHUT_RDWR)
                        break
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR if is_answer else socket.SHUT_WR)
        if is_answer:
            source.close()
            target.close()
