"""Whether what is put into the maps of a session, and what they state, holds in them.

Four figures, each against its own expectation with the deviations that are stated or modelled, as a chi-square: the
level of white and grey matter in T1 and T2; the images, given back from the maps, by contrast and tissue; the contrast
of grey to white matter in the images, against the signal models; and how well each contrast alone tells the tissues of
all together. Besides: the order of tissues, and their spread.

A right session, whose deviations are true, fails one time in `1 / FALSE_STOPS`. What a person cannot be told apart from
(a wrong header that another tissue explains) is not seen here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, optimize, stats

from qmri_core.calibration.population import Population, population
from qmri_core.calibration.session_model import LEVELS, PersonLevels, measurement_error, observations, person_slopes
from qmri_core.mapping.inference import Prepared
from qmri_core.physics.registry import signal
from qmri_core.physics.synthesis import synthesise
from qmri_core.preprocessing.tissue import core, eroded
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.series.geometry import Affine
from qmri_core.statistics import densest
from qmri_core.tissues import MAPS, TISSUES

FALSE_STOPS = 1e-3
"""Share of right sessions that may fail, over all figures, where deviations are true."""
MODEL_ERROR = 0.03
"""Standard deviation of the log of a signal that the models leave open between grey and white matter: trains, slice
profiles, magnetization transfer. From -6 to +3 % were seen on a simulator with other physics."""
HETEROGENEITY: Mapping[str, float] = {"WM": 0.10, "GM": 0.15}
"""Spread of the log of T1 and T2 within a tissue of a healthy brain, cortex and nuclei together; assumed, as
`qmri_core.calibration.population.tissue_clouds`."""
WIDEST_SPREAD = 2.0
"""Times what is stated and healthy together; a tissue that spreads further is none."""
MOST_WIDENED = 2.0
"""Largest factor by which deviations are widened; beyond it they would say nothing."""
SURE = 3.0
"""Deviations by which a contrast may be less than predicted before a contrast alone is asked for tissues."""
TELLING = 0.75
"""Expected agreement from which a contrast alone can tell the tissues; 0.5 is chance."""
LARGE_LESION = 0.03
"""Litres of tissue that is as no healthy one is; assumed."""
MIN_VOXELS = 200
MOST_VOXELS = 20_000
"""Of a tissue, evenly taken: medians of so many are certain to a thousandth."""
_SEGMENTATION = 2.0
"""Log of T1 or T2 per log of signal by which errors of a tissue's signals count in its maps; assumed."""
_TESTED = ("WM", "GM")


class Figure(StrEnum):
    """What is looked at."""

    LEVEL = "level"
    IMAGES = "images"
    CONTRAST = "contrast"
    AGREEMENT = "agreement"
    ORDER = "order"
    SPREAD = "spread"


_TESTS = 3
"""Figures with a probability, that share `FALSE_STOPS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that does not hold: which figure, in words, and the factor that deviations lack; infinite: no cover."""

    figure: Figure
    text: str
    factor: float = math.inf
    maps: tuple[str, ...] = ()
    """Maps whose deviations, widened by the factor, cover it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """What was found of a session; nothing where everything holds.

    ``widened`` are factors for the deviations of maps, by name, with which all holds; none where it has failed.
    ``has_lesions``: much of the brain is as no healthy tissue is, see `LARGE_LESION`; the model is of none of it.
    """

    findings: tuple[Finding, ...] = ()
    widened: Mapping[str, float] = field(default_factory=dict)
    has_lesions: bool = False

    @property
    def has_failed(self) -> bool:
        """Whether something is not covered by deviations that may be widened."""
        return any(not finding.maps or finding.factor > MOST_WIDENED for finding in self.findings)

    @property
    def text(self) -> str:
        """What does not hold, in words."""
        return "; ".join(finding.text for finding in self.findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedSession:
    """The voxels of a session that are mapped, all arrays along them.

    ``maps`` and ``deviations``: T1map, T2map [s] and PDmap, and the stated standard deviations; ``signals``: images
    over their scales, in units of proton density and signal; ``cores``: voxels within tissues (``CSF``, ``GM``,
    ``WM``).
    ``lesion_litres``: see `lesion_litres`.
    """

    maps: Mapping[str, NDArray[np.float32]]
    deviations: Mapping[str, NDArray[np.float32]]
    signals: Mapping[Contrast, NDArray[np.float32]]
    cores: Mapping[str, NDArray[np.bool_]]
    acquisitions: Mapping[Contrast, Acquisition]
    person: PersonLevels
    lesion_litres: float = 0.0

    @property
    def values(self) -> Population:
        """What the group's people are taken for."""
        return population(next(iter(self.acquisitions.values())).field_strength)

    def places(self, tissue: str) -> NDArray[np.intp]:
        """Some voxels of a tissue, evenly taken."""
        found = np.flatnonzero(self.cores[tissue])
        return found[:: max(1, math.ceil(found.size / MOST_VOXELS))]


