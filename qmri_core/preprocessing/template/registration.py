"""Where a session's brain lies in the template brain, whatever its images show.

In turns the signals of tissues are fitted where the template has tissues, and the template is moved to where these
signals are. So no contrast is expected of an image: one that shows nothing says nothing, and the others say where
tissues are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.physics.registry import signal
from qmri_core.preprocessing.template.brain import Template, template
from qmri_core.preprocessing.template.deformable import (
    Warp,
    fit_affine,
    fit_displacement,
    identity,
    on_nodes,
    overlap,
    places_of,
    sampled,
)
from qmri_core.preprocessing.template.mixture import CLASSES, Mixture, fit, fractions, log_signals, start, terms
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.series.geometry import Affine, Volume, block_means, spacing_of
from qmri_core.tissues import NOMINAL

FLOOR = 0.02
"""Added to the template's probabilities: no registration is exact, and people differ."""
N_FIT = 8_000
"""Largest number of voxels to which signals are fitted here."""
_COARSE, _FINE = 6.0, 4.0
"""Millimetres to about which images are averaged."""
_MARGIN = 8.0
"""Millimetres around the brain that are looked at."""
_N_STEPS = 15
"""Of the demons between two fits of signals."""
_NULLED = 0.2
"""Signal of fluid over that of white matter below which it counts as nulled, of either sign."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """Where a session's brain lies in the template.

    Parameters
    ----------
    warp
        From the session to `qmri_core.preprocessing.template.brain.template`.
    mixture
        Signals of its tissues, over the median of each image, at the resolution of the registration.
    overlap
        Dice of the template's tissues, as warped, with the session's: of grey or white matter, whichever is less.
    stretch
        99th percentile in the brain of the absolute log of the Jacobian of what the affine leaves.
    """

    warp: Warp
    mixture: Mixture
    overlap: float
    stretch: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Coarse:
    """Images at the nodes of a registration: the share of each node that is brain, and logs of signals in brain."""

    nodes: Affine
    share: NDArray[np.float32]
    logs: NDArray[np.float32]
    design: NDArray[np.float32]


def register(
    images: Mapping[Contrast, NDArray[np.float32]],
    inside: NDArray[np.bool_],
    affine: Affine,
    acquisitions: Mapping[Contrast, Acquisition] | None = None,
) -> Registered:
    """Bring the template to a session.

    An affine by the outline of the brain, one by tissues, then a displacement at about 4 mm. Deterministic.

    Parameters
    ----------
    images
        Bias-corrected images of any contrast, shape (z, y, x).
    inside
        Brain that all images have, same shape; at least some hundred cubic centimetres.
    affine
        From voxel index (x, y, z) to RAS mm; the head is turned by less than 30 degrees or so.
    acquisitions
        Where known, they tell which fluid is inverted.
    """
    small, at = template(4), template()
    coarse = _averaged(images, inside, affine, _COARSE)
    warp = identity(coarse.share.shape, coarse.nodes, _by_outline(coarse, small))
    mixture = _begun(coarse, warp, small, fluid_signs(images, acquisitions))
    for _ in range(3):
        mixture, seen = _seen(coarse, warp, small, mixture)
        turned = fit_affine(seen, coarse.nodes, merged(small.priors), small.affine, warp.affine, blur=4.0)
        warp = replace(warp, affine=turned)
    parts = merged(at.priors)
    for step in (_COARSE, _FINE):
        coarse = _averaged(images, inside, affine, step)
        warp = on_nodes(warp, coarse.share.shape, coarse.nodes)
        for _ in range(2):
            mixture, seen = _seen(coarse, warp, at, mixture)
            warp = fit_displacement(
                seen, parts, at.affine, warp, n_steps=_N_STEPS, blur=step / 2, fluid=step, elastic=step
            )
    warped = sampled(parts, at.affine, warp.points(places_of(coarse.share.shape, coarse.nodes)))
    jacobian = warp.jacobian()[coarse.share > 0.5]
    return Registered(
        warp=warp,
        mixture=mixture,
        overlap=min(overlap(one, other) for one, other in zip(warped[1:], seen[1:], strict=True)),
        stretch=float(np.quantile(np.abs(np.log(np.maximum(jacobian, 1e-3))), 0.99)),
    )


def labels_of(labels: Volume, warp: Warp, shape: tuple[int, ...], affine: Affine) -> NDArray[np.int32]:
    """Labels in Montreal space, as `Template.labels` or of another atlas, on a grid of the session; 0 for none."""
    found = sampled(labels.array[None], labels.affine, warp.points(places_of(shape, affine)), is_nearest=True)
    return np.asarray(np.rint(found[0]), dtype=np.int32)


def priors_at(at: Template, warp: Warp, places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of `CLASSES` at RAS mm (3, n) of the session, none of them 0; shape (n, class)."""
    found = sampled(at.priors, at.affine, warp.points(places))
    found = np.concatenate([found, np.maximum(1 - found.sum(axis=0, keepdims=True), 0)]).T + np.float32(FLOOR)
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def merged(classes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fluid, grey and white matter, shape (3, ...), from maps of `CLASSES`, or of the template's."""
    csf, cortex, white, deep = classes[:4]
    return np.stack([csf, cortex + deep, white])


def smooth_terms(where: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Terms of what is left of receive fields at the voxels of a mask, shape (voxel, term)."""
    return terms(2 * np.argwhere(where) / (np.asarray(where.shape) - 1) - 1)


def some(size: int, most: int) -> NDArray[np.intp]:
    """Which of so many voxels to fit: at most ``most``, the same in each run."""
    return np.sort(np.random.default_rng(0).choice(size, size=min(most, size), replace=False))


def fluid_signs(
    images: Mapping[Contrast, NDArray[np.float32]], acquisitions: Mapping[Contrast, Acquisition] | None
) -> NDArray[np.float64]:
    """Signs of signals behind the magnitude, shape (class, contrast): fluid is negative where it is inverted.

    Tissue in its voxels then cancels it.
    """
    signs = np.ones((len(CLASSES), len(images)))
    if acquisitions is None:
        return signs
    t1, t2, pd = (torch.tensor([NOMINAL[name][k] for name in ("CSF", "WM")], dtype=torch.float64) for k in range(3))
    for k, contrast in enumerate(images):
        with torch.no_grad():
            fluid, white = signal(acquisitions[contrast], pd, t1, t2).tolist()
        if fluid / white < -_NULLED:
            signs[CLASSES.index("csf"), k] = -1.0
    return signs


def _averaged(
    images: Mapping[Contrast, NDArray[np.float32]], inside: NDArray[np.bool_], affine: Affine, step: float
) -> _Coarse:
    """Means over blocks of about ``step`` mm of what is brain, with `_MARGIN` around it."""
    spacing = spacing_of(affine)[::-1]
    steps = [max(1, round(step / size)) for size in spacing]
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    margins = [math.ceil(_MARGIN / size) for size in spacing]
    first = [part.start - margin for part, margin in zip(box, margins, strict=True)]
    sizes = [
        math.ceil((part.stop - part.start + 2 * margin) / n) * n
        for part, margin, n in zip(box, margins, steps, strict=True)
    ]
    into = tuple(slice(part.start - low, part.stop - low) for part, low in zip(box, first, strict=True))

    def means(values: NDArray[np.float32]) -> NDArray[np.float32]:
        padded = np.zeros(sizes, dtype=np.float32)
        padded[into] = np.where(inside[box], values, 0)
        return block_means(padded, steps)

    share = means(np.ones(inside[box].shape, dtype=np.float32))
    is_brain = share > 0.5
    logs = [log_signals(means(image[box])[is_brain] / share[is_brain]) for image in images.values()]
    nodes, along = affine.copy(), np.asarray(steps[::-1])
    nodes[:3, 3] += affine[:3, :3] @ (np.asarray(first[::-1]) + (along - 1) / 2)
    nodes[:3, :3] *= along
    return _Coarse(nodes=nodes, share=share, logs=np.stack(logs, axis=1), design=smooth_terms(is_brain))


def _by_outline(coarse: _Coarse, at: Template) -> Affine:
    """Affine by the outline of the brain alone, from the centres on each other."""
    outline = at.priors.sum(axis=0)
    centres = []
    for values, affine in ((coarse.share, coarse.nodes), (outline, at.affine)):
        places = places_of(values.shape, affine).reshape(3, -1)
        centres.append((places * values.ravel()).sum(axis=1) / values.sum())
    begin = np.eye(4)
    begin[:3, 3] = centres[1] - centres[0]
    return fit_affine(coarse.share[None], coarse.nodes, outline[None], at.affine, begin, blur=6.0)


def _begun(coarse: _Coarse, warp: Warp, at: Template, signs: NDArray[np.float64]) -> Mixture:
    """Signals where the template, by an affine alone, is most certain of tissues."""
    return start(coarse.logs, _priors_of(coarse, warp, at), signs, coarse.design.shape[1])


def _seen(coarse: _Coarse, warp: Warp, at: Template, mixture: Mixture) -> tuple[Mixture, NDArray[np.float32]]:
    """Signals as the warp has the tissues, and the tissues as these signals have them, shape (tissue, z, y, x)."""
    priors = _priors_of(coarse, warp, at)
    pick = some(len(priors), N_FIT)
    mixture = fit(mixture, coarse.logs[pick], priors[pick], coarse.design[pick])
    found = np.zeros((len(CLASSES), *coarse.share.shape), dtype=np.float32)
    found[:, coarse.share > 0.5] = fractions(mixture, coarse.logs, priors, coarse.design).T
    return mixture, merged(found * coarse.share)


def _priors_of(coarse: _Coarse, warp: Warp, at: Template) -> NDArray[np.float32]:
    return priors_at(at, warp, places_of(coarse.share.shape, coarse.nodes)[:, coarse.share > 0.5])
