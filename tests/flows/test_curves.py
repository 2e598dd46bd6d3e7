"""Picture of a training: it holds what the record holds."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from flows.report.curves import curves_picture

RECORD = {
    "steps": 300, "best_step": 200, "seconds": 90, "processes": 2, "device": "cpu", "precision": "float32",
    "curve": [{"step": 100 * k, "nll": 1.0 / k, "t1": 0.1 / k, "regional": 0.02} for k in (1, 2, 3)],
    "held_out": [{"step": 200, "nll": 0.4, "images": 3.0, "t1": 0.08, "slope_wm_t1": float("nan")}],
}  # fmt: skip


def test_curves_and_what_is_held_out_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: figures.append(self) or save(self, *args, **options)
    )
    assert curves_picture(RECORD).startswith(b"\x89PNG")
    left, right = figures[0].axes
    loss = next(line for line in left.get_lines() if line.get_label() == "simulated heads")
    assert list(loss.get_xdata()) == [100, 200, 300]
    assert list(loss.get_ydata()) == pytest.approx([1.0, 0.5, 1 / 3])
    held = next(line for line in right.get_lines() if line.get_label() == "T1, held out")
    assert (list(held.get_xdata()), list(held.get_ydata())) == ([200], pytest.approx([8.0]))
    assert "2 process" in figures[0].get_suptitle()


def test_a_training_too_short_for_a_curve_is_drawn_all_the_same() -> None:
    assert curves_picture({**RECORD, "curve": [], "held_out": []}).startswith(b"\x89PNG")
