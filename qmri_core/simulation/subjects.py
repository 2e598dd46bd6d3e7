"""Simulated people: tissue values with between-subject spread, the shape of the head, lesions. Drawn from a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qmri_core.calibration.population import pd_relation, population
from qmri_core.simulation.smooth_fields import SmoothField, random_field
from qmri_core.tissues import SIMULATED

CLASSES = (
    "csf", "gm", "wm", "caudate", "putamen", "thalamus", "pallidum", "lesion",
    "skull", "marrow", "fat", "muscle", "fluid", "tumour", "oedema",
)  # fmt: skip
"""What a simulated head is made of; air is what remains. ``fluid`` fills the eyes."""

BRAIN_CLASSES = CLASSES[:8]
DEEP_GREY = CLASSES[3:7]
ISLAND = "island"
"""Label of islands, after all `CLASSES`."""
PATHOLOGY = ("tumour", "oedema")

_HEAD_VALUES = {
    "skull": (0.60, 0.010, 0.10), "marrow": (0.40, 0.070, 0.45), "fat": (0.38, 0.070, 0.90),
    "muscle": (1.40, 0.040, 0.70), "fluid": (3.50, 0.60, 0.98),
}  # fmt: skip
"""T1 [s], T2 [s] and PD (CSF = 1) outside of the brain, about which people are drawn: assumed. T1 of fat as in de
Bazelaire 2004, doi:10.1148/radiol.2303021331 (not checked); the others were not checked against a source."""
# centre from that of the brain and semi-axes, right, anterior, superior, in template millimetres; degrees by which the
# front of the long axis lies nearer to the midline: read off the Montreal template, rounded
_NUCLEI: Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float], float]] = {
    "putamen": ((26.0, 19.0, -5.0), (5.5, 15.0, 9.5), 15.0), "pallidum": ((19.5, 14.0, -6.0), (4.0, 8.5, 5.5), 25.0),
    "caudate": ((13.0, 31.0, 1.0), (5.0, 10.0, 8.0), 15.0), "thalamus": ((11.0, -1.0, 3.0), (8.0, 13.0, 8.0), 25.0),
}  # fmt: skip


def proton_density(t1: NDArray[np.floating] | float) -> NDArray[np.floating] | float:
    """Proton density (CSF = 1) of brain tissue with longitudinal relaxation time ``t1`` [s] at 3 T.

    By the relation that calibration expects of people: else a network learns another PD than that which is imposed.
    """
    offset, slope = pd_relation(population(3.0))
    return 1 / (offset + slope / t1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueValues:
    """T1 and T2 in seconds and proton density (CSF = 1) of one class in one subject."""

    t1: float
    t2: float
    pd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Island:
    """An ellipsoid of one tissue: a nucleus, or values that no tissue of its place has.

    ``centre`` [template x, y, z, mm], ``semi_axes`` [mm] along the rows of ``axes``, shape (3, 3); ``name`` a class of
    nuclei, or `ISLAND`.
    """

    name: str
    centre: NDArray[np.float64]
    semi_axes: NDArray[np.float64]
    axes: NDArray[np.float64]
    values: TissueValues


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One simulated person: everything random about the anatomy, none of it bound to a grid.

    ``scale`` is the head's size over the template's per axis; ``displacement`` moves template coordinates, in
    millimetres per axis; ``ventricles`` is the local linear growth of the ventricles; ``atrophy`` is added to the
    log-odds of CSF in the brain; ``folding`` perturbs the log-odds of CSF and grey matter; ``texture`` modulates R1,
    R2 and PD within tissues; ``lesions`` holds rows of template x, y, z, radius in millimetres; ``tumour`` template x,
    y, z, radius and reach of its oedema; ``thinning`` is taken from the log-odds of grey matter; ``islands`` are for
    training alone.
    """

    seed: int
    values: Mapping[str, TissueValues]
    scale: tuple[float, float, float]
    displacement: tuple[tuple[SmoothField, SmoothField], ...]
    ventricles: float
    atrophy: float
    folding: tuple[SmoothField, SmoothField]
    texture: tuple[tuple[SmoothField, SmoothField], ...]
    lesions: NDArray[np.float32]
    tumour: tuple[float, float, float, float, float] | None = None
    thinning: float = 0.0
    islands: tuple[Island, ...] = ()


