"""Sidecars of NIfTI files: which JSON files belong to an image by the inheritance of BIDS, and what they say together.

A JSON file belongs to an image if it lies in the folder of the image or one above it, up to the root of the dataset,
has the image's suffix, and no entity that the image has not. The one that lies deeper, then the one with more entities,
has the last word. Beside BIDS, a file that lies beside an image of exactly its own name belongs to that one alone:
what an exporter wrote of one image is not said of another.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePath
from typing import Any

from storage.source.bids.names import is_nifti, parse, stem_of
from storage.source.damage import DamagedError, library_errors

MAX_BYTES = 64 * 2**20
"""Of one sidecar; with private elements of all slices one has a few megabytes."""

_FOLDERS = 1024  # folders whose listing is kept

_LONGEST: Mapping[str, float] = {"RepetitionTime": 30.0, "EchoTime": 1.0, "InversionTime": 10.0}
"""Seconds above which a time is none of an image of these contrasts; those of an assume file end there too."""

SMALLEST, SMALLEST_OF_SPIN_ECHO = 1.0, 5.0
"""Degrees below which a flip angle is none of a gradient echo, and of a spin echo: in radians all are below."""

_TIMES = (*_LONGEST, "RepetitionTimePreparation", "RepetitionTimeExcitation")


@dataclass(slots=True)
class Folders:
    """JSON files and images of folders, each listed once; for one pass over a source."""

    _listed: dict[str, tuple[dict[str, str], frozenset[str]]] = field(default_factory=dict)

    def of(self, folder: str) -> tuple[dict[str, str], frozenset[str]]:
        """File names of the JSON files of a folder by their stems, and the stems of its images."""
        if folder not in self._listed:
            if len(self._listed) >= _FOLDERS:
                self._listed.clear()
            try:
                names = sorted(os.listdir(folder))  # noqa: PTH208
            except OSError:
                names = []
            found = {name[:-5]: name for name in names if name.lower().endswith(".json")}
            self._listed[folder] = found, frozenset(stem_of(name) for name in names if is_nifti(name))
        return self._listed[folder]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What the JSON files of one image say together; no value at all if one of them cannot be read."""

    values: Mapping[str, Any] = field(repr=False)
    problem: str
    """Why there is no value; empty if there is no such reason."""


def paths_of(path: str, folders: Folders) -> list[str]:
    """JSON files that belong to an image, in the order in which their values are taken; later ones have more say."""
    here, name = os.path.split(path)
    stem = stem_of(name)
    parsed = parse(stem)
    if parsed is None:
        jsons, _ = folders.of(here)
        return [os.path.join(here, jsons[stem])] if stem in jsons else []  # noqa: PTH118
    *entities, suffix = stem.split("_")
    result = []
    for folder in folders_of(here, parsed.person):
        jsons, images = folders.of(folder)
        fitting = []
        for other, file in jsons.items():
            *parts, kind = other.split("_")
            is_own_of_another = other in images and (folder != here or other != stem)
            if kind == suffix and set(parts) <= set(entities) and not is_own_of_another:
                fitting.append((len(parts), file))
        result += [os.path.join(folder, file) for _, file in sorted(fitting)]  # noqa: PTH118
    return result


@lru_cache(maxsize=256)
def folders_of(folder: str, person: str) -> tuple[str, ...]:
    """Folders from the root of the dataset, which holds the person's, down to the one given.

    Kept, since it is asked for every image of a folder.
    """
    parts = PurePath(folder).parts
    places = [place for place, part in enumerate(parts) if part == person]
    first = places[-1] if places else len(parts)
    return tuple(os.path.join(*parts[:end]) for end in range(max(1, first), len(parts) + 1))  # noqa: PTH118


def stamp_of_sidecars(path: str, folders: Folders) -> str:
    """What changes when a sidecar of an image is written, comes or goes; empty without sidecars."""
    states = []
    for sidecar in paths_of(path, folders):
        try:
            state = os.stat(sidecar)  # noqa: PTH116
            states.append(f"{sidecar} {state.st_size} {state.st_mtime_ns}")
        except OSError:
            states.append(sidecar)
    return hashlib.sha256("\n".join(states).encode(errors="surrogateescape")).hexdigest()[:16] if states else ""


def read_sidecar(path: str, folders: Folders) -> Sidecar:
    """Read the sidecars of an image, whatever they are encoded in."""
    values: dict[str, Any] = {}
    for sidecar in paths_of(path, folders):
        try:
            content = json_of(sidecar)
        except (DamagedError, OSError) as error:
            kind = error.kind if isinstance(error, DamagedError) else type(error).__name__
            return Sidecar(values={}, problem=f"a sidecar cannot be read ({kind}): no number is taken from it")
        if not isinstance(content, dict):
            return Sidecar(values={}, problem="a sidecar is no JSON object: no number is taken from it")
        values |= content
    return Sidecar(values=values, problem="")


