"""Tables of who sends people: read in full and kept as codes, or refused with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.calibration.clinics import Clinics, read_clinics
from flows.calibration.site_tables import SiteTableError

PEOPLE = ("p1", "p2", "p3")
SCANNERS = ("skyra", "ingenia")
LABELS = {"skyra/a": "Skyra-1", "ingenia/b": "Ingenia-1"}
HEADER = "person,scanner,clinic\n"


def read(tmp_path: Path, text: str) -> Clinics:
    (tmp_path / "clinics.csv").write_text(text, encoding="utf-8")
    return read_clinics(tmp_path / "clinics.csv", PEOPLE, SCANNERS, LABELS)


def test_people_come_before_scanners_and_no_name_is_kept(tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + "p1,,Memory clinic\n,Skyra-1,Neurology\np2,,Neurology\n")
    assert found.of(PEOPLE, "skyra") == ["clinic-1", "clinic-2", "clinic-2"]
    assert found.of(PEOPLE, "ingenia") == ["clinic-1", "clinic-2", "ingenia"]
    assert "emory" not in repr(found)


def test_without_a_table_each_scanner_is_a_clinic() -> None:
    assert Clinics().of(PEOPLE, "skyra") == ["skyra"] * 3


def test_a_scanner_is_named_by_its_key_too(tmp_path: Path) -> None:
    assert read(tmp_path, "scanner,clinic\ningenia,b\n").of(["p3"], "ingenia") == ["clinic-1"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("p9,,a", "line 3: the person is not among those calibrated"),
        (",Trio-1,a", "line 3: the scanner is not among those calibrated"),
        ("p1,,b", "line 3: the person comes in an earlier line too"),
        ("p2,skyra,a", "line 3: it must name a scanner"),
        (",,a", "line 3: it must name a scanner"),
        ("p2,,", "line 3: clinic"),
        ("p2,, ", "line 3: clinic"),
    ],
)
def test_mistakes_are_refused_with_their_line(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(SiteTableError, match=why):
        read(tmp_path, f"{HEADER}p1,,a\n{line}\n")


def test_a_table_of_other_columns_or_of_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SiteTableError, match=r"line 2: ward: .*; columns are person, scanner, clinic"):
        read(tmp_path, "person,ward,clinic\np1,3,a\n")
    with pytest.raises(SiteTableError, match=r"clinics\.csv has no line"):
        read(tmp_path, HEADER)
