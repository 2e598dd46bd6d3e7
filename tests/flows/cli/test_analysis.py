"""Questions of analysts through the command line: what cannot be answered ends with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli.main import app
from tests.storage.store.opened.analysed import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("asked") / "store")


def asked(store: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments[:1], "--store", str(store), *arguments[1:]])


def test_few_people_and_unknown_regions_are_told(store: Path) -> None:
    few = asked(store, "reference")
    assert (few.exit_code, "not answered: 3 people of known age and sex" in few.output) == (1, True)
    two = asked(store, "compare", "--factor", "sex", "--regions", "WM")
    assert (two.exit_code, "not answered: sex: F has 2 people" in two.output) == (1, True)
    unknown = asked(store, "compare", "--factor", "sex", "--regions", "WM,thalamus_L")
    assert "thalamus_L: no such region; there are CSF, GM, WM" in str(unknown.exception)
    no_days = asked(store, "compare", "--factor", "period", "--since", "100")
    assert (no_days.exit_code, "QMRI_KEEP_DAYS" in no_days.output) == (1, True)


def test_what_belongs_together_is_asked_together(store: Path) -> None:
    for arguments in (
        ("reference", "--maps"),
        ("compare", "--factor", "period"),
        ("compare", "--factor", "sex", "--since", "9"),
    ):
        assert asked(store, *arguments).exit_code == 2
