"""What headers hide, from the mean contrast of groups whose acquisitions are known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qmri_core.calibration.hidden_parameters import (
    ADDED,
    FURTHEST_SHIFT,
    TRANSFER,
    Hidden,
    hidden_spreads,
    log_ratio,
    moved,
)
from qmri_core.calibration.hierarchy import solve_levels
from qmri_core.calibration.levels import LevelGroup
from qmri_core.calibration.population import pd_relation, population
from qmri_core.calibration.scales import PRIOR_SPREADS
from qmri_core.calibration.session_model import observations, person_slopes
from qmri_core.physics.header import acquisition_from_header
from qmri_core.physics.magnetization_transfer import simulated_shift
from qmri_core.physics.registry import signal
from qmri_core.physics.sequences import check
from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence
from qmri_core.simulation.protocols import protocol_table
from tests.protocols import plain_protocol

VALUES = population(3.0)
ASSUMED = tuple((name, "assumed") for name in ("echo_spacing", "echo_train_length", "inversion_efficiency"))
MPRAGE = replace(plain_protocol()[Contrast.T1W], inversion_efficiency=0.96, marks=ASSUMED)
SERIES = {(protocol.name, one.contrast): one for protocol in protocol_table() for one in protocol.series}
HEADERS = {
    key: acquisition_from_header(one.header, one.contrast, one.acquisition.sequence) for key, one in SERIES.items()
}
"""As headers have them imputed, of every series of the simulated cohort."""
MANY = tuple(map(str, range(400)))


def true_ratio(acquisition: Acquisition, transmit_scale: float = 1.0) -> float:
    """Log of grey over white matter, one tissue at a time."""
    scale = torch.tensor(transmit_scale, dtype=torch.float64)
    grey, white = (
        float(signal(acquisition, *map(_tensor, (one.pd, one.t1, one.t2)), transmit_scale=scale).abs())
        for one in (VALUES.grey_matter, VALUES.white_matter)
    )
    return math.log(grey / white)


def _tensor(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def cohort(
    names: Sequence[str], *, moves: dict[tuple[str, Contrast], float], people: Sequence[str] = MANY
) -> list[LevelGroup]:
    """Groups whose acquisitions are as headers have them, but for ``moves`` of log ratios.

    Their images hold what images usually do: other tissue in cortex, a weaker transmit field there, and some transfer.
    """
    usual = {Contrast.T1W: 0.0, Contrast.T2W: 0.03, Contrast.FLAIR: -0.05}
    groups = []
    for name in names:
        acquisitions = {contrast: HEADERS[name, contrast] for contrast in Contrast}
        ratios = {
            contrast: true_ratio(one, math.exp(-0.08))
            + usual[contrast]
            + (0.05 if is_multi_slice(one) else 0.0)
            + moves.get((name, contrast), 0.0)
            for contrast, one in acquisitions.items()
        }
        groups.append(level_group(name, ratios, acquisitions, people))
    return groups


def level_group(
    name: str, ratios: Mapping[Contrast, float], acquisitions: Mapping[Contrast, Acquisition], people: Sequence[str]
) -> LevelGroup:
    """One session of each person, all with the same signals: white matter is 1, fluid not known."""
    row = [
        {"WM": 0.0, "GM": ratios[contrast], "CSF": math.nan}[tissue] for contrast, tissue in observations(acquisitions)
    ]
    return LevelGroup(
        acquisitions=acquisitions,
        spreads=PRIOR_SPREADS,
        logs=np.tile(row, (len(people), 1)),
        weights=np.ones(len(people)),
        covariates=np.zeros((len(people), 3)),
        people=people,
        clinics=[name] * len(people),
        scanner=name,
    )


def hidden_parameters(groups: Sequence[LevelGroup]) -> Sequence[Mapping[Contrast, tuple[Hidden, ...]]]:
    return solve_levels(groups).hidden


def ratio_factors(acquisitions: Mapping[Contrast, Acquisition]) -> NDArray[np.float64]:
    """What people do to the log of grey over white matter, per independent deviation of one unit."""
    slopes, covariance = person_slopes(tuple(acquisitions.values()))
    names = observations(acquisitions)
    ratios = np.stack([slopes[names.index((one, "GM"))] - slopes[names.index((one, "WM"))] for one in acquisitions])
    return np.asarray(ratios @ np.linalg.cholesky(covariance))


def is_multi_slice(acquisition: Acquisition) -> bool:
    return acquisition.contrast is not Contrast.T1W and acquisition.sequence is not PulseSequence.VARIABLE_FLIP_TSE


def effect(hidden: Iterable[Hidden], acquisition: Acquisition) -> float:
    """Of all moves of one acquisition, on its log ratio."""
    return true_ratio(moved(acquisition, {one.name: one.shift for one in hidden})) - true_ratio(acquisition)


NAMES = ("G11", "G06", "G01", "G13")


def test_an_echo_time_that_is_no_contrast_is_found() -> None:
    """One group's train has its centre where the header's echo time says; the truth is put in by hand."""
    stated = HEADERS["G11", Contrast.FLAIR]
    assert stated.mark("echo_time") == "derived"
    true = replace(stated, echo_time=stated.echo_time * 0.65, echo_spacing=(stated.echo_spacing or 0) * 0.65)
    less = true_ratio(true) - true_ratio(stated)
    assert less < -0.07
    groups = cohort(NAMES, moves={("G11", Contrast.FLAIR): less})
    found = hidden_parameters(groups)
    [echo] = [one for one in found[0][Contrast.FLAIR] if one.name == "echo_time"]
    assert echo.shift == pytest.approx(math.log(0.65), abs=1.5 * echo.sd)
    assert echo.shift < -2 * echo.sd
    assert echo.sd < 0.4 * echo.prior_sd
    for group, of_group in zip(groups[1:], found[1:], strict=True):
        for contrast, acquisition in group.acquisitions.items():
            assert abs(effect(of_group[contrast], acquisition)) < 0.015


def test_what_all_groups_share_is_no_ones_protocol() -> None:
    """3 % more or less contrast in all groups, as by fluid in the voxels of cortex, moves each by little of it."""
    shared = {Contrast.T1W: 0.03, Contrast.T2W: -0.03, Contrast.FLAIR: -0.03}
    found = hidden_parameters(cohort(NAMES, moves={(name, c): by for name in NAMES for c, by in shared.items()}))
    for number, name in enumerate(NAMES):
        for contrast in Contrast:
            by = effect(found[number][contrast], HEADERS[name, contrast])
            # an echo time that may be two thirds of itself takes the most
            assert abs(by) < (0.025 if (name, contrast) == ("G11", Contrast.FLAIR) else 0.015), (name, contrast)


def test_magnetization_transfer_is_no_protocol() -> None:
    """10 % in all multi-slice trains, none in the others."""
    moves = {
        (name, contrast): 0.10
        for name in NAMES
        for contrast in (Contrast.T2W, Contrast.FLAIR)
        if is_multi_slice(HEADERS[name, contrast])
    }
    assert 0 < len(moves) < 8
    found = hidden_parameters(cohort(NAMES, moves=moves))
    for number, name in enumerate(NAMES):
        for contrast in Contrast:
            assert abs(effect(found[number][contrast], HEADERS[name, contrast])) < 0.02, (name, contrast)


def test_deviations_are_as_large_as_stated() -> None:
    """Draws from the prior by hand: inversion, readout, transmit field, what is shared, people, errors."""
    rng = np.random.default_rng(5)
    spreads = hidden_spreads(MPRAGE)
    names = list(spreads)
    assert set(names) == {"echo_spacing", "echo_train_length", "inversion_efficiency"}
    people = ratio_factors({Contrast.T1W: MPRAGE})
    scores, told = [], []
    for _ in range(25):
        shared, at_cortex = 0.03 * rng.standard_normal(), math.exp(-0.08 + 0.05 * rng.standard_normal())
        groups, true = [], []
        for number in range(4):
            stated = replace(MPRAGE, inversion_time=0.85 + 0.05 * number, repetition_time=2.0 + 0.2 * number)
            mine = {name: float(spread * rng.standard_normal()) for name, spread in spreads.items()}
            mine["inversion_efficiency"] = min(mine["inversion_efficiency"], 0.04)
            length = round(176 * math.exp(mine["echo_train_length"]))
            run = replace(
                stated,
                inversion_efficiency=0.96 + mine["inversion_efficiency"],
                echo_spacing=0.007 * math.exp(mine["echo_spacing"]),
                echo_train_length=length,
                centre_index=round(length / 2),
            )
            check(run)
            [at_grey] = log_ratio(run, VALUES, (at_cortex,))
            of_person = math.sqrt(1.1) * float((people @ rng.standard_normal(people.shape[1]))[0])  # and its site
            error = math.hypot(0.015, 0.02, 0.005) * rng.standard_normal()
            ratios = {Contrast.T1W: at_grey + shared + of_person + error}
            groups.append(level_group(str(number), ratios, {Contrast.T1W: stated}, (str(number),)))
            true.append(mine)
        for found, mine in zip(hidden_parameters(groups), true, strict=True):
            scores += [(one.shift - mine[one.name]) / one.sd for one in found[Contrast.T1W]]
            told += [(one.shift, mine[one.name]) for one in found[Contrast.T1W] if one.name == "echo_train_length"]
    assert np.std(scores) == pytest.approx(1.0, abs=0.15)  # of 300
    assert abs(np.mean(scores)) < 0.2
    assert np.corrcoef(np.transpose(told))[0, 1] > 0.2  # one person each tells little


def test_people_who_come_to_all_groups_hide_less() -> None:
    same = cohort(NAMES, moves={}, people=("a",))
    apart = [replace(one, people=(str(number),)) for number, one in enumerate(same)]
    sds = [
        next(one.sd for one in hidden_parameters(groups)[0][Contrast.FLAIR] if one.name == "echo_time")
        for groups in (same, apart)
    ]
    assert sds[0] < 0.95 * sds[1]


def test_without_a_signal_the_header_holds() -> None:
    groups = cohort(NAMES[:2], moves={("G11", Contrast.T1W): math.nan, ("G06", Contrast.T2W): math.nan})
    found = hidden_parameters(groups)
    for of_group, contrast in ((found[0], Contrast.T1W), (found[1], Contrast.T2W)):
        assert of_group[contrast]
        for one in of_group[contrast]:
            assert one.shift == 0
            assert one.sd == pytest.approx(one.prior_sd)
    assert any(one.shift for one in found[0][Contrast.FLAIR])


def test_a_contrast_that_no_protocol_makes_moves_nothing_out_of_bounds() -> None:
    groups = cohort(NAMES[:2], moves={("G11", Contrast.FLAIR): -2.0, ("G06", Contrast.T1W): 2.0})
    for of_group in hidden_parameters(groups):
        for hidden in of_group.values():
            assert all(abs(one.shift) <= FURTHEST_SHIFT * one.prior_sd * (1 + 1e-9) for one in hidden)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_moves_leave_a_protocol_that_can_be_run(data: st.DataObject) -> None:
    acquisition = HEADERS[data.draw(st.sampled_from(sorted(HEADERS)))]
    spreads = hidden_spreads(acquisition)
    shifts = {name: data.draw(st.floats(-FURTHEST_SHIFT, FURTHEST_SHIFT)) * spread for name, spread in spreads.items()}
    result = moved(acquisition, shifts)
    check(result)
    if result == acquisition:
        return
    for name, shift in shifts.items():
        start, end = (float(getattr(one, name)) for one in (acquisition, result))
        if name == "echo_train_length":
            assert end == round(start * math.exp(shift))
        elif name in ADDED:
            assert end == pytest.approx(min(start + shift, 1.0 if name == "inversion_efficiency" else math.inf))
        else:
            assert end == pytest.approx(start * math.exp(shift))


def test_no_move_changes_nothing() -> None:
    for acquisition in HEADERS.values():
        assert moved(acquisition, {}) == acquisition
        start = moved(acquisition, dict.fromkeys(hidden_spreads(acquisition), 0.0))
        assert start == replace(acquisition, inversion_time=start.inversion_time)
        assert start.inversion_time == pytest.approx(acquisition.inversion_time)


def test_what_cannot_be_run_stays() -> None:
    assert moved(MPRAGE, {"echo_train_length": 1.0}) == MPRAGE  # 478 pulses of 7 ms in a cycle of 2.3 s


def test_the_readout_keeps_its_centre_and_a_derived_inversion_moves_along() -> None:
    wider = moved(MPRAGE, {"echo_train_length": math.log(1.1)})
    assert (wider.echo_train_length, wider.centre_index, wider.inversion_time) == (194, 97, MPRAGE.inversion_time)
    derived = moved(
        replace(MPRAGE, marks=(*ASSUMED, ("inversion_time", "derived"))), {"echo_train_length": math.log(1.1)}
    )
    assert derived.inversion_time == pytest.approx(0.9 + 9 * 0.007)


def test_what_a_user_did_not_hide_is_not_moved() -> None:
    assert hidden_spreads(plain_protocol()[Contrast.T1W]) == {}  # all measured
    assert "echo_time" not in hidden_spreads(HEADERS["G13", Contrast.FLAIR])


def test_people_move_contrast_as_their_tissue_does() -> None:
    """Against signals of drawn people by the accurate model."""
    protocol = plain_protocol()
    factors = ratio_factors(protocol)
    rng = np.random.default_rng(2)
    n = 20000
    offset, slope = pd_relation(VALUES)
    both = rng.standard_normal((n, 2))
    logs = []
    for one in (VALUES.grey_matter, VALUES.white_matter):
        own = math.sqrt(0.5) * (both + rng.standard_normal((n, 2)))
        t1, t2 = one.t1 * np.exp(one.t1_spread * own[:, 0]), one.t2 * np.exp(one.t2_spread * own[:, 1])
        pd = np.exp(0.015 * rng.standard_normal(n)) / (offset + slope / t1)
        values = [torch.from_numpy(each) for each in (pd, t1, t2)]
        logs.append([signal(each, *values).abs().log().numpy() for each in protocol.values()])
    drawn = np.cov(np.asarray(logs[0]) - np.asarray(logs[1]))
    np.testing.assert_allclose(factors @ factors.T, drawn, rtol=0.08, atol=2e-5)


def in_slices(groups: Sequence[LevelGroup], slices: int | None) -> list[LevelGroup]:
    """The same groups, their trains in slices of a known number."""
    return [
        replace(one, acquisitions={c: replace(each, slices=slices) for c, each in one.acquisitions.items()})
        for one in groups
    ]


def transfers(groups: Sequence[LevelGroup], *, has_transfer: bool = True) -> dict[tuple[str, Contrast], Hidden]:
    found = solve_levels(groups, has_transfer=has_transfer).hidden
    return {
        (group.scanner, contrast): parameter
        for group, of_group in zip(groups, found, strict=True)
        for contrast, hidden in of_group.items()
        for parameter in hidden
        if parameter.name == TRANSFER
    }


def test_transfer_is_expected_by_the_protocol_and_moved_by_what_all_groups_show() -> None:
    """Images with the prior's share of it, and with twice that; trains in slabs have none."""
    slices = 30
    expected = {
        (name, c): simulated_shift(replace(HEADERS[name, c], slices=slices)) or 0.0 for name in NAMES for c in Contrast
    }
    found = {}
    for share in (0.65, 1.3):
        moves = {
            (name, c): share * expected[name, c] - (0.05 if is_multi_slice(HEADERS[name, c]) else 0.0)
            for name in NAMES
            for c in (Contrast.T2W, Contrast.FLAIR)
        }
        found[share] = transfers(in_slices(cohort(NAMES, moves=moves), slices))
        assert set(found[share]) == {key for key, shift in expected.items() if shift}
    for key, shift in expected.items():
        if not shift:
            continue
        assert found[0.65][key].shift == pytest.approx(0.65 * shift, abs=0.01)
        assert found[0.65][key].shift < found[1.3][key].shift < 1.3 * shift
        for one in (by[key] for by in found.values()):
            assert one.sd < one.prior_sd == pytest.approx(0.2 * shift)
        acquisition = replace(HEADERS[key], slices=slices)
        after = moved(acquisition, {TRANSFER: found[0.65][key].shift})
        assert true_ratio(after) - true_ratio(acquisition) == pytest.approx(found[0.65][key].shift, abs=1e-6)


def test_transfer_can_be_switched_off_and_needs_the_number_of_slices() -> None:
    groups = cohort(NAMES[1:2], moves={})
    assert transfers(in_slices(groups, 30), has_transfer=False) == {}
    assert transfers(groups) == {}


def test_the_number_of_slices_is_no_hidden_parameter() -> None:
    """Acquisitions that differ in it alone are one protocol: equal, with equal keys."""
    one, other = (replace(HEADERS["G11", Contrast.T2W], slices=n, b1_rms=n * 1e-7) for n in (24, 36))
    assert one == other
    assert hash(one) == hash(other)
