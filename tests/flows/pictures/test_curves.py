"""Picture of a training: it holds what the record holds."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.figure import Figure

from flows.pictures.curves import curves_picture

RECORD: dict[str, Any] = {
    "steps": 300, "best_step": 200, "seconds": 90, "processes": 2, "device": "cpu", "precision": "float32",
    "curve": [{"step": 100 * k, "nll": 1.0 / k, "t1": 0.1 / k, "regional": 0.02} for k in (1, 2, 3)],
    "held_out": [{"step": 200, "nll": 0.4, "images": 3.0, "t1": 0.08, "pd": None, "t2": float("nan")}],
}  # fmt: skip


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    kept: list[Figure] = []
    save = Figure.savefig

    def keeping(self: Figure, *args: Any, **options: Any) -> None:
        kept.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keeping)
    return kept


def line(figure: Figure, panel: int, label: str) -> tuple[list[float], list[float]]:
    found = next(one for one in figure.axes[panel].get_lines() if one.get_label() == label)
    return list(found.get_xdata()), list(found.get_ydata())


def test_curves_and_what_is_held_out_are_drawn(figures: list[Figure]) -> None:
    assert curves_picture(RECORD).startswith(b"\x89PNG")
    steps, losses = line(figures[0], 0, "known maps (tempered)")
    assert (steps, losses) == ([100, 200, 300], pytest.approx([1.0, 0.5, 1 / 3]))
    assert line(figures[0], 1, "all") == ([200], [0.4])
    assert line(figures[0], 2, "T1, held out") == ([200], pytest.approx([8.0]))
    assert "2 process" in figures[0].get_suptitle()
    labels = {one.get_label() for one in figures[0].axes[2].get_lines()}
    assert not {"PD, held out", "T2, held out"} & labels  # not known is not drawn


def test_a_training_that_went_on_stands_behind_the_one_before(figures: list[Figure]) -> None:
    later = {**RECORD, "started_from": {"digest": "x", "training": RECORD}}
    assert curves_picture(later).startswith(b"\x89PNG")
    steps, _ = line(figures[0], 0, "known maps (tempered)")
    assert steps == [100, 200, 300, 300, 400, 500]  # from the best weights of the first, at step 200
    assert "then" in figures[0].get_suptitle()


def test_the_title_of_many_trainings_is_on_the_picture(figures: list[Figure]) -> None:
    record = RECORD
    for _ in range(6):
        record = {**RECORD, "started_from": {"digest": "x", "training": record}}
    curves_picture(record)
    [title] = [one for one in figures[0].texts if one.get_text() == figures[0].get_suptitle()]
    assert title.get_text().count("steps") == 7
    extent, whole = title.get_window_extent(), figures[0].bbox
    assert (extent.x0, extent.y0) >= (whole.x0, whole.y0)
    assert extent.x1 <= whole.x1
    assert extent.y1 <= whole.y1


def test_a_training_too_short_for_a_curve_is_drawn_all_the_same() -> None:
    assert curves_picture({**RECORD, "curve": [], "held_out": []}).startswith(b"\x89PNG")
