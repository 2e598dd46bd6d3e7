"""What the demo may clear, and what it does once only; the way through all stages has its own test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.cli import demo
from flows.simulate import SimulationSummary


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    calls: list[Path] = []

    def simulate(out: Path, *, truth: Path, sessions: int, groups: int, **_: Any) -> SimulationSummary:
        out.mkdir(parents=True)
        truth.mkdir()
        (out / "image").touch()
        calls.append(out)
        return SimulationSummary(out=out, truth=truth, sessions=sessions, groups=groups, scanners=2, files=1)

    monkeypatch.setattr(demo, "simulate", simulate)
    return calls


def run(out: Path, design: str = "4 2 3 0") -> None:
    demo._claim(out)
    demo._simulate_once(out, design, client=None, say=lambda _: None)  # type: ignore[arg-type]


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, simulated: list[Path]) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "precious").touch()
    with pytest.raises(ValueError, match="not the demo's"):
        run(tmp_path)
    assert (tmp_path / "input" / "precious").exists()
    assert simulated == []


def test_a_complete_simulation_is_kept_with_its_store(tmp_path: Path, simulated: list[Path]) -> None:
    run(tmp_path / "demo")
    (tmp_path / "demo" / "store").mkdir()
    run(tmp_path / "demo")
    assert len(simulated) == 1
    assert (tmp_path / "demo" / "store").exists()


def test_another_design_starts_afresh(tmp_path: Path, simulated: list[Path]) -> None:
    run(tmp_path / "demo")
    (tmp_path / "demo" / "store").mkdir()
    run(tmp_path / "demo", "6 2 3 0")
    assert len(simulated) == 2
    assert not (tmp_path / "demo" / "store").exists()


def test_a_simulation_that_was_stopped_is_done_again(tmp_path: Path, simulated: list[Path]) -> None:
    run(tmp_path / "demo")
    (tmp_path / "demo" / "simulated").unlink()
    (tmp_path / "demo" / "input" / "half").touch()
    run(tmp_path / "demo")
    assert len(simulated) == 2
    assert [path.name for path in (tmp_path / "demo" / "input").iterdir()] == ["image"]