def draw_subject(
    seed: int,
    *,
    lesion_sites: NDArray[np.float32] | None = None,
    tumour_sites: NDArray[np.float32] | None = None,
    age: float | None = None,
) -> Subject:
    """Draw a subject; equal seeds give equal subjects.

    Between-subject standard deviations: white matter T1 4 %, T2 4 %; cortex T1 3.5 %, T2 5 %; nuclei T1 4 %, T2 5 %;
    CSF T1 2 %, T2 5 %. White and grey deviations share half of their variance. PD follows T1 (`proton_density`) with
    1.5 % of scatter per tissue. Brain size varies by 4 % per axis.

    Parameters
    ----------
    seed
        Non-negative.
    lesion_sites
        Candidate lesion centres, shape (n, 3), template millimetres; ``None`` for a subject without lesions. Four
        subjects in ten get between 3 and 14 lesions.
    tumour_sites
        Candidate centres of a tumour, as those of lesions; ``None`` for none.
    age
        Years. Against 45, per decade: ventricles grow by 4 % linearly, log-odds of CSF by 0.12, those of grey matter
        fall by 0.04; white-matter T1 has its minimum at 40 and is 4 % longer at 80, its T2 grows by 1.5 %; T1 of nuclei
        falls by 1 % and T2 by 0.5 %; lesions become likelier. Relaxation times follow the relaxation atlas of Osprey
        (slopes read in its code, 20 to 60 years), where it is not contradicted; sizes are typical of ageing studies,
        and not fitted to one. ``None`` leaves age out.
    """
    rng = np.random.default_rng([seed, 11])
    values = _draw_values(rng)
    tumour, values["tumour"], values["oedema"] = _draw_tumour(seed, tumour_sites)
    decades = 0.0 if age is None else (min(max(age, 18.0), 95.0) - 45.0) / 10
    if age is not None:
        _age(values, decades)
    size = 1 + 0.035 * _clipped(rng)
    scale = tuple(float(size * (1 + 0.02 * _clipped(rng))) for _ in range(3))
    displacement = tuple(
        (random_field(rng, spacing=55.0, sd=2.5), random_field(rng, spacing=25.0, sd=1.2)) for _ in range(3)
    )
    return Subject(
        seed=seed,
        values=values,
        scale=(scale[0], scale[1], scale[2]),
        displacement=displacement,
        ventricles=float(rng.uniform(-0.15, 0.35)) + 0.04 * decades,
        atrophy=float(rng.uniform(-0.6, 0.6)) + 0.12 * decades,
        folding=(random_field(rng, spacing=5.0, sd=0.8), random_field(rng, spacing=5.0, sd=0.5)),
        texture=tuple(
            (random_field(rng, spacing=30.0, sd=large), random_field(rng, spacing=7.0, sd=small))
            for large, small in ((0.015, 0.02), (0.02, 0.025), (0.003, 0.007))
        ),
        lesions=_draw_lesions(
            rng, lesion_sites, 0.4 if age is None else float(np.clip(0.4 + 0.15 * decades, 0.02, 0.9))
        ),
        tumour=tumour,
        thinning=0.04 * decades,
    )


def of_clinic(subject: Subject, levels: Sequence[float]) -> Subject:
    """A subject whose tissue differs by ``levels``: logs of T1 and T2 of white, and of grey matter and nuclei.

    PD follows T1 as in `proton_density`.
    """
    values = dict(subject.values)
    for name in ("wm", "gm", *DEEP_GREY):
        one, (t1, t2) = values[name], levels[:2] if name == "wm" else levels[2:]
        longer = one.t1 * math.exp(t1)
        pd = one.pd * float(proton_density(longer)) / float(proton_density(one.t1))
        values[name] = TissueValues(t1=longer, t2=one.t2 * math.exp(t2), pd=pd)
    return replace(subject, values=values)


def for_training(
    subject: Subject, rng: np.random.Generator, low: NDArray[np.float64], high: NDArray[np.float64]
) -> Subject:
    """Vary a subject beyond what people are, so that a network learns to read signals and not to recognise places.

    T1 and T2 of nuclei vary by 6 % and 8 % more; in four subjects of five nuclei are ellipsoids without white matter
    in them, which a template's probabilities leave there, of their own size, place and direction. Up to eight islands
    have random places between ``low`` and ``high`` (x, y, z, mm), shapes of 3 to 14 mm of semi-axes, T1 from 0.8 to
    1.7 s and T2 from 50 to 160 ms.
    """
    values = dict(subject.values)
    for name in DEEP_GREY:
        t1, t2 = values[name].t1 * math.exp(0.06 * _clipped(rng)), values[name].t2 * math.exp(0.08 * _clipped(rng))
        values[name] = _tissue(t1, t2, rng)
    islands = [] if rng.random() < 0.2 else [_nucleus(name, side, values, rng) for name in _NUCLEI for side in (-1, 1)]
    for _ in range(int(rng.integers(0, 9))):
        t1, t2 = (float(np.exp(rng.uniform(*np.log(span)))) for span in ((0.8, 1.7), (0.05, 0.16)))
        size = np.exp(rng.uniform(*np.log((4.0, 10.0))))
        islands.append(
            Island(
                name=ISLAND,
                centre=rng.uniform(low, high),
                semi_axes=size * rng.uniform(0.7, 1.4, 3),
                axes=np.linalg.qr(rng.standard_normal((3, 3)))[0],
                values=_tissue(t1, t2, rng),
            )
        )
    return replace(subject, values=values, islands=tuple(islands))


