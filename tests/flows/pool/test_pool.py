"""Three hospitals that share no image, against one store of everything; and what is refused on the way."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.calibration.calibrate import current_calibrations, kept
from flows.calibration.groups import sessions_of_groups
from flows.cli.main import app
from flows.errors import explain
from flows.pool.adopt import adopt_levels
from flows.pool.export import PoolError, export_levels
from flows.pool.solve import Solved, pool_lines, solve_pool
from qmri_core.calibration.groups import calibrated, cohort_spreads, level_groups
from qmri_core.calibration.hierarchy import solve_levels
from qmri_core.series.acquisition import Contrast
from qmri_core.simulation.clinics import DrawnGroup
from storage.exports.bridging import LinkageError
from storage.exports.pool import read_answer, read_export
from storage.exports.sealed import SealedFileError, digest_of
from storage.pseudonyms import KeyFileError, make_study_key
from storage.store.cohort import Cohort, writing
from storage.store.repository import StoreError
from storage.store.waves import commit
from tests.flows.pool.sites import N_SITES, Hospital, drawn_groups, hospital, patient

pytestmark = pytest.mark.timeout(600)

KEYS = [bytes([number]) * 32 for number in range(N_SITES)]


@pytest.fixture(scope="module")
def drawn() -> list[DrawnGroup]:
    return drawn_groups()


@pytest.fixture(scope="module")
def hospitals(drawn: list[DrawnGroup], tmp_path_factory: pytest.TempPathFactory) -> list[Hospital]:
    """Each with a key of its own."""
    folder = tmp_path_factory.mktemp("hospitals")
    return [hospital(folder / str(n), {n: drawn[n]}, key=KEYS[n]) for n in range(N_SITES)]


@pytest.fixture(scope="module")
def study_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "key"
    make_study_key(path)
    return path


@pytest.fixture(scope="module")
def exports(hospitals: list[Hospital], study_key: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("exports")
    files = [folder / f"{n}.json" for n in range(N_SITES)]
    for one, file in zip(hospitals, files, strict=True):
        export_levels(one.cohort, file, study_key=study_key, linkage=one.linkage, fewest_people=3)
    return files


@pytest.fixture(scope="module")
def answer(exports: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Solved]:
    out = tmp_path_factory.mktemp("answer") / "levels.json"
    return out, solve_pool(exports, out)


def test_three_stores_have_the_calibration_of_one(
    hospitals: list[Hospital],
    drawn: list[DrawnGroup],
    answer: tuple[Path, Solved],
    tmp_path: Path,
) -> None:
    """The peer is a store that holds the sessions of all, under one key, and knows of no export."""
    joint = hospital(tmp_path / "joint", dict(enumerate(drawn)), key=KEYS[0]).cohort
    known = sessions_of_groups(joint.sessions)
    spreads = cohort_spreads(known)
    expected = solve_levels(list(level_groups(known, spreads).values()))
    assert min(one.n_bridging for one in expected.groups) > 3
    sites = read_answer(answer[0]).sites
    for site, one in zip(sites, expected.groups, strict=True):
        [found] = site.groups
        np.testing.assert_allclose(found.level.mean, one.mean, atol=1e-6, rtol=0)
        np.testing.assert_allclose(found.level.sd, one.sd, atol=1e-6, rtol=0)
        np.testing.assert_allclose(found.level.measured, one.measured, atol=1e-5, rtol=0)
        assert (found.level.n_bridging, found.level.component) == (one.n_bridging, one.component)

    for n, one in enumerate(hospitals):
        mine = str(shutil.copytree(one.store, tmp_path / str(n)))
        done = adopt_levels(mine, answer[0])
        assert (len(done.groups), done.others, done.n_since) == (1, [], 0)
        [(group, (version, scales, reference))] = current_calibrations(Cohort.open(mine)).items()
        assert version == 1
        assert reference.endswith("levels were solved for 3 stores together")
        peer = calibrated(known[group], spreads, level=kept(expected.groups[n]), hidden=expected.hidden[n])
        for contrast in Contrast:
            # the levels of a store have five decimals
            assert scales[contrast].scale == pytest.approx(peer[contrast].scale, rel=2e-5)
            assert scales[contrast].spread == pytest.approx(peer[contrast].spread, rel=1e-5)
            assert scales[contrast].n_people == pytest.approx(peer[contrast].n_people)
            shifts = [[hidden.shift for hidden in each[contrast].hidden] for each in (scales, peer)]
            np.testing.assert_allclose(*shifts, atol=1e-5)
    assert "has the levels of this answer already" in qmri("adopt", answer[0], "--store", mine)


def test_without_a_shared_key_people_are_nobody_elsewhere(
    hospitals: list[Hospital], exports: list[Path], answer: tuple[Path, Solved], tmp_path: Path
) -> None:
    assert answer[1].pooled.n_shared > 5
    files = [tmp_path / f"{n}.json" for n in range(N_SITES)]
    for one, file in zip(hospitals, files, strict=True):
        assert export_levels(one.cohort, file, fewest_people=3).n_shared == 0
    alone = solve_pool(files, tmp_path / "alone.json")
    assert alone.pooled.n_shared == 0
    assert [found.level.n_bridging for found in alone.pooled.groups.values()] == [0] * N_SITES
    assert "3 of 3 exports have no study key" in list(pool_lines(alone, ["a", "b", "c"]))[-1]
    other = changed(exports[0], tmp_path / "x.json", lambda whole: whole["content"].update(study="0" * 16))
    with pytest.raises(PoolError, match=r"1\.json and x\.json were exported under different study keys"):
        solve_pool([exports[1], other], tmp_path / "none.json")


def test_an_export_holds_nobodys_identity_and_nothing_of_the_store_but_what_is_allowed(
    hospitals: list[Hospital], drawn: list[DrawnGroup], exports: list[Path], answer: tuple[Path, Solved]
) -> None:
    text = "\n".join(file.read_text() for file in (*exports, answer[0]))
    for one, own in zip(hospitals, drawn, strict=True):
        rows = one.cohort.catalogue
        for name in ("session", "person", "group", "scanner", "protocol"):
            assert not [value for value in set(rows[name]) if value and value in text]
        secrets = {word for person in own.people for word in (person, patient(person), patient(person)[4:])}
        assert not [secret for secret in secrets if secret.lower() in text.lower()]
        assert not [label for label in one.cohort.labels.values() if label in text]
    words = set(re.findall(r'"([^"]*)"', text))
    own_words = {"format", "version", "digest", "content"} | {str(one) for one in Contrast}
    unknown = {word for word in words - own_words if not re.fullmatch(r"[a-z][a-z_0-9]*|[A-Z]{1,3}|", word)}
    codes = re.compile(r"(local|group|scanner|clinic|method)-\d+|[0-9a-f]{16}|[0-9a-f]{64}|[0-9A-Z]{20}|qmri pool \w+")
    references = {one for one in unknown if one.startswith("white matter of people of 45 years")}
    assert not [word for word in unknown - references if not codes.fullmatch(word)]
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in (*exports, answer[0]))


def changed(source: Path, out: Path, change: Callable[[dict[str, Any]], object], *, seal: bool = True) -> Path:
    """The file with a change; with a digest that says that it was always so."""
    whole = json.loads(source.read_text())
    change(whole)
    if seal:
        whole["digest"] = digest_of(whole["content"], whole["format"], whole["version"])
    out.write_text(json.dumps(whole))
    return out


def _first(whole: Mapping[str, Any]) -> dict[str, Any]:
    group: dict[str, Any] = whole["content"]["groups"][0]
    return group


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda whole: whole.update(version=0), "an older version wrote it .*Upgrade there"),
        (lambda whole: whole.update(version=2), "newer version wrote it .*Upgrade here"),
        (lambda whole: whole.update(format="another"), "no file that `qmri pool export` wrote"),
        (lambda whole: whole["content"].update(name="St Mary"), "name: Extra inputs"),
        (lambda whole: _first(whole)["sessions"][0].update(date="2020"), "date: Extra inputs"),
        (lambda whole: _first(whole)["sessions"][0].update(age=93), "age: Input should be less"),
        (lambda whole: _first(whole)["sessions"][0]["logs"].pop(), "not as many signals"),
        (lambda whole: _first(whole)["acquisitions"]["T1w"].update(coil="A"), "T1w has parameters that this version"),
        (lambda whole: _first(whole)["acquisitions"]["T2w"].update(marks=[["x", "assumed"]]), "T2w has marks"),
        (lambda whole: _first(whole).update(scanner="MAGNETOM"), "scanner: String should match"),
        (lambda whole: whole["content"].update(preprocessing=3), "by an older preprocessing"),
        (lambda whole: whole["content"].update(preprocessing=999), "by a newer preprocessing"),
    ],
)
def test_exports_that_are_not_ours_are_refused_with_the_reason(
    exports: list[Path], tmp_path: Path, change: Callable[[dict[str, Any]], object], why: str
) -> None:
    file = changed(exports[0], tmp_path / "export.json", change)
    with pytest.raises((SealedFileError, PoolError), match=f"export.json: .*{why}"):
        solve_pool([file, exports[1]], tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_damage_is_found_wherever_it_is(exports: list[Path], answer: tuple[Path, Solved], tmp_path: Path) -> None:
    """One byte of each part of the file; what JSON does not mind, as a blank, may stay."""
    content = exports[0].read_bytes()
    file = tmp_path / "export.json"
    for place in range(0, len(content), 397):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x04]) + content[place + 1 :])
        with pytest.raises(SealedFileError, match=r"wrote|written"):
            read_export(file)
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(SealedFileError, match="is damaged"):
        read_export(file)
    with pytest.raises(SealedFileError, match="no file that `qmri pool export` wrote"):
        read_export(answer[0])
    with pytest.raises(SealedFileError, match="is there already"):
        solve_pool(exports, answer[0])


def test_groups_of_few_people_do_not_leave(hospitals: list[Hospital], tmp_path: Path) -> None:
    store, out = hospitals[0].cohort, tmp_path / "export.json"
    n = len(set(store.catalogue["person"]))
    assert export_levels(store, tmp_path / "enough.json", fewest_people=n).n_people == n
    with pytest.raises(PoolError, match=rf"fewer than {n + 1} people in: Prisma-1 \({n}\)"):
        export_levels(store, out, fewest_people=n + 1)
    with pytest.raises(PoolError, match="nothing to export"):
        export_levels(store, out, fewest_people=n + 1, without_small=True)
    assert not out.exists()


def test_one_store_or_session_counts_once(exports: list[Path], tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="are exports of one store"):
        solve_pool([exports[0], exports[1], exports[0]], tmp_path / "out.json")
    again = changed(exports[0], tmp_path / "again.json", lambda whole: whole["content"].update(state="A" * 20))
    with pytest.raises(ValueError, match="sessions stand in both of the exports 1 and 2"):
        solve_pool([exports[0], again], tmp_path / "out.json")


def test_answers_to_others_and_stale_ones_are_refused(
    hospitals: list[Hospital], answer: tuple[Path, Solved], tmp_path: Path
) -> None:
    others = changed(answer[0], tmp_path / "others.json", lambda whole: whole["content"]["sites"].pop(0))
    mine = str(shutil.copytree(hospitals[0].store, tmp_path / "store"))
    before = Cohort.open(mine).snapshot
    with pytest.raises(PoolError, match="is no answer to this store"):
        adopt_levels(mine, others)
    older = changed(answer[0], tmp_path / "older.json", lambda whole: whole["content"].update(preprocessing=3))
    with pytest.raises(PoolError, match="is of preprocessing 3"):
        adopt_levels(mine, older)

    def other_values(whole: dict[str, Any]) -> None:
        whole["content"]["sites"][0]["groups"][0]["reference"] = "white matter taken for T1 1 s"

    with pytest.raises(PoolError, match="other population values"):
        adopt_levels(mine, changed(answer[0], tmp_path / "values.json", other_values))
    assert Cohort.open(mine).snapshot == before
    session = Cohort.open(mine).catalogue["session"].iloc[0]
    with writing(mine) as repository:  # its images were read anew, from other files
        commit(repository, None, [], values={}, rows=[{"session": session, "input_digest": "other"}], message="Again")
    with pytest.raises(PoolError, match=r"is stale: 1 of the \d+ sessions"):
        adopt_levels(mine, answer[0])


def qmri(*arguments: object, status: int = 0) -> str:
    """Output of a command of the pool."""
    result = CliRunner().invoke(app, ["pool", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output if result.exception is None or status == 2 else explain(result.exception)


def test_commands_say_what_they_did_and_why_not(hospitals: list[Hospital], tmp_path: Path) -> None:
    store, key, linkage = hospitals[0].store, tmp_path / "key", hospitals[0].linkage
    assert "study key in" in qmri("key", key)
    export = ("export", "--store", store, "--out", tmp_path / "mine.json")
    assert "--study-key and --linkage go together" in qmri(*export, "--study-key", key, status=2)
    assert "fewer than 99 people in: Prisma-1" in qmri(*export, "--fewest-people", 99, status=1)
    told = qmri(*export, "--study-key", key, "--linkage", linkage, "--fewest-people", 3)
    assert "group-1 = Prisma-1" in told
    assert "people can be known again at other sites" in told
    told = qmri("solve", tmp_path / "mine.json", "--out", tmp_path / "levels.json")
    assert re.search(r"mine.json +group-1", told)
    assert "0 people were seen at several sites" in told
    assert "is there already" in qmri("solve", tmp_path / "mine.json", "--out", tmp_path / "levels.json", status=1)


def test_linkage_tables_and_keys_that_do_not_fit_are_refused(
    hospitals: list[Hospital], study_key: Path, tmp_path: Path
) -> None:
    first, other = hospitals[:2]
    with pytest.raises(LinkageError, match="names no session of this store"):
        export_levels(first.store, tmp_path / "a", study_key=study_key, linkage=other.linkage, fewest_people=3)
    with pytest.raises(KeyFileError, match="qmri pool key"):
        export_levels(first.store, tmp_path / "a", study_key=tmp_path / "b", linkage=first.linkage, fewest_people=3)
    assert not (tmp_path / "b").exists()
    with pytest.raises(StoreError):
        export_levels(str(tmp_path / "nothing"), tmp_path / "a")
