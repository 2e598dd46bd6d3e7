"""Maps without a truth, on a store whose images are made of its maps: what must come out is known."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from typer.testing import CliRunner

from flows.cli.main import app
from flows.cluster.clusters import dask_client
from flows.errors import explain
from flows.evaluation.without_truth import PlausibilityResult, evaluate_real
from flows.settings import Settings
from flows.statistics.aggregate import aggregate
from qmri_core.physics.synthesis import synthesise
from qmri_core.series.acquisition import Contrast
from storage.store.acquisitions import acquisition_values
from storage.store.cohort import Cohort, StoreError, begin_update, commit, write_arrays, writing
from tests.flows.tiny_cohort import GRID, GROUPS, TRUE, head, images, make_store, maps
from tests.protocols import plain_protocol

SCALES = {Contrast.T1W: 900.0, Contrast.T2W: 400.0, Contrast.FLAIR: 700.0}
GAIN = 1.1
"""Of the T2w images of the second group, of which calibration knows nothing."""
NAMES = [f"ses-{number:012x}" for number in range(4)]
LESION = np.zeros(GRID.shape, dtype=bool)
LESION[6:9, 24:28, 17:20] = True
PEOPLE = ("sub-a", "sub-a", "sub-a", "sub-b")


@pytest.fixture(scope="module")
def threads() -> Iterator[Client]:
    with dask_client(Settings.model_construct(workers=1), processes=False) as client:
        yield client


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, threads: Client) -> str:
    """Sessions 0 and 2 in one group and 1 and 3 in the other; the last without FLAIR, the first with a lesion."""
    location = make_store(tmp_path_factory.mktemp("real"))
    protocol = plain_protocol()
    with writing(location) as repository:
        update = begin_update(repository, NAMES)
        forks, values, rows = [], {}, []
        for number, name in enumerate(NAMES):
            used = {c: each for c, each in protocol.items() if number != 3 or c is not Contrast.FLAIR}
            arrays = maps(number)
            if number == 0:
                arrays |= {each: np.where(LESION, np.float32(1.5) * arrays[each], arrays[each]) for each in TRUE}
            for contrast, acquisition in protocol.items():
                gain = SCALES[contrast] * (GAIN if contrast is Contrast.T2W and number % 2 else 1.0)
                image = gain * synthesise(acquisition, arrays["PDmap"], arrays["T1map"], arrays["T2map"])
                arrays[str(contrast)] = image if contrast in used else np.full_like(image, np.nan)
            forks.append(write_arrays(update.session.fork(), update.slots[name], arrays))
            values[name] = {
                "magnetic_field_strength": 2.89,
                "day": float(10 * number),
                **{f"{contrast}_scale": SCALES[contrast] for contrast in used},
            }
            for acquisition in used.values():
                values[name] |= acquisition_values(acquisition)
            rows.append({"session": name, "person": PEOPLE[number]})
        commit(repository, update, forks, values=values, rows=rows, message="Images made of the maps")
    aggregate(location, client=threads)
    return location


@pytest.fixture(scope="module")
def result(store: str, threads: Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[PlausibilityResult, Path]:
    out = tmp_path_factory.mktemp("out")
    return evaluate_real(store, client=threads, out=out), out


def test_values_are_those_of_the_maps(result: tuple[PlausibilityResult, Path]) -> None:
    table = result[0].values.drop_duplicates(["tissue", "map"]).set_index(["tissue", "map"])
    for name, true in TRUE.items():
        for tissue, value in zip(("CSF", "GM", "WM"), true, strict=True):
            medians = value * np.array([1.0, 1.01, 1.02, 1.03])
            row = table.loc[(tissue, name)]
            assert (row["n_sessions"], row["field_strength"]) == (4, 3.0)
            assert row["median"] == pytest.approx(np.median(medians), rel=2e-4)  # maps are stored with 12 bits
            assert row["sd"] == pytest.approx(np.std(medians, ddof=1), rel=0.02)


def test_images_made_of_the_maps_are_given_back_but_for_the_gain(result: tuple[PlausibilityResult, Path]) -> None:
    table = result[0].resynthesis.set_index(["group", "contrast"])
    assert len(table) == 6
    for (group, contrast), row in table.iterrows():
        assert row["n_sessions"] == (1 if (group, contrast) == (GROUPS[1], "FLAIR") else 2)
        has_gain = (group, contrast) == (GROUPS[1], "T2w")
        # acquired 1.1 times as bright: synthesised is 1 - 1/1.1 too dark
        assert row["error"] == pytest.approx(1 - 1 / GAIN if has_gain else 0, abs=1e-3)
        assert row["similarity"] > (0.9 if has_gain else 0.9999)
    assert len(result[0].resynthesis_sessions) == 4 * 3 - 1


def test_visits_are_the_first_against_each_later_one(result: tuple[PlausibilityResult, Path]) -> None:
    pairs = result[0].visit_pairs
    assert len(pairs) == 2 * 9
    assert list(pairs.drop_duplicates("later")["later"]) == NAMES[1:3]
    assert set(pairs["first"]) == {NAMES[0]}
    assert dict(zip(pairs["later"], pairs["pair"], strict=True)) == {NAMES[1]: "two groups", NAMES[2]: "same group"}
    table = result[0].visits.set_index(["pair", "tissue", "map"])
    assert table.loc[("same group", "GM", "T1map"), "difference"] == pytest.approx(0.02 / 1.01, abs=3e-4)
    assert table.loc[("two groups", "GM", "T1map"), "shift"] == pytest.approx(0.01 / 1.005, abs=3e-4)


def test_the_lesion_is_found_where_there_is_a_flair(result: tuple[PlausibilityResult, Path]) -> None:
    sessions = result[0].candidate_sessions.set_index("session")
    assert list(sessions.index) == [NAMES[number] for number in (1, 3, 0, 2)]  # by group, whoever was done first
    first = sessions.loc[NAMES[0]]
    assert first["voxels"] == LESION.sum()
    assert first["millilitres"] == pytest.approx(LESION.sum() * 0.3)
    assert [first[f"{name}_ratio"] for name in TRUE] == pytest.approx([1.5] * 3, rel=3e-4)
    assert math.isnan(sessions.loc[NAMES[3], "voxels"])
    table = result[0].candidates.set_index("group")
    assert list(table.loc[[*GROUPS], "n_sessions"]) == [2, 1]
    assert list(table.loc[[*GROUPS], "n_ratios"]) == [1, 0]


def test_everything_is_written(result: tuple[PlausibilityResult, Path]) -> None:
    tables, out = result
    names = {
        "values", "resynthesis", "visits", "candidates", "visit_pairs", "resynthesis_sessions", "candidate_sessions"
    }  # fmt: skip
    files = {path.name for path in out.iterdir()}
    assert files == {f"{name}.csv" for name in names} | {"evaluation.json", "evaluation.png"}
    content = json.loads((out / "evaluation.json").read_text())
    assert set(content) == names | {"note"}
    assert "weak test" in content["note"]
    pd.testing.assert_frame_equal(pd.read_csv(out / "visits.csv"), tables.visits)
    assert (out / "evaluation.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def _in_process(monkeypatch: pytest.MonkeyPatch, threads: Client, tmp_path: Path) -> None:
    @contextmanager
    def same(*_: object, **__: object) -> Iterator[Client]:
        yield threads

    for name in [name for name in os.environ if name.startswith("QMRI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("QMRI_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setattr("flows.cluster.clusters.dask_client", same)


@pytest.mark.usefixtures("_in_process")
def test_the_command_prints_each_table_and_what_they_do_not_show(store: str) -> None:
    done = CliRunner().invoke(app, ["evaluate", "--store", store])
    assert done.exit_code == 0, done.exception
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert f"Ingenia-1 = {min(GROUPS)}" in lines
    assert "WM T1 [ms] 3 T 4 863 ± 11 822 to 842 no (imposed) Wansapura 1999, J Magn Reson Imaging 9:531" in lines
    assert "CSF PD 3 T 4 1.015 ± 0.013 none known - -" in lines
    assert "Prisma-1 T1w 2 0.0 % 1.000" in lines
    assert "same group GM T1map 1 2.0 % 2.0 %" in lines
    assert any(line.startswith(f"{NAMES[0]} {NAMES[2]} 20 same group 2.0 %") for line in lines)
    assert any(line.startswith("Prisma-1 2 5.4") for line in lines)
    assert "weak test" in lines[-1]
    assert "600 to 1735 ms" in lines[-1]


@pytest.mark.usefixtures("_in_process")
def test_a_truth_and_its_linkage_go_together(store: str, tmp_path: Path) -> None:
    for arguments, what in (
        (["--truth", str(tmp_path)], "--truth needs --linkage"),
        (["--linkage", str(tmp_path / "linkage.csv")], "--linkage needs --truth"),
        (["--published-recipe", "1"], "--truth and --linkage too"),
    ):
        done = CliRunner().invoke(app, ["evaluate", "--store", store, *arguments], env={"COLUMNS": "200"})
        assert done.exit_code == 2
        assert what in " ".join(done.output.replace("│", " ").split())


@pytest.mark.usefixtures("_in_process")
def test_maps_and_their_statistics_are_asked_for(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", "--store", str(tmp_path / "nowhere")])
    assert done.exit_code == 1
    assert done.exception is not None
    assert "no such folder" in explain(done.exception)
    location = make_store(tmp_path)
    done = CliRunner().invoke(app, ["evaluate", "--store", location])
    assert done.exit_code == 1
    assert isinstance(done.exception, StoreError)
    assert "4 of 4 sessions with maps lack statistics; run `qmri aggregate` first" in explain(done.exception)
    with writing(location) as repository:
        rows = [{"session": name, "checkpoint_digest": ""} for name in Cohort.open(location).slots]
        commit(repository, None, [], values={}, rows=rows, message="No maps")
    done = CliRunner().invoke(app, ["evaluate", "--store", location])
    assert done.exit_code == 1
    assert done.exception is not None
    assert "no stored session has maps; run `qmri infer` and then" in explain(done.exception)


def test_a_session_that_cannot_be_read_ends_it(store: str, threads: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> dict[str, np.ndarray]:
        raise OSError("/archive/SecretName: no such chunk")

    monkeypatch.setattr("storage.store.cohort.read_arrays", broken)
    with pytest.raises(StoreError, match="could not be evaluated: OSError in") as raised:
        evaluate_real(store, client=threads)
    assert "Secret" not in str(raised.value)


def test_the_phantom_has_white_matter_around_its_lesion() -> None:
    assert (head()[LESION] == 3).all()
    assert set(images(0)) > {"FLAIR"}
