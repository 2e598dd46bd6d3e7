"""Discovery: what a tree of DICOM or NIfTI files holds, from headers alone."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from qmri_core.acquisition import SeriesHeader
from qmri_core.classification import Context, SkipReason
from qmri_core.geometry import Volume
from storage.assumptions import Assumption, AssumptionError, fill, load_assumptions, matching
from storage.dicom import Frame, Instance, scan_file
from storage.nifti import is_nifti, read_nifti, scan_nifti
from storage.pixels import read_dicom
from storage.pseudonyms import pseudonym
from storage.series import LinkageRow, ReadError, Series, SourceError, SourceNotFoundError, decide, decide_session
from storage.stacks import Stack, same_orientation, same_timing, split, stacks

__all__ = [
    "Assumption", "AssumptionError", "Discovery", "LinkageRow", "ReadError", "Series", "SourceError",
    "SourceNotFoundError", "decide", "decide_session", "discover", "load_assumptions", "read_volume",
]  # fmt: skip

_SIDECARS = (".json", ".tsv", ".bval", ".bvec", ".yaml", ".yml", ".md", ".txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Everything found in a source.

    ``n_files`` counts all files; ``unreadable`` counts files that are no image by reason. ``unmatched`` holds the
    positions of assume entries that matched no series: a wrong glob, usually. The linkage is for
    the linkage table only.
    """

    series: tuple[Series, ...]
    n_files: int
    unreadable: Mapping[SkipReason, int]
    unmatched: tuple[int, ...] = ()
    linkage: tuple[LinkageRow, ...] = field(default=(), repr=False)


