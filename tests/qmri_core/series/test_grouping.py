"""Keys of groups and their grids."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence, SeriesHeader
from qmri_core.series.grouping import (
    EXTENT,
    TOLERANCES,
    binned,
    canonical_spacing,
    grid_of,
    protocol_keys,
    scanner_key,
    settle,
)


def acquisitions(factor: float = 1.0, **changes: float) -> dict[Contrast, Acquisition]:
    t1w: dict[str, float] = {
        "repetition_time": 2.3 * factor, "echo_time": 0.00298 * factor, "inversion_time": 0.9 * factor,
        "flip_angle": math.radians(9) * factor,
    }  # fmt: skip
    return {
        Contrast.T1W: Acquisition(
            contrast=Contrast.T1W, sequence=PulseSequence.MPRAGE, field_strength=3.0, echo_spacing=0.007 * factor,
            echo_train_length=176, centre_index=88, **(t1w | changes),
        ),
        Contrast.T2W: Acquisition(
            contrast=Contrast.T2W, sequence=PulseSequence.TURBO_SPIN_ECHO, field_strength=3.0,
            repetition_time=6.0 * factor, echo_time=0.1 * factor, flip_angle=math.pi / 2,
            refocusing_angle=math.radians(150), echo_train_length=16, echo_spacing=0.0111 * factor,
        ),
    }  # fmt: skip


SPACINGS = {Contrast.T1W: (1.0, 1.0, 1.0), Contrast.T2W: (0.45, 0.45, 4.0)}


def protocol_key(parameters: dict[Contrast, Acquisition], spacings: dict[Contrast, tuple[float, float, float]]) -> str:
    return protocol_keys(parameters, spacings)[0]


def test_a_key_is_readable_and_safe_as_a_path() -> None:
    key = protocol_key(acquisitions(), SPACINGS)
    assert re.fullmatch(r"t1w-mprage-tr2300-ti900_t2w-tse-tr6000-te100_1\.0x1\.0x4\.0mm-[0-9a-f]{12}", key)


@given(factor=st.floats(1 - 5e-7, 1 + 5e-7), shift=st.floats(-0.005, 0.005))
def test_rounding_in_a_header_does_not_change_the_key(factor: float, shift: float) -> None:
    spacings = {name: (x + shift, y + shift, z + shift) for name, (x, y, z) in SPACINGS.items()}
    assert protocol_key(acquisitions(factor), spacings) == protocol_key(acquisitions(), SPACINGS)


@pytest.mark.parametrize(
    "change",
    [
        {"repetition_time": 2.4},
        {"inversion_time": 1.0},
        {"echo_time": 0.0045},
        {"flip_angle": math.radians(12)},
        {"inversion_time": 0.92},
    ],
)
def test_another_protocol_has_another_key(change: dict[str, float]) -> None:
    assert protocol_key(acquisitions(**change), SPACINGS) != protocol_key(acquisitions(), SPACINGS)


@given(milliseconds=st.integers(100, 15000), error=st.floats(-3e-5, 3e-5))
def test_times_shown_in_milliseconds_are_never_at_an_edge(milliseconds: int, error: float) -> None:
    value = milliseconds / 1000
    assert binned(value + error, TOLERANCES["repetition_time"]) == binned(value, TOLERANCES["repetition_time"])


@given(value=st.floats(0, 20), width=st.sampled_from(sorted(TOLERANCES.values())))
def test_a_bin_is_one_width_wide(value: float, width: float) -> None:
    number = binned(value, width)
    assert abs(value - number * width) <= 0.51 * width
    assert binned(value + width * 1.0001, width) >= number + 1


def test_the_group_takes_its_spacing_from_t2w_then_flair_then_t1w() -> None:
    both = acquisitions()
    assert "_1.0x1.0x4.0mm-" in protocol_key(both, SPACINGS)
    only = {Contrast.T1W: both[Contrast.T1W]}
    assert "_1.5x1.0x2.0mm-" in protocol_key(only, {Contrast.T1W: (1.4, 0.8, 2.1)})


def test_isotropic_stays_isotropic_and_limits_hold() -> None:
    only = {Contrast.T1W: acquisitions()[Contrast.T1W]}
    assert "_1.5x1.5x1.5mm-" in protocol_key(only, {Contrast.T1W: (1.24, 1.28, 1.26)})
    assert "_1.0x1.0x8.0mm-" in protocol_key(only, {Contrast.T1W: (0.4, 0.5, 12.0)})


def test_no_contrast_is_no_protocol() -> None:
    with pytest.raises(ValueError, match="at least one contrast"):
        protocol_key({}, {})


@given(
    spacing=st.tuples(*[st.sampled_from([1.0, 1.5, 2.0, 4.5, 8.0])] * 3),
)
def test_the_grid_follows_from_the_key_and_covers_the_extent(spacing: tuple[float, float, float]) -> None:
    only = {Contrast.T1W: acquisitions()[Contrast.T1W]}
    grid = grid_of(protocol_key(only, {Contrast.T1W: spacing}))
    assert grid.spacing == spacing
    for size, step, extent in zip(grid.shape[::-1], spacing, EXTENT, strict=True):
        assert extent <= size * step < extent + step + 1e-9


def test_text_that_is_no_key_has_no_grid() -> None:
    with pytest.raises(ValueError, match="no protocol key"):
        grid_of("t1w-mprage")


def test_scanners_are_told_apart() -> None:
    prisma = SeriesHeader(
        manufacturer="Siemens", model="magnetom-prisma", magnetic_field_strength=2.8936, software="aa11bb"
    )
    assert scanner_key(prisma, "1a2b3c") == "siemens-prisma-3t-1a2b3c"
    assert scanner_key(prisma, "1a2b3c", software=True) == "siemens-prisma-3t-1a2b3c-aa11bb"
    aera = SeriesHeader(manufacturer="Siemens", model="aera", magnetic_field_strength=1.494)
    assert scanner_key(aera, "ffffff") == "siemens-aera-1.5t-ffffff"
    assert scanner_key(SeriesHeader(), "") == "unknown-model-unknown-field-device"


@given(seed=st.integers(0, 10_000), spacing=st.tuples(*[st.floats(0.5, 6.0)] * 3), order=st.permutations([0, 1, 2]))
def test_canonical_spacing_follows_the_axes(seed: int, spacing: tuple[float, float, float], order: list[int]) -> None:
    tilt = Rotation.random(rng=np.random.default_rng(seed)).magnitude() % 0.3
    rotation = Rotation.from_rotvec([tilt, 0.0, 0.0]).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = (rotation * np.asarray(spacing))[:, order] * np.array([1, -1, 1])
    np.testing.assert_allclose(canonical_spacing(affine), spacing, rtol=1e-9)


def test_a_value_near_an_edge_may_belong_to_both_groups_and_settles_in_the_larger() -> None:
    """TR of 2.2 s and a bin of 10 ms: the edge lies at 2205.07 ms, where a shortest TR may scatter around it."""
    low, high = (protocol_keys(acquisitions(repetition_time=tr), SPACINGS) for tr in (2.2049, 2.2052))
    far = protocol_keys(acquisitions(repetition_time=2.2), SPACINGS)
    assert low[0] != high[0]
    assert set(low) >= {low[0], high[0]}
    assert set(high) >= {low[0], high[0]}
    assert far[0] == low[0]
    assert high[0] not in far
    chosen = settle({"a": low, "b": high, "c": high, "d": far})
    assert chosen == dict.fromkeys("abcd", low[0])
    assert settle({"d": far, "c": high, "a": low, "b": high}) == chosen


def test_a_stored_session_keeps_its_group() -> None:
    low, high = (protocol_keys(acquisitions(repetition_time=tr), SPACINGS) for tr in (2.2049, 2.2052))
    stored = {"old": high[0], **{f"other-{n}": low[0] for n in range(5)}}
    assert settle({"old": high, "new": high}, stored) == {"old": high[0], "new": low[0]}


@given(values=st.lists(st.floats(2.2046, 2.2055), min_size=1, max_size=8))
def test_sessions_scattered_around_an_edge_are_one_group(values: list[float]) -> None:
    candidates = {str(n): protocol_keys(acquisitions(repetition_time=tr), SPACINGS) for n, tr in enumerate(values)}
    assert len(set(settle(candidates).values())) == 1


@given(milliseconds=st.integers(2000, 2100))
def test_protocols_that_differ_by_more_than_a_bin_never_settle_together(milliseconds: int) -> None:
    one, other = (
        protocol_keys(acquisitions(repetition_time=ms / 1000), SPACINGS) for ms in (milliseconds, milliseconds + 14)
    )
    chosen = settle({"a": one, "b": other})
    assert chosen["a"] != chosen["b"]
