"""NIfTI volumes: BIDS trees, and plain folders with an assume file."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from qmri_core.series.acquisition import Contrast
from qmri_core.series.classification import Context, SkipReason
from qmri_core.series.geometry import Volume, spacing_of
from qmri_core.series.remarks import Remark, RemarkKind
from storage.pseudonyms import pseudonym
from storage.source.assume_file import header_of
from storage.source.bids.names import CONTRASTS, BidsName, has_agent, is_nifti, labels, other_kind, parse, stem_of
from storage.source.bids.place import Place, place_of
from storage.source.bids.sidecars import (
    Folders,
    as_text,
    clock_in,
    impossible_times,
    number,
    read_sidecar,
    text,
    with_cycle,
    without_times,
)
from storage.source.bids.tables import Columns, age_in_words, sex_of
from storage.source.damage import NIBABEL, DamagedError, library_errors
from storage.source.dicom.bits import check_sign
from storage.source.dicom.header import names_agent, notes_agent
from storage.source.dicom.names import traits_of_names
from storage.source.dicom.pixels import check_size
from storage.source.files import is_shorter
from storage.source.series import NO_AFFINE, LinkageRow, ReadError, Series
from storage.source.stacks import matrix

__all__ = ["is_nifti", "read_nifti", "scan_nifti", "session_by_name"]

_DUAL_ECHO = "PDT2"
"""Suffix of the two echoes of one acquisition in one file, in the order of the sidecar's echo times."""

DARK_RIM = 0.2
"""Of the 98th percentile of an image: a hole of NaN whose rim has its lower quartile below is one of a threshold, which
took fluid or bone with the air. Simulated heads at 3 mm: 0.10 and 0.11; a block cut from tissue: 0.34 to 0.80."""


def scan_nifti(
    path: str, relative: str, *, key: bytes, folders: Folders | None = None
) -> tuple[Series, LinkageRow] | None:
    """Read the header of one NIfTI file and its sidecars; None if it is no readable NIfTI.

    What a BIDS suffix says of the contrast is kept as the name's word; all else comes from the numbers of sidecars.

    Parameters
    ----------
    path, relative
        Of the file, and below the source.
    key
        Key of the pseudonyms.
    folders
        Listings of folders to use again for the next file.
    """
    image = _image_header(path)
    if image is None:
        return None
    stem = stem_of(PurePosixPath(relative).name)
    name = parse(stem)
    sidecar = read_sidecar(path, folders or Folders())
    image.digest.update(as_text(sidecar.values))
    echo, values = _late_echo(image, name, with_cycle(sidecar.values))
    doubt = sidecar.problem or impossible_times(values)
    stated = values.get("SeriesNumber")
    series_number = stated if isinstance(stated, int) else 0
    if doubt:
        values = without_times(values)
    header = header_of(values)
    software = text(values, "SoftwareVersions")
    if software:
        header = replace(header, software=pseudonym(key, "software", software))
    other = None if echo is not None else other_kind(relative, name, stem)
    problem, explanation = other or _no_volume(image, is_one=echo is not None)
    columns, rows, slices = (*image.shape, 1, 1, 1)[:3]
    steps = spacing_of(image.place.affine)
    person, session = labels(relative, name)
    series = Series(
        session=pseudonym(key, "session", person, session),
        person=pseudonym(key, "person", person),
        device=pseudonym(key, "device", header.manufacturer, *_device(values)),
        number=series_number,
        header=header,
        shape=(columns, rows, slices),
        spacing=(float(steps[0]), float(steps[1]), float(steps[2])),
        affine=NO_AFFINE if problem is SkipReason.INCOMPLETE else matrix(image.place.affine),
        n_instances=1,
        digest=image.digest.hexdigest(),
        kind="nifti",
        paths=(path,),
        frames=() if echo is None else ((0, echo),),
        problem=problem,
        explanation=explanation or doubt,
        named=_named(name) if other is None else None,
        context=replace(_context(name, values), n_cut=int(image.is_cut)),
        sex=sex_of({"sex": text(values, "PatientSex")}, Columns({}))[0],
        age=age_in_words(text(values, "PatientAge"))[0],
        remarks=_remarks(series_number, {RemarkKind.PLACED: image.place.remark, RemarkKind.SIDECAR: doubt}),
    )
    folder = PurePosixPath(relative).parent.as_posix()
    return series, LinkageRow(session=series.session, patient_id=person, study_instance_uid=session, path=folder)


