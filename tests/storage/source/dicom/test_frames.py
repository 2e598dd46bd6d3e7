"""Values of DICOM pixels: rescaling, Philips scaling, compressed and enhanced files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from qmri_core.series.classification import SkipReason
from storage.source.dicom.frames import scan_file
from storage.source.dicom.header import field_strength, manufacturer_of, slug
from storage.source.discovery import decide, discover, read_volume
from tests.storage.slices import STUDY, header, voxels, write, write_enhanced, write_series

KEY = bytes(32)


def test_rescale_is_applied_per_slice(tmp_path: Path) -> None:
    stored = voxels()
    for z, pixels in enumerate(stored):
        changes = {
            "SOPInstanceUID": f"{STUDY}.1.{z}",
            "ImagePositionPatient": [-40, -50, -60 + 2.5 * z],
            "RescaleSlope": str(1 + z),
            "RescaleIntercept": "-10",
        }
        write(tmp_path / str(z), header(**changes), pixels)
    (series,) = discover(tmp_path, key=KEY).series
    volume = read_volume(series)
    heights = np.array([(volume.affine @ [0, 0, z, 1])[2] for z in range(5)])
    order = np.argsort(heights)
    expected = stored * (1.0 + np.arange(5))[:, None, None] - 10
    np.testing.assert_allclose(volume.array[order], expected)


@pytest.mark.parametrize("block", [0x10, 0x12])
def test_philips_values_are_divided_by_slope_and_scale_slope(tmp_path: Path, block: int) -> None:
    stored = voxels()
    write_series(tmp_path, stored, Manufacturer="Philips Medical Systems", RescaleSlope="2.5", RescaleIntercept="5")
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.add_new((0x2005, block), "LO", "Philips MR Imaging DD 001")
        dataset.add_new((0x2005, (block << 8) + 0x0E), "FL", 0.01)
        dataset.save_as(path)
    (series,) = discover(tmp_path, key=KEY).series
    values = read_volume(series).array
    scale = np.float32(0.01)
    np.testing.assert_allclose(np.sort(values.ravel()), np.sort((stored.ravel() * 2.5 + 5) / (2.5 * scale)), rtol=1e-5)


def add_scale(folder: Path, *, block: int = 0x10, creator: str = "Philips MR Imaging DD 001") -> None:
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.add_new((0x2005, block), "LO", creator)
        dataset.add_new((0x2005, (block << 8) + 0x0E), "FL", 0.01)
        dataset.save_as(path)


@pytest.mark.parametrize(
    ("maker", "block", "creator", "lacks"),
    [
        ("Philips Medical Systems", 0x10, "Philips MR Imaging DD 001", False),
        ("Philips Medical Systems", 0x10, "Philips MR Imaging DD 002", True),
        ("Philips Medical Systems", None, "", True),
        ("SIEMENS", None, "", False),
    ],
)
def test_a_philips_series_without_its_scale_factor_is_known_by_its_header(
    tmp_path: Path, maker: str, block: int | None, creator: str, lacks: bool
) -> None:
    write_series(
        tmp_path, voxels(), Manufacturer=maker, ManufacturerModelName="Ingenia" if "P" in maker[:1] else "Prisma"
    )
    if block is not None:
        add_scale(tmp_path, block=block, creator=creator)
    (series,) = discover(tmp_path, key=KEY).series
    assert series.context.unscaled is lacks


def test_one_image_of_a_series_without_its_scale_factor_is_enough(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(), Manufacturer="Philips Medical Systems")
    add_scale(tmp_path)
    path = min(tmp_path.iterdir())
    dataset = pydicom.dcmread(path)
    dataset.remove_private_tags()
    dataset.save_as(path)
    (series,) = discover(tmp_path, key=KEY).series
    assert series.context.unscaled


@pytest.mark.parametrize("nested", [True, False])
def test_an_enhanced_philips_file_has_its_scale_factors_in_its_frames(tmp_path: Path, nested: bool) -> None:
    path = tmp_path / "one"
    write_enhanced(path, voxels(), [0, 1, 2, 3, 4])
    dataset = pydicom.dcmread(path)
    dataset.Manufacturer = "Philips Medical Systems"
    for frame in dataset.PerFrameFunctionalGroupsSequence if nested else ():
        item = pydicom.Dataset()
        item.add_new((0x2005, 0x10), "LO", "Philips MR Imaging DD 001")
        item.add_new((0x2005, 0x100E), "FL", 0.01)
        frame.add_new((0x2005, 0x14), "LO", "Philips MR Imaging DD 005")
        frame.add_new((0x2005, 0x140F), "SQ", pydicom.Sequence([item]))
    dataset.save_as(path)
    (series,) = discover(tmp_path, key=KEY).series
    assert series.context.unscaled is not nested


@pytest.mark.parametrize(("stated", "tesla"), [("2.9", 2.9e-6), ("0", None), ("2900", None)])
def test_the_transmit_field_tears_no_volume_apart(tmp_path: Path, stated: str, tesla: float | None) -> None:
    """In microtesla; scanners may state another one in each slice."""
    write_series(tmp_path, voxels())
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        dataset = pydicom.dcmread(path)
        dataset.B1rms = float(stated) * (1 + 1e-3 * number)
        dataset.save_as(path)
    (series,) = discover(tmp_path, key=KEY).series
    assert series.problem is None
    assert series.header.b1_rms == (None if tesla is None else pytest.approx(tesla, rel=1e-2))


def test_run_length_encoding_gives_the_same_voxels(tmp_path: Path) -> None:
    write_series(tmp_path / "plain", voxels())
    (tmp_path / "rle").mkdir()
    for path in (tmp_path / "plain").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(tmp_path / "rle" / path.name)
    (plain,) = discover(tmp_path / "plain", key=KEY).series
    (coded,) = discover(tmp_path / "rle", key=KEY).series
    np.testing.assert_array_equal(read_volume(plain).array, read_volume(coded).array)


def test_enhanced_frames_in_any_order_make_one_volume(tmp_path: Path) -> None:
    stored = voxels()
    write_enhanced(tmp_path / "e", stored, [3, 0, 4, 1, 2])
    (series,) = discover(tmp_path, key=KEY).series
    assert series.shape == (4, 6, 5)
    values = series.header
    assert (values.repetition_time, values.inversion_time, values.echo_time) == (2.3, 0.9, pytest.approx(0.00298))
    assert values.scanning_sequence == ("GR", "IR")
    assert decide(series).reason is None
    volume = read_volume(series)
    order = np.argsort([(volume.affine @ [0, 0, z, 1])[2] for z in range(5)])
    np.testing.assert_allclose(volume.array[order], stored * (1.0 + np.arange(5))[:, None, None])


def test_an_object_without_pixels_or_of_another_kind_has_its_reason(tmp_path: Path) -> None:
    reasons = {
        "1.2.840.10008.5.1.4.1.1.88.22": SkipReason.NOT_IMAGE,
        "1.2.840.10008.5.1.4.1.1.66": SkipReason.NOT_IMAGE,
        "1.2.840.10008.5.1.4.1.1.2": SkipReason.NOT_MR,
        "1.2.840.10008.5.1.4.1.1.4.2": SkipReason.MR_SPECTROSCOPY,
        "1.2.840.10008.5.1.4.1.1.4": None,
    }
    for index, sop_class in enumerate(reasons):
        write(tmp_path / str(index), header(SOPClassUID=sop_class), voxels(1)[0])
        (frame,) = scan_file(str(tmp_path / str(index))) or ()
        assert frame.instance.problem == reasons[sop_class]
    write(tmp_path / "empty", header(Rows=64, Columns=64), None)
    (frame,) = scan_file(str(tmp_path / "empty")) or ()
    assert frame.instance.problem is SkipReason.NOT_IMAGE


def test_only_codes_are_kept(tmp_path: Path) -> None:
    changes = {
        "ImageType": ["ORIGINAL", "PRIMARY", "SMITH", "M"],
        "ScanOptions": ["PFP", "JOHN"],
        "SequenceVariant": ["SP", "DOE"],
        "ScanningSequence": ["GR", "XX"],
    }
    write(tmp_path / "a", header(**changes), voxels(1)[0])
    (frame,) = scan_file(str(tmp_path / "a")) or ()
    kept = frame.header
    assert kept.image_type == ("ORIGINAL", "PRIMARY", "M")
    assert (kept.scan_options, kept.sequence_variant, kept.scanning_sequence) == (("PFP",), ("SP",), ("GR",))


@pytest.mark.parametrize(
    ("name", "model", "code"),
    [
        ("SIEMENS", "", "Siemens"),
        ("Siemens Healthineers", "", "Siemens"),
        ("GE MEDICAL SYSTEMS", "", "GE"),
        ("Philips Medical Systems", "", "Philips"),
        ("TOSHIBA", "", "Canon"),
        ("CANON_MEC", "", "Canon"),
        ("UIH", "", "UIH"),
        ("", "Achieva dStream", "Philips"),
        ("UNKNOWN", "TrioTim", "Siemens"),
        ("Acme Imaging", "X1", ""),
    ],
)
def test_manufacturers_are_coded(name: str, model: str, code: str) -> None:
    assert manufacturer_of(name, model) == code


@pytest.mark.parametrize(
    ("value", "tesla"),
    [
        (0.064, 0.064), (0.55, 0.55), (1.0, 1.0), (1.494, 1.494), (1.5, 1.5), (3.0, 3.0), (7.0, 7.0), (11.7, 11.7),
        (550.0, 0.55), (1000.0, 1.0), (1500.0, 1.5), (3000.0, 3.0), (2893.0, 2.893), (9400.0, 9.4), (10_500.0, 10.5),
        (5500.0, 0.55), (10_000.0, 1.0), (12_000.0, 1.2), (15_000.0, 1.5), (14_940.0, 1.494), (28_936.0, 2.8936),
        (30_000.0, 3.0), (70_000.0, 7.0), (94_000.0, 9.4), (117_000.0, 11.7),
    ],
)  # fmt: skip
def test_field_strength_is_in_tesla_whatever_its_unit(value: float, tesla: float) -> None:
    """Tesla, millitesla, gauss; 10,000 gauss were 10 T."""
    assert field_strength(value) == pytest.approx(tesla)


@pytest.mark.parametrize("value", [None, 0.0, -3.0, 15.0, 63.87, 123.2, 128.0, 250.0, 20_500.0, 300_000.0, 1e9])
def test_a_number_that_means_no_scanner_gives_no_field_strength(value: float | None) -> None:
    assert field_strength(value) is None


@pytest.mark.parametrize(("value", "low", "high"), [(7000.0, 0.7, 7.0), (5000.0, 0.5, 5.0)])
def test_a_number_that_means_two_scanners_needs_the_frequency(value: float, low: float, high: float) -> None:
    assert field_strength(value) is None
    assert field_strength(value, 42.577 * low) == pytest.approx(low)
    assert field_strength(value, 42.577 * high) == pytest.approx(high)
    assert field_strength(value, 400.0) is None  # MHz of neither


def test_the_frequency_finds_a_weak_scanner_in_gauss() -> None:
    assert field_strength(3000.0, 12.8) == pytest.approx(0.3)


@pytest.mark.parametrize(("stated", "strength"), [("10000", 1.0), ("7000", None)])
def test_a_file_in_gauss_has_its_field_strength_or_none(tmp_path: Path, stated: str, strength: float | None) -> None:
    write_series(tmp_path, voxels(), MagneticFieldStrength=stated)
    (series,) = discover(tmp_path, key=KEY).series
    assert series.header.magnetic_field_strength == strength


def test_model_names_become_words_of_keys() -> None:
    assert slug("MAGNETOM Prisma Fit (Dr. Müller)") == "magnetom-prisma-fit-dr-m-ller"


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"\x1f\x8bgarbage" * 50, b"DICM" * 50, bytes(128) + b"DICM" * 9])
def test_garbage_is_no_dicom(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    frames = scan_file(str(path))
    assert not frames or frames[0].instance.problem is not None


@pytest.mark.parametrize(
    ("note", "proof", "evidence"),
    [
        ({"ContrastBolusAgent": "GADOVIST 1.0"}, True, False),
        ({"ContrastBolusAgent": "Magnegita"}, True, False),
        ({"ContrastBolusIngredient": "GADOLINIUM"}, True, False),
        ({"ContrastBolusAgent": "KM"}, False, True),
        ({"ContrastBolusAgent": "Yes"}, False, True),
        ({"ContrastBolusAgent": "7.5"}, False, True),
        ({"ContrastBolusAgent": "NONE"}, False, False),
        ({"ContrastBolusAgent": "no contrast"}, False, False),
        ({"ContrastBolusAgent": "ohne KM"}, False, False),
        ({"ContrastBolusAgent": "0"}, False, False),
        ({"ContrastBolusAgent": "0.0 ml"}, False, False),
        ({"ContrastBolusAgent": "N/A"}, False, False),
        ({"ContrastBolusAgent": "-"}, False, False),
        ({"ContrastBolusAgent": "ANONYMIZED"}, False, False),
        ({"ContrastBolusAgent": "Removed"}, False, False),
    ],
)
def test_a_note_on_an_agent_is_proof_where_it_names_one_and_evidence_where_it_denies_none(
    tmp_path: Path, note: dict[str, str], proof: bool, evidence: bool
) -> None:
    write_series(tmp_path, voxels(), **note)
    (series,) = discover(tmp_path, key=KEY).series
    assert (series.context.contrast_agent, series.context.named_agent) == (proof, evidence)


def change(paths: Iterable[Path], values: Mapping[str, Any]) -> None:
    for path in paths:
        dataset = pydicom.dcmread(path)
        for name, value in values.items():
            if value is None:
                delattr(dataset, name)
            else:
                setattr(dataset, name, value)
        dataset.save_as(path)


@pytest.mark.parametrize("lost", [None, "0"])
@pytest.mark.parametrize("count", [1, 3])
def test_slices_that_lost_their_scale_make_no_volume_with_those_that_have_it(
    tmp_path: Path, lost: str | None, count: int
) -> None:
    write_series(tmp_path, voxels(12), RescaleSlope="2.5", RescaleIntercept="0")
    change(sorted(tmp_path.iterdir())[:count], {"RescaleSlope": lost})
    (series,) = discover(tmp_path, key=KEY).series
    assert series.problem is SkipReason.INCOMPLETE
    assert f"{count} of 12 slices lack the scale factor" in series.explanation


@pytest.mark.parametrize("slope", [None, "0", "1"])
def test_no_scale_in_any_slice_is_one(tmp_path: Path, slope: str | None) -> None:
    stored = voxels(6)
    write_series(tmp_path, stored, RescaleSlope=slope)
    (series,) = discover(tmp_path, key=KEY).series
    np.testing.assert_array_equal(np.sort(read_volume(series).array.ravel()), np.sort(stored.ravel()))


@pytest.mark.parametrize("missing", [1, 2])
def test_an_orientation_that_single_slices_lack_is_the_reason_and_no_localizer(tmp_path: Path, missing: int) -> None:
    write_series(tmp_path, voxels(12))
    change(sorted(tmp_path.iterdir())[4 : 4 + missing], {"ImageOrientationPatient": None})
    found = [one for one in discover(tmp_path, key=KEY).series if one.n_instances > 2]
    assert [(one.problem, one.context.n_orientations) for one in found] == [(SkipReason.INCOMPLETE, 1)]
    assert f"{missing} of 12 slices have no position or orientation" in found[0].explanation


@pytest.mark.parametrize(("number", "code"), [(1, "PHASE"), (2, "REAL"), (3, "IMAGINARY"), (0, None)])
def test_parts_of_a_complex_image_of_ge_are_told_by_its_own_field(
    tmp_path: Path, number: int, code: str | None
) -> None:
    write_series(tmp_path, voxels(), Manufacturer="GE MEDICAL SYSTEMS")
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.private_block(0x43, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", number)
        dataset.save_as(path)
    (series,) = discover(tmp_path, key=KEY).series
    assert set(series.header.image_type) & {"PHASE", "REAL", "IMAGINARY"} == ({code} - {None})
    assert (decide(series).reason is SkipReason.PHASE) is (code is not None)


@pytest.mark.parametrize("shown", ["PALETTE COLOR", "RGB"])
def test_colours_are_no_signal(tmp_path: Path, shown: str) -> None:
    write_series(tmp_path, voxels(), PhotometricInterpretation=shown)
    assert {one.problem for one in discover(tmp_path, key=KEY).series} == {SkipReason.NOT_IMAGE}
