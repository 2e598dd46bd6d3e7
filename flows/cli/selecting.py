"""Options that say which sessions a run is about; without any of them it is about all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flows.selection import Selection

Sessions = Annotated[
    list[str] | None, typer.Option("--session", help="Only this session, by its pseudonym; may be given several times.")
]
Groups = Annotated[
    list[str] | None, typer.Option("--group", help="Only sessions of this group, by label or key; several times.")
]
Statuses = Annotated[
    list[str] | None,
    typer.Option("--status", help="Only sessions that ended so: complete, partial, skipped, failed; several times."),
]
Reasons = Annotated[
    list[str] | None, typer.Option("--reason", help="Only sessions with this reason in the store; several times.")
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="Only sessions that are new or have changed in the store since (UTC)."
    ),
]
Retry = Annotated[
    bool, typer.Option("--retry", help="Do what is selected again although nothing has changed, failed ones included.")
]


def selection_or_usage_error(
    sessions: Sequence[str] | None,
    groups: Sequence[str] | None,
    statuses: Sequence[str] | None,
    reasons: Sequence[str] | None,
    since: str | None,
    retry: bool,
) -> Selection:
    """What the options say; what is no status, no reason or no time is wrong usage."""
    from pydantic import ValidationError

    from flows.selection import Selection, moment

    try:
        return Selection.model_validate(
            {
                "sessions": sessions or (),
                "groups": groups or (),
                "statuses": statuses or (),
                "reasons": reasons or (),
                "since": None if since is None else moment(since),
                "retry": retry,
            }
        )
    except ValidationError as error:
        raise typer.BadParameter("; ".join(one["msg"] for one in error.errors(include_input=False))) from None
    except ValueError:
        raise typer.BadParameter("--since is a time such as 2026-11-30 or 2026-11-30T06:00") from None
