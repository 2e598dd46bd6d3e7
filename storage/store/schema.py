"""The layout of the cohort store: one table of variables, and the arrays that it makes.

A group node ``/<scanner>/<protocol>`` holds `IMAGES`, `BIAS_FIELDS`, `AFFINE`, `DIGEST`, `PER_SESSION` and the
coordinates ``session``, ``image``, ``z``, ``y``, ``x``; the node ``/catalogue`` holds `CATALOGUE`. A change here is a
change of the store's contract: raise `SCHEMA_VERSION`, teach `storage.store.lifecycle.upkeep` the step, and renew the
copy of the metadata that the tests compare with.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import zarr
from numcodecs import BitRound
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from qmri_core.series.acquisition import CONTRASTS
from qmri_core.series.geometry import FIELD_SHAPE, Grid

SCHEMA_VERSION = 4

NOT_COMPUTED = 255
"""Fill value of the integer variables, and a flag value of theirs: they stay integers when they are decoded."""
NOT_COMPUTED_FLAG = "not_computed"

CHUNK_BYTES = 1_500_000
"""Aim for the size of a chunk of a float image: one session, a slab of slices."""

SESSIONS_PER_CHUNK = 256
"""Chunk length of the per-session variables that only the committer writes."""

ROWS_PER_CHUNK = 1024
"""Chunk length of the catalogue's columns."""


ZSTD_LEVEL = 1
BLOCK_BYTES = 1 << 20
"""Of the images: what Blosc compresses at a time, most of a chunk, which is read whole in any case. At 1 mm, with noise
and smoothed, beside level 2 with half the block: written in half of the time, 0.5 % smaller to 1.8 % larger, read in
0.9 of it. Level 1 with Blosc's own, smaller blocks is no faster than level 2 with these, and 3 to 20 % larger; lz4 is
twice as fast and 30 to 40 % larger; shuffled bits are slower and a tenth larger; scaled 16-bit integers are no smaller.
"""


_ROUNDED_AT_ONCE = 1 << 16
"""Values that a processor's cache holds, with what rounding makes of them on the way."""


