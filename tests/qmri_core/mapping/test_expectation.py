"""What is expected of a session's tissues is an input: with exact signals and scales, maps follow a population."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qmri_core.calibration.expectation import DEVIATIONS, UNTOLD, Expectation, moved_tissue
from qmri_core.calibration.population import population
from qmri_core.calibration.session_model import PersonLevels, Spreads, observations, person
from qmri_core.mapping.checkpoint import load_checkpoint
from qmri_core.mapping.inference import session_maps
from qmri_core.mapping.network import MapNetwork
from qmri_core.mapping.voxelwise import compress, estimator
from qmri_core.physics.registry import fast_signal
from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence
from qmri_core.simulation.subjects import proton_density
from qmri_core.tissues import SIMULATED, SIMULATED_OVER_3T, numbers_of
from tests.protocols import plain_protocol

SHIFT = (0.08, 0.10, 0.04)
"""Of T1, T2 and PD; logs."""
KINDS = {"WM": "WM", "cortex": "GM", "CSF": "CSF"} | dict.fromkeys(
    ("thalamus", "caudate", "putamen", "pallidum"), "nuclei"
)
Protocol = Mapping[Contrast, Acquisition]


def gradient_echo(field_strength: float) -> Protocol:
    """A T1w of a spoiled gradient echo, which shows little of grey beside white matter."""
    protocol = plain_protocol(field_strength)
    t1w = Acquisition(
        contrast=Contrast.T1W,
        sequence=PulseSequence.SPOILED_GRADIENT_ECHO,
        field_strength=field_strength,
        repetition_time=0.2,
        echo_time=0.004,
        flip_angle=math.radians(80),
    )
    return {**protocol, Contrast.T1W: t1w}


def spin_echo(field_strength: float) -> Protocol:
    protocol = plain_protocol(field_strength)
    t1w = Acquisition(
        contrast=Contrast.T1W,
        sequence=PulseSequence.SPIN_ECHO,
        field_strength=field_strength,
        repetition_time=0.55,
        echo_time=0.012,
        flip_angle=math.pi / 2,
        refocusing_angle=math.pi,
    )
    return {**protocol, Contrast.T1W: t1w}


PROTOCOLS = {
    f"{name}, {field:g} T": (make, field)
    for name, make in (("MPRAGE", plain_protocol), ("gradient echo", gradient_echo), ("spin echo", spin_echo))
    for field in (3.0, 1.5)
}


def tissues_of(field: float, expected: Expectation) -> dict[str, tuple[float, float, float]]:
    """T1, T2 and PD of every tissue of people who are as expected."""
    values = population(field)
    result = {}
    for name, kind in KINDS.items():
        if kind == "nuclei":
            numbers = numbers_of(SIMULATED[name])
            factors = (1.0, 1.0) if field == 3.0 else SIMULATED_OVER_3T[field][kind]
            t1, t2 = (numbers[q] * factor for q, factor in zip(("t1", "t2"), factors, strict=True))
            usual = (t1, t2, float(proton_density(numbers["t1"])))
        else:
            member = {"WM": values.white_matter, "GM": values.grey_matter, "CSF": values.csf}[kind]
            usual = (member.t1, member.t2, member.pd)
        result[name] = moved_tissue(values, usual, kind, expected.of(kind))
    return result


def slab() -> tuple[NDArray[np.int64], list[str]]:
    """A head of few slices: cortex in folds around white matter, ventricles and nuclei within; 0 outside."""
    names = ["outside", *KINDS]
    y, x = np.meshgrid(np.arange(96) - 47.5, np.arange(80) - 39.5, indexing="ij")
    angle = np.arctan2(y, x)
    radius = np.hypot(y / 44, x / 36)
    fold = 0.86 + 0.07 * np.sin(14 * angle)
    plane = np.where(radius < 1, names.index("CSF"), 0)
    plane[radius < 0.97] = names.index("cortex")
    plane[radius < fold] = names.index("WM")
    for name, (at_y, at_x), (wide_y, wide_x) in (
        ("CSF", (-4, 4), (12, 3)), ("thalamus", (8, 8), (9, 5)), ("caudate", (-12, 9), (8, 4)),
        ("putamen", (-2, 21), (12, 4)), ("pallidum", (0, 15), (8, 2.6)),
    ):  # fmt: skip
        for side in (-1, 1):
            plane[np.hypot((y - at_y) / wide_y, (x - side * at_x) / wide_x) < 1] = names.index(name)
    return np.repeat(plane[None], 2, axis=0), names


def medians(
    network: MapNetwork | None, protocol: Protocol, truth: Expectation, told: Expectation
) -> dict[str, NDArray[np.float64]]:
    """Log of medians of the maps over the truth by tissue, from exact signals in exact scales."""
    labels, names = slab()
    field = protocol[Contrast.T1W].field_strength
    tissues = tissues_of(field, truth)
    rng = np.random.default_rng(0)
    maps = np.ones((3, *labels.shape))
    for name, values in tissues.items():
        inside = labels == names.index(name)
        for k, value in enumerate(values):
            maps[k][inside] = value * np.exp(0.01 * rng.standard_normal(inside.sum()))
    t1, t2, pd = (torch.from_numpy(each) for each in maps)
    images = {c: fast_signal(protocol[c], pd, t1, t2).abs().numpy().astype(np.float32) for c in protocol}
    someone = PersonLevels(mean=np.zeros(4), determined=np.ones(4), spread=np.full(4, 0.04), n_people=1e9, told=told)
    mask = (labels > 0).astype(np.uint8)
    found = session_maps(network, images, mask, protocol, dict.fromkeys(protocol, 1.0), person=someone)
    result = {}
    for name, values in tissues.items():
        inside = labels == names.index(name)
        both = zip((found.t1, found.t2, found.pd), values, strict=True)
        result[name] = np.asarray([math.log(np.median(each[inside]) / value) for each, value in both])
    return result


def everybody(shift: tuple[float, float, float]) -> Expectation:
    """All tissues moved, told for certain with scales that are exact; PD of fluid, which PD is relative to, stays."""
    moved = [0.0 if each == ("CSF", "pd") else shift[k % 3] for k, each in enumerate(DEVIATIONS)]
    return Expectation(shift=tuple(moved), sd=(0.003,) * len(DEVIATIONS), scale_sds=(0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def shipped() -> MapNetwork:
    return load_checkpoint().network


@pytest.mark.parametrize("field", [3.0, 1.5])
def test_signals_as_expected_are_those_of_the_population_once_moved(field: float) -> None:
    """The oracle: signals of usual tissue in the same protocol, which the polynomial is built on."""
    protocol, expected = plain_protocol(field), everybody(SHIFT)
    physics = estimator(protocol, expected=expected)
    relative = {}
    for who, of_whom, over in (("moved", expected, physics), ("usual", UNTOLD, estimator(protocol))):
        t1, t2, pd = torch.tensor(list(tissues_of(field, of_whom).values()), dtype=torch.float64).T
        signals = [fast_signal(protocol[c], pd, t1, t2).abs() for c in over.contrasts]
        relative[who] = torch.stack([one / wm for one, wm in zip(signals, over.white_matter_signal, strict=True)])
    standard, back = physics.standard(compress(relative["moved"])[:, :, None])
    # a voxel is moved by what expected levels do to the tissues that it may be of
    torch.testing.assert_close(standard[..., 0], compress(relative["usual"]), atol=0.015, rtol=0)
    assert back[:2].abs().max() < 0.02  # all tissues are moved as white matter is, to which maps are relative
    fluid = list(KINDS).index("CSF")
    white = [tissues_of(field, each)["WM"][2] for each in (UNTOLD, expected)]
    assert float(back[2, fluid, 0]) == pytest.approx(math.log(white[0] / white[1]), abs=0.01)


def test_a_person_is_told_of_by_the_signals_as_far_as_scales_leave_them() -> None:
    """Grey matter of longer T2, in scales that are nearly exact and in some that may be anything."""
    protocol = plain_protocol()
    longer_t2 = tuple(0.08 * (each == ("GM", "t2")) for each in DEVIATIONS)
    usual, longer = (tissues_of(3.0, Expectation(shift=shift)) for shift in (UNTOLD.shift, longer_t2))
    names = {"WM": "WM", "GM": "cortex", "CSF": "CSF"}
    deviations = []
    for contrast, tissue in observations(protocol):
        values = torch.tensor([usual[names[tissue]], longer[names[tissue]]], dtype=torch.float64).T
        signals = fast_signal(protocol[contrast], values[2], values[0], values[1]).abs().log()
        deviations.append(float(signals[1] - signals[0]))
    told = {}
    for spread in (1e-3, 1.0):
        spreads = Spreads(own=dict.fromkeys(protocol, spread), common=spread)
        told[spread] = person(np.asarray(deviations), protocol, spreads, n_people=50.0).expectation
    exact, free = told[1e-3], told[1.0]
    assert 0.04 < exact.of("GM")[1] < 0.085
    assert 0 < exact.of("nuclei")[1] < exact.of("GM")[1]
    assert max(exact.scale_sds) < 2e-3
    assert min(free.scale_sds) > 5e-3
    assert (np.asarray(exact.sd) <= np.asarray(free.sd) + 1e-12).all()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_medians_of_every_tissue_follow_a_population_to_a_tenth(name: str, shipped: MapNetwork) -> None:
    make, field = PROTOCOLS[name]
    protocol = make(field)
    usual, moved = (medians(shipped, protocol, each, each) for each in (everybody((0, 0, 0)), everybody(SHIFT)))
    for tissue in KINDS:
        pull = np.abs(moved[tissue] - usual[tissue])
        assert (pull <= 0.1 * np.asarray(SHIFT)).all(), (tissue, pull.round(4))
