"""Libraries are where their packages have them, and a release that moves one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.browser import libraries


def test_libraries_are_there_and_are_what_they_are_called() -> None:
    libraries.check()
    assert libraries.plotly().lstrip().startswith("/**\n* plotly.js")
    assert "niivue" in libraries.niivue()[:400]


def test_a_release_that_moves_the_viewer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries.niivue.cache_clear()
    monkeypatch.setattr(libraries, "NIIVUE", Path("_assets/js/elsewhere.js"))
    with pytest.raises(libraries.LibraryError, match=r"nilearn \d.* has no _assets/js/elsewhere\.js.*constraints\.txt"):
        libraries.check()
    monkeypatch.undo()
    libraries.niivue.cache_clear()
