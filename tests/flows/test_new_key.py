"""The key: whether it is that of the store, its back-up, and another one in its place, on a source of BIDS names."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.ingest.run import ingest
from flows.new_key import names_under, read_names, renamed
from storage.pseudonyms import KeyFileError, load_key
from storage.source.discovery import scan_source
from storage.store.cohort import Cohort, history, open_repository
from storage.store.keys import WrongKeyError, mark_of_key
from storage.store.lifecycle.forget import forget, forget_person
from storage.store.repository import StoreError
from tests.benchmarks.test_orchestration import Loop, in_a_loop
from tests.flows import many_sessions

CLIENT: Any = Loop()
MAPPED = ("T1w", "T2w", "FLAIR", "tissue")


def qmri(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None and result.exit_code != status:
        raise result.exception
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.cluster.driver.run_bounded", in_a_loop)
        patch.setattr("flows.ingest.repeats.preprocess", many_sessions.preprocess)
        yield


@dataclass(frozen=True, slots=True)
class Site:
    """Three people with two visits each, in a store; its key."""

    source: Path
    store: str
    key_file: Path

    @property
    def key(self) -> bytes:
        return load_key(self.key_file)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    site = Site(
        many_sessions.write_source(folder / "in", n_sessions=6, n_groups=1), str(folder / "store"), folder / "key"
    )
    ingest(site.source, site.store, key=site.key, client=CLIENT)
    return site


@pytest.fixture
def site(made: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A copy to change."""
    monkeypatch.setenv("QMRI_KEY_FILE", str(made.key_file))
    return Site(made.source, str(shutil.copytree(made.store, tmp_path / "store")), made.key_file)


def people(site: Site, key: bytes) -> dict[str, tuple[str, str]]:
    """Session and person by the folder of the images, as a scan under a key names them."""
    with scan_source(site.source, key=key) as scanned:
        found = {name: scanned.session(name) for name in scanned.sessions}
    return {row.path: (name, series[0].person) for name, (series, row) in found.items()}


def test_another_key_is_refused_before_anything_is_read(site: Site, tmp_path: Path) -> None:
    before = history(open_repository(site.store))[0].id
    other = load_key(tmp_path / "other")
    with pytest.raises(WrongKeyError, match=f"{mark_of_key(other)}.*{mark_of_key(site.key)}.*QMRI_KEY_FILE"):
        ingest(site.source, site.store, key=other, client=CLIENT)
    session = min(Cohort.open(site.store).slots)
    with pytest.raises(WrongKeyError):
        forget(site.store, session, key=other)
    assert history(open_repository(site.store))[0].id == before


def test_a_store_of_before_keys_had_marks_gets_one_with_its_next_account(site: Site, tmp_path: Path) -> None:
    from storage.store.keys import KEY_MARK, stated_mark
    from storage.store.tables import change

    with Cohort.open(site.store).writing() as repository:
        change(repository, lambda root: root.attrs.pop(KEY_MARK), "an older release", {})
    before = history(open_repository(site.store))[0].id
    assert "no mark yet" in qmri("key", "check", "--store", site.store)
    ingest(site.source, site.store, key=site.key, client=CLIENT)
    assert history(open_repository(site.store))[0].id == before  # nothing is new, nothing is written
    grown = tmp_path / "grown"
    shutil.copytree(site.source, grown)
    shutil.copytree(grown / "sub-00000", grown / "sub-00009")
    for path in sorted((grown / "sub-00009").rglob("*sub-00000*")):
        path.rename(path.with_name(path.name.replace("sub-00000", "sub-00009")))
    ingest(grown, site.store, key=site.key, client=CLIENT)
    assert stated_mark(Cohort.open(site.store).root) == mark_of_key(site.key)