def discover(
    source: Path,
    *,
    key: bytes,
    assume: Many[Assumption] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Discovery:
    """Find the series of a source tree, or of a single file.

    Names of files and folders count for nothing, except BIDS suffixes, the globs of ``assume``, and folders as
    sessions of NIfTI files without BIDS names. Only headers are parsed; files that may be ingested are read once more
    as bytes for their digest.

    Parameters
    ----------
    source
        Folder of any layout, or one file.
    key
        Key of the pseudonyms.
    assume
        What the user states; see `load_assumptions`.
    progress
        Called with the number of files done and of all files.

    Raises
    ------
    SourceError
        If the source is missing, empty or holds no image at all.
    """
    files = _files(source)
    root = source if source.is_dir() else source.parent
    frames: list[Frame] = []
    found: list[tuple[Series, LinkageRow]] = []
    n_other = 0
    for done, path in enumerate(files):
        if progress is not None and done % 50 == 0:
            progress(done, len(files))
        nifti = is_nifti(path)
        one = scan_nifti(path, _relative(path, root), key=key) if nifti else None
        scanned = None if nifti else scan_file(path)
        if one is not None:
            found.append(one)
        elif scanned is None:
            n_other += 1
        else:
            frames += scanned
    if progress is not None:
        progress(len(files), len(files))
    if not frames and not found:
        raise SourceError(_nothing(source, len(files)))
    found += _dicom_series(frames, root, key)
    series, unmatched = _assumed([one for one, _ in found], root, assume)
    series = _with_siblings(series)
    rows = {row.session: row for _, row in reversed(found)}
    return Discovery(
        series=tuple(sorted(series, key=lambda one: (one.person, one.day, one.session, one.number, one.digest))),
        n_files=len(files),
        unreadable={SkipReason.NOT_IMAGE: n_other} if n_other else {},
        unmatched=unmatched,
        linkage=tuple(rows[session] for session in sorted(rows)),
    )


def read_volume(series: Series) -> Volume:
    """Read the pixels of a series: float32 of shape (z, y, x), rescaled, with its RAS affine.

    Raises
    ------
    ReadError
        If the series is no volume or its pixels are missing or damaged.
    """
    if series.problem is not None:
        raise ReadError(
            f"session {series.session}, series {series.number} is no volume ({series.problem}): {series.explanation}"
        )
    return read_nifti(series) if series.kind == "nifti" else read_dicom(series)


def _files(source: Path) -> list[str]:
    if not source.exists():
        raise SourceNotFoundError(f"source {source} does not exist; give an existing folder of DICOM or NIfTI files")
    if source.is_file():
        return [str(source)]
    files = sorted(_walk(str(source)))
    if not files:
        raise SourceError(f"source {source} holds no file; give the folder that holds the DICOM or NIfTI files")
    return files


def _walk(folder: str) -> Iterator[str]:
    """All regular files below; folders that are links are not entered, so that a loop cannot trap the walk."""
    pending = [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.is_file() and not entry.name.lower().endswith(_SIDECARS):
                        yield entry.path
        except PermissionError as error:
            raise SourceError(
                f"a folder below the source may not be read ({error.strerror}); "
                "give this user read access to the whole source"
            ) from None


def _nothing(source: Path, n_files: int) -> str:
    if source.is_file():
        return f"{source} is neither a DICOM nor a NIfTI file; give a DICOM file, or the folder that holds the images"
    return (
        f"source {source} holds {n_files} files, none of them DICOM or NIfTI; give the folder that holds the images, "
        "with archives (zip, tar) unpacked"
    )


def _relative(path: str, root: Path) -> str:
    return Path(path).relative_to(root).as_posix()


def _dicom_series(frames: list[Frame], root: Path, key: bytes) -> Iterator[tuple[Series, LinkageRow]]:
    first_day: dict[str, int] = {}
    groups: dict[tuple[object, ...], list[Frame]] = defaultdict(list)
    for frame in frames:
        one = frame.instance
        if one.date is not None:
            person = _person(one)
            first_day[person] = min(first_day.get(person, one.date), one.date)
        groups[_study(one), one.series, one.number, one.rows, one.columns, one.problem].append(frame)
    for group in groups.values():
        problem = group[0].instance.problem
        if problem is not None:
            volumes = [Stack(frames=tuple(group))]
            context = Context()
        else:
            parts = split(group)
            volumes = [volume for part in parts for volume in stacks(part)]
            context = _context(parts)
        for volume in volumes:
            yield _series(volume, problem, context, first_day, root, key)


def _person(one: Instance) -> str:
    return one.patient or _study(one)


def _study(one: Instance) -> str:
    return one.study or one.series or one.sop_instance or one.digest


def _context(parts: list[list[Frame]]) -> Context:
    """Gather what the parts of one series identifier say about each other."""
    orientations: list[tuple[float, ...] | None] = []
    echoes: list[SeriesHeader] = []
    for part in parts:
        header = part[0].header
        if not any(same_orientation(part[0].orientation, known) for known in orientations):
            orientations.append(part[0].orientation)
        if not any(same_timing(header, known) for known in echoes) and header.echo_time is not None:
            echoes.append(header)
    return Context(n_orientations=len(orientations), n_echoes=max(1, len(echoes)))


def _series(
    volume: Stack,
    problem: SkipReason | None,
    context: Context,
    first_day: Mapping[str, int],
    root: Path,
    key: bytes,
) -> tuple[Series, LinkageRow]:
    first = volume.frames[0]
    one = first.instance
    paths = tuple(sorted({frame.instance.path for frame in volume.frames}))
    place = {path: index for index, path in enumerate(paths)}
    explanation = volume.defect
    if problem is None and volume.is_copy:
        problem, explanation = SkipReason.DUPLICATE, "the same instances as in another copy that is taken"
    elif problem is None and volume.defect:
        problem = SkipReason.INCOMPLETE
    digest = hashlib.sha256()
    for part in sorted({(frame.instance.digest, frame.index) for frame in volume.frames}):
        digest.update(repr(part).encode())
    person = _person(one)
    software = pseudonym(key, "software", first.software) if first.software else ""
    series = Series(
        session=pseudonym(key, "session", one.patient, _study(one)),
        person=pseudonym(key, "person", person),
        device=pseudonym(key, "device", one.device),
        number=one.number,
        header=replace(first.header, software=software),
        shape=volume.shape,
        spacing=volume.spacing,
        affine=volume.affine,
        n_instances=len({id(frame.instance) for frame in volume.frames}),
        digest=digest.hexdigest(),
        kind="dicom",
        paths=paths,
        frames=tuple((place[frame.instance.path], frame.index) for frame in volume.frames),
        problem=problem,
        explanation=explanation,
        context=replace(
            context,
            n_volumes=volume.n_volumes,
            diffusion="diffusion" in first.traits,
            angiography="angiography" in first.traits,
            contrast_agent="contrast_agent" in first.traits,
        ),
        sex=one.sex,
        age=one.age,
        day=0 if one.date is None else one.date - first_day[person],
    )
    folder = PurePosixPath(_relative(one.path, root)).parent.as_posix()
    row = LinkageRow(session=series.session, patient_id=one.patient, study_instance_uid=one.study, path=folder)
    return series, row


def _assumed(found: list[Series], root: Path, assume: Many[Assumption]) -> tuple[list[Series], tuple[int, ...]]:
    """Fill what headers lack from the first matching entry; the digest then covers the entry too."""
    used: set[int] = set()
    result = []
    for series in found:
        index = matching(assume, _relative(series.paths[0], root)) if assume else None
        if index is None:
            result.append(series)
            continue
        used.add(index)
        entry = assume[index]
        header = fill(series.header, entry.parameters)
        stated = f"{series.digest}\0{entry.contrast}\0{sorted((n, getattr(header, n)) for n in header.assumed)!r}"
        result.append(
            replace(
                series,
                header=header,
                contrast=entry.contrast or series.contrast,
                digest=hashlib.sha256(stated.encode()).hexdigest(),
            )
        )
    return result, tuple(index for index in range(len(assume)) if index not in used)


def _with_siblings(found: Iterable[Series]) -> list[Series]:
    """Tell each series of phase images and of further inversion times of the same acquisition in its session."""
    sessions: dict[str, list[Series]] = defaultdict(list)
    for series in found:
        sessions[series.session].append(series)
    result = []
    for members in sessions.values():
        volumes = [one for one in members if one.shape != (0, 0, 0)]
        for series in members:
            alike = [one for one in volumes if one.shape == series.shape and _same_preparation(one, series)]
            times = {round(one.header.inversion_time, 3) for one in alike if one.header.inversion_time is not None}
            has_phase = any({"P", "PHASE"} & set(one.header.image_type) for one in alike)
            context = replace(series.context, n_inversion_times=max(1, len(times)), has_phase=has_phase)
            result.append(replace(series, context=context))
    return result


def _same_preparation(one: Series, other: Series) -> bool:
    return (
        same_timing(replace(one.header, echo_time=None), replace(other.header, echo_time=None))
        and one.header.scanning_sequence == other.header.scanning_sequence
    )