def json_of(path: str) -> object:
    """Content of a JSON file in UTF-8, UTF-16 or UTF-32, with a mark of its order of bytes or without, or Latin-1.

    Raises
    ------
    DamagedError, OSError
        If it is no JSON, or cannot be read.
    """
    with open(path, "rb") as file:  # noqa: PTH123
        raw = file.read(MAX_BYTES)
    with library_errors((ValueError, RecursionError)):
        try:
            return json.loads(raw)
        except UnicodeDecodeError:
            return json.loads(raw.decode("latin-1"))


def as_text(values: Mapping[str, Any]) -> bytes:
    """Values as text in a fixed order, for the digest of an image."""
    with library_errors((RecursionError,)):  # what json reads with the whole stack, it cannot always write
        return json.dumps(values, sort_keys=True).encode()


def with_cycle(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with the repetition time of the cycle, which newer sidecars name ``RepetitionTimePreparation``.

    ``RepetitionTime`` stays unless it is absent, or the time between excitations where that of the cycle is given.
    """
    stated, cycle, inner = (
        number(values.get(f"RepetitionTime{kind}")) for kind in ("", "Preparation", "Excitation")
    )  # fmt: skip
    result = dict(values)
    is_inner = stated is not None and inner is not None and math.isclose(stated, inner, rel_tol=0.01)
    if cycle is not None and (stated is None or is_inner):
        result["RepetitionTime"] = cycle
    elif stated is None and inner is not None:
        result["RepetitionTime"] = inner
    return result


def impossible_times(values: Mapping[str, Any]) -> str:
    """What of the times and angles can be none in seconds and degrees, in words; empty if all may be."""
    for name in (*_TIMES, "FlipAngle"):
        value = values.get(name)
        if value is not None and not isinstance(value, int | float):
            return f"{name} is no number"
        if isinstance(value, float) and not math.isfinite(value):
            return f"{name} is not finite"
    angle = number(values.get("FlipAngle"))
    is_spin_echo = "SE" in str(values.get("ScanningSequence") or "").upper()
    if angle is not None and angle < (SMALLEST_OF_SPIN_ECHO if is_spin_echo else SMALLEST):
        return f"FlipAngle {angle:g} degrees is too small for its sequence; were radians passed?"
    for name, longest in _LONGEST.items():
        value = number(values.get(name))
        if value is not None and value > longest:
            return f"{name} {value:g} s is above {longest:g} s; were milliseconds passed?"
    echo, repetition = number(values.get("EchoTime")), number(values.get("RepetitionTime"))
    if echo is not None and repetition is not None and echo >= repetition:
        return f"EchoTime {echo:g} s is not below RepetitionTime {repetition:g} s; were milliseconds passed?"
    return ""


def without_times(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values without any time, so that none is taken beside one that is wrong."""
    return {name: value for name, value in values.items() if name not in _TIMES}


_DATES = ("AcquisitionDateTime", "AcquisitionDate", "SeriesDate", "StudyDate")
_CLOCK = re.compile(r"(?:.*[T ]|\d{8})?(\d\d):?(\d\d):?(\d\d(?:\.\d*)?)(?:Z|[+-]\d\d:?\d\d)?")


def date_in(values: Mapping[str, Any]) -> str:
    """Date of the acquisition as it is written, with its time where there is one; empty if nothing says."""
    stated = next((written for name in _DATES if (written := text(values, name).strip())), "")
    clock = text(values, "AcquisitionTime").strip()
    if stated and clock and not _CLOCK.fullmatch(stated):
        return f"{stated}T{clock}"
    return re.sub(r"^(\d{8})(?=\d{6})", r"\1T", stated)  # as DICOM writes it


def clock_in(values: Mapping[str, Any]) -> float | None:
    """Seconds since midnight at the acquisition; None if nothing says, or midnight itself, which stands in for none."""
    for name in ("AcquisitionDateTime", "AcquisitionTime"):
        if match := _CLOCK.fullmatch(text(values, name).strip()):
            return int(match[1]) * 3600.0 + int(match[2]) * 60.0 + float(match[3]) or None
    return None


def number(value: object) -> float | None:
    """A number above 0; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:  # JSON has whole numbers of any length
        return None
    return result if math.isfinite(result) and result > 0 else None


def text(values: Mapping[str, Any], name: str) -> str:
    """A text of the sidecar; JSON may hold halves of characters, which are replaced."""
    return str(values.get(name) or "").encode(errors="replace").decode()
