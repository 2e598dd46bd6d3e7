"""Keyed pseudonyms: stable over runs and stores, and meaningless without the key."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path
from typing import Literal

Kind = Literal["session", "person", "device", "software", "tombstone", "study", "study person", "scanner day", "key"]

_FORM: dict[str, tuple[str, int]] = {
    "session": ("ses-", 12),
    "person": ("sub-", 12),
    "device": ("", 6),
    "software": ("", 6),
    "tombstone": ("", 32),
    "study": ("", 16),
    "study person": ("", 16),
    "scanner day": ("", 8),
    "key": ("", 12),
}
_KEY_BYTES = 32
_ANOTHER_KEY = "another key gives every session another pseudonym"


class KeyFileError(ValueError):
    """The key file cannot be created, or does not hold a key."""


def key_path() -> Path:
    """Path of the key file: ``QMRI_KEY_FILE``, else ``qmri/key`` in the user's configuration folder."""
    stated = os.environ.get("QMRI_KEY_FILE")
    if stated:
        return Path(stated).expanduser()
    folder = os.environ.get("XDG_CONFIG_HOME")
    return (Path(folder) if folder else Path.home() / ".config") / "qmri" / "key"


def load_key(path: Path | None = None) -> bytes:
    """Read the key, creating it once if it does not exist.

    The file appears whole or not at all, readable by its owner only; of several processes that create it at the same
    moment one wins and all read the same key.

    Raises
    ------
    KeyFileError
        If the file cannot be created, or does not hold 64 hexadecimal digits.
    """
    path = path or key_path()
    try:
        if not path.exists():
            _create(path)
        return _read(
            path, "(another key gives every session another pseudonym), or set QMRI_KEY_FILE to the right file"
        )
    except OSError as error:
        raise KeyFileError(
            f"key file {path} cannot be read or created ({error.strerror}); set QMRI_KEY_FILE to a file in a folder "
            "that this user can write"
        ) from error


def existing_key(path: Path | None = None) -> bytes:
    """Read the key, and make none.

    Raises
    ------
    KeyFileError
        If there is none, or the file cannot be read or holds none.
    """
    path = path or key_path()
    if not path.exists():
        raise KeyFileError(f"there is no key at {path}; set QMRI_KEY_FILE, or restore it from its back-up")
    return load_key(path)


def back_up_key(path: Path | None, out: Path) -> bytes:
    """Copy the key to a new file, readable by its owner alone, and read it back.

    Raises
    ------
    KeyFileError
        If there is no key, the file is there already, or it cannot be written.
    """
    key = existing_key(path)
    try:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        if _read(out, "") != key:
            raise KeyFileError(f"{out} does not hold what was written; try another disk")
    except OSError as error:
        raise KeyFileError(f"{out} cannot be written ({error.strerror}); give a new file on another disk") from error
    return key


def read_study_key(path: Path) -> bytes:
    """Read a key that sites share; it is never made in silence, since each site would have another.

    Raises
    ------
    KeyFileError
        If the file cannot be read, or does not hold 64 hexadecimal digits.
    """
    try:
        return _read(path, "or from another site of the study")
    except OSError as error:
        raise KeyFileError(
            f"study key {path} cannot be read ({error.strerror}); one site makes it with `qmri pool key` and gives it "
            "to the others"
        ) from error


def make_study_key(path: Path) -> None:
    """Make a key for sites to share, readable by its owner only.

    Raises
    ------
    KeyFileError
        If the file is there already, or cannot be written.
    """
    try:
        if path.exists():
            raise KeyFileError(f"{path} is there already; a study has one key, so give that one to the other sites")
        _create(path)
    except OSError as error:
        raise KeyFileError(f"study key {path} cannot be written ({error.strerror})") from error


def _read(path: Path, or_else: str) -> bytes:
    try:
        text = path.read_text(encoding="ascii").strip()
        key = bytes.fromhex(text)
    except ValueError as error:
        raise KeyFileError(_damaged(path, or_else)) from error
    if len(key) != _KEY_BYTES:
        raise KeyFileError(_damaged(path, or_else))
    return key


def _damaged(path: Path, or_else: str) -> str:
    return f"key file {path} does not hold {2 * _KEY_BYTES} hexadecimal digits; restore it from a backup {or_else}"


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".key-")  # mkstemp makes it owner-only
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_bytes(_KEY_BYTES).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was faster: its key counts
            os.link(name, path)
    finally:
        Path(name).unlink()


def pseudonym(key: bytes, kind: Kind, *identifiers: str) -> str:
    """Pseudonym of the thing that ``identifiers`` name.

    HMAC-SHA-256 over the kind and the length-prefixed identifiers, so that neither another kind nor another way to
    split the same text gives the same value. Sessions get ``ses-`` and 12 hexadecimal digits, persons ``sub-`` and 12,
    devices and software versions 6, marks of forgotten sessions 32, that of the key itself 12; the code of a study and
    people under its key 16.
    """
    prefix, digits = _FORM[kind]
    message = bytearray(kind.encode())
    for text in identifiers:
        data = text.encode("utf-8", "surrogateescape")
        message += len(data).to_bytes(8, "big") + data
    return prefix + hmac.new(key, bytes(message), hashlib.sha256).hexdigest()[:digits]
