"""Libraries of the pages, taken from the Python packages that bring them: plotly for plots, niivue for volumes."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

NIIVUE = Path("_assets/js/niivue.umd.js")
"""Place of the viewer of volumes within the package nilearn (0.68.1 in nilearn 0.14.1, BSD-2)."""


class LibraryError(RuntimeError):
    """A library of the pages is not where its package had it."""


@lru_cache(maxsize=1)
def plotly() -> str:
    """Script of plotly.js (MIT), from the package plotly."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


@lru_cache(maxsize=1)
def niivue() -> str:
    """Script of niivue, from the wheel of nilearn, without an import of nilearn, which takes seconds.

    Raises
    ------
    LibraryError
        If nilearn has moved it.
    """
    found = find_spec("nilearn")
    folder = Path(found.origin).parent if found is not None and found.origin else Path()
    try:
        text = (folder / NIIVUE).read_text(encoding="utf-8")
    except OSError as error:
        raise LibraryError(
            f"nilearn {version('nilearn')} has no {NIIVUE.as_posix()}, from which the browser takes niivue; install "
            "the release of nilearn that constraints.txt names (0.14.1)"
        ) from error
    if "niivue" not in text[:400]:
        raise LibraryError(f"{NIIVUE.as_posix()} of nilearn {version('nilearn')} is not niivue's bundle any more")
    return text


def check() -> None:
    """Raise `LibraryError` before anything is served, where a page would lack a library."""
    niivue()
    plotly()
