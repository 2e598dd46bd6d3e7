"""Seconds of each stage of a session, as the catalogue has them: ``{"ingest": {"read": 0.41, ...}, ...}``."""

from __future__ import annotations

import json
from collections.abc import Mapping


def with_stages(text: str, run: str, seconds: Mapping[str, float]) -> str:
    """The text of a session after a run over it; what it says of other runs stays, what it said of this one ends."""
    stages = {**stages_of(text), run: {name: round(each, 3) for name, each in seconds.items()}}
    return json.dumps({name: each for name, each in stages.items() if each}, separators=(",", ":"))


def stages_of(text: str) -> dict[str, dict[str, float]]:
    """Seconds by run and stage; none of a session that was done before they were kept."""
    found: dict[str, dict[str, float]] = json.loads(text) if text else {}
    return found
