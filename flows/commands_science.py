"""Commands for the physics: what a protocol can determine, and other contrasts from stored maps."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
