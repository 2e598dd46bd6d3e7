"""Starts the server of the pages on the loopback, and says where it is."""

from __future__ import annotations

import socket
from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING

from flows.browser.safety import LOOPBACK, new_token

if TYPE_CHECKING:
    from storage.store.cohort import Cohort


def serve(
    cohort: Cohort, *, is_pinned: bool, can_decide: bool, rater: str, port: int, say: Callable[[str], None]
) -> None:
    """Serve until it is interrupted; ``say`` gets the address, which no log has.

    Raises
    ------
    OSError
        If the port is taken.
    """
    import uvicorn

    from flows.browser.server import Site, application

    token = new_token()
    site = Site(cohort=cohort, is_pinned=is_pinned, can_decide=can_decide, rater=rater)
    listening = bound(port)
    site.prepare()  # what is read once is read before the address is said
    number = listening.getsockname()[1]
    say(f"open http://{LOOPBACK}:{number}/{token}/")
    say("decisions are written to the store" if can_decide else "read-only; with --qc decisions can be made")
    settings = uvicorn.Config(
        application(site, token), access_log=False, log_level="error", server_header=False, lifespan="off"
    )
    Thread(target=site.read_ahead, daemon=True).start()
    uvicorn.Server(settings).run(sockets=[listening])


def bound(port: int) -> socket.socket:
    """A socket that listens on the loopback: who opens the address early waits, and is not refused.

    Raises
    ------
    PortError
        If the port is taken, with what to do.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise PortError(f"port {port} cannot be used ({error.strerror}); give another with --port, or 0") from error
    return listening


class PortError(RuntimeError):
    """The port that was asked for cannot be had."""
