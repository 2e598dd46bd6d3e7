from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.preprocessing.checks import ImageMismatchError, check, predict
from qmri_core.series.acquisition import Acquisition, Contrast, PulseSequence
from qmri_core.series.remarks import RemarkKind
from tests.qmri_core.preprocessing.mistaken_sessions import Prepared, as_t2w, inverted, plan_at, prepared

T1W, T2W, FLAIR = Contrast
Images = Mapping[Contrast, NDArray[np.float32]]


@pytest.fixture(scope="module", params=[0, 6], ids=["MPRAGE", "low-angle gradient echo"])
def session(request: pytest.FixtureRequest) -> Prepared:
    return prepared(plan_at(request.param, seed=17))


def found(session: Prepared, images: Images) -> str:
    """What is said of the images under the session's acquisitions."""
    with pytest.raises(ImageMismatchError) as error:
        check(images, session.mask, session.spacing, session.acquisitions)
    return str(error.value)


def test_a_right_session_passes(session: Prepared) -> None:
    assert check(session.images, session.mask, session.spacing, session.acquisitions) == ()


@pytest.mark.parametrize("left_out", [T2W, FLAIR])
def test_so_does_one_of_two_contrasts(session: Prepared, left_out: Contrast) -> None:
    images = {contrast: image for contrast, image in session.images.items() if contrast is not left_out}
    assert check(images, session.mask, session.spacing, session.acquisitions) == ()


def test_the_scale_of_an_image_does_not_count(session: Prepared) -> None:
    images = {
        contrast: image * np.float32(factor)
        for (contrast, image), factor in zip(session.images.items(), (1e-3, 40, 7), strict=True)
    }
    assert check(images, session.mask, session.spacing, session.acquisitions) == ()


