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
def train_and_register(
    chosen: Settings, steps: int, seed: int | None, image_share: float, promote: Promotion
) -> Trained:
    """Train on, score, register, perhaps promote."""
    from flows.train import train_model as train

    with Explained():
        return train(
            chosen.require_store(),
            steps=steps,
            seed=seed,
            image_share=image_share,
            promote=promote,
            progress=PublishedProgress(NAME),
        )


@flow(name=NAME)
def train_model(
    store: str | None = None,
    steps: int = 1000,
    seed: int | None = None,
    image_share: float = 0.2,
    promote: Promotion = Promotion.IF_BETTER,
) -> State[Trained]:
    """Train on from the promoted checkpoint, and promote the result if it is no worse on what is held out.

    On simulated heads with known maps and, self-supervised, on the store's images of its training split (by person).
    A run that was killed goes on when it is started again.

    Parameters
    ----------
    store
        Default: ``QMRI_STORE`` of the worker's environment.
    steps, seed
        Of the training; by default each run sees new heads.
    image_share
        Of the batches, from the store's images; 0 for simulated heads alone.
    promote
        ``if-better`` on held-out batches and images, ``always`` or ``never``.
    """
    with Explained():
        chosen = run_settings(store=store)
        chosen.require_store()
    trained = train_and_register(chosen, steps, seed, image_share, promote)
    create_table_artifact(
        [
            {"checkpoint": trained.started_from[:12], "": "before", **trained.score_before},
            {"checkpoint": trained.digest[:12], "": "trained", **trained.score},
        ],
        key=f"{NAME}-result",
        description="On held-out simulated batches, and on images of people and groups that are held out; lower is "
        "better",
    )
    return Completed(message=trained.text().splitlines()[-1], data=trained)
