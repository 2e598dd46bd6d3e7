import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zarr.storage import MemoryStore

from qmri_core.series.geometry import Grid
from storage.store.schema import (
    CHUNK_BYTES,
    IMAGE_NAMES,
    IMAGES,
    NOT_COMPUTED,
    PER_SESSION,
    SESSION_VARIABLES,
    Reason,
    create_group,
    create_root,
    rounded,
    slab_of,
)

COPY = Path(__file__).with_name("schema.json")
GRID = Grid(shape=(92, 112, 92), spacing=(2.0, 2.0, 2.0))
T1MAP = next(variable for variable in IMAGES if variable.name == "T1map")
TISSUE = next(variable for variable in IMAGES if variable.name == "tissue")


def metadata() -> dict[str, Any]:
    """Zarr metadata of an empty store with one group, by path; without what only says the Zarr version."""
    store = MemoryStore()
    create_group(create_root(store), "scanner/protocol", GRID)
    result = {}
    for key in sorted(store._store_dict):
        if key.endswith("zarr.json"):
            node = json.loads(store._store_dict[key].to_bytes())
            result["/" + key.removesuffix("zarr.json").rstrip("/")] = {
                name: value
                for name, value in sorted(node.items())
                if name not in {"zarr_format", "consolidated_metadata"}
            }
    return result


def test_layout_equals_the_checked_in_copy() -> None:
    """After an intended change: ``python tests/storage/store/test_schema.py`` renews the copy; raise SCHEMA_VERSION."""
    assert metadata() == json.loads(COPY.read_text())


def test_the_contract_names_are_there_with_dims_and_units() -> None:
    layout = metadata()
    for name, units in {"T1map": "s", "T2map": "s", "PDmap": "1", "T1map_sd": "s", "residual": "1", "T1w": "1"}.items():
        array = layout[f"/scanner/protocol/{name}"]
        assert array["dimension_names"] == ["session", "z", "y", "x"]
        assert array["attributes"]["units"] == units
        assert array["fill_value"] == "NaN"
    assert layout["/scanner/protocol/affine"]["shape"] == [0, 4, 4]
    assert layout["/scanner/protocol/x"]["attributes"]["units"] == "mm"
    assert not set(IMAGE_NAMES) & {path.split("/")[-1] for path in layout if path.startswith("/catalogue")}


def one_session() -> MemoryStore:
    """One session of which nothing is computed but the tissue of two voxels."""
    store = MemoryStore()
    group = create_group(create_root(store), "scanner/protocol", GRID)
    for _, array in group.arrays():
        if array.metadata.dimension_names[0] == "session":
            array.resize((1, *array.shape[1:]))
    group["tissue"][0, 0, 0, :2] = [3, 0]
    return store


def test_xarray_decodes_not_computed_as_nan_and_labels_as_integers_with_a_flag_of_their_own() -> None:
    with xr.open_zarr(one_session(), group="scanner/protocol", consolidated=False, chunks=None) as decoded:
        assert np.isnan(decoded["T1map"]).all()
        assert np.isnan(decoded["age"]).all()
        assert decoded["tissue"][0, 0, 0, :3].values.tolist() == [3, 0, NOT_COMPUTED]
        for name, meanings in {
            "tissue": "none csf grey_matter white_matter not_computed",
            "brain_mask": "outside brain not_computed",
        }.items():
            labels = decoded[name]
            assert labels.dtype == np.uint8
            assert "_FillValue" not in labels.attrs | labels.encoding
            assert labels.attrs["flag_meanings"] == meanings
            assert labels.attrs["flag_values"] == [*range(len(meanings.split()) - 1), NOT_COMPUTED]


def test_a_group_of_which_nothing_is_computed_goes_to_netcdf_and_back(tmp_path: Path) -> None:
    pytest.importorskip("h5netcdf")
    with xr.open_zarr(one_session(), group="scanner/protocol", consolidated=False, chunks=None) as decoded:
        decoded.to_netcdf(tmp_path / "group.nc")
        with xr.open_dataset(tmp_path / "group.nc") as back:
            assert back["tissue"].dtype == np.uint8
            xr.testing.assert_identical(back.load(), decoded.load())


