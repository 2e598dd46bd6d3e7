"""Maps made by hand from known tissues: what holds passes, each thing that does not is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from qmri_core.calibration.population import population
from qmri_core.calibration.session_model import LEVELS, PersonLevels
from qmri_core.mapping.closure import MOST_WIDENED, Figure, MappedSession, closure, mapped_session
from qmri_core.mapping.inference import prepared
from qmri_core.physics.synthesis import synthesise
from qmri_core.series.acquisition import Contrast
from qmri_core.tissues import MAPS
from tests.protocols import plain_protocol

PROTOCOL = plain_protocol()
N = 3000
TISSUES = ("WM", "GM", "CSF")
T1W, T2W, FLAIR = Contrast


def person(mean: float = 0.0) -> PersonLevels:
    spread = np.asarray([0.04, 0.04, 0.035, 0.05])
    return PersonLevels(
        mean=np.full(len(LEVELS), mean),
        determined=np.full(len(LEVELS), 0.9),
        spread=spread,
        n_people=20.0,
        level_sd=np.full(len(LEVELS), 0.01),
    )


def session(deviation: float = 0.03, noise: float = 0.02) -> MappedSession:
    """Voxels of the population's tissues, their images by the models, and a few per cent of noise in both."""
    rng = np.random.default_rng(0)
    values = population(3.0)
    tissues = {"WM": values.white_matter, "GM": values.grey_matter, "CSF": values.csf}
    label = np.repeat(np.arange(3), N)
    truth = {
        name: np.asarray([getattr(tissues[one], key) for one in TISSUES])[label]
        for name, key in zip(MAPS, ("t1", "t2", "pd"), strict=True)
    }
    maps = {name: (of * np.exp(noise * rng.standard_normal(3 * N))).astype(np.float32) for name, of in truth.items()}
    signals = {
        contrast: (
            synthesise(acquisition, *(truth[name].astype(np.float32) for name in ("PDmap", "T1map", "T2map")))
            * np.exp(noise * rng.standard_normal(3 * N))
        ).astype(np.float32)
        for contrast, acquisition in PROTOCOL.items()
    }
    return MappedSession(
        maps=maps,
        deviations={name: (deviation * of).astype(np.float32) for name, of in maps.items()},
        signals=signals,
        cores={name: label == number for number, name in enumerate(TISSUES)},
        acquisitions=PROTOCOL,
        person=person(),
    )


def figures(found: MappedSession) -> set[Figure]:
    return {finding.figure for finding in closure(found).findings}


def test_what_holds_passes() -> None:
    found = closure(session())
    assert (found.findings, found.has_failed, found.text) == ((), False, "")


def scaled(tissue: str, name: str, factor: float) -> Callable[[MappedSession], MappedSession]:
    def change(of: MappedSession) -> MappedSession:
        changed = np.where(of.cores[tissue], factor, 1.0).astype(np.float32)
        return replace(of, maps={**of.maps, name: of.maps[name] * changed})

    return change


def contrast_is(image: Contrast, factor: float) -> Callable[[MappedSession], MappedSession]:
    """Grey matter of one image times a factor, maps as they are."""

    def change(of: MappedSession) -> MappedSession:
        changed = np.where(of.cores["GM"], factor, 1.0).astype(np.float32)
        return replace(of, signals={**of.signals, image: of.signals[image] * changed})

    return change


def swapped(of: MappedSession) -> MappedSession:
    return replace(of, signals={T1W: of.signals[T2W], T2W: of.signals[T1W], FLAIR: of.signals[FLAIR]})


def spread_out(of: MappedSession) -> MappedSession:
    wide = np.exp(0.6 * np.random.default_rng(1).standard_normal(3 * N)).astype(np.float32)
    return replace(of, maps={**of.maps, "T1map": of.maps["T1map"] * wide})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (scaled("WM", "T1map", 1.8), {Figure.LEVEL, Figure.ORDER}),
        (scaled("GM", "T2map", 2.1), {Figure.LEVEL}),
        (scaled("CSF", "T1map", 0.2), {Figure.ORDER}),
        (contrast_is(T1W, 1.6), {Figure.CONTRAST, Figure.IMAGES}),
        (contrast_is(T2W, 0.6), {Figure.CONTRAST}),
        (swapped, {Figure.CONTRAST, Figure.AGREEMENT, Figure.IMAGES}),
        (spread_out, {Figure.SPREAD}),
    ],
)
def test_what_does_not_hold_is_named(change: Callable[[MappedSession], MappedSession], named: set[Figure]) -> None:
    found = change(session())
    assert named <= figures(found)
    assert closure(found).has_failed
    assert closure(found).text


