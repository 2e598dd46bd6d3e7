"""Train the published recipe on the stored images of sessions that are evaluated; it sees neither truth nor maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.progress import Progress, quiet

if TYPE_CHECKING:
    from flows.evaluation.voxels import EvaluationTask
    from qmri_core.baseline.network import RecipeNetwork, RecipeSettings
    from qmri_core.baseline.published_recipe import Slice

N_SLICES = 1024
"""Most slices kept for training: 0.4 GB at 1 mm."""


def train_published_recipe(
    tasks: Sequence[EvaluationTask],
    *,
    minutes: float,
    settings: RecipeSettings | None = None,
    n_slices: int = N_SLICES,
    progress: Progress = quiet,
) -> tuple[RecipeNetwork, dict[str, Any]]:
    """Train on random slices of the sessions, in this process, at the end of ``minutes``.

    Parameters
    ----------
    settings
        Default: the paper's size where PyTorch finds a GPU, else `qmri_core.baseline.network.SMALL`.
    n_slices
        Most slices to keep, over all sessions.

    Returns
    -------
    tuple
        The network, on the CPU, and the record of its training.

    Raises
    ------
    ValueError
        If an image cannot be normalised, or no session holds enough brain.
    """
    import torch

    from qmri_core.baseline.network import SMALL, RecipeSettings
    from qmri_core.baseline.published_recipe import train_recipe

    has_gpu = torch.cuda.is_available()
    chosen = settings or (RecipeSettings() if has_gpu else SMALL)
    slices = sampled_slices(tasks, n_slices, seed=chosen.seed, progress=progress)

    def told(done: int, total: int, text: str) -> None:
        progress(done, total, "train the published recipe" if done < total else text)

    network, record = train_recipe(
        slices, chosen, deadline=60 * minutes, progress=told, device="cuda" if has_gpu else "cpu"
    )
    return network.cpu(), record


def sampled_slices(
    tasks: Sequence[EvaluationTask], n_slices: int, *, seed: int, progress: Progress = quiet
) -> list[Slice]:
    """Random slices of random sessions, as many of each; one session is read at a time.

    Only images, brain mask and acquisition parameters are read.
    """
    from qmri_core.baseline.published_recipe import sample_slices

    rng = np.random.default_rng([seed, 4])
    chosen = [tasks[index] for index in rng.permutation(len(tasks))[:n_slices]]
    slices: list[Slice] = []
    for number, task in enumerate(chosen):
        progress(number, len(chosen), "read slices")
        stored = task.cohort.read(task.slot, [*map(str, task.acquisitions), "brain_mask"])
        images = {contrast: stored[str(contrast)] for contrast in task.acquisitions}
        slices += sample_slices(images, stored["brain_mask"] == 1, task.acquisitions, n_slices // len(chosen), rng)
    return slices


def recipe_note(record: Mapping[str, Any]) -> str:
    """What was trained, and that it is not the paper's training, in words for people."""
    from qmri_core.baseline.network import RecipeSettings

    settings, paper = record["settings"], RecipeSettings()
    widths = "-".join(map(str, [*settings["widths"], settings["bottleneck"]]))
    its_widths = "-".join(map(str, [*paper.widths, paper.bottleneck]))
    return (
        "Published recipe (van Lune et al. 2026, arXiv 2601.05063; written afresh from its description): "
        f"widths {widths}, {record['parameters']:,} parameters, {record['steps']} steps of {settings['batch']} slices "
        f"({record['epochs']:g} epochs of {record['slices']} slices) in {record['seconds']} s, "
        f"loss {record['first_loss']:.3f} to {record['last_loss']:.3f}. The paper's: widths {its_widths}, "
        f"batches of {paper.batch}, 50 to 100 epochs, its own images; what is shown here is not its training."
    )
