"""The commands of training: each option means the same in all of them, and is honoured or refused with a reason."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import pipeline
from flows.cli.main import app
from flows.maps.weights import Promotion
from flows.training import ablations, train
from flows.training.further import IMAGE_SHARE, RATE, STEPS
from qmri_core.training.ablations import VARIANTS
from qmri_core.training.loop import TrainingSettings
from qmri_core.training.simulated_batches import FIRST_HELD_OUT

ROOT = Path(__file__).parents[3]


def application(function: Callable[..., None]) -> typer.Typer:
    result = typer.Typer()
    result.command()(function)
    return result


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What trainings were asked for; none runs."""
    asked: list[dict[str, Any]] = []

    def in_store(store: str, **values: Any) -> SimpleNamespace:
        asked.append({"store": store, **values})
        return SimpleNamespace(text=lambda: "trained")

    def alone(_goal: object, settings: TrainingSettings, minutes: float | None, start: object, *_: object) -> Any:
        asked.append({"settings": settings, "minutes": minutes, "start": start})
        return None, {}

    monkeypatch.setattr(train, "train_model", in_store)
    monkeypatch.setattr(train, "goal_of", lambda *_: None)
    monkeypatch.setattr(train, "fit_goal", alone)
    monkeypatch.setattr(train, "load_checkpoint", lambda path: f"weights of {path}")
    for name in ("save_checkpoint", "write_curves"):
        monkeypatch.setattr(train, name, lambda *_: None)
    return asked


def invoke(form: str, *arguments: str) -> Any:
    """``qmri train``, or ``python -m flows.training.train`` with or without a store."""
    start = {"command": ["train", "--store", "s"], "module": ["--store", "s"], "scratch": []}[form]
    commands = app if form == "command" else application(train.train_weights)
    return CliRunner().invoke(commands, [*start, "--out", "w.safetensors", *arguments], catch_exceptions=False)


def settings_of(call: dict[str, Any]) -> TrainingSettings:
    settings = call["settings"]
    assert isinstance(settings, TrainingSettings)
    return settings


@pytest.mark.parametrize("seed", [0, 1, 7, FIRST_HELD_OUT])
@pytest.mark.parametrize("form", ["command", "module", "scratch"])
def test_a_seed_is_the_seed(form: str, seed: int, calls: list[dict[str, Any]]) -> None:
    assert invoke(form, "--seed", str(seed)).exit_code == 0
    (call,) = calls
    assert (settings_of(call).seed if form == "scratch" else call["seed"]) == seed


@pytest.mark.parametrize("form", ["command", "module", "scratch"])
def test_minutes_steps_batches_and_rate_are_honoured(form: str, calls: list[dict[str, Any]]) -> None:
    assert invoke(form, *["--minutes", "3", "--steps", "7", "--batches", "4", "--rate", "0.001"]).exit_code == 0
    (call,) = calls
    settings = settings_of(call)
    assert call["minutes"] == 3
    assert (settings.batches_per_step, settings.learning_rate) == (4, 0.001)
    assert (settings.n_steps if form == "scratch" else call["steps"]) == 7


@pytest.mark.parametrize("form", ["command", "module"])
def test_images_and_promotion_are_honoured_in_a_store(form: str, calls: list[dict[str, Any]]) -> None:
    assert invoke(form, "--images", "0", "--promote", "never").exit_code == 0
    assert (calls[0]["image_share"], calls[0]["promote"]) == (0, Promotion.NEVER)


@pytest.mark.parametrize("form", ["command", "module"])
def test_defaults_in_a_store_are_the_same(form: str, calls: list[dict[str, Any]]) -> None:
    assert "trained" in invoke(form).output
    (call,) = calls
    assert settings_of(call) == TrainingSettings(learning_rate=RATE)
    expected = {"steps": STEPS, "minutes": None, "seed": None, "image_share": IMAGE_SHARE}
    assert {name: call[name] for name in expected} == expected
    assert call["promote"] is Promotion.IF_BETTER


def test_defaults_from_scratch_are_those_of_the_shipped_weights(calls: list[dict[str, Any]]) -> None:
    assert invoke("scratch").exit_code == 0
    assert calls == [{"settings": TrainingSettings(), "minutes": None, "start": None}]


def test_a_start_is_honoured_without_a_store_and_refused_with_one(calls: list[dict[str, Any]]) -> None:
    assert invoke("scratch", "--start", "w").exit_code == 0
    assert calls[0]["start"] == "weights of w"
    refused = invoke("module", "--start", "w")
    assert refused.exit_code == 2
    assert "promoted checkpoint" in refused.output


def test_a_mean_needs_other_weights(calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    refused = invoke("scratch", "--average", "0.25")
    assert refused.exit_code == 2
    assert "--average needs --start" in refused.output
    assert not calls
    means: list[tuple[object, ...]] = []
    monkeypatch.setattr(train, "load_checkpoint", lambda path: SimpleNamespace(network=f"weights of {path}"))
    monkeypatch.setattr(train, "averaged", lambda *given: means.append(given))
    assert invoke("scratch", "--start", "w", "--average", "0.25").exit_code == 0
    assert means == [("weights of w", None, 0.25)]


@pytest.mark.parametrize("option", [("--images", "0"), ("--images", "0.5"), ("--promote", "never")])
def test_what_needs_a_store_is_refused_without_one(option: tuple[str, str], calls: list[dict[str, Any]]) -> None:
    refused = invoke("scratch", *option)
    assert refused.exit_code == 2
    assert f"{option[0]} needs --store" in refused.output
    assert not calls


@pytest.mark.parametrize("form", ["command", "module", "scratch"])
@pytest.mark.parametrize(
    "option", ["--seed -1", "--seed 4294967296", "--steps 0", "--minutes 0", "--rate 0", "--batches 0"]
)
def test_what_can_mean_nothing_is_refused(form: str, option: str, calls: list[dict[str, Any]]) -> None:
    assert invoke(form, *option.split()).exit_code == 2
    assert not calls


def test_both_commands_have_the_same_options() -> None:
    of_qmri, of_module = (inspect.signature(function).parameters for function in (pipeline.train, train.train_weights))
    assert {*of_module} - {*of_qmri} == {"start", "average"}
    for name in set(of_qmri) - {"store"}:
        assert (of_qmri[name].annotation, of_qmri[name].default) == (
            of_module[name].annotation,
            of_module[name].default,
        )


def test_a_variant_that_is_none_is_refused_and_the_others_are_named() -> None:
    arguments = ["--labels", "labels", "--out", "table.csv", "--variants", "full, fuller"]
    refused = CliRunner().invoke(application(ablations.train_variants), arguments)
    assert refused.exit_code == 2
    text = " ".join(refused.output.replace("│", " ").split())
    assert "no variant fuller" in text
    assert all(name in text for name in VARIANTS)


def test_an_error_of_a_training_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows.training.train", "--store", str(tmp_path), "--out", str(tmp_path / "w")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 1
    assert result.stderr.startswith("python -m flows.training.train: ")
    assert "Traceback" not in result.stderr


@pytest.mark.walk
@pytest.mark.timeout(300)
def test_torchrun_starts_the_command() -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "flows.training.train", "--out", "w.safetensors", "--images", "0.5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280, env=environment
    )
    assert result.returncode != 0
    assert "--images needs --store" in " ".join(result.stderr.split())