def with_much_fluid(session: Prepared) -> Images:
    """The same with fluid in most voxels of the brain, up to six tenths of each, as thick slices with atrophy have."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(4).standard_normal(session.mask.shape), 1.5)
    inside = session.mask > 0
    above = (smooth - np.quantile(smooth[inside], 0.4)) / (1.5 * smooth[inside].std())
    share = np.clip(above, 0, 0.6).astype(np.float32)
    images = {}
    t1w = session.images[T1W]
    is_fluid = inside & (t1w < np.quantile(t1w[inside], 0.02))
    for contrast, image in session.images.items():
        images[contrast] = (1 - share) * image + share * np.median(image[is_fluid])
    return images


def test_much_fluid_is_no_contradiction(session: Prepared) -> None:
    """Fluid is dark in T1w and FLAIR, where grey matter is darker in one and brighter in the other."""
    assert check(with_much_fluid(session), session.mask, session.spacing, session.acquisitions) == ()


@pytest.mark.parametrize(("one", "other"), [(T1W, T2W), (T1W, FLAIR), (T2W, FLAIR)])
def test_swapped_names_are_seen_through_much_fluid(session: Prepared, one: Contrast, other: Contrast) -> None:
    images = dict(with_much_fluid(session))
    images[one], images[other] = images[other], images[one]
    assert "one of these images is another contrast" in found(session, images)


@pytest.mark.parametrize(("one", "other"), [(T1W, T2W), (T1W, FLAIR), (T2W, FLAIR)])
def test_swapped_names(session: Prepared, one: Contrast, other: Contrast) -> None:
    images = {**session.images, one: session.images[other], other: session.images[one]}
    assert "one of these images is another contrast" in found(session, images)


def test_a_flair_without_inversion_time_is_no_t2w(session: Prepared) -> None:
    stated = as_t2w(session.acquisitions[FLAIR])
    assert predict(stated).fluid > 0.5
    images = {T1W: session.images[T1W], T2W: session.images[FLAIR]}
    with pytest.raises(
        ImageMismatchError, match=r"T2w: fluid has 0\.\d\d times the signal of brain where its parameters"
    ):
        check(images, session.mask, session.spacing, {**session.acquisitions, T2W: stated})


@pytest.mark.parametrize("contrast", [T1W, T2W, FLAIR])
def test_bright_and_dark_exchanged(session: Prepared, contrast: Contrast) -> None:
    text = found(session, {**session.images, contrast: inverted(session.images[contrast])})
    assert "bright and dark exchanged" in text


@pytest.mark.parametrize(("twice", "called"), [(T2W, FLAIR), (FLAIR, T2W), (T1W, T2W)])
def test_one_contrast_twice(session: Prepared, twice: Contrast, called: Contrast) -> None:
    text = found(session, {**session.images, called: session.images[twice]})
    assert "are one contrast twice" in text


@pytest.mark.parametrize("contrast", [T2W, FLAIR])
def test_a_mirrored_image(session: Prepared, contrast: Contrast) -> None:
    text = found(session, {**session.images, contrast: session.mirrored[contrast]})
    assert text.startswith(f"{contrast} fits the other images better mirrored left to right")


def test_of_two_images_either_may_be_the_mirrored_one(session: Prepared) -> None:
    images = {T1W: session.images[T1W], T2W: session.mirrored[T2W]}
    assert found(session, images).startswith("T1w or T2w fits the other images better mirrored")


@pytest.mark.parametrize("name", ["proton density", "T2*", "B1 map"])
def test_what_is_called_t1w_and_is_none(session: Prepared, name: str) -> None:
    assert found(session, {**session.images, T1W: session.others[name]})


def test_a_t1w_after_an_agent_is_told() -> None:
    made = prepared(plan_at(0, seed=17))
    (remark,) = check({**made.images, T1W: made.others["after agent"]}, made.mask, made.spacing, made.acquisitions)
    assert remark.kind is RemarkKind.AGENT
    assert "after a contrast agent" in remark.text


def test_finer_images_are_averaged_first(session: Prepared) -> None:
    fine = {contrast: np.repeat(image, 2, axis=1) for contrast, image in session.images.items()}
    x, y, z = session.spacing
    assert check(fine, np.repeat(session.mask, 2, axis=1), (x, y / 2, z), session.acquisitions) == ()


def test_what_predicts_nothing_decides_nothing(session: Prepared) -> None:
    # at an inversion time at which fluid has the signal of brain, a FLAIR shows no fluid, and nothing is asked of it
    base = session.acquisitions[FLAIR]
    times = np.linspace(0.2, 0.9, 141) * base.repetition_time
    near = min((replace(base, inversion_time=float(time)) for time in times), key=lambda one: abs(predict(one).fluid))
    assert abs(predict(near).fluid) < 0.25
    blurred = ndimage.gaussian_filter(np.nan_to_num(session.images[T2W]), 0.5)
    images = {T1W: session.images[T1W], FLAIR: np.asarray(blurred, dtype=np.float32)}
    assert check(images, session.mask, session.spacing, {**session.acquisitions, FLAIR: near}) == ()


def test_order_of_tissues_at_other_field_strengths() -> None:
    acquisition = Acquisition(
        contrast=T1W, sequence=PulseSequence.SPIN_ECHO, field_strength=3.0, repetition_time=0.6, echo_time=0.01,
        flip_angle=math.pi / 2, refocusing_angle=math.pi,
    )  # fmt: skip
    for tesla in (0.35, 1.5, 3.0, 7.0):
        order = predict(replace(acquisition, field_strength=tesla))
        assert order.fluid < -0.5
        assert order.grey < -0.1


def test_nothing_is_said_of_few_or_large_voxels(session: Prepared) -> None:
    wrong = {**session.images, T1W: session.images[T2W], T2W: session.images[T1W]}
    few = np.zeros_like(session.mask)
    few[20:26, 30:36, 30:36] = 1
    assert check(wrong, few, session.spacing, session.acquisitions) == ()
    assert check(wrong, session.mask, (5.0, 5.0, 5.0), session.acquisitions) == ()
