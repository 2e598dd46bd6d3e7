"""Lets ``prefect deployment run ingest-cohort`` find the deployment ``ingest-cohort/ingest-cohort``.

Prefect imports this module when it starts, where its plugins are enabled (``[tool.prefect.plugins]`` in the
``pyproject.toml`` of the working directory, or ``PREFECT_PLUGINS_ENABLED=1``), before it reads its arguments. Only that
command and only the names of this project's deployments are completed; everything else stays as it was typed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise

from prefect.plugins import register_hook

DEPLOYMENTS = ("ingest-cohort", "train-model", "infer-maps", "aggregate-cohort", "export-maps", "reprocess-nightly")
"""Names of the deployments and of their flows, which are the same."""


@register_hook
def setup_environment(*, ctx: object) -> None:  # noqa: ARG001 - signature of the hook
    """Complete the bare name in this process's arguments."""
    sys.argv[:] = with_full_name(sys.argv)


def with_full_name(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with ``X`` as ``X/X`` where ``prefect deployment run X`` names a deployment of this project."""
    result = list(arguments)
    places = [i for i, pair in enumerate(pairwise(result)) if pair == ("deployment", "run")]
    if not places:
        return result
    for i in range(places[0] + 2, len(result)):
        is_value_of_an_option = result[i - 1].startswith("-") and result[i - 1] != "--watch"
        if result[i] in DEPLOYMENTS and not is_value_of_an_option:
            result[i] = f"{result[i]}/{result[i]}"
    return result
