"""NIfTI volumes: BIDS trees, and plain folders with an assume file."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from qmri_core.series.acquisition import Contrast
from qmri_core.series.classification import Context, SkipReason
from qmri_core.series.geometry import Volume, spacing_of
from storage.pseudonyms import pseudonym
from storage.source.assume_file import header_of
from storage.source.damage import DamagedError, library_errors
from storage.source.pixels import check_size
from storage.source.series import NO_AFFINE, LinkageRow, ReadError, Series
from storage.source.stacks import matrix

_NIBABEL = (
    OSError, EOFError, ValueError, TypeError, LookupError, ImageFileError, HeaderDataError, zlib.error, OverflowError,
)  # fmt: skip
"""What nibabel raises on damaged files."""

_BIDS = re.compile(r"(?P<person>sub-[A-Za-z0-9]+)(?:_(?P<session>ses-[A-Za-z0-9]+))?_(?:.*_)?(?P<suffix>[A-Za-z0-9]+)$")
_CONTRASTS = {contrast.value: contrast for contrast in Contrast}
_SUFFIXES = {
    "bold": SkipReason.EPI, "sbref": SkipReason.EPI, "epi": SkipReason.EPI, "asl": SkipReason.EPI,
    "dwi": SkipReason.DIFFUSION, "phase": SkipReason.PHASE, "phase1": SkipReason.PHASE, "phase2": SkipReason.PHASE,
    "phasediff": SkipReason.PHASE, "fieldmap": SkipReason.FIELD_MAP, "magnitude": SkipReason.FIELD_MAP,
    "magnitude1": SkipReason.FIELD_MAP, "magnitude2": SkipReason.FIELD_MAP, "dseg": SkipReason.DERIVED,
    "mask": SkipReason.DERIVED, "probseg": SkipReason.DERIVED, "T1map": SkipReason.DERIVED, "T2map": SkipReason.DERIVED,
    "PDmap": SkipReason.DERIVED, "UNIT1": SkipReason.DERIVED, "defacemask": SkipReason.DERIVED,
}  # fmt: skip


def is_nifti(name: str) -> bool:
    """Whether a file name is that of a NIfTI volume."""
    return name.endswith((".nii", ".nii.gz"))


def scan_nifti(path: str, relative: str, *, key: bytes) -> tuple[Series, LinkageRow] | None:
    """Read the header of one NIfTI file and its sidecar; None if it is no readable NIfTI.

    A contrast is set only where a BIDS suffix says so; all else comes from the sidecar's numbers.
    """
    image = _image_header(path)
    if image is None:
        return None
    stem = PurePosixPath(relative).name.removesuffix(".gz").removesuffix(".nii")
    sidecar, text = _sidecar(path)
    image.digest.update(text)
    person, session, suffix = _labels(relative, stem)
    header = header_of(sidecar)
    software = _text(sidecar, "SoftwareVersions")
    if software:
        header = replace(header, software=pseudonym(key, "software", software))
    named = _named_problem(relative, stem, suffix)
    problem, explanation = named or _geometry_problem(image.shape, image.affine, oriented=image.is_oriented)
    number = sidecar.get("SeriesNumber")
    columns, rows, slices = (*image.shape, 1, 1, 1)[:3]
    steps = spacing_of(image.affine)
    agent = "_ce-" in stem
    series = Series(
        session=pseudonym(key, "session", person, session),
        person=pseudonym(key, "person", person),
        device=pseudonym(key, "device", header.manufacturer, *_device(sidecar)),
        number=int(number) if isinstance(number, int) else 0,
        header=header,
        shape=(columns, rows, slices),
        spacing=(float(steps[0]), float(steps[1]), float(steps[2])),
        affine=NO_AFFINE if problem is SkipReason.INCOMPLETE else matrix(image.affine),
        n_instances=1,
        digest=image.digest.hexdigest(),
        kind="nifti",
        paths=(path,),
        frames=(),
        problem=problem,
        explanation=explanation,
        contrast=None if agent or named is not None else _CONTRASTS.get(suffix),
        context=Context(contrast_agent=agent),
    )
    folder = PurePosixPath(relative).parent.as_posix()
    return series, LinkageRow(session=series.session, patient_id=person, study_instance_uid=session, path=folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ImageHeader:
    """What the header of a NIfTI file says, and the digest of the file's bytes, which the sidecar's follow."""

    shape: tuple[int, ...]
    affine: np.ndarray
    is_oriented: bool
    digest: hashlib._Hash


def _image_header(path: str) -> _ImageHeader | None:
    try:
        with warnings.catch_warnings(), library_errors(_NIBABEL):
            warnings.simplefilter("ignore")
            image: Any = nibabel.load(path)
            shape, affine = tuple(map(int, image.shape)), np.asarray(image.affine, dtype=np.float64)
            codes = int(image.header["qform_code"]), int(image.header["sform_code"])
        with open(path, "rb") as file:  # noqa: PTH123
            digest = hashlib.file_digest(file, "sha256")
    except (DamagedError, OSError):
        return None
    return _ImageHeader(shape=shape, affine=affine, is_oriented=max(codes) > 0, digest=digest)


def _device(sidecar: Mapping[str, Any]) -> tuple[str, str]:
    """What tells a scanner from others of its maker: model, and serial number or station."""
    serial = _text(sidecar, "DeviceSerialNumber") or _text(sidecar, "StationName")
    return _text(sidecar, "ManufacturersModelName"), serial


def _text(sidecar: Mapping[str, Any], name: str) -> str:
    """A text of the sidecar; JSON may hold halves of characters, which are replaced."""
    return str(sidecar.get(name) or "").encode(errors="replace").decode()


def _named_problem(relative: str, stem: str, suffix: str) -> tuple[SkipReason, str] | None:
    """Why a BIDS name makes a file no image of a contrast, if it does."""
    is_derived = "derivatives" in PurePosixPath(relative).parts or re.search(r"_(desc|label|space)-", stem)
    named = SkipReason.DERIVED if is_derived else _SUFFIXES.get(suffix)
    if "_part-phase" in stem or "_part-real" in stem or "_part-imag" in stem:
        named = SkipReason.PHASE
    if named is None:
        return None
    return named, f"a file of the BIDS kind {suffix if suffix in _SUFFIXES else 'derived'}"


def _labels(relative: str, stem: str) -> tuple[str, str, str]:
    """Person, session and suffix: from BIDS entities, else the folder that holds the file and its parent."""
    match = _BIDS.match(stem)
    if match:
        return match["person"], match["session"] or "", match["suffix"]
    folder = PurePosixPath(relative).parent
    person = folder.parent if folder.parent.as_posix() != "." else folder
    return person.as_posix(), folder.as_posix(), ""


def _geometry_problem(shape: tuple[int, ...], affine: np.ndarray, *, oriented: bool) -> tuple[SkipReason | None, str]:
    if len(shape) < 3 or any(size != 1 for size in shape[3:]):
        return SkipReason.INCOMPLETE, f"an image of shape {shape}, not one volume"
    if not oriented:
        return SkipReason.INCOMPLETE, "no orientation in the header: qform and sform codes are 0"
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        return SkipReason.INCOMPLETE, "the affine is singular"
    return None, ""


def _sidecar(path: str) -> tuple[Mapping[str, Any], bytes]:
    """Content of the JSON file of the same name, and as text in a fixed order; empty if it is no JSON object."""
    content: object = {}
    beside = path.removesuffix(".gz").removesuffix(".nii") + ".json"
    with suppress(OSError, ValueError, RecursionError), open(beside, encoding="utf-8") as file:  # noqa: PTH123
        content = json.load(file)
    content = content if isinstance(content, dict) else {}
    with library_errors((RecursionError,)):  # what json reads with the whole stack, it cannot always write
        return content, json.dumps(content, sort_keys=True).encode()


def read_nifti(series: Series) -> Volume:
    """Voxels with the header's scaling applied, and the affine.

    Raises
    ------
    ReadError
        If the file cannot be read whole, or declares a volume that no memory would hold.
    """
    check_size(series)
    try:
        with warnings.catch_warnings(), library_errors((*_NIBABEL, MemoryError)):
            warnings.simplefilter("ignore")
            image: Any = nibabel.load(series.paths[0])
            data = np.asarray(image.dataobj, dtype=np.float32)
    except DamagedError as error:
        raise ReadError(
            f"session {series.session}: a NIfTI file of shape {series.shape} cannot be read ({error.kind}); "
            "copy it again from its origin"
        ) from None
    array = np.ascontiguousarray(data.reshape(series.shape).T)
    return Volume(array=array, affine=np.asarray(series.affine, dtype=np.float64))
