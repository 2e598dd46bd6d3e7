"""Options of ``qmri train`` and of ``python -m flows.training.train``; they mean the same in both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.maps.weights import Promotion

WeightsFile = Annotated[
    Path,
    typer.Option(
        "--out", help="File for the weights, .safetensors; the learning curves are drawn beside it.", show_default=False
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        min=1,
        help="Most steps of training; it stops earlier once what is held out gets no better. "
        "Default: 1000 in a store, else 6000.",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option("--minutes", min=0.01, help="Most minutes of training; default: until the steps are done."),
]
BatchesPerStep = Annotated[
    int, typer.Option("--batches", min=1, help="Batches of a step, dealt out to the processes that train together.")
]
Rate = Annotated[
    float | None,
    typer.Option("--rate", min=1e-9, help="Highest learning rate. Default: 5e-4 in a store, else 2e-3."),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        max=2**32 - 1,
        help="Seed of everything random; no seed draws the heads that are held out. "
        "Default: in a store one that follows from the weights trained on, else 1.",
    ),
]
ImageShare = Annotated[
    float | None,
    typer.Option(
        "--images",
        min=0,
        max=1,
        help="Share of batches from the store's images, the others are simulated. Default: 0.2 in a store.",
    ),
]
Promote = Annotated[
    Promotion | None,
    typer.Option(
        "--promote",
        help="Whether inference in the store uses the result; better: on what is held out. Default: if-better.",
    ),
]
