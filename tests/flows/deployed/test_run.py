"""What a run of a deployment hides from the processes it starts, and what it leaves to itself."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from flows.deployed.run import workers_without_prefect
from tests.flows.end_to_end import ROOT


def test_what_a_process_was_started_as_is_hidden_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", __file__, raising=False)  # a worker of pytest-xdist has none
    before = main.__spec__, main.__file__
    inspect.getmodule(sys._getframe())  # remembers the file of each module
    with workers_without_prefect():
        assert main.__spec__ is None
        assert not hasattr(main, "__file__")
        assert inspect.getmodule(sys._getframe()) is sys.modules[__name__]  # looks at the files of all modules
    assert (main.__spec__, main.__file__) == before


def test_a_process_that_was_started_from_no_file_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"]
    monkeypatch.delattr(main, "__file__", raising=False)
    with workers_without_prefect():
        assert main.__spec__ is None
    assert not hasattr(main, "__file__")


def test_pytorch_can_be_imported_meanwhile(tmp_path: Path) -> None:
    """It looks for the file of every module that has one: a run whose first import it was ended there."""
    script = tmp_path / "engine.py"
    script.write_text(
        "import inspect, sys\n"
        "from flows.deployed.run import workers_without_prefect\n"
        "inspect.getmodule(sys._getframe())  # as Prefect's engine has, before\n"
        "with workers_without_prefect():\n"
        "    import torch\n"
    )
    subprocess.run([sys.executable, script], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=True, timeout=600)
