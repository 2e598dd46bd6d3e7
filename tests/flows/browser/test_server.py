"""The server: who is refused, what every answer says, that it only reads, and that values are those of the store."""

from __future__ import annotations

import gzip
import io
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from flows.browser import volumes
from flows.browser.safety import POLICY
from storage.store.cohort import Cohort, writing
from storage.store.lifecycle.upkeep import rollback
from storage.store.waves import commit
from tests.flows.browser.client import HOST, SAME_SITE, TOKEN, Visitor, all_answers
from tests.flows.browser.cohorts import Planted
from tests.flows.tiny_cohort import make_store


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(tmp_path_factory.mktemp("tiny"))


def test_without_the_token_nothing_is_told(tiny: str) -> None:
    client = Visitor(tiny)
    for path in ("/", "/other/", f"/{TOKEN}x/", f"/{TOKEN[:-1]}/", "/static/browser.js", "//", f"/{TOKEN}/../"):
        answer = client.ask("GET", path)
        assert answer.status_code == 403, path
        assert "ses-" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:8717"},
        {"Host": f"evil.example@{HOST}"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": f"https://{HOST}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_hosts_and_origins_are_refused(tiny: str, headers: dict[str, str]) -> None:
    assert Visitor(tiny).ask("GET", f"/{TOKEN}/", headers=headers).status_code == 403


def test_the_own_origin_and_a_direct_visit_are_answered(tiny: str) -> None:
    client = Visitor(tiny)
    for headers in (
        {},
        SAME_SITE,
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Host": "localhost:1"},
    ):
        assert client.ask("GET", client.base, headers=headers).status_code == 200


def test_every_answer_has_the_policy_and_is_kept_nowhere(tiny: str) -> None:
    answers = [answer for _, answer in all_answers(Visitor(tiny), volumes=("T1map",))]
    answers.append(Visitor(tiny).ask("GET", "/"))
    assert {answer.status_code for answer in answers} == {200, 403, 404}
    for answer in answers:
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "unsafe-eval" not in POLICY
    assert "script-src 'self';" in POLICY


def test_the_document_names_no_other_place_and_has_no_script_of_its_own(tiny: str) -> None:
    text = Visitor(tiny).get().text
    assert not re.search(r"https?://", text)
    assert not re.search(r"<script(?! src=\"static/)", text)
    assert not re.search(r"\son[a-z]+=", text)


def test_no_path_is_told(tiny: str) -> None:
    folder = str(Path(tiny).parent).encode()
    for path, answer in all_answers(Visitor(tiny, can_decide=True), volumes=("T1map",)):
        assert folder not in answer.content, path


def test_nothing_is_written_without_being_asked_for(tiny: str) -> None:
    client = Visitor(tiny)
    asked = {"subjects": ["ses-000000000000"], "verdict": "reject", "rater": "r1"}
    assert client.post("decisions", asked).status_code == 404
    assert client.post("decisions/preview", asked).status_code == 404
    for path, _ in all_answers(client, volumes=()):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert client.ask(method, client.base + path, headers=SAME_SITE).status_code in {403, 404, 405}


def test_what_is_unknown_is_not_found_and_names_are_no_paths(tiny: str) -> None:
    client = Visitor(tiny)
    at = f"at/{client.snapshot()}"
    for path in (
        f"{at}/session/ses-000000000099.json",
        f"{at}/volume/ses-000000000000/affine.nii",
        f"{at}/volume/ses-000000000000/..%2f..%2fcatalogue%2fsession.nii",
        f"{at}/volume/..%2f..%2fetc/T1map.nii",
        f"{at}/thumbnail/ses-000000000099/T1map.jpg",
        "static/..%2fserver.py",
    ):
        assert client.get(path).status_code == 404, path
    answer = client.get("at/AAAAAAAAAAAAAAAAAAAA/table.json")
    assert answer.status_code == 400
    assert "neither a snapshot id" in answer.json()["error"]


def volume(client: Visitor, path: str) -> nib.Nifti1Image:
    answer = client.get(f"at/{client.snapshot()}/{path}")
    assert answer.status_code == 200
    return nib.Nifti1Image.from_bytes(answer.content)


def test_a_volume_that_is_shown_is_that_of_the_store_rounded_to_16_bits(tiny: str) -> None:
    client, cohort = Visitor(tiny), Cohort.open(tiny)
    session = "ses-000000000001"
    stored = cohort.read(cohort.slots[session], ["T1map", "T2w", "T1map_sd", "tissue"])
    for name, expected in stored.items():
        image = volume(client, f"volume/{session}/{name}.nii")
        shown = np.asarray(image.dataobj).transpose(2, 1, 0)
        coded = np.asarray(image.dataobj.get_unscaled()).transpose(2, 1, 0)
        if expected.dtype.kind == "f":
            known = np.isfinite(expected)
            np.testing.assert_array_equal(coded == -32768, ~known)
            if known.any():
                black = float(image.header["cal_min"])
                assert shown[~known].max(initial=-np.inf) < black  # what is not computed is drawn black
                reach = float(expected[known].max()) - min(black, float(expected[known].min()))
                assert np.abs(shown - expected)[known].max() <= 0.51 * reach / 65534  # half a level, and float32
        else:
            np.testing.assert_array_equal(coded, expected)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        assert image.header.get_zooms() == (12.0, 5.0, 5.0) or image.header.get_zooms() == (5.0, 5.0, 12.0)
        group = cohort.slots[session].group
        corner = [float(np.asarray(cohort.nodes.array(group, axis)[:])[3]) for axis in "xyz"]
        np.testing.assert_allclose(nib.affines.apply_affine(image.affine, [3, 3, 3]), corner)


def test_a_value_is_that_of_the_store_to_the_last_bit(tiny: str) -> None:
    client, cohort = Visitor(tiny), Cohort.open(tiny)
    session, at = "ses-000000000001", f"at/{client.snapshot()}/value/ses-000000000001"
    stored = cohort.read(cohort.slots[session], ["T1map", "T1map_sd", "T1w", "tissue"])
    z, y, x = np.unravel_index(np.linspace(0, stored["T1w"].size - 1, 40).astype(int), stored["T1w"].shape)
    seen = 0
    for place in zip(z.tolist(), y.tolist(), x.tolist(), strict=True):
        for name in ("T1map", "T1w", "tissue"):
            found = client.get(f"{at}/{name}/{place[2]}/{place[1]}/{place[0]}.json").json()
            expected = float(stored[name][place])
            assert found["value"] == (None if np.isnan(expected) else expected)
            assert set(found) == ({"value", "deviation"} if name == "T1map" else {"value"})
            seen += found["value"] is not None
    assert seen > 80
    nz, ny, nx = stored["T1w"].shape
    for outside in (f"{nx}/0/0", f"0/{ny}/0", f"0/0/{nz}", "-1/0/0"):
        assert client.get(f"{at}/T1w/{outside}.json").status_code == 404


def test_of_a_fine_grid_every_second_voxel_travels(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client, cohort = Visitor(tiny), Cohort.open(tiny)
    session = "ses-000000000001"
    slot = cohort.slots[session]
    full = volume(client, f"volume/{session}/T2w.nii")
    nx, ny, nz = full.shape
    monkeypatch.setattr(volumes, "MOST", ny // 2)  # of 32, 40 and 14 voxels
    image = volume(client, f"volume/{session}/T2w.nii")
    every = (nx // (ny // 2), 2, 1)
    told = client.get(f"at/{client.snapshot()}/session/{session}.json").json()["grid"]
    assert (told["shape"], told["every"]) == ([nx, ny, nz], list(every))
    stored = cohort.read(slot, ["T2w"])["T2w"].transpose(2, 1, 0)[:: every[0], :: every[1], :: every[2]]
    assert image.shape == stored.shape
    np.testing.assert_allclose(np.asarray(image.dataobj), stored, atol=np.ptp(stored) / 65534)
    for voxel in ((0, 0, 0), (3, 4, 5)):
        expected = nib.affines.apply_affine(full.affine, np.multiply(voxel, every))
        np.testing.assert_allclose(nib.affines.apply_affine(image.affine, voxel), expected)


def test_a_difference_is_the_second_less_the_first(tiny: str) -> None:
    client, cohort = Visitor(tiny), Cohort.open(tiny)
    first, second = "ses-000000000000", "ses-000000000002"
    at = client.snapshot()
    image = volume(client, f"difference/{first}/{at}/{second}/T1map.nii")
    one, two = (cohort.read(cohort.slots[name], ["T1map"])["T1map"] for name in (first, second))
    expected = np.nan_to_num(two - one, nan=0.0)
    assert expected.max() > 0.01
    found = np.asarray(image.dataobj).transpose(2, 1, 0)
    np.testing.assert_allclose(found, expected, atol=np.ptp(expected) / 65534)
    assert float(image.header["cal_min"]) == -float(image.header["cal_max"]) < 0  # nothing is in the middle
    same = volume(client, f"difference/{first}/{at}/{first}/tissue.nii")
    assert not np.asarray(same.dataobj).any()
    assert client.get(f"at/{at}/difference/{first}/{at}/ses-000000000099/T1map.nii").status_code == 404


def test_a_thumbnail_is_small_and_shows_the_brain(tiny: str) -> None:
    client = Visitor(tiny)
    content = client.get(f"at/{client.snapshot()}/thumbnail/ses-000000000001/T1map.jpg").content
    assert len(content) < 6000
    levels = np.asarray(Image.open(io.BytesIO(content)).convert("L")).astype(float)
    assert levels.shape == (40, 32)
    assert levels[20, 16] > 200  # fluid in the middle: 4 s
    assert levels[0, 0] < 40


def test_a_page_shows_one_snapshot_while_the_store_is_written(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    client = Visitor(store)
    before = client.snapshot()
    first = client.get(f"at/{before}/session/ses-000000000000.json").json()
    with writing(store) as repository:
        commit(
            repository,
            None,
            [],
            values={},
            rows=[{"session": "ses-000000000000", "quality_marks": "T1w_snr"}],
            message="Mark",
        )
    assert client.get(f"at/{before}/session/ses-000000000000.json").json() == first
    after = client.snapshot()
    assert after != before
    assert client.get(f"at/{after}/session/ses-000000000000.json").json()["marks"] == "T1w_snr"
    pinned = Visitor(store, is_pinned=True)
    rollback(store, before)
    assert pinned.snapshot() == after
    assert client.get(f"?at={before}").status_code == 200


def test_the_table_has_every_stored_session_and_its_figures(planted: Planted) -> None:
    table, cohort = Visitor(planted.store).table(), Cohort.open(planted.store)
    assert sorted(table["session"]) == sorted(cohort.slots)
    assert len(table["groups"]) == 4
    stored = cohort.catalogue.set_index("session")["T2w_snr"]
    for session, value in zip(table["session"], table["values"]["T2w_snr"], strict=True):
        assert value == pytest.approx(stored[session], rel=1e-4)
    statistics = cohort.statistics
    assert statistics is not None
    white = statistics[(statistics["tissue"] == "WM") & (statistics["map"] == "T1map")].set_index("session")["median"]
    for session, value in zip(table["session"], table["values"]["WM_T1map_median"], strict=True):
        if session != planted.bad[4]:  # it failed, and has no statistics
            assert value == pytest.approx(1000 * white[session], rel=1e-4)
    assert table["values"]["WM_T1map_median"][table["session"].index(planted.bad[4])] is None
    assert len(gzip.compress(json.dumps(table).encode())) < 20_000


def test_a_session_says_which_commits_changed_it_and_what_to_do(planted: Planted) -> None:
    client, good, bad = Visitor(planted.store), "ses-000000000000", planted.bad[4]
    at = f"at/{client.snapshot()}"
    history = client.get(f"{at}/history/{good}.json").json()
    assert [message for _, message, _ in history] == ["Infer maps of 60 sessions", "Ingest 60 sessions"]
    older = client.get(f"at/{history[1][2]}/session/{good}.json").json()
    assert older["provenance"] != client.get(f"{at}/session/{good}.json").json()["provenance"]
    assert client.get(f"{at}/history/ses-000000000099.json").status_code == 404
    failure = client.get(f"{at}/session/{bad}.json").json()["failure"]
    assert failure["command"] == f'qmri qc accept {bad} --store "$QMRI_STORE" --rater r1'
    assert "contradict what was put in" in failure["meaning"]
    assert client.get(f"{at}/session/{good}.json").json()["failure"] is None


def test_failures_say_what_to_do(planted: Planted) -> None:
    text = Visitor(planted.store).get().text
    assert "T1 of white matter is 31 % above what its person can have" in text
    assert f"qmri qc accept {planted.bad[4]}" in text
    assert "Its maps contradict what was put in" in text
