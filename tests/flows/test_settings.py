"""Settings: arguments before environment, and errors that name the variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.settings import SettingsError, read_settings

VARIABLES = ("SOURCE", "STORE", "SCHEDULER", "CHECKPOINT", "KEY_FILE", "WORKERS")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(f"QMRI_{name}", raising=False)


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMRI_SOURCE", "/archive")
    monkeypatch.setenv("QMRI_STORE", "s3://bucket/cohort")
    monkeypatch.setenv("QMRI_WORKERS", "3")
    chosen = read_settings(source="elsewhere", store=None)
    assert chosen.require_source() == Path("elsewhere")
    assert chosen.require_store() == "s3://bucket/cohort"
    assert chosen.workers == 3


@pytest.mark.parametrize("name", ["source", "store"])
def test_a_missing_setting_is_named(name: str) -> None:
    chosen = read_settings()
    with pytest.raises(SettingsError, match=f"QMRI_{name.upper()} is not set"):
        getattr(chosen, f"require_{name}")()


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMRI_STORE", "")
    with pytest.raises(SettingsError, match="QMRI_STORE"):
        read_settings().require_store()


@pytest.mark.parametrize(("name", "value"), [("WORKERS", "0"), ("WORKERS", "many"), ("SCHEDULER", "host")])
def test_a_wrong_value_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"QMRI_{name}", value)
    with pytest.raises(SettingsError, match=f"QMRI_{name}={value}"):
        read_settings()


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(SettingsError, match="stroe: there is no such setting"):
        read_settings(stroe="cohort")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_settings().store = "other"  # type: ignore[misc]
