"""Pseudonyms and their key file."""

from __future__ import annotations

import hashlib
import hmac
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.pseudonyms import KeyFileError, key_path, load_key, pseudonym

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def test_the_form_is_that_of_the_contract() -> None:
    key = bytes(32)
    assert pseudonym(key, "session", "a", "b").startswith("ses-")
    assert len(pseudonym(key, "session", "a")) == len(pseudonym(key, "person", "a")) == 16
    assert len(pseudonym(key, "device", "a")) == 6


def test_it_is_an_hmac_of_length_prefixed_parts() -> None:
    key = b"k" * 32
    message = b"person" + (3).to_bytes(8, "big") + b"abc"
    assert pseudonym(key, "person", "abc") == "sub-" + hmac.new(key, message, hashlib.sha256).hexdigest()[:12]


@given(parts=st.lists(TEXT, max_size=3), others=st.lists(TEXT, max_size=3))
def test_other_parts_give_another_pseudonym(parts: list[str], others: list[str]) -> None:
    same = pseudonym(bytes(32), "session", *parts) == pseudonym(bytes(32), "session", *others)
    assert same == (parts == others)


@given(text=TEXT)
def test_another_key_gives_another_pseudonym(text: str) -> None:
    assert pseudonym(b"a" * 32, "person", text) != pseudonym(b"b" * 32, "person", text)


def test_the_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: load_key(path), range(32)))
    assert len(keys) == 1
    assert len(next(iter(keys))) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["key"]


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMRI_KEY_FILE", str(tmp_path / "mine"))
    key = load_key()
    assert (tmp_path / "mine").exists()
    assert load_key() == key
    monkeypatch.delenv("QMRI_KEY_FILE")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert key_path() == tmp_path / "config" / "qmri" / "key"


@pytest.mark.parametrize("content", ["", "abc", "00" * 31, "é" * 64])
def test_a_damaged_key_is_refused_and_never_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(KeyFileError, match="restore it from a backup"):
        load_key(path)
    assert path.read_text(encoding="utf-8") == content


def test_an_unwritable_place_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError, match="QMRI_KEY_FILE"):
        load_key(tmp_path / "file" / "key")
