"""Small files of JSON that people can read, with what they are, the version of their format, and a digest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WIDTH = 250
"""Characters of a line up to which what belongs together stands on one."""


class SealedFileError(ValueError):
    """A file is damaged, of another kind or of another version, or cannot be written."""


def write_sealed(path: Path, content: Mapping[str, Any], *, kind: str, version: int) -> str:
    """Write the content for the user alone; its digest.

    Raises
    ------
    SealedFileError
        If the file is there already, or cannot be written.
    """
    digest = digest_of(content, kind, version)
    text = _laid_out({"format": kind, "version": version, "digest": digest, "content": content}) + "\n"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise SealedFileError(f"{path}: is there already; give the name of a new file") from None
    except OSError as error:
        raise SealedFileError(f"{path}: cannot be written ({error.strerror})") from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    return digest


def read_sealed(path: Path, *, kind: str, version: int, source: str) -> tuple[dict[str, Any], str]:
    """Content and digest of a file; ``source`` is what makes such files, to say where to get another.

    Raises
    ------
    SealedFileError
        If it is no such file, of another version, or not as it was written.
    """
    again = f"Take it again from where `{source}` wrote it"
    try:
        stated = json.loads(path.read_bytes(), parse_constant=_no_number)
    except OSError as error:
        raise SealedFileError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise SealedFileError(f"{path.name}: is damaged, or no file that `{source}` wrote. {again}") from error
    found = stated.get("format") if isinstance(stated, dict) else None
    if found != kind:
        raise SealedFileError(f"{path.name}: is no file that `{source}` wrote; give one of those")
    if stated.get("version") != version:
        is_older = isinstance(stated.get("version"), int) and stated["version"] < version
        what, to_do = ("an older", "there") if is_older else ("another, newer", "here")
        raise SealedFileError(
            f"{path.name}: {what} version wrote it (format {str(stated.get('version'))[:8]}, here {version}). Upgrade "
            f"{to_do}, and run `{source}` again"
        )
    content = stated.get("content")
    if not isinstance(content, dict) or stated.get("digest") != digest_of(content, kind, version):
        raise SealedFileError(f"{path.name}: is not as it was written (its digest is another). {again}")
    return content, str(stated["digest"])


def digest_of(content: Mapping[str, Any], kind: str, version: int) -> str:
    """SHA-256 of what a file says, however it is laid out; it shows damage, not who wrote it."""
    whole = json.dumps([kind, version, content], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(whole.encode()).hexdigest()


def _laid_out(value: Any, margin: str = "") -> str:  # noqa: ANN401 - JSON
    """JSON with what is short on one line each."""
    flat = json.dumps(value, allow_nan=False)
    if len(flat) <= WIDTH or not isinstance(value, dict | list):
        return flat
    inner = margin + " "
    is_object = isinstance(value, dict)
    items = (
        [f"{json.dumps(key)}: {_laid_out(one, inner)}" for key, one in value.items()]
        if isinstance(value, dict)
        else [_laid_out(one, inner) for one in value]
    )
    start, end = "{}" if is_object else "[]"
    return f"{start}\n{inner}" + f",\n{inner}".join(items) + f"\n{margin}{end}"


def _no_number(_: str) -> float:
    raise ValueError("NaN and infinity are no JSON")
