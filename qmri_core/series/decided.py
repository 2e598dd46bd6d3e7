"""What was decided on each series of a session, as the text that the catalogue keeps."""

from __future__ import annotations

import json
from collections.abc import Iterable

Decided = tuple[int, str, str]
"""Number of a series, the contrast that it is taken as or the reason why it is not, and the explanation."""


def decided_text(rows: Iterable[Decided]) -> str:
    """Compact JSON."""
    return json.dumps([list(row) for row in rows], separators=(",", ":"))


def decided_of(text: str) -> list[Decided]:
    """What `decided_text` made a text of; nothing of an empty one."""
    return [(int(number), str(decision), str(why)) for number, decision, why in json.loads(text or "[]")]