class Status(StrEnum):
    """State of a session in the catalogue."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    SKIPPED = "skipped"
    FAILED = "failed"


class Reason(StrEnum):
    """Why a series or session was skipped, or a session failed or stays without maps."""

    LOCALIZER = "localizer"
    DERIVED = "derived"
    PHASE = "phase"
    FIELD_MAP = "field_map"
    EPI = "epi"
    DIFFUSION = "diffusion"
    MOSAIC = "mosaic"
    MR_SPECTROSCOPY = "mr_spectroscopy"
    NOT_IMAGE = "not_image"
    NOT_MR = "not_mr"
    UNDECODABLE = "undecodable"
    CONTRAST_UNKNOWN = "contrast_unknown"
    INCOMPLETE = "incomplete"
    DUPLICATE = "duplicate"
    OTHER_VISIT = "other_visit"
    NO_PARAMETERS = "no_parameters"
    MISSING_CONTRAST = "missing_contrast"
    FIELD_OF_VIEW = "field_of_view"
    FIELD_STRENGTH = "field_strength"
    ALIGNMENT = "alignment"
    BRAIN_MASK = "brain_mask"
    IMAGE_MISMATCH = "image_mismatch"
    READ_ERROR = "read_error"
    NO_CALIBRATION = "no_calibration"
    CLOSURE = "closure"
    WORKER_LOST = "worker_lost"
    INTERNAL_ERROR = "internal_error"
    FORGOTTEN = "forgotten"
    STILL_ARRIVING = "still_arriving"
    SERVER_AWAY = "server_away"
    SERVER_REFUSED = "server_refused"
    SERVER_CHANGED = "server_changed"
    SERVER_ERROR = "server_error"


MEANINGS: Mapping[Status | Reason, str] = {
    Status.COMPLETE: "T1w, T2w and FLAIR are stored; so are the maps, unless a reason says why there are none.",
    Status.PARTIAL: "T1w and one of T2w and FLAIR are stored; maps rest on these two.",
    Status.SKIPPED: "The session cannot be used as it is; the reason says why. It is looked at again when it changes.",
    Status.FAILED: "An error ended its processing. It is tried again when what its result rests on changes.",
    Reason.LOCALIZER: "A series that only places others. Nothing to do.",
    Reason.DERIVED: "A series computed from others, such as a projection or a map. Nothing to do.",
    Reason.PHASE: "The phase, real or imaginary part of an image. Nothing to do.",
    Reason.FIELD_MAP: "A series for a field map. Nothing to do.",
    Reason.EPI: "A series with an echo-planar readout. Nothing to do.",
    Reason.DIFFUSION: "A diffusion-weighted series, or one made from it. Nothing to do.",
    Reason.MOSAIC: "Slices tiled into one image. Nothing to do.",
    Reason.MR_SPECTROSCOPY: "Spectroscopy. Nothing to do.",
    Reason.NOT_IMAGE: "A file without an image that is read. If it should be one, it is damaged: export it again.",
    Reason.NOT_MR: "An object of another modality. Nothing to do.",
    Reason.UNDECODABLE: "No decoder here reads this transfer syntax. Export the series uncompressed.",
    Reason.CONTRAST_UNKNOWN: "An MR image that is none of T1w, T2w and FLAIR, or after a contrast agent.",
    Reason.INCOMPLETE: "Slices are missing, doubled, unevenly spaced or without position. Export the series again.",
    Reason.DUPLICATE: "Another series or session holds the same images, or shows the same contrast better.",
    Reason.OTHER_VISIT: "A series of another scanner or day under the session's study identifier. Look whose it is.",
    Reason.NO_PARAMETERS: "The headers lack what the signal model needs. State it in the assume file (``--assume``).",
    Reason.MISSING_CONTRAST: "T1w, or both T2w and FLAIR, are missing (skipped), or one of these two is (partial).",
    Reason.FIELD_OF_VIEW: "The series do not cover the brain, or it does not fit the grid of its group.",
    Reason.FIELD_STRENGTH: "No tissue values are known for this field strength: images are stored, no maps are made.",
    Reason.ALIGNMENT: "The series of the session do not come to lie on each other: moved, or of two people.",
    Reason.BRAIN_MASK: "No plausible brain was found, or too little of it to tell tissues apart.",
    Reason.IMAGE_MISMATCH: "An image does not look like what it is called, or is mirrored; the error says which.",
    Reason.READ_ERROR: "The pixels of a series cannot be turned into a volume. Export the series again.",
    Reason.NO_CALIBRATION: "No session of the group has enough white matter in all its contrasts to set the scales.",
    Reason.CLOSURE: "Its maps contradict what was put in. They stay to be looked at, and count when they are accepted.",
    Reason.WORKER_LOST: "The worker process ended twice during this session. Give it more memory, or fewer workers.",
    Reason.INTERNAL_ERROR: "A mistake in this project: report the error and the line that the catalogue names.",
    Reason.FORGOTTEN: "The session was removed with ``qmri forget``, and is not ingested again.",
    Reason.STILL_ARRIVING: "Its files had just changed (``QMRI_QUIET_FOR``) when the run began; a later run takes it.",
    Reason.SERVER_AWAY: "The source is a server, and it stopped answering. Another run tries again.",
    Reason.SERVER_REFUSED: "The server does not accept who asks (``QMRI_PACS_*``). Another run tries again.",
    Reason.SERVER_CHANGED: "The server no longer held what it had told of. Another run reads it as it is then.",
    Reason.SERVER_ERROR: "The server failed to give the images. Another run tries again; see the server's log.",
}
"""What each word of the catalogue means, and what can be done."""

PASSING_REASONS = frozenset({Reason.SERVER_AWAY, Reason.SERVER_REFUSED, Reason.SERVER_CHANGED, Reason.SERVER_ERROR})
"""Reasons of failures that have nothing to do with the session: every run tries it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One row of the schema.

    Parameters
    ----------
    name, dims, dtype
        ``dtype`` is a NumPy name, or ``str``.
    units
        CF units; empty for text and flags.
    long_name
        What it is, in words.
    significant_bits
        Bits of the mantissa that are kept (rounded to nearest even); 23 keeps float32 exactly.
    per_session_chunks
        True if the chunk is one session, so that the worker that owns the session may write it.
    flags
        Meanings of 0, 1, 2, ... of an integer variable; `NOT_COMPUTED` is a flag value beside them.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    long_name: str
    units: str = ""
    significant_bits: int = 23
    per_session_chunks: bool = False
    flags: tuple[str, ...] = ()

    @property
    def fill(self) -> float | int | str:
        """The value that means not computed, or not known."""
        if self.dtype == "str":
            return ""
        return math.nan if np.dtype(self.dtype).kind == "f" else NOT_COMPUTED

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes as xarray decodes them; ``_FillValue`` in the encoding that it uses for Zarr version 3.

        Only floats have one: xarray makes floats of integers that have one.
        """
        result: dict[str, Any] = {"long_name": self.long_name}
        if self.units:
            result["units"] = self.units
        if self.flags:
            result["flag_values"] = [*range(len(self.flags)), NOT_COMPUTED]
            result["flag_meanings"] = " ".join((*self.flags, NOT_COMPUTED_FLAG))
        if self.significant_bits < 23:
            result |= {"quantization": "bitround", "quantization_nsb": self.significant_bits}
        if isinstance(self.fill, float):
            result["_FillValue"] = base64.standard_b64encode(struct.pack("<d", self.fill)).decode()
        return result


_VOLUME = ("session", "z", "y", "x")

IMAGE_BITS = 12
"""Kept mantissa bits of images and maps: relative error at most 2**-13 = 1.2e-4, far below the noise of any scan."""


def _image(name: str, long_name: str, units: str = "1") -> Variable:
    return Variable(
        name=name,
        dims=_VOLUME,
        dtype="float32",
        units=units,
        long_name=long_name,
        significant_bits=IMAGE_BITS,
        per_session_chunks=True,
    )


def _flags(name: str, long_name: str, flags: tuple[str, ...]) -> Variable:
    return Variable(name=name, dims=_VOLUME, dtype="uint8", long_name=long_name, per_session_chunks=True, flags=flags)


IMAGES: tuple[Variable, ...] = (
    *(_image(contrast, f"aligned {contrast} image, arbitrary unit") for contrast in CONTRASTS),
    _image("T1map", "longitudinal relaxation time", "s"),
    _image("T2map", "transverse relaxation time", "s"),
    _image("PDmap", "proton density relative to cerebrospinal fluid"),
    _image("T1map_sd", "standard uncertainty of T1map", "s"),
    _image("T2map_sd", "standard uncertainty of T2map", "s"),
    _image("PDmap_sd", "standard uncertainty of PDmap"),
    _image("residual", "re-synthesised minus acquired, root mean square over contrasts, relative to the brain median"),
    _flags("brain_mask", "parenchyma, ventricles and the CSF in sulci", ("outside", "brain")),
    _flags("tissue", "tissue class", ("none", "csf", "grey_matter", "white_matter")),
)
"""Variables of a group with one volume per session, written by workers."""

AFFINE = Variable(
    name="affine",
    dims=("session", "affine_row", "affine_column"),
    dtype="float64",
    long_name="homogeneous voxel index in the order x, y, z to RAS millimetres in the session's scanner frame",
    per_session_chunks=True,
)

BIAS_FIELDS: tuple[Variable, ...] = tuple(
    Variable(
        name=f"{contrast}_bias_field",
        dims=("session", "field_z", "field_y", "field_x"),
        dtype="float32",
        units="1",
        long_name=f"field by which {contrast} was divided, at nodes even from the first to the last voxel of each axis",
        significant_bits=IMAGE_BITS,
        per_session_chunks=True,
    )
    for contrast in CONTRASTS
)

DIGEST = Variable(
    name="digest",
    dims=("session", "image"),
    dtype="str",
    long_name="digest of the stored content of each image; empty if not computed",
    per_session_chunks=True,
)


def _number(name: str, units: str, long_name: str) -> Variable:
    return Variable(name=name, dims=("session",), dtype="float64", units=units, long_name=long_name)


def _text(name: str, long_name: str) -> Variable:
    return Variable(name=name, dims=("session",), dtype="str", long_name=long_name)


def _of_contrast(contrast: str) -> tuple[Variable, ...]:
    return (
        _text(f"{contrast}_sequence", f"pulse-sequence family of {contrast}"),
        _number(f"{contrast}_repetition_time", "s", f"repetition time of {contrast}, the full cycle"),
        _number(f"{contrast}_echo_time", "s", f"echo time of {contrast} at the centre of k-space"),
        _number(f"{contrast}_inversion_time", "s", f"inversion time of {contrast}"),
        _number(f"{contrast}_flip_angle", "rad", f"excitation angle of {contrast}"),
        _number(f"{contrast}_echo_train_length", "1", f"echoes or readout pulses per train of {contrast}"),
        _text(f"{contrast}_model_parameters", f"further parameters of the signal model of {contrast}, JSON, SI units"),
        _number(f"{contrast}_scale", "1", f"intensity scale of {contrast}: stored value per unit of model signal"),
        _number(f"{contrast}_white_matter_signal", "1", f"median of {contrast} in the core of white matter"),
        _number(f"{contrast}_grey_matter_signal", "1", f"median of {contrast} in the core of grey matter"),
        _number(f"{contrast}_csf_signal", "1", f"median of {contrast} in the core of cerebrospinal fluid"),
        _number(f"{contrast}_alignment", "nat", f"mutual information of {contrast} and T1w after alignment"),
    )


def _quality_of_contrast(contrast: str) -> tuple[Variable, ...]:
    return (
        _number(f"{contrast}_snr", "1", f"white matter of {contrast} over its noise"),
        _number(f"{contrast}_contrast", "1", f"difference of white and grey matter over their sum in {contrast}"),
        _number(f"{contrast}_sharpness", "mm-1", f"steepness of {contrast} where grey meets white matter"),
        _number(f"{contrast}_artefacts", "1", f"share of the air around the head of {contrast} that holds signal"),
        _number(f"{contrast}_ghosts", "1", f"amplitude of the strongest shifted copy of the head in {contrast}"),
        _number(f"{contrast}_focus", "1", f"entropy-focus criterion of {contrast}; motion, blur and noise raise it"),
    )


_DIGESTS_OF_INPUT = (
    _text("input_digest", "digest of the source bytes that were used"),
    _text("code_version", "version of the code that wrote the session"),
    _text("preprocessing_version", "version and settings of the preprocessing"),
    _text("calibration_version", "version of the calibration behind the maps"),
    _text("checkpoint_digest", "digest of the checkpoint that made the maps"),
)
_QUALITY = (
    _number("brain_volume", "l", "volume of brain_mask"),
    _number("coverage", "1", "share of the brain that all contrasts cover"),
    _number("alignment_residual", "mm", "mean distance in the brain by which aligning series in a circle misses"),
    *(variable for contrast in CONTRASTS for variable in _quality_of_contrast(contrast)),
    _text(
        "quality_marks",
        "quality figures beyond their limits and what else to look at, joined by commas; empty if nothing is",
    ),
)
_STATE = (
    _text("status", "complete, partial, skipped or failed"),
    _text("reason", "why the session is not complete"),
    _text("contrasts", "contrasts that were used, joined by commas"),
    _text("person", "pseudonym of the person"),
)

PER_SESSION: tuple[Variable, ...] = (
    *_STATE,
    _text("reference_contrast", "contrast whose frame the session keeps"),
    _text("sex", "F, M, O or empty"),
    _number("age", "a", "age in whole years, 90 and above as 90"),
    _number("day", "d", "whole days since the person's first session"),
    _number(
        "scanner_day", "d", "whole days since the first session that was found of the scanner; NaN unless opted in"
    ),
    _number("synthesis_residual", "1", "median of residual in the brain"),
    _number("magnetic_field_strength", "T", "static field"),
    _text("software", "keyed digest of the scanner's software version"),
    *(variable for contrast in CONTRASTS for variable in _of_contrast(contrast)),
    *_QUALITY,
    *_DIGESTS_OF_INPUT,
)
"""Variables of a group with one value per session, written by the committer."""


def _column(variable: Variable) -> Variable:
    return Variable(
        name=variable.name, dims=("row",), dtype=variable.dtype, units=variable.units, long_name=variable.long_name
    )


CATALOGUE: tuple[Variable, ...] = tuple(
    _column(variable)
    for variable in (
        _text("session", "pseudonym of the session"),
        *_STATE,
        _text("group", "scanner/protocol that holds the session's arrays; empty if none does"),
        _text("scanner", "scanner key"),
        _text("protocol", "protocol key"),
        _text("stage", "stage at which the session failed or was skipped"),
        _text("error", "type of the error"),
        _text("explanation", "why, in words, without any text from a header"),
        _text("series", "what was decided on each series and why, JSON: number, decision, explanation"),
        _text("remarks", "what to know of the session, JSON: kind, sentence"),
        *_QUALITY,
        *_DIGESTS_OF_INPUT,
        _number("n_series", "1", "series found"),
        _number("duration", "s", "processing time"),
        _text("stages", "seconds of each stage, JSON: run, stage, seconds"),
    )
)
"""Columns of ``/catalogue``; one row per session ever seen."""

IMAGE_NAMES = tuple(variable.name for variable in IMAGES)
WORKER_VARIABLES = {variable.name: variable for variable in (*IMAGES, *BIAS_FIELDS, AFFINE)}
SESSION_VARIABLES = {variable.name: variable for variable in (AFFINE, DIGEST, *BIAS_FIELDS, *PER_SESSION)}
EXTENDED = (*IMAGES, *SESSION_VARIABLES.values())
"""Variables that grow with the session axis, beside the coordinate itself."""

CATALOGUE_COLUMNS = {variable.name: variable for variable in CATALOGUE}
SHARED = tuple(variable.name for variable in PER_SESSION if variable.name in CATALOGUE_COLUMNS)
"""Values that stand in a group and in the catalogue; one commit writes them to both."""


def slab_of(shape: tuple[int, int, int]) -> int:
    """Slices per chunk for volumes of ``shape`` (z, y, x), evenly divided."""
    z, y, x = shape
    slices = max(1, CHUNK_BYTES // (4 * y * x))
    return math.ceil(z / math.ceil(z / slices))


def chunks_of(variable: Variable, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunk shape of a variable of a group or of the catalogue."""
    if variable.dims == _VOLUME:
        return (1, slab_of((shape[1], shape[2], shape[3])), *shape[2:])
    if variable.per_session_chunks:
        return (1, *shape[1:])
    return (ROWS_PER_CHUNK if variable.dims == ("row",) else SESSIONS_PER_CHUNK, *shape[1:])


