"""Flow and deployment ``train-model``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect import State, flow, task
from prefect.artifacts import create_table_artifact
from prefect.states import Completed

from flows.deployed.run import Explained, PublishedProgress, run_settings
from flows.maps.weights import Promotion

if TYPE_CHECKING:
    from flows.training.further import Trained

TRAIN_MODEL = "train-model"


@task(name="train-and-register")
def train_and_register(store: str, options: dict[str, Any]) -> Trained:
    """Train on, score, register, perhaps promote."""
    from flows.training.further import train_model as train

    with Explained():
        return train(store, progress=PublishedProgress(TRAIN_MODEL), **options)


@flow(name=TRAIN_MODEL)
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
    steps, seed, image_share
        Of the training; by default new heads in each run, and a fifth of the batches from the store's images.
    promote
        ``if-better`` on held-out batches and images, ``always`` or ``never``.
    """
    with Explained():
        place = run_settings(store=store).require_store()
    trained = train_and_register(place, {"steps": steps, "seed": seed, "image_share": image_share, "promote": promote})
    create_table_artifact(
        trained.rows(), key=f"{TRAIN_MODEL}-result", description="On what is held out: lower is better"
    )
    return Completed(message=trained.text().splitlines()[-1], data=trained)