def mapped_session(
    session: Prepared, packed: NDArray[np.float32], tissue: NDArray[np.uint8], affine: Affine
) -> MappedSession:
    """What `closure` looks at, from a session as inference has it; it has parts, and a person.

    Parameters
    ----------
    packed
        From `qmri_core.mapping.inference.infer_parts`, of all parts.
    tissue, affine
        Labels of shape (z, y, x), and the place of their voxels.
    """
    first = session.parts[0]
    relative = torch.cat([part.relative for part in session.parts], dim=1).numpy()
    if first.person is None:
        raise ValueError("nothing is known of the person, so nothing can be expected of the maps")
    maps = dict(zip(MAPS, packed[:3], strict=True))
    box = _box(session.inside, 1)  # a core looks at neighbours
    return MappedSession(
        maps=maps,
        deviations=dict(zip(MAPS, packed[3:6], strict=True)),
        signals={
            contrast: plane * np.float32(signal)
            for contrast, plane, signal in zip(
                first.physics.contrasts, relative, first.physics.white_matter_signal, strict=True
            )
        },
        cores={name: core(tissue[box], label)[session.inside[box]] for name, label in TISSUES.items()},
        acquisitions={contrast: first.acquisitions[contrast] for contrast in first.physics.contrasts},
        person=first.person,
        lesion_litres=lesion_litres(session, maps, affine),
    )


def lesion_litres(session: Prepared, maps: Mapping[str, NDArray[np.float32]], affine: Affine) -> float:
    """Litres of voxels between grey matter and fluid in T1 and beyond grey matter in T2, without thin layers.

    Layers of mixed voxels beside fluid are as long in both, and no thicker than two voxels: an opening removes them.
    """
    grey = population(next(iter(session.parts[0].acquisitions.values())).field_strength).grey_matter
    t1, t2 = maps["T1map"], maps["T2map"]
    inside = session.inside[_box(session.inside, 0)]
    unlike = np.zeros(inside.shape, dtype=bool)
    unlike[inside] = (t1 > 1.15 * grey.t1) & (t1 < 2 * grey.t1) & (t2 > 1.3 * grey.t2)
    thick = eroded(eroded(unlike))
    voxel = abs(float(np.linalg.det(affine[:3, :3]))) * 1e-6
    return float(ndimage.binary_dilation(thick, iterations=2).sum()) * voxel if thick.any() else 0.0


def _box(inside: NDArray[np.bool_], margin: int) -> tuple[slice, ...]:
    """The box of a mask that is set somewhere, with some voxels around it as far as the array goes."""
    plane = np.asarray(inside.any(axis=0))
    along = [
        np.flatnonzero(np.asarray(each)) for each in (inside.any(axis=(1, 2)), plane.any(axis=1), plane.any(axis=0))
    ]
    return tuple(slice(max(0, int(at[0]) - margin), int(at[-1]) + 1 + margin) for at in along)


def closure(session: MappedSession) -> Closure:
    """Hold the maps of a session against what was put into them and what they state.

    Tissues with fewer than `MIN_VOXELS` voxels are not looked at.
    """
    known = tuple(tissue for tissue in session.cores if session.places(tissue).size >= MIN_VOXELS)
    tested = tuple(tissue for tissue in _TESTED if tissue in known)
    findings = [*_levels(session, tested), *_images_given_back(session, tested), *_order(session, known)]
    findings += _spread(session, tested)
    if len(tested) == len(_TESTED):
        findings += [*_contrast(session), *_agreement(session)]
    if not findings:
        return Closure()
    result = Closure(findings=tuple(findings), has_lesions=session.lesion_litres > LARGE_LESION)
    if result.has_failed:
        return result
    widened: dict[str, float] = {}
    for finding in findings:
        for name in finding.maps:
            widened[name] = max(widened.get(name, 1.0), finding.factor)
    return replace(result, widened=widened)


def _levels(session: MappedSession, tested: tuple[str, ...]) -> Iterator[Finding]:
    """T1 and T2 of tissues, against the person as calibration has it; one finding for each map."""
    person, values = session.person, session.values
    reference = {"WM": values.white_matter, "GM": values.grey_matter}
    open_of_person = person.spread**2 * (1 - person.determined)
    open_of_group = np.zeros(len(LEVELS)) if person.level_sd is None else person.level_sd**2
    for name, quantity in (("T1map", "t1"), ("T2map", "t2")):
        parts: list[_Miss] = []
        told = []
        for tissue in tested:
            at = LEVELS.index((tissue, quantity))
            where = session.places(tissue)
            found = _typical(tissue, session.maps[name][where])
            expected = getattr(reference[tissue], quantity) * math.exp(float(person.widened[at]))
            stated = float(np.median(session.deviations[name][where] / session.maps[name][where]))
            error = max(measurement_error(contrast, tissue) for contrast in session.acquisitions) * _SEGMENTATION
            other = float(open_of_person[at] + open_of_group[at]) + error**2
            variance = stated**2 + other
            parts.append((math.log(found / expected), stated**2, other))
            told.append(f"{tissue} {1000 * found:.0f} ms where {1000 * expected:.0f} ± {variance**0.5:.0%} is expected")
        factor = _lacking(parts, FALSE_STOPS / _TESTS / 2)
        if factor > 1:
            yield Finding(figure=Figure.LEVEL, text=f"{name}: {', '.join(told)}", factor=factor, maps=(name,))