def _context(name: BidsName | None, values: Mapping[str, Any]) -> Context:
    """What the name and the texts of the sidecar say, as coded traits."""
    traits = set(traits_of_names(text(values, "SeriesDescription"), text(values, "ProtocolName")))
    if any(notes_agent(text(values, f"ContrastBolus{what}")) for what in ("Agent", "Ingredient")):
        traits.add("named_agent")
    return Context(
        contrast_agent=_agent(name, values),
        n_inversion_times=2 if _is_inversion(name) else 1,
        acquired=clock_in(values),
        **dict.fromkeys(traits, True),
    )


def _remarks(number: int, texts: Mapping[RemarkKind, str]) -> tuple[Remark, ...]:
    """Remarks on one series, of the kinds with something to say."""
    return tuple(Remark(kind=kind, text=f"series {number}: {text}") for kind, text in texts.items() if text)


def session_by_name(relative: str, *, key: bytes) -> str:
    """Pseudonym of the session of an image that is one of a contrast by its BIDS name; empty for all others."""
    stem = stem_of(PurePosixPath(relative).name)
    name = parse(stem)
    if name is None or name.suffix not in CONTRASTS or other_kind(relative, name, stem) is not None:
        return ""
    return pseudonym(key, "session", name.person, name.session)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ImageHeader:
    """What the header of a NIfTI file says, and the digest of the file's bytes, which the sidecar's follow."""

    shape: tuple[int, ...]
    kind: str
    """Of a voxel: ``i`` and ``u`` of integers, ``f`` of floats, others of complex numbers, colours and the like."""
    place: Place
    digest: hashlib._Hash
    is_cut: bool
    """Whether the file ends within its voxels."""


def _image_header(path: str) -> _ImageHeader | None:
    try:
        with warnings.catch_warnings(), library_errors(NIBABEL):
            warnings.simplefilter("ignore")
            image: Any = nibabel.load(path)
            shape, header = tuple(map(int, image.shape)), image.header
            kind = image.get_data_dtype().kind
            _ = header["qform_code"], header["sform_code"], header["pixdim"]  # what has none is no NIfTI
            stored = image.dataobj  # its header has forgotten where voxels begin
            expected = int(stored.offset) + math.prod(shape) * stored.dtype.itemsize
        with open(path, "rb") as file:  # noqa: PTH123
            digest = hashlib.file_digest(file, "sha256")
            is_cut = is_shorter(file, expected)
    except (DamagedError, OSError):
        return None
    place = place_of(header, shape)
    return _ImageHeader(shape=shape, kind=kind, place=place, digest=digest, is_cut=is_cut)


def _device(values: Mapping[str, Any]) -> tuple[str, str]:
    """What tells a scanner from others of its maker: model, and serial number or station."""
    serial = text(values, "DeviceSerialNumber") or text(values, "StationName")
    return text(values, "ManufacturersModelName"), serial


def _agent(name: BidsName | None, values: Mapping[str, Any]) -> bool:
    """Whether the name or the sidecar says that a contrast agent was given."""
    named = name is not None and has_agent(name)
    return named or any(names_agent(text(values, f"ContrastBolus{what}")) for what in ("Agent", "Ingredient"))


def _is_inversion(name: BidsName | None) -> bool:
    """Whether an image is one of several inversion times by its name."""
    return name is not None and "inv" in name.entities


def _named(name: BidsName | None) -> Contrast | None:
    """What a BIDS suffix calls an image; the late echo of a dual echo is called a T2w."""
    return None if name is None else Contrast.T2W if name.suffix == _DUAL_ECHO else CONTRASTS.get(name.suffix)


def _late_echo(image: _ImageHeader, name: BidsName | None, values: dict[str, Any]) -> tuple[int | None, dict[str, Any]]:
    """Place of the later echo in a file of the suffix PDT2, and the sidecar's values for it alone.

    None where the sidecar does not state the echo time of each volume.
    """
    times = values.get("EchoTime")
    if name is None or name.suffix != _DUAL_ECHO or not isinstance(times, list):
        return None, values
    known = [number(time) or 0.0 for time in times]
    if len(image.shape) != 4 or image.shape[3] != len(known) or len(set(known)) != len(known) or min(known) <= 0:
        return None, values
    return known.index(max(known)), {**values, "EchoTime": max(known)}


