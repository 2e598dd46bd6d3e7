"""Flow and deployment ``train-model``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect import State, flow, task
from prefect.artifacts import create_table_artifact
from prefect.states import Completed

from flows.deployed.run import Explained, PublishedProgress, run_settings
from flows.settings import Settings
from flows.weights import Promotion

if TYPE_CHECKING:
    from flows.train import Trained

NAME = "train-model"


@task(name="train-and-register")
def train_and_register(chosen: Settings, steps: int, seed: int | None, promote: Promotion) -> Trained:
    """Train on, score, register, perhaps promote."""
    from flows.train import train_model as train

    with Explained():
        return train(chosen.require_store(), steps=steps, seed=seed, promote=promote, progress=PublishedProgress(NAME))


@flow(name=NAME)
def train_model(
    store: str | None = None, steps: int = 1000, seed: int | None = None, promote: Promotion = Promotion.IF_BETTER
) -> State[Trained]:
    """Train on from the promoted checkpoint with simulated heads, and promote the result if it is no worse.

    No image of the store is used: self-supervised training on the stored images is not there yet.

    Parameters
    ----------
    store
        Default: ``QMRI_STORE`` of the worker's environment.
    steps, seed
        Of the training; by default each run sees new heads.
    promote
        ``if-better`` on held-out simulated batches, ``always`` or ``never``.
    """
    with Explained():
        chosen = run_settings(store=store)
        chosen.require_store()
    trained = train_and_register(chosen, steps, seed, promote)
    create_table_artifact(
        [
            {"checkpoint": trained.started_from[:12], "": "before", **trained.score_before},
            {"checkpoint": trained.digest[:12], "": "trained", **trained.score},
        ],
        key=f"{NAME}-result",
        description="On held-out simulated batches; lower is better",
    )
    return Completed(message=trained.text().splitlines()[-1], data=trained)
