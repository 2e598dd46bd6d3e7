"""Whose error it is: texts of others may hold names, and are not shown, whatever a library or its folder is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.errors import OWN_PACKAGES, explain
from flows.tables.summary import summarise

SOURCE = """
def raised(text):
    raise ValueError(
        f"the value {text} is none"
    )

def called(text):
    return int(text)

def in_a_block(text):
    with open(__file__):
        return float(text)

def through_another(text):
    return other.raised(text)
"""
SECRET = "Halvorsen"  # noqa: S105 - a name


def module(folder: Path, name: str, package: str | None = None) -> dict[str, Any]:
    """Globals of a module of this name, whose file is not where a module of this name would be."""
    path = folder / f"{name}.py"
    path.write_text(SOURCE, encoding="utf-8")
    result: dict[str, Any] = {"__name__": name, "__package__": package, "__file__": str(path)}
    exec(compile(SOURCE, str(path), "exec"), result)  # noqa: S102
    return result


def told(function: Any) -> str:
    with pytest.raises(ValueError, match=SECRET) as caught:
        function(SECRET)
    return explain(caught.value)


@pytest.mark.parametrize("package", sorted(OWN_PACKAGES))
def test_what_our_code_has_raised_is_told(tmp_path: Path, package: str) -> None:
    assert told(module(tmp_path, f"{package}.header", package)["raised"]) == f"the value {SECRET} is none"
    with pytest.raises(ValueError, match="gone") as caught:
        summarise([("ses-1", "gone", "", "")])
    assert "gone" in explain(caught.value)


@pytest.mark.parametrize("function", ["called", "in_a_block"])
def test_what_the_language_has_raised_in_our_code_is_not_told(tmp_path: Path, function: str) -> None:
    """``int`` and ``float`` repeat the text that they were given: it may be out of a header."""
    assert told(module(tmp_path, "storage.header", "storage")[function]).startswith("internal error (ValueError)")


@pytest.mark.parametrize("name", ["qmri_core_tools", "storages.header", "my.flows", "flowsight", "qmri_core2.storage"])
@pytest.mark.parametrize("function", ["raised", "called"])
def test_a_library_with_a_name_like_ours_is_a_library(tmp_path: Path, name: str, function: str) -> None:
    folder = tmp_path / "storage"  # not even in a folder with a name of ours
    folder.mkdir()
    library = module(folder, name, name.rpartition(".")[0] or name)
    assert SECRET not in told(library[function])
    kind = type("LibraryError", (ValueError,), {"__module__": name})
    assert SECRET not in explain(kind(SECRET))


def test_what_a_library_has_raised_below_our_code_is_not_told(tmp_path: Path) -> None:
    ours = module(tmp_path, "storage.header", "storage")
    ours["other"] = type("Library", (), {"raised": staticmethod(module(tmp_path, "library")["raised"])})
    assert SECRET not in told(ours["through_another"])