@pytest.mark.parametrize("share", [0.3, 0.45])
def test_fluid_in_the_voxels_of_cortex_spreads_it_to_one_side_and_is_no_contradiction(share: float) -> None:
    """In as many voxels as thick slices have it in, T2 is up to twice as long; the narrow side tells of the maps."""
    of = session()
    rng = np.random.default_rng(2)
    grey = np.flatnonzero(of.cores["GM"])
    mixed = rng.choice(grey, size=int(share * len(grey)), replace=False)
    t2 = of.maps["T2map"].copy()
    t2[mixed] *= rng.uniform(1.1, 2.0, len(mixed)).astype(np.float32)
    assert Figure.SPREAD not in figures(replace(of, maps={**of.maps, "T2map": t2}))


def test_a_level_that_wider_deviations_cover_widens_them_and_no_more() -> None:
    off = scaled("WM", "T2map", 1.19)(session(deviation=0.04))
    found = closure(off)
    assert [finding.figure for finding in found.findings] == [Figure.LEVEL]
    assert not found.has_failed
    assert 1 < found.widened["T2map"] <= MOST_WIDENED
    assert set(found.widened) == {"T2map"}
    wider = {**off.deviations, "T2map": off.deviations["T2map"] * np.float32(found.widened["T2map"])}
    assert closure(replace(off, deviations=wider)).findings == ()
    far = closure(scaled("WM", "T2map", 1.6)(session(deviation=0.04)))
    assert far.has_failed
    assert far.widened == {}


def test_the_person_is_expected_and_not_the_population() -> None:
    shifted = session()
    for tissue in ("WM", "GM"):
        for name in ("T1map", "T2map"):
            shifted = scaled(tissue, name, float(np.exp(0.2)))(shifted)
    assert Figure.LEVEL in figures(shifted)
    known = replace(shifted, person=replace(person(0.2), level=np.full(len(LEVELS), 0.2)))
    assert Figure.LEVEL not in figures(known)


def test_tissues_of_few_voxels_are_not_looked_at() -> None:
    full = scaled("GM", "T1map", 3.0)(session())
    few = {**full.cores, "GM": full.cores["GM"] & (np.cumsum(full.cores["GM"]) < 100)}
    assert figures(replace(full, cores=few)) == set()


def test_nulled_voxels_do_not_move_the_split_of_a_contrast() -> None:
    full = session()
    nulled = full.cores["GM"] & (np.random.default_rng(2).random(3 * N) < 0.06)
    dark = np.where(nulled, 1e-5, full.signals[FLAIR]).astype(np.float32)
    assert figures(replace(full, signals={**full.signals, FLAIR: dark})) == set()


def test_cores_and_lesions_are_those_of_the_whole_volume() -> None:
    """A brain at the volume's end, with a lesion, thin layers that are none, and tissue beyond where maps are made."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices((20, 24, 22))
    mask = (((z - 16) ** 2 + (y - 12) ** 2 + (x - 9) ** 2) < 64).astype(np.uint8)
    tissue = rng.choice(np.asarray([2, 3, 3, 3, 3, 3], np.uint8), mask.shape)
    images = {contrast: np.full(mask.shape, 500.0, np.float32) for contrast in PROTOCOL}
    made = prepared("", images, mask, PROTOCOL, dict.fromkeys(PROTOCOL, 900.0), person(), slices=4)
    grey = population(3.0).grey_matter
    unlike = (abs(z - 16) < 3) & (abs(y - 12) < 3) & (abs(x - 9) < 3) | (x == 5)
    maps = np.ones((7, *mask.shape), np.float32)
    maps[0] = np.where(unlike, 1.5 * grey.t1, grey.t1)
    maps[1] = np.where(unlike, 1.5 * grey.t2, grey.t2)
    inside = mask > 0
    found = mapped_session(made, maps[:, inside], tissue, np.diag([2.0, 2.0, 2.0, 1.0]))
    thick = ndimage.binary_opening(unlike & inside, iterations=2)
    assert 0 < thick.sum() < (unlike & inside).sum()
    assert found.lesion_litres == pytest.approx(thick.sum() * 8e-6)
    for name, label in (("GM", 2), ("WM", 3)):
        np.testing.assert_array_equal(found.cores[name], ndimage.binary_erosion(tissue == label)[inside])
    assert found.cores["WM"].any()
