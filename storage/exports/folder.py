"""The folder that an export writes to: it appears under its name when everything is in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.store.repository import StoreError

_CONTENT = ".content"
"""File in an unfinished folder that says what it is to hold."""


@contextmanager
def new_folder(out: Path, *, content: str = "") -> Iterator[Path]:
    """Folder to write to, which becomes ``out`` when everything is in it.

    Parameters
    ----------
    out
        Folder that is not there yet.
    content
        Identifies what is written, to the byte. What an export of the same content that was cut short has left in the
        folder is still there; anything else has been removed. Empty: nothing is kept.

    Raises
    ------
    StoreError
        If ``out`` is there already, or cannot be written.
    """
    if out.exists():
        raise StoreError(f"{out}: is there already; give the name of a new folder")
    part = out.with_name(f".{out.name}.part")
    note = part / _CONTENT
    try:
        if part.exists() and not (content and note.exists() and note.read_text(encoding="utf-8") == content):
            shutil.rmtree(part)
        part.mkdir(parents=True, exist_ok=True)
        if content:
            note.write_text(content, encoding="utf-8")
        yield part
        note.unlink(missing_ok=True)
        part.rename(out)
    except OSError as error:
        raise StoreError(f"{out}: cannot be written ({error.strerror})") from error
