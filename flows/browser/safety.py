"""What is refused before anything is read, and what browsers are told to refuse."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
LOOPBACK = "127.0.0.1"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # plots and the viewer set styles of elements; scripts stay refused
        "img-src 'self' data: blob:",
        "font-src data:",
        "connect-src 'self' data: blob:",  # fonts of the viewer are data of its own
        "worker-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content policy of every answer: nothing is loaded from, or sent to, another place, and no text becomes a script."""

HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # the address holds the token
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


def new_token() -> str:
    """Part of the address that only who has started the server knows."""
    return secrets.token_urlsafe(24)


class Guard:
    """ASGI middleware: the host is this machine's, the origin is this server's, and the path begins with the token.

    A name that another site has pointed to this machine (DNS rebinding) fails by the host, a page of another site or
    port by the origin or by what the browser says of the fetch, everybody else by the token.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on with the headers that every answer has."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self.refusal(Request(scope))
        answer = self.app if refusal is None else PlainTextResponse(refusal, status_code=403)
        await answer(scope, receive, with_headers)

    def refusal(self, request: Request) -> str | None:
        """Why a request is not answered; None if it is."""
        host = request.headers.get("host", "")
        if host.rsplit(":", 1)[0] not in HOSTS:
            return "this server answers on the loopback only"
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return "another site may not ask this server"
        if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
            return "another site may not ask this server"
        if request.method not in {"GET", "HEAD"} and origin is None:
            return "what changes the store comes from the pages of this server"
        first = request.url.path.split("/")[1]
        if not secrets.compare_digest(first.encode(), self.token.encode()):
            return "the address lacks the token; open the one that `qmri browse` has printed"
        return None
