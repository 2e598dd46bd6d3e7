"""Tables of what a site has measured: read in full, or refused with the line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from flows.calibration.anchors import read_anchors
from flows.calibration.site_tables import SiteTableError
from qmri_core.calibration.levels import Anchor
from qmri_core.calibration.population import population

GROUPS = ("skyra/a", "ingenia/b")
PEOPLE = {"p1": "ingenia/b"}
LABELS = {"skyra/a": "Skyra-1", "ingenia/b": "Ingenia-1"}
HEADER = "group,person,tissue,quantity,value,error,method,method_error\n"


def read(tmp_path: Path, text: str, name: str = "anchors.csv") -> list[Anchor]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_anchors(tmp_path / name, GROUPS, PEOPLE, dict.fromkeys(GROUPS, population(3.0)), LABELS)


def test_groups_by_key_or_label_and_people_are_read(tmp_path: Path) -> None:
    lines = "Ingenia-1,,WM,T1,0.935,0.0187,phantom,0.02805\nskyra/a,,GM,T2,0.095,0.001,,\n,p1,WM,T2,0.07,0.0007,,\n"
    first, second, third = read(tmp_path, HEADER + lines)
    assert (first.group, first.person, first.level, first.method) == (1, None, ("WM", "t1"), "phantom")
    assert first.deviation == pytest.approx(math.log(1.1))
    assert (first.sd, first.method_sd) == (pytest.approx(0.02), pytest.approx(0.03))
    assert (second.group, second.level, second.deviation) == (0, ("GM", "t2"), pytest.approx(0.0))
    assert (third.group, third.person, third.sd) == (None, "p1", pytest.approx(0.01))


def test_a_table_of_tabs_with_the_columns_that_it_needs(tmp_path: Path) -> None:
    [one] = read(tmp_path, "person\ttissue\tquantity\tvalue\terror\np1\tWM\tT1\t0.85\t0.02\n", "anchors.tsv")
    assert one.person == "p1"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("Skyra-1,,WM,T1,850,20,,", "line 2: T1 of 850 s is not that of WM; values are in seconds"),
        ("Skyra-1,,WM,T2,0.85,0.02,,", "line 2: T2 of 0.85 s"),
        ("Skyra-7,,WM,T1,0.85,0.02,,", "line 2: the group is not among those calibrated"),
        (",p9,WM,T1,0.85,0.02,,", "line 2: the person is not among those calibrated"),
        ("Skyra-1,p1,WM,T1,0.85,0.02,,", "line 2: it must name a group"),
        (",,WM,T1,0.85,0.02,,", "line 2: it must name a group"),
        ("Skyra-1,,CSF,T1,0.85,0.02,,", "line 2: tissue"),
        ("Skyra-1,,WM,PD,0.7,0.02,,", "line 2: quantity"),
        ("Skyra-1,,WM,T1,0.85,,,", "line 2: error"),
        ("Skyra-1,,WM,T1,0.85,-0.1,,", "line 2: error"),
        ("Skyra-1,,WM,T1,much,0.1,,", "line 2: value"),
    ],
)
def test_mistakes_are_refused_with_their_line(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(SiteTableError, match=why):
        read(tmp_path, HEADER + line + "\n")


def test_unknown_columns_and_empty_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SiteTableError, match="unit"):
        read(tmp_path, "group,tissue,quantity,value,error,unit\nSkyra-1,WM,T1,0.85,0.02,ms\n")
    with pytest.raises(SiteTableError, match=r"anchors\.csv has no line"):
        read(tmp_path, HEADER)
