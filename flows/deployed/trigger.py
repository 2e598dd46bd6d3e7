"""Starting a deployment by its bare name."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from flows.prefect_plugin import DEPLOYMENTS


class TriggerError(RuntimeError):
    """A deployment could not be started."""


@dataclass(frozen=True, slots=True)
class Started:
    """A started run, as a line for people, and whether it has ended badly."""

    text: str
    is_failed: bool


def trigger(name: str, *, wait: bool = False) -> Started:
    """Start the deployment ``name`` on the server that Prefect's own settings name.

    Parameters
    ----------
    wait
        Return when the run has ended.

    Raises
    ------
    TriggerError
        If there is no such deployment, or no server answers.
    """
    try:
        run: FlowRun = run_deployment(  # type: ignore[assignment]  # it is a coroutine in coroutines only
            f"{name}/{name}", timeout=None if wait else 0, as_subflow=False
        )
    except ObjectNotFound:
        known = ", ".join(DEPLOYMENTS)
        raise TriggerError(
            f"the Prefect server has no deployment {name}; known to this project: {known}. Deploy them with "
            "`prefect deploy --all --prefect-file deploy/prefect.yaml`"
        ) from None
    except httpx.HTTPError as error:
        raise TriggerError(f"no Prefect server answers ({type(error).__name__}); is PREFECT_API_URL right?") from None
    state = run.state
    outcome = "" if state is None else f": {state.name}{f', {state.message}' if state.message else ''}"
    is_bad = state is not None and state.is_final() and not state.is_completed()
    return Started(f"run {run.name} of {name}{outcome}", is_bad)