def _images_given_back(session: MappedSession, tested: tuple[str, ...]) -> Iterator[Finding]:
    """Medians of images over what maps give back, by contrast and tissue; errors of scales are common to a contrast."""
    parts: list[_Miss] = []
    told = []
    names = observations(session.acquisitions)
    slopes = person_slopes(tuple(session.acquisitions.values()))[0]
    for contrast, acquisition in session.acquisitions.items():
        for tissue in tested:
            where = session.places(tissue)
            t1, t2, pd = (session.maps[name][where] for name in MAPS)
            given = synthesise(acquisition, pd=pd, t1=t1, t2=t2)
            measured = session.signals[contrast][where]
            ok = np.isfinite(given) & (given > 0) & (measured > 0)
            if ok.sum() < MIN_VOXELS:
                continue
            miss = float(np.median(np.log(given[ok] / measured[ok])))
            stated = [float(np.median(session.deviations[name][where] / session.maps[name][where])) for name in MAPS]
            row = slopes[names.index((contrast, tissue))]
            at = [LEVELS.index((tissue, quantity)) for quantity in ("t1", "t2")]
            of_maps = (row[at[0]] * stated[0]) ** 2 + (row[at[1]] * stated[1]) ** 2 + stated[2] ** 2
            other = MODEL_ERROR**2 + measurement_error(contrast, tissue) ** 2
            parts.append((miss, of_maps, other))
            if abs(miss) > 3 * math.sqrt(of_maps + other):
                told.append(f"{contrast} of {tissue} comes back {math.expm1(miss):+.0%}")
    factor = _lacking(parts, FALSE_STOPS / _TESTS)
    if factor > 1:
        text = ", ".join(told) or "several contrasts together"
        yield Finding(figure=Figure.IMAGES, text=f"images given back: {text}", factor=factor, maps=MAPS)


def _contrast(session: MappedSession) -> Iterator[Finding]:
    """Log of grey over white matter in the images, against the models, with people, transmit field and models apart."""
    differences, predicted = [], []
    for contrast, acquisition in session.acquisitions.items():
        signals = session.signals[contrast]
        white, grey = (_typical(tissue, signals[session.places(tissue)]) for tissue in _TESTED)
        differences.append(math.log(max(grey, 1e-6) / max(white, 1e-6)))
        predicted.append(expected_contrast(acquisition, session.values, session.person.level))
    miss = np.asarray(differences) - np.asarray(predicted)
    covariance = _contrast_covariance(session)
    distance = float(miss @ np.linalg.solve(covariance, miss))
    if not distance <= stats.chi2.isf(FALSE_STOPS / _TESTS, len(miss)):
        told = ", ".join(
            f"{contrast} {math.expm1(found):+.0%} where {math.expm1(wanted):+.0%} ± {sd:.0%} is expected"
            for contrast, found, wanted, sd in zip(
                session.acquisitions, differences, predicted, np.sqrt(np.diag(covariance)), strict=True
            )
        )
        yield Finding(figure=Figure.CONTRAST, text=f"grey over white matter: {told}")


def expected_contrast(acquisition: Acquisition, values: Population, level: NDArray[np.float64]) -> float:
    """Log of the signal of grey over that of white matter of people of a level, by the model of an acquisition."""
    at = values.at([float(entry) for entry in level])
    tissues = (at.grey_matter, at.white_matter)
    pd, t1, t2 = (
        torch.tensor([getattr(tissue, name) for tissue in tissues], dtype=torch.float64) for name in ("pd", "t1", "t2")
    )
    grey, white = signal(acquisition, pd, t1, t2).abs().tolist()
    return math.log(grey / white)