@given(shape=st.tuples(st.integers(1, 400), st.integers(8, 300), st.integers(8, 300)))
def test_slabs_cover_the_volume_within_the_chunk_size(shape: tuple[int, int, int]) -> None:
    slab = slab_of(shape)
    slice_bytes = 4 * shape[1] * shape[2]
    assert 1 <= slab <= shape[0]
    assert slab * slice_bytes <= max(CHUNK_BYTES, slice_bytes)
    n_chunks = -(-shape[0] // slab)
    assert n_chunks * slab - shape[0] < n_chunks  # the last slab is nearly full


@given(hnp.arrays(np.float32, 40, elements=st.floats(width=32)))
def test_rounding_keeps_twelve_bits_and_what_is_not_a_number(array: np.ndarray) -> None:
    stored = rounded(array, T1MAP)
    tiny = np.finfo(np.float32).tiny
    ordinary = np.isfinite(array) & (np.abs(array) > tiny) & (np.abs(array) < 1e38)
    error = np.abs(stored[ordinary].astype(np.float64) - array[ordinary].astype(np.float64))
    assert (error <= 2.0**-13 * np.abs(array[ordinary].astype(np.float64))).all()  # half of the last kept bit
    np.testing.assert_array_equal(np.isnan(stored), np.isnan(array))
    np.testing.assert_array_equal(np.isinf(stored) & ~np.isfinite(array), np.isinf(array))
    assert rounded(stored, T1MAP).tobytes() == stored.tobytes()


def test_every_kind_of_float_is_rounded_as_the_stores_of_all_releases_were() -> None:
    """The rule in whole numbers, on bit patterns from all over: subnormal, huge, infinite and no numbers included."""
    patterns = np.arange(0, 2**32, 9973, dtype=np.uint64).astype(np.uint32)
    patterns = np.append(
        patterns, np.asarray([0x7F800000, 0xFF800000, 0x7FFFFFFF, 1, 0x80000000, 0x7F7FFFFF], np.uint32)
    )
    array = patterns.view(np.float32)
    kept = (patterns + ((patterns >> np.uint32(11)) & np.uint32(1)) + np.uint32(1023)) & np.uint32(0xFFFFF800)
    expected = np.where(np.isfinite(array), kept, patterns)
    expected[np.isnan(array)] = np.float32(np.nan).view(np.uint32)
    np.testing.assert_array_equal(rounded(array, T1MAP).view(np.uint32), expected)
    assert {0, 0x7F800000} <= set(expected.tolist())
    tiny = np.abs(array) < np.finfo(np.float32).tiny
    assert tiny.sum() > 1000


def test_rounding_is_to_nearest_even_and_leaves_the_input_alone() -> None:
    last = 2.0**-12  # the last kept bit of a value in [1, 2)
    array = np.asarray([1 + last / 2, 1 + 3 * last / 2, 1 + 0.51 * last], np.float32)
    before = array.copy()
    np.testing.assert_array_equal(rounded(array, T1MAP), np.asarray([1, 1 + 2 * last, 1 + last], np.float32))
    np.testing.assert_array_equal(array, before)


def test_masks_take_only_what_fits() -> None:
    np.testing.assert_array_equal(rounded(np.asarray([True, False]), TISSUE), np.asarray([1, 0], np.uint8))
    for wrong in (np.asarray([0.5]), np.asarray([-1]), np.asarray([256])):
        with pytest.raises(ValueError, match="tissue"):
            rounded(wrong, TISSUE)


def test_reasons_contain_those_of_the_classification() -> None:
    classification = pytest.importorskip("qmri_core.series.classification")
    assert {str(reason) for reason in classification.SkipReason} <= {str(reason) for reason in Reason}


def test_every_variable_has_one_meaning() -> None:
    names = [*IMAGE_NAMES, *SESSION_VARIABLES]
    assert len(set(names)) == len(names)
    assert all(variable.units for variable in PER_SESSION if variable.dtype == "float64")


def test_nothing_in_the_layout_can_hold_an_identity_or_a_date() -> None:
    forbidden = ("patient_name", "birth", "date", "time_of", "institution", "path", "description", "comment")
    assert not [name for name in SESSION_VARIABLES if any(word in name for word in forbidden)]


def test_newer_zarr_reads_the_fill_value_of_an_unwritten_mask() -> None:
    store = MemoryStore()
    array = create_group(create_root(store), "scanner/protocol", GRID)["brain_mask"]
    assert isinstance(array, zarr.Array)
    array.resize((2, *array.shape[1:]))
    assert np.unique(np.asarray(array[1])).tolist() == [NOT_COMPUTED]


if __name__ == "__main__":
    COPY.write_text(json.dumps(metadata(), indent=1, sort_keys=True) + "\n")
