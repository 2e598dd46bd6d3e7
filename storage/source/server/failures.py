"""What may go wrong with a server, told apart: it is away, it refuses, it fails, it has changed.

Texts hold no identity: no identifier that was asked for, and nothing that the server says in words.
"""

from __future__ import annotations

from storage.source.origin import SourceError


class ServerError(SourceError):
    """A server answers with an error, or with what is no answer."""


class ServerAwayError(ServerError):
    """A server cannot be reached, or stops answering, however often it is asked."""


class ServerRefusedError(ServerError):
    """A server does not accept who asks, or how."""


class ServerChangedError(ServerError):
    """A server no longer holds what it told of, or holds something else."""


REASONS = {
    ServerAwayError: "server_away",
    ServerRefusedError: "server_refused",
    ServerChangedError: "server_changed",
    ServerError: "server_error",
}
"""Under which reason objects count of which a server does not give the header."""