def create_variable(group: zarr.Group, variable: Variable, shape: tuple[int, ...]) -> None:
    """Create the empty array of one row of the schema."""
    options: dict[str, Any] = {}
    if variable.dims == _VOLUME:
        itemsize = np.dtype(variable.dtype).itemsize
        # Blosc believes the length in its own header: of a chunk cut short it reads on in foreign memory, and may
        # return values. The checksum is tested before.
        options["compressors"] = (
            BloscCodec(cname="zstd", clevel=ZSTD_LEVEL, shuffle="shuffle", typesize=itemsize, blocksize=BLOCK_BYTES),
            Crc32cCodec(),
        )
    group.create_array(
        variable.name,
        shape=shape,
        chunks=chunks_of(variable, shape),
        dtype=str if variable.dtype == "str" else variable.dtype,
        fill_value=variable.fill,
        dimension_names=variable.dims,
        attributes=variable.attributes,
        **options,
    )


def create_group(parent: zarr.Group, path: str, grid: Grid) -> zarr.Group:
    """Create the node of a group with no session yet."""
    scanner, protocol = path.split("/")
    group = parent.require_group(scanner).create_group(
        protocol, attributes={"scanner": scanner, "protocol": protocol, "spacing": list(grid.spacing)}
    )
    inner_shapes = {
        _VOLUME: grid.shape,
        AFFINE.dims: (4, 4),
        DIGEST.dims: (len(IMAGES),),
        BIAS_FIELDS[0].dims: FIELD_SHAPE,
    }
    for variable in EXTENDED:
        inner = inner_shapes.get(variable.dims, ())
        create_variable(group, variable, (0, *inner))
    create_image_names(group)
    create_variable(group, _text("session", "pseudonym of the session"), (0,))
    for axis in "zyx":
        positions = grid.coordinates(axis)
        coordinate = Variable(
            name=axis, dims=(axis,), dtype="float64", units="mm", long_name=f"position along the grid's RAS axis {axis}"
        )
        array = group.create_array(
            axis,
            shape=positions.shape,
            chunks=positions.shape,
            dtype="float64",
            fill_value=math.nan,
            dimension_names=(axis,),
            attributes=coordinate.attributes | {"axis": axis.upper()},
        )
        array[:] = positions
    return group


