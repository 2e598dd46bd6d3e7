"""Which words of a series' name are evidence, and which are not."""

from __future__ import annotations

import pytest

from storage.source.dicom.names import traits_of_names

AGENT = (
    "t1_mprage_sag_iso post KM +C", "T1 +C", "AX T1 + C", "T1 C+", "t1 mprage nach KM", "T1w mit Kontrast", "T1 GD",
    "SAG T1 POST GAD", "T1 POSTCONTRAST", "T1 post-contrast", "T1 with contrast", "AX T1 W/CONTRAST", "T1 W CONTRAST",
    "3D T1 apres injection", "T1 apr\u00e8s inj", "T1 avec gado", "T1 con contraste", "T1 con mdc", "T1 dopo mdc",
    "T1 com contraste", "T1 p\u00f3s contraste", "T1 na contrast", "T1 met contrast", "T1 efter kontrast",
    "T1 po kontrascie",
    "t1_mpr_KM", "T1_SE_CE", "T1+Gd", "T1 Gadovist", "ax t1 post", "T1_POST", "T1C", "T1GD", "T1 contrast",
    "T1 nach iv KM",
    "MPRAGE+KM", "T1 POST INJ", "T1 enhanced", "3D T1 TFE IVI", "AX T1 PG", "\u9020\u5f71 T1", "T1 \u589e\u5f3a",
    "T1 \uc870\uc601", "\u0422\u0031 \u0441 \u043a\u043e\u043d\u0442\u0440\u0430\u0441\u0442\u043e\u043c",
)  # fmt: skip
NATIVE = (
    "T1 without contrast", "T1 W/O CONTRAST", "AX T1 WO CONTRAST", "T1 ohne KM", "t1 nativ", "T1_native", "T1 pre",
    "T1 PRE GD",
    "T1 pre-contrast", "T1 precontrast", "T1 vor KM", "T1 sans injection", "T1 sans gado", "T1 sin contraste",
    "T1 senza mdc",
    "T1 sem contraste", "T1 zonder contrast", "T1 non contrast", "T1 noncontrast", "T1 unenhanced", "T1 C-", "T1 o. KM",
    "T1 avant injection", "T1 uden kontrast", "T1 bez kontrastu", "T1 \u5e73\u626b", "\u975e\u9020\u5f71 T1",
)  # fmt: skip
SILENT = (
    "t1_mprage_sag_p2_iso", "T1 high contrast", "T1 HighContrast", "MPRAGE post op", "T1 pre-op", "T1 posterior fossa",
    "T1 post fossa", "Serie", "neuro std", "HEAD ROUTINE", "copy of 4", "s3D", "brain^library", "Schaedel", "3D T1 TFE",
    "T1 phase contrast", "T1 COR", "T1 SE AX C", "t1_space_sag", "AX T1 FLAIR", "cervical", "T1 post processing",
    "ax (enhanced conversion)", "Enhanced MR T1",
)  # fmt: skip


@pytest.mark.parametrize("name", AGENT)
def test_words_for_a_contrast_agent_are_read(name: str) -> None:
    assert traits_of_names(name, "") & {"named_agent", "named_native"} == {"named_agent"}


@pytest.mark.parametrize("name", NATIVE)
def test_words_for_no_agent_are_read_as_such(name: str) -> None:
    assert traits_of_names(name, "") & {"named_agent", "named_native"} == {"named_native"}


@pytest.mark.parametrize("name", SILENT)
def test_other_words_are_no_evidence_of_an_agent(name: str) -> None:
    assert not traits_of_names(name, "") & {"named_agent", "named_native"}


def test_a_name_of_both_says_both_and_the_series_counts_before_its_protocol() -> None:
    assert traits_of_names("T1 pre and post contrast", "") >= {"named_agent", "named_native"}
    assert "named_agent" not in traits_of_names("t1 nativ", "brain with contrast")
    assert "named_agent" in traits_of_names("Serie", "brain with contrast")


@pytest.mark.parametrize(
    ("name", "trait"),
    [
        ("t2_tirm_tra_dark-fluid", "named_flair"), ("AX T2 FLAIR", "named_flair"),
        ("gre_field_mapping", "named_calibration"),
        ("ASSET calibration", "named_calibration"), ("SENSE_Ref", "named_calibration"), ("B1 map", "named_calibration"),
        ("AAHead_Scout", "named_localizer"), ("TOF 3D", "named_angiography"),
    ],
)  # fmt: skip
def test_other_kinds_have_traits_of_their_own(name: str, trait: str) -> None:
    assert trait in traits_of_names(name, "")


@pytest.mark.parametrize("name", [*SILENT[:3], "t1_mprage_calvarium", "T1 vertical"])
def test_plain_names_have_no_trait(name: str) -> None:
    assert traits_of_names(name, "") == set()