def _nucleus(name: str, side: int, values: Mapping[str, TissueValues], rng: np.random.Generator) -> Island:
    centre, semi_axes, degrees = _NUCLEI[name]
    angle = side * math.radians(degrees + 6 * _clipped(rng))
    axes = np.array(
        [[math.cos(angle), math.sin(angle), 0.0], [-math.sin(angle), math.cos(angle), 0.0], [0.0, 0.0, 1.0]]
    )
    return Island(
        name=name,
        centre=np.array(centre) * (side, 1, 1) + rng.normal(0, 1.5, 3),
        semi_axes=np.array(semi_axes) * rng.uniform(0.8, 1.25, 3),
        axes=axes,
        values=values[name],
    )


def _tissue(t1: float, t2: float, rng: np.random.Generator) -> TissueValues:
    return TissueValues(t1=t1, t2=t2, pd=float(proton_density(t1)) * (1 + 0.015 * _clipped(rng)))


def _draw_values(rng: np.random.Generator) -> dict[str, TissueValues]:
    """Tissue values; cortex and white matter correlate 0.5, as age and method shift them together."""
    common_t1, common_t2 = _clipped(rng), _clipped(rng)
    spread = {"csf": (0.02, 0.05), "gm": (0.035, 0.05), "wm": (0.04, 0.04)}
    values = {}
    for name, entries in SIMULATED.items():
        t1, t2 = entries["t1"].value, entries["t2"].value
        sd1, sd2 = spread.get(name, (0.04, 0.05))
        shared = 0.0 if name == "csf" else np.sqrt(0.5)
        own = np.sqrt(1 - shared**2)
        t1 *= 1 + sd1 * (shared * common_t1 + own * _clipped(rng))
        t2 *= 1 + sd2 * (shared * common_t2 + own * _clipped(rng))
        tissue = _tissue(float(t1), float(t2), rng)
        values[name] = replace(tissue, pd=1.0) if name == "csf" else tissue
    values["lesion"] = TissueValues(
        t1=float(rng.uniform(1.05, 1.6)), t2=float(rng.uniform(0.10, 0.17)), pd=float(rng.uniform(0.80, 0.90))
    )
    for name, (t1, t2, pd) in _HEAD_VALUES.items():
        factor = 1 + 0.05 * np.array([_clipped(rng) for _ in range(3)])
        values[name] = TissueValues(t1=t1 * factor[0], t2=t2 * factor[1], pd=min(1.0, pd * factor[2]))
    return values


def _age(values: dict[str, TissueValues], decades: float) -> None:
    """Change tissue values, in place, from those at 45 years."""
    white = 1 + 0.0025 * ((decades + 0.5) ** 2 - 0.25)
    nuclei = ((nucleus, 1 - 0.01 * decades, 1 - 0.005 * decades) for nucleus in DEEP_GREY)
    for name, t1, t2 in (("wm", white, 1 + 0.015 * decades), *nuclei):
        old = values[name]
        values[name] = TissueValues(t1=old.t1 * t1, t2=old.t2 * t2, pd=old.pd)


def _draw_tumour(
    seed: int, sites: NDArray[np.float32] | None
) -> tuple[tuple[float, float, float, float, float] | None, TissueValues, TissueValues]:
    """Place and values of a tumour, from a generator of its own, so that everything else of a subject stays."""
    rng = np.random.default_rng([seed, 13])
    core = TissueValues(
        t1=float(rng.uniform(1.5, 2.2)), t2=float(rng.uniform(0.11, 0.20)), pd=float(rng.uniform(0.86, 0.94))
    )
    halo = TissueValues(
        t1=float(rng.uniform(1.3, 1.7)), t2=float(rng.uniform(0.11, 0.16)), pd=float(rng.uniform(0.82, 0.90))
    )
    if sites is None or len(sites) == 0:
        return None, core, halo
    x, y, z = (float(value) for value in sites[rng.integers(0, len(sites))])
    radius = float(rng.uniform(7.0, 16.0))
    return (x, y, z, radius, radius + float(rng.uniform(4.0, 12.0))), core, halo


def _draw_lesions(rng: np.random.Generator, sites: NDArray[np.float32] | None, share: float) -> NDArray[np.float32]:
    has_lesions, n_lesions = rng.random() < share, int(rng.integers(3, 15))
    if sites is None or not has_lesions or len(sites) == 0:
        return np.zeros((0, 4), dtype=np.float32)
    centres = sites[rng.integers(0, len(sites), n_lesions)] + rng.uniform(-2, 2, (n_lesions, 3))
    radius = rng.uniform(2.0, 6.0, (n_lesions, 1))
    return np.concatenate([centres, radius], axis=1).astype(np.float32)


def _clipped(rng: np.random.Generator) -> float:
    """Draw a standard normal within three standard deviations: nobody has impossible tissue."""
    return float(np.clip(rng.standard_normal(), -3, 3))