def _no_volume(image: _ImageHeader, *, is_one: bool) -> tuple[SkipReason | None, str]:
    """Why an image is no volume in space, if it is not; ``is_one`` if it is known which of several is meant.

    Several volumes in one file may be repeats, echoes, phases or times after a contrast agent: nothing in the header
    says which, so that neither one of them nor their mean is taken.
    """
    shape = image.shape
    if not is_one and len(shape) > 3 and any(size != 1 for size in shape[3:]):
        count = int(np.prod(shape[3:]))
        return SkipReason.INCOMPLETE, f"{count} volumes in one file, not one volume; store the one to use by itself"
    if len(shape) < 3:
        return SkipReason.INCOMPLETE, f"an image of shape {shape}, not one volume"
    if image.kind not in "iufb":
        return SkipReason.NOT_IMAGE, "voxels are complex numbers, colours or records, and no signal"
    if image.place.problem:
        return SkipReason.INCOMPLETE, image.place.problem
    return None, ""


def read_nifti(series: Series) -> Volume:
    """Voxels with the header's scaling applied, and the affine that discovery chose.

    A scale of 0 or NaN means none, as the format says. NaN around the head, and in holes that a threshold left in it,
    become 0, the value of air.

    Raises
    ------
    ReadError
        If the file cannot be read whole, declares a volume that no memory would hold, or has values that are infinite,
        missing within tissue, or below zero.
    """
    check_size(series)
    try:
        with warnings.catch_warnings(), library_errors((*NIBABEL, MemoryError)):
            warnings.simplefilter("ignore")
            image: Any = nibabel.load(series.paths[0])
            with image.file_map["image"].get_prepare_fileobj("rb") as file:
                stored: Any = type(image.header).from_fileobj(file, check=False)  # load() forgets the scale
            scale = [float(stored["scl_slope"]), float(stored["scl_inter"])]
            chosen = (..., series.frames[0][1]) if series.frames else ...
            data = np.asarray(image.dataobj[chosen], dtype=np.float32)
    except DamagedError as error:
        raise ReadError(
            f"session {series.session}: a NIfTI file of shape {series.shape} cannot be read ({error.kind}); "
            "copy it again from its origin"
        ) from None
    where = f"session {series.session}, series {series.number}"
    if np.isinf(scale).any():
        raise ReadError(f"{where}: the scale in the header is infinite; convert the image again from its origin")
    array = _finite(np.ascontiguousarray(data.reshape(series.shape).T), where)
    check_sign(array, where)
    return Volume(array=array, affine=np.asarray(series.affine, dtype=np.float64))


def _finite(array: NDArray[np.float32], where: str) -> NDArray[np.float32]:
    """Values with 0 in place of NaN that stand for air; `ReadError` for any other that is not finite."""
    infinite = int(np.isinf(array).sum())
    if infinite:
        raise ReadError(f"{where}: {infinite} voxels are infinite; convert the image again from its origin")
    missing = np.isnan(array)
    if not missing.any():
        return array
    if missing.all():
        raise ReadError(f"{where}: all voxels are NaN; convert the image again from its origin")
    lost = _lost_tissue(array, missing)
    if lost:
        raise ReadError(f"{where}: {lost} voxels within the head are NaN; convert the image again from its origin")
    return np.where(missing, np.float32(0), array)


def _lost_tissue(array: NDArray[np.float32], missing: NDArray[np.bool_]) -> int:
    """Voxels of NaN that tissue surrounds: enclosed in the image, in holes whose rim is not dark."""
    from scipy import ndimage  # memory of its own, which reading headers does not need

    holes, count = ndimage.label(ndimage.binary_fill_holes(~missing) & missing)
    bright = DARK_RIM * float(np.percentile(array[~missing], 98))
    lost = 0
    for label, place in enumerate(ndimage.find_objects(holes), start=1):
        around = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in place)
        hole = holes[around] == label
        rim = ndimage.binary_dilation(hole) & ~missing[around]
        if rim.any() and float(np.percentile(array[around][rim], 25)) > bright:
            lost += int(hole.sum())
    return lost if count else 0
