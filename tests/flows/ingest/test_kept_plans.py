"""Plans that are kept between nights: nothing is planned again that is as it was, and everything that may differ is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from flows.ingest import first_plan, source_plans
from flows.ingest.first_plan import FirstPlan
from flows.ingest.rows import row_of
from flows.ingest.session_plan import SessionPlan
from flows.ingest.source_plans import SourcePlans
from qmri_core import versions
from storage.source.assume_file import Assumption, Override, load_entries
from storage.source.discovery import Scanned, scan_source
from storage.source.series import Series
from storage.store.cohort import Cohort
from tests.flows.many_sessions import write_source

KEY = bytes(32)
SIDECAR = "sub-00000/ses-1/anat/sub-00000_ses-1_T2w.json"


@pytest.fixture(autouse=True)
def nobody_excluded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_plans, "excluded", lambda _: frozenset())


def plans_of(scanned: Scanned, overrides: list[Override], *, by_software: bool = False) -> SourcePlans:
    """Plans beside a store of which nothing is asked but the rows that stand in for it."""
    return SourcePlans(scanned, cast(Cohort, None), KEY, overrides, by_software)


@dataclass(frozen=True)
class Source:
    """A source of four people with two sessions each, its index, and the rows that a store has of them."""

    folder: Path
    index: Path
    rows: Mapping[str, Mapping[str, object]]

    def night(
        self, monkeypatch: pytest.MonkeyPatch, assume: Path | None = None, *, by_software: bool = False
    ) -> tuple[set[str], int]:
        """Sessions that are planned from their series in a night, and how many are to be done; all plans are true."""
        planned: set[str] = set()
        plan_session = source_plans.plan_session

        def seen(members: tuple[Series, ...], *arguments: Any, **options: Any) -> SessionPlan:
            planned.add(members[0].session)
            return plan_session(members, *arguments, **options)

        entries = load_entries(assume) if assume is not None else ()
        stated = [entry for entry in entries if isinstance(entry, Assumption)]
        overrides = [entry for entry in entries if isinstance(entry, Override)]
        with monkeypatch.context() as patch:
            patch.setattr(source_plans, "plan_session", seen)
            patch.setattr(source_plans, "known_rows", lambda _: self.rows)
            patch.setattr(source_plans, "forgotten", lambda *_: frozenset())
            with scan_source(self.folder, key=KEY, assume=stated, index=self.index) as scanned:
                plans = plans_of(scanned, overrides, by_software=by_software)
                done, unmatched = {*plans._done}, scanned.unmatched
        with scan_source(self.folder, key=KEY, assume=stated) as scanned, monkeypatch.context() as patch:
            patch.setattr(source_plans, "known_rows", lambda _: self.rows)
            patch.setattr(source_plans, "forgotten", lambda *_: frozenset())
            plain = plans_of(scanned, overrides, by_software=by_software)
            assert (done, unmatched, plans.used) == ({*plain._done}, scanned.unmatched, plain.used)
        return planned, len(self.rows) - len(done)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    folder, index = write_source(tmp_path / "in", n_sessions=8, n_groups=2), tmp_path / "index.sqlite"
    (folder / "participants.tsv").write_text("participant_id\tage\nsub-00000\t40\nsub-00001\t50\n")
    monkeypatch.setattr(source_plans, "known_rows", lambda _: {})
    monkeypatch.setattr(source_plans, "forgotten", lambda *_: frozenset())
    with scan_source(folder, key=KEY, index=index) as scanned:
        plans = plans_of(scanned, [])
        made = {session: plans.plan(session) for session in scanned.sessions}
        rows = {session: {**row_of(plan), "group": plan.group} for session, plan in made.items()}
    assert all(row["group"] for row in rows.values())
    return Source(folder, index, rows)


def test_what_is_as_it_was_is_planned_once(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    assert source.night(monkeypatch) == (set(), 0)
    assert source.night(monkeypatch) == (set(), 0)


def newer(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def other_pixels(folder: Path) -> None:
    path = folder / SIDECAR.replace(".json", ".nii.gz")
    path.write_bytes(path.with_name(path.name.replace("T2w", "FLAIR")).read_bytes())


def dated(folder: Path, *dates: str) -> None:
    rows = "".join(f"ses-{number}\t{date}\n" for number, date in enumerate(dates, 1))
    (folder / "sub-00000" / "sub-00000_sessions.tsv").write_text(f"session_id\tacq_time\n{rows}")


CHANGES: dict[str, tuple[Callable[[Path], object], int, int]] = {
    "an image": (other_pixels, 1, 1),
    "a sidecar": (lambda folder: newer(folder / SIDECAR, '"EchoTime": ', '"EchoTime": 0.001'), 2, 1),
    "a sidecar's time alone": (lambda folder: os.utime(folder / SIDECAR, (9, 9)), 2, 0),
    "a row of participants": (lambda folder: newer(folder / "participants.tsv", "40", "41"), 2, 2),
    "a row of nobody's": (lambda folder: newer(folder / "participants.tsv", "\nsub", "\nsub-9\t1\nsub"), 0, 0),
    "dates of sessions": (lambda folder: dated(folder, "2020-01-02", "2020-03-02"), 2, 2),
    "an inherited sidecar": (lambda folder: (folder / "T2w.json").write_text('{"EchoTime": 0.2}'), 8, 0),
    "the columns of participants": (
        lambda folder: (folder / "participants.json").write_text('{"age": {"Units": "months"}}'), 8, 4,
    ),
    "a session gone": (lambda folder: (folder / "sub-00000" / "ses-1").rename(folder.parent / "away"), 1, 0),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_rests_on_changed_files_is_planned_anew(
    source: Source, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, n_planned, n_due = CHANGES[change]
    work(source.folder)
    planned, due = source.night(monkeypatch)
    assert (len(planned), due - (change == "a session gone")) == (n_planned, n_due)
    assert source.night(monkeypatch)[0] == set()


STATED = {
    "what headers lack": "- {match: 'sub-00000/**', contrast: T2w, parameters: {EchoTrainLength: 9}}",
    "a group's model": "- {group: '*', contrast: T1w, model: {flip_angle: 0.2}}",
}


@pytest.mark.parametrize("statement", STATED)
def test_what_is_stated_counts_at_once(
    source: Source, statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assume = tmp_path / "assume.yaml"
    assume.write_text(STATED[statement])
    planned, due = source.night(monkeypatch, assume)
    assert (len(planned), due > 0) == (8, True)
    assert source.night(monkeypatch, assume) == (set(), due)
    assume.write_text(STATED[statement].replace("9", "8").replace("0.2", "0.3"))
    assert len(source.night(monkeypatch, assume)[0]) == 8
    assert len(source.night(monkeypatch)[0]) == 8
    assert len(source.night(monkeypatch, by_software=True)[0]) == 8


@pytest.mark.parametrize("name", ["CODE_VERSION", "PREPROCESSING", "code"])
def test_another_version_of_the_code_plans_anew(source: Source, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        if name == "code":
            patch.setattr(first_plan, "code_digest", lambda: "other")
        else:
            patch.setattr(versions, name, "99")
        assert source.night(patch)[0] == set(source.rows)
        assert source.night(patch)[0] == set()
    assert source.night(monkeypatch)[0] == set(source.rows)


def test_the_digest_of_the_code_is_that_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name in ("flows", "storage", "qmri_core"):
        monkeypatch.setattr(getattr(first_plan, name), "__file__", str(package / "__init__.py"))
    digests = []
    for text in ("", "x = 1", "x = 2"):
        (package / "__init__.py").write_text(text)
        first_plan.code_digest.cache_clear()
        digests.append(first_plan.code_digest())
    first_plan.code_digest.cache_clear()
    assert len(set(digests)) == 3


def test_plans_come_back_as_they_were(source: Source) -> None:
    with scan_source(source.folder, key=KEY) as scanned:
        for session in scanned.sessions:
            plan = source_plans.plan_session(scanned.session(session)[0], [])
            kept = FirstPlan.of(plan)
            assert FirstPlan.from_bytes(kept.to_bytes()) == kept
            assert {name: getattr(plan, name) for name in FirstPlan.__slots__} == {
                name: getattr(kept, name) for name in FirstPlan.__slots__
            }
