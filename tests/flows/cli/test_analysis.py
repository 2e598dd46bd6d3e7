"""Questions of analysts through the command line: what cannot be answered ends with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from tests.storage.store.opened.analysed import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("asked") / "store")


def asked(store: Path, *arguments: str) -> tuple[int, str]:
    """Exit status, and what is said: the last of it by an error."""
    result = CliRunner().invoke(app, [*arguments[:1], "--store", str(store), *arguments[1:]])
    return result.exit_code, f"{result.output}{result.exception}"


def test_few_people_and_unknown_regions_are_told(store: Path) -> None:
    for arguments, reason in (
        (("reference",), "not answered: 3 people of known age and sex"),
        (("compare", "--factor", "sex", "--regions", "WM"), "not answered: sex: F has 2 people"),
        (("compare", "--factor", "sex", "--regions", "thalamus_L"), "no such region; there are CSF, GM, WM"),
        (("compare", "--factor", "period", "--since", "100"), "QMRI_KEEP_DAYS"),
    ):
        status, said = asked(store, *arguments)
        assert status == 1
        assert reason in said


def test_what_belongs_together_is_asked_together(store: Path) -> None:
    for arguments in (
        ("reference", "--maps"),
        ("compare", "--factor", "period"),
        ("compare", "--factor", "sex", "--since", "9"),
    ):
        assert asked(store, *arguments)[0] == 2
