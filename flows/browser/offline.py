"""The same pages as files that open from disk: plots and numbers as served, volumes as pictures of three planes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flows.browser import libraries
from flows.browser.pages import document, script, style
from flows.browser.session import session_json
from flows.browser.thumbnails import WEBP, coded, levels_of, thumbnail_levels
from flows.browser.view import View, view_of
from flows.progress import Progress, quiet
from storage.store.cohort import Cohort, latest
from storage.store.thumbnails import PICTURED as PICTURED_ON_WALL

if TYPE_CHECKING:
    from storage.store.slots import Slot

MOST_IN_ONE = 300
"""Sessions up to which everything is in one file; beyond, those of the sessions lie in a folder beside it."""
PICTURED = ("T1map", "T2map", "PDmap", "T1w", "T2w", "FLAIR")
PLANE = 176
"""Pixels of the longer side of a plane."""
NAME = "cohort.html"
FOLDER = "sessions"


def write_pages(store: Cohort | str, out: Path, *, progress: Progress = quiet) -> Path:
    """Write ``cohort.html`` into ``out``, and beyond `MOST_IN_ONE` sessions ``sessions/`` beside it.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    StoreError
        If there is no store.
    """
    view = view_of(latest(store))
    sessions = [str(name) for name in view.cohort.catalogue["session"]]
    is_one = len(sessions) <= MOST_IN_ONE
    held: dict[str, Any] = {"table.json": json.loads(view.table_json), "pictures": {}, "apart": []}
    out.mkdir(parents=True, exist_ok=True)
    for done, session in enumerate(sessions):
        progress(done, len(sessions), "pages")
        told = json.loads(session_json(view, session)) | {"pictures": planes(view, session)}
        held["pictures"][session] = wall(view, session)
        if is_one:
            held[f"session/{session}.json"] = told
        else:
            held["apart"].append(session)
            _write_apart(out / FOLDER, session, told)
    progress(len(sessions), len(sessions), "pages")
    page = document(view, offline=parts(held, is_one=is_one))
    unfinished = out / f"{NAME}.part"
    unfinished.write_text(page, encoding="utf-8")
    return unfinished.replace(out / NAME)


def parts(held: Mapping[str, Any], *, is_one: bool) -> dict[str, Any]:
    """What the document holds itself, and the policy that lets it run that alone."""
    scripts = [libraries.plotly(), script()]
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts)
    apart = "" if is_one else " file:"
    return {
        "policy": f"default-src 'none'; script-src {hashes}{apart}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        "style": style(),
        "plotly": packed(scripts[0]),
        "script": scripts[1],
        "data": as_json(held),
    }


def as_json(value: object) -> str:
    """JSON that can stand within a script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def packed(script: str) -> str:
    """A script as the document holds it, compressed; its page runs it if it still has its hash."""
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode("ascii")


def planes(view: View, session: str) -> dict[str, list[str]]:
    """Axial, coronal and sagittal plane through the middle of each image and map that holds something."""
    names = [name for name in PICTURED if name in view.volumes(session)]
    if not names:
        return {}
    slot = view.cohort.slots[session]
    volumes = view.cohort.read(slot, names)
    steps = _steps(view, slot)
    return {
        name: [_uri(levels_of(section, name, PLANE)) for section in _sections(volumes[name], steps)] for name in names
    }


def wall(view: View, session: str) -> dict[str, str]:
    """Thumbnails of a session."""
    names = [name for name in PICTURED_ON_WALL if name in view.volumes(session)]
    return {name: _uri(thumbnail_levels(view, session, name)) for name in names}


def _sections(volume: NDArray[Any], steps: tuple[float, float, float]) -> Iterable[NDArray[Any]]:
    """Planes through the middle, with square pixels by repeating the coarser axis."""
    z, y, x = (size // 2 for size in volume.shape)
    for section, rows, columns in (
        (volume[z], steps[1], steps[2]),
        (volume[:, y], steps[0], steps[2]),
        (volume[:, :, x], steps[0], steps[1]),
    ):
        finest = min(rows, columns)
        yield section.repeat(max(1, round(rows / finest)), axis=0).repeat(max(1, round(columns / finest)), axis=1)


def _steps(view: View, slot: Slot) -> tuple[float, float, float]:
    places = [np.asarray(view.cohort.nodes.array(slot.group, axis)[:2]) for axis in "zyx"]
    z, y, x = (float(np.diff(one)[0]) if one.size > 1 else 1.0 for one in places)
    return z, y, x


def _write_apart(folder: Path, session: str, told: Mapping[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    text = f"(window.qmriSessions ||= {{}})[{as_json(session)}] = {as_json(told)};\n"
    (folder / f"{session}.js").write_text(text, encoding="utf-8")


def _uri(levels: NDArray[np.uint8]) -> str:
    return "data:image/webp;base64," + base64.b64encode(coded(levels, WEBP)).decode("ascii")