def create_image_names(group: zarr.Group) -> None:
    """Create the coordinate of `DIGEST`: the images' names."""
    variable = Variable(name="image", dims=("image",), dtype="str", long_name="variable that a digest is of")
    create_variable(group, variable, (len(IMAGES),))
    group[variable.name][:] = np.asarray(IMAGE_NAMES, dtype=object)  # type: ignore[index]


def create_root(store: Any, *, version: int = SCHEMA_VERSION) -> zarr.Group:  # noqa: ANN401 - zarr's own StoreLike
    """Create the root node and the empty catalogue."""
    root = zarr.create_group(
        store, zarr_format=3, attributes={"schema_version": version, "promoted_checkpoint": "", "title": "cohort"}
    )
    catalogue = root.create_group("catalogue")
    for variable in CATALOGUE:
        create_variable(catalogue, variable, (0,))
    return root


def rounded(array: NDArray[Any], variable: Variable) -> NDArray[Any]:
    """Convert an array to what the store holds: dtype of the variable, mantissa rounded, one NaN.

    Raises
    ------
    ValueError
        If a value does not fit the variable's dtype.
    """
    result = np.ascontiguousarray(array, dtype=variable.dtype)
    if result.dtype.kind != "f":
        if not np.array_equal(result, array):
            raise ValueError(f"{variable.name}: values do not fit {variable.dtype}; NaN is {NOT_COMPUTED} there")
        return result
    if variable.significant_bits >= 23:
        return result
    keep = BitRound(variable.significant_bits)  # it wraps NaN of other bits, and leaves this one and infinity
    result = np.array(result)
    values = result.reshape(-1)
    for start in range(0, values.size, _ROUNDED_AT_ONCE):
        some = values[start : start + _ROUNDED_AT_ONCE]
        np.copyto(some, np.float32(np.nan), where=np.isnan(some))
        some[...] = keep.encode(some).view(np.float32)
    return result