def _contrast_covariance(session: MappedSession) -> NDArray[np.float64]:
    """Of log grey over white matter, shape (contrast, contrast)."""
    slopes, covariance = person_slopes(tuple(session.acquisitions.values()))
    covariance = covariance.copy()
    if session.person.level_sd is not None:
        n = len(LEVELS)
        covariance[:n, :n] += np.diag(session.person.level_sd**2)
    names = observations(session.acquisitions)
    rows, errors = [], []
    for contrast in session.acquisitions:
        grey, white = names.index((contrast, "GM")), names.index((contrast, "WM"))
        rows.append(slopes[grey] - slopes[white])
        errors.append(MODEL_ERROR**2 + measurement_error(contrast, "GM") ** 2 + measurement_error(contrast, "WM") ** 2)
    difference = np.stack(rows)
    return np.asarray(difference @ covariance @ difference.T + np.diag(errors), dtype=np.float64)


def _agreement(session: MappedSession) -> Iterator[Finding]:
    """How often each contrast alone has a voxel of grey on the predicted side of one of white matter."""
    white, grey = (session.places(tissue) for tissue in _TESTED)
    deviations = np.sqrt(np.diag(_contrast_covariance(session)))
    for (contrast, acquisition), deviation in zip(session.acquisitions.items(), deviations, strict=True):
        predicted = expected_contrast(acquisition, session.values, session.person.level)
        of_white, of_grey = (np.log(np.maximum(session.signals[contrast][where], 1e-6)) for where in (white, grey))
        width = math.hypot(_robust_sd(of_white), _robust_sd(of_grey))
        least = max(abs(predicted) - SURE * float(deviation), 0.0)
        expected = float(stats.norm.cdf(least / max(width, 1e-6)))
        if expected < TELLING:
            continue
        above = float(stats.mannwhitneyu(of_grey, of_white).statistic) / (of_grey.size * of_white.size)
        found = above if predicted > 0 else 1 - above
        if found - 0.5 < (expected - 0.5) / 2:
            text = f"{contrast} alone tells {found:.0%} of grey from white matter where {expected:.0%} is the least"
            yield Finding(figure=Figure.AGREEMENT, text=text)


def _order(session: MappedSession, known: tuple[str, ...]) -> Iterator[Finding]:
    """White before grey matter before fluid in T1 and PD; fluid last in T2."""
    for name in MAPS:
        medians = {tissue: float(np.median(session.maps[name][session.places(tissue)])) for tissue in known}
        pairs = [("WM", "GM"), ("GM", "CSF"), ("WM", "CSF")] if name != "T2map" else [("GM", "CSF"), ("WM", "CSF")]
        wrong = [pair for pair in pairs if set(pair) <= set(medians) and not medians[pair[0]] < medians[pair[1]]]
        if wrong:
            told = ", ".join(f"{low} {medians[low]:.3g} above {high} {medians[high]:.3g}" for low, high in wrong)
            yield Finding(figure=Figure.ORDER, text=f"{name}: {told}")


def _spread(session: MappedSession, tested: tuple[str, ...]) -> Iterator[Finding]:
    """Robust spread of log T1 and T2 within a tissue, against what is stated and what tissue has.

    To the side to which it is less: voxels that fluid or the other tissue is in spread it to one side, in as large a
    part as slices are thick, and tell nothing of the maps.
    """
    for name in MAPS[:2]:
        for tissue in tested:
            where = session.places(tissue)
            values = session.maps[name][where]
            stated = float(np.median(session.deviations[name][where] / values))
            allowed = math.hypot(HETEROGENEITY[tissue], stated)
            found = _lesser_spread(np.log(values))
            if not found <= WIDEST_SPREAD * allowed:
                text = f"{name} of {tissue} spreads by {found:.0%} where {allowed:.0%} is expected"
                yield Finding(figure=Figure.SPREAD, text=text)


_Miss = tuple[float, float, float]
"""What is missed, in logs; the variance that maps state of it, and that of all else."""


def _lacking(parts: Sequence[_Miss], probability: float) -> float:
    """Factor for stated deviations with which the misses are as likely as that; 1 where they are, infinite if none."""
    if not parts:
        return 1.0
    miss, stated, other = np.asarray(parts).T
    limit = float(stats.chi2.isf(probability, len(miss)))

    def excess(factor: float) -> float:
        return float((miss**2 / (factor**2 * stated + other)).sum()) - limit

    if excess(1.0) <= 0:
        return 1.0
    if not excess(10 * MOST_WIDENED) <= 0:  # or not a number
        return math.inf
    return 1.001 * float(optimize.brentq(excess, 1.0, 10 * MOST_WIDENED))


def _typical(tissue: str, values: NDArray[np.float32]) -> float:
    """As calibration takes the signals of tissues: the mode of grey matter, the median of others."""
    return float(densest(values) if tissue == "GM" else np.median(values))


def _lesser_spread(values: NDArray[np.float32]) -> float:
    """Standard deviation by the quarter of the values below or above the median, whichever is closer to it."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float(min(middle - low, high - middle)) * 2 / 1.349


def _robust_sd(values: NDArray[np.float32]) -> float:
    """Standard deviation by the central half of the values."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low) / 1.349