def test_key_and_back_up_are_compared_by_marks_alone(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = qmri("key", "back-up", tmp_path / "usb.key")
    assert (tmp_path / "usb.key").stat().st_mode & 0o077 == 0
    assert (tmp_path / "usb.key").read_text().strip() == site.key_file.read_text().strip()
    told += qmri("key", "check", "--store", site.store, "--back-up", tmp_path / "usb.key")
    assert "it is the key of the store" in told
    assert "the back-up holds the same key" in told
    assert site.key.hex() not in told
    with pytest.raises(KeyFileError, match="cannot be written"):
        qmri("key", "back-up", tmp_path / "usb.key")
    load_key(tmp_path / "other")
    assert "holds another key" in qmri("key", "check", "--back-up", tmp_path / "other", status=1)
    monkeypatch.setenv("QMRI_KEY_FILE", str(tmp_path / "other"))
    with pytest.raises(WrongKeyError):
        qmri("key", "check", "--store", site.store)
    assert "named under another key" in qmri("doctor", "--store", site.store, status=1)
    monkeypatch.setenv("QMRI_KEY_FILE", str(tmp_path / "nothing"))
    with pytest.raises(KeyFileError, match="restore it"):
        qmri("key", "check")
    assert not (tmp_path / "nothing").exists()


def test_a_cohort_goes_on_under_a_new_key(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, images and decisions are the same but for the new names, and what was forgotten stays out."""
    old = people(site, site.key)
    by_person: dict[str, list[str]] = {}
    for session, person in old.values():
        by_person.setdefault(person, []).append(session)
    (withdrawn, _), (kept, (gone, decided)), _ = sorted(by_person.items())
    forget_person(site.store, withdrawn, key=site.key)
    forget(site.store, gone, key=site.key)
    qmri("qc", "exclude", decided, "--store", site.store, "--rater", "r1", "--reason", "motion")
    qmri("qc", "export", tmp_path / "old.csv", "--store", site.store)
    new_key, table, other = tmp_path / "new.key", tmp_path / "names.csv", str(tmp_path / "other")
    line = ("key", "change", site.source, "--to", other, "--new-key", new_key, "--table", table)
    told = qmri(*line, "--store", site.store)
    assert "6 sessions and 3 people have new names" in told
    assert "4 marks" in told  # of a person with two sessions, and of one session
    assert table.stat().st_mode & 0o077 == 0
    with pytest.raises(StoreError, match="is there already"):
        qmri(*line, "--store", site.store)

    new = people(site, load_key(new_key))
    names = read_names(table)
    assert names == {name: after for path in old for name, after in zip(old[path], new[path], strict=True)}
    assert not set(names) & set(names.values())

    monkeypatch.setenv("QMRI_KEY_FILE", str(new_key))
    ingest(site.source, other, key=load_key(new_key), client=CLIENT)
    before, after = Cohort.open(site.store), Cohort.open(other)
    assert set(after.slots) == {names[name] for name in before.slots}
    assert len(after.slots) == 3
    for name, slot in before.slots.items():
        one, two = before.read(slot, MAPPED), after.read(after.slots[names[name]], MAPPED)
        assert all(np.array_equal(one[each], two[each]) for each in MAPPED)
        assert after.rows_of([names[name]])[names[name]]["person"] == names[before.rows_of([name])[name]["person"]]
    assert names[kept] != kept
    assert "all names are new" in qmri("key", "rename", table, tmp_path / "old.csv", tmp_path / "new.csv")
    qmri("qc", "import", tmp_path / "new.csv", "--store", other)
    assert [one.subject for one in after.refreshed().decisions] == [names[decided]]
    assert [one.verdict for one in after.refreshed().decisions] == ["exclude"]


def test_names_that_the_table_does_not_have_stay_and_are_counted(tmp_path: Path) -> None:
    names = {"ses-000000000001": "ses-aaaaaaaaaaaa"}
    lines = list(renamed(["a ses-000000000001,ses-000000000002\n", "ses-0000000000011\n"], names))
    assert lines == [("a ses-aaaaaaaaaaaa,ses-000000000002\n", 1), ("ses-0000000000011\n", 0)]
    for text, what in (("session,old\n", "no table of names"), ("kind,old,new\nsession,Vinci,x\n", "no pseudonyms")):
        (tmp_path / "table.csv").write_text(text)
        with pytest.raises(StoreError, match=what) as caught:
            read_names(tmp_path / "table.csv")
        assert "Vinci" not in str(caught.value)


def test_under_the_same_key_names_are_as_they_were(site: Site) -> None:
    names = names_under(site.source, site.key, site.key)
    assert all(before == after for before, after in {**names.sessions, **names.people}.items())
    assert all(re.fullmatch(r"ses-[0-9a-f]{12}", name) for name in names.sessions)
