"""Codes of people under the key of a study: equal at all sites for one identifier, and for nothing that may be two."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from storage.exports.bridging import LinkageError, local_codes, study_codes, study_of
from storage.pseudonyms import KeyFileError, load_key, make_study_key, read_study_key

KEY = b"k" * 32


def table(folder: Path, rows: Sequence[tuple[str, str]], header: Sequence[str] = ("session", "patient_id")) -> Path:
    path = folder / "linkage.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def codes(folder: Path, rows: Sequence[tuple[str, str]], persons: dict[str, str]) -> tuple[dict[str, str], int]:
    return study_codes(sorted(set(persons.values())), persons, table(folder, rows), KEY)


def test_one_identifier_has_one_code_at_all_sites_and_under_this_key_alone(tmp_path: Path) -> None:
    one, n = codes(tmp_path, [("s1", "NHS 12"), ("s2", "NHS 12"), ("s3", "77")], {"s1": "p", "s2": "p", "s3": "q"})
    other, _ = codes(tmp_path, [("x", " nhs  12 ")], {"x": "another"})
    assert n == 2
    assert one["p"] == other["another"] != one["q"]
    assert "12" not in {one["p"]}
    again, _ = study_codes(["p"], {"s1": "p"}, table(tmp_path, [("s1", "NHS 12")]), b"o" * 32)
    assert again["p"] != one["p"]
    assert study_of(KEY) != study_of(b"o" * 32)


@pytest.mark.parametrize(
    ("rows", "persons"),
    [
        ([("s1", "ANON"), ("s2", "5")], {"s1": "p", "s2": "q"}),
        ([("s1", ""), ("s2", "5")], {"s1": "p", "s2": "q"}),
        ([("s1", "Smith"), ("s2", "5")], {"s1": "p", "s2": "q"}),  # a name, where there was no number
        ([("s1", "000"), ("s2", "5")], {"s1": "p", "s2": "q"}),
        ([("s1", "8"), ("s3", "8"), ("s2", "5")], {"s1": "p", "s3": "r", "s2": "q"}),  # it may stand for several people
        ([("s1", "8"), ("s3", "9"), ("s2", "5")], {"s1": "p", "s3": "p", "s2": "q"}),
        ([("s2", "5")], {"s1": "p", "s2": "q"}),
    ],
)
def test_identifiers_that_may_not_be_one_persons_stay_local(
    tmp_path: Path, rows: list[tuple[str, str]], persons: dict[str, str]
) -> None:
    found, n = codes(tmp_path, rows, persons)
    assert n == 1
    assert found["p"].startswith("local-")
    assert not found["q"].startswith("local-")
    assert len(set(found.values())) == len(found)


def test_local_codes_are_numbers() -> None:
    assert local_codes(["sub-b", "sub-a", "sub-b"]) == {"sub-a": "local-1", "sub-b": "local-2"}


def test_tables_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LinkageError, match="no columns session and patient_id"):
        study_codes(["p"], {"s": "p"}, table(tmp_path, [("s", "1")], ("session", "name")), KEY)
    with pytest.raises(LinkageError, match="names no session of this store"):
        study_codes(["p"], {"s": "p"}, table(tmp_path, [("t", "1")]), KEY)


def test_a_study_key_is_made_once_and_never_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "study.key"
    with pytest.raises(KeyFileError, match="qmri pool key"):
        read_study_key(path)
    assert not path.exists()
    make_study_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_study_key(path) == load_key(path)
    with pytest.raises(KeyFileError, match="there already"):
        make_study_key(path)
    path.write_text("12")
    with pytest.raises(KeyFileError, match="another site"):
        read_study_key(path)
    with pytest.raises(KeyFileError, match="cannot be written"):
        make_study_key(path / "below")
