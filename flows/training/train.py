"""Train weights: ``python -m flows.training.train`` the shipped ones, with ``--store`` as ``qmri train`` does.

Under ``torchrun`` all processes train together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import distributed

from flows.errors import run_command
from flows.maps.weights import Promotion
from flows.progress import reporting
from flows.training import options
from flows.training.further import IMAGE_SHARE, RATE, STEPS, is_first_process, train_model, write_curves
from flows.training.goals import fit_goal, goal_of
from qmri_core.mapping.checkpoint import load_checkpoint, save_checkpoint
from qmri_core.training.loop import TrainingSettings, averaged


def train_in_store(
    store: str,
    *,
    out: Path,
    steps: int | None,
    minutes: float | None,
    batches: int,
    rate: float | None,
    seed: int | None,
    images: float | None,
    promote: Promotion | None,
) -> None:
    """Train on from the promoted checkpoint with the options of a command, None for what was not given; say what came.

    Raises
    ------
    StoreError, CheckpointError, TrainingError
        As `train_model`.
    """
    with reporting("train") as progress:
        result = train_model(
            store,
            steps=STEPS if steps is None else steps,
            minutes=minutes,
            seed=seed,
            image_share=IMAGE_SHARE if images is None else images,
            promote=Promotion.IF_BETTER if promote is None else promote,
            out=out,
            settings=TrainingSettings(batches_per_step=batches, learning_rate=RATE if rate is None else rate),
            progress=progress,
        )
    if is_first_process():
        typer.echo(result.text())


def train_weights(
    out: options.WeightsFile,
    store: Annotated[
        str | None, typer.Option("--store", help="Train the promoted checkpoint of this store further, as qmri train.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--start", help="Checkpoint to go on from, without a store; default: random weights.")
    ] = None,
    steps: options.Steps = None,
    minutes: options.Minutes = None,
    batches: options.BatchesPerStep = 1,
    rate: options.Rate = None,
    seed: options.Seed = None,
    images: options.ImageShare = None,
    promote: options.Promote = None,
    average: Annotated[
        float,
        typer.Option(
            "--average", min=0.0, max=1.0, help="Share of the weights of --start in what is kept: the mean of both."
        ),
    ] = 0.0,
) -> None:
    """Train weights from scratch or further, on simulated heads, and in a store on its images too.

    A training that was killed goes on when it is started again. Under torchrun all processes train together.
    """
    if store is not None and start is not None:
        raise typer.BadParameter("--start and --store: in a store, training goes on from its promoted checkpoint")
    for name, value in (("--images", images), ("--promote", promote)):
        if store is None and value is not None:
            raise typer.BadParameter(f"{name} needs --store: without one there is nothing to take it from or to")
    if average and start is None:
        raise typer.BadParameter("--average needs --start: else there are no other weights")
    _join_others()
    if store is not None:
        train_in_store(
            store, out=out, steps=steps, minutes=minutes, batches=batches, rate=rate, seed=seed, images=images,
            promote=promote,
        )  # fmt: skip
        return
    given: dict[str, Any] = {"n_steps": steps, "seed": seed, "learning_rate": rate, "batches_per_step": batches}
    settings = TrainingSettings(**{name: value for name, value in given.items() if value is not None})
    state = out.with_name(out.name + ".state")
    with reporting("train") as progress:
        goal = goal_of(None, settings, 0.0, None, 24, progress)
        before = None if start is None else load_checkpoint(start)
        network, record = fit_goal(goal, settings, minutes, before, state, progress)
    if before is not None and average:
        network, record = averaged(before.network, network, average), record | {"average": average}
    if is_first_process():
        save_checkpoint(out, network, record)
        write_curves(out, record)
        state.unlink(missing_ok=True)


def _join_others() -> None:
    """Meet the other processes that torchrun has started; each computes with one thread."""
    torch.set_num_threads(1)
    if distributed.is_torchelastic_launched():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        if torch.cuda.is_available():
            torch.cuda.set_device(distributed.get_node_local_rank())


if __name__ == "__main__":
    run_command(train_weights, "python -m flows.training.train")
