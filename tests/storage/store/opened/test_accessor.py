"""``open_cohort(...).qmri`` on a store of five sessions of four people."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from storage import open_cohort
from storage.store.cohort import Cohort
from storage.store.decisions.codes import Decision, Scope, Subject, Verdict
from storage.store.decisions.ledger import append_decisions
from storage.store.opened.accessor import CohortAccessor
from storage.store.repository import StoreError, writing
from tests.storage.cohorts import GROUP, maps
from tests.storage.store.opened.analysed import OTHER, PEOPLE, make_store, value_of


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("opened") / "store")


@pytest.fixture
def tree(location: Path) -> xr.DataTree:
    return open_cohort(location)


@pytest.fixture
def opened(tree: xr.DataTree) -> CohortAccessor:
    accessor: CohortAccessor = tree.qmri
    return accessor


def test_it_is_described_in_a_line(opened: CohortAccessor) -> None:
    text = repr(opened)
    assert text.startswith("Cohort: 5 sessions of 4 people in 2 groups; 4 have maps and count; snapshot ")
    assert len(text) < 120
    assert repr(opened.where("age > 60")).startswith("Cohort: 2 sessions, of 5 stored, of 2 people")


def test_groups_are_named_by_their_labels(opened: CohortAccessor) -> None:
    table = opened.groups()
    assert table["group"].tolist() == [GROUP, OTHER]
    assert table["sessions"].tolist() == [2, 3]
    assert table["people"].tolist() == [2, 3]
    assert table["counting"].tolist() == [2, 2]
    (label, *_) = table.index
    assert opened.group(label)["session"].to_numpy().tolist() == ["ses-1", "ses-3"]
    assert opened.where("age < 40").group(GROUP)["session"].to_numpy().tolist() == ["ses-1"]
    with pytest.raises(StoreError, match="no such group"):
        opened.group("Skyra-9")


def test_a_session_is_that_of_its_group(opened: CohortAccessor, tree: xr.DataTree) -> None:
    session = opened.session("ses-3")
    assert str(session["session"].item()) == "ses-3"
    np.testing.assert_allclose(session["T1map"], maps("ses-3")["T1map"], rtol=2e-4)  # packed to 12 bits
    xr.testing.assert_identical(session, tree[GROUP].to_dataset().sel(session="ses-3"))
    with pytest.raises(StoreError, match="ses-9"):
        opened.session("ses-9")


def test_long_has_each_value_once_with_its_reliability(opened: CohortAccessor) -> None:
    table = opened.long()
    assert len(table) == 4 * 9 * 9  # sessions with maps, tissues and maps, statistics
    assert set(table["session"]) == set(PEOPLE) - {"ses-5"}
    modes = opened.long("mode")
    for entry in modes.to_dict("records"):
        assert entry["value"] == value_of(entry["session"], entry["region"], entry["map"])
    is_white = (modes["region"] == "WM") & (modes["map"] == "T1map")
    assert modes.loc[is_white, "determined"].tolist() == [0.25] * 4
    assert modes.loc[is_white, "deviation"].tolist() == [0.5] * 4
    assert modes.loc[~is_white, ["determined", "deviation"]].isna().to_numpy().all()
    assert set(modes.loc[modes["map"] == "T2map", "unit"]) == {"s"}
    assert opened.long("n")["determined"].isna().all()
    with pytest.raises(StoreError, match="no such statistic"):
        opened.long("average")


def test_wide_has_a_row_per_session(opened: CohortAccessor) -> None:
    table = opened.wide()
    assert table.index.tolist() == ["ses-1", "ses-3", "ses-2", "ses-4"]
    assert list(table.columns[:6]) == ["label", "person", "sex", "age", "day", "WM_T1map"]
    assert table.loc["ses-4", "GM_T2map"] == value_of("ses-4", "GM", "T2map")
    assert table.attrs["units"]["GM_T2map"] == "s"
    assert table.attrs["units"]["GM_PDmap"] == ""


def test_where_and_join_go_together(opened: CohortAccessor) -> None:
    assert opened.where("age > 60 and sex == 'F'").people().index.tolist() == ["ses-3"]
    table = pd.DataFrame({"person": ["sub-1", "sub-3"], "diagnosis": ["patient", "control"]})
    joined = opened.join(table)
    assert joined.people()["diagnosis"].fillna("").to_dict() == {
        "ses-1": "patient",
        "ses-2": "patient",
        "ses-3": "",
        "ses-4": "control",
        "ses-5": "",
    }
    patients = joined.where("diagnosis == 'patient'")
    assert patients.wide().index.tolist() == ["ses-1", "ses-2"]
    assert patients.where("age < 31").table()["diagnosis"].tolist() == ["patient"]
    again = patients.join(pd.DataFrame({"session": ["ses-2"], "dose": [3.0]}), on="session")
    assert again.people()["dose"].tolist()[1:] == [3.0]
    assert list(again.wide().columns[5:7]) == ["diagnosis", "dose"]
    assert opened.people().shape == (5, 5)  # what was opened stays as it is


@pytest.mark.parametrize(
    ("table", "on", "message"),
    [
        (pd.DataFrame({"person": ["sub-1", "sub-1"], "x": [1, 2]}), "person", "twice"),
        (pd.DataFrame({"subject": ["sub-1"], "x": [1]}), "person", "no column person"),
        (pd.DataFrame({"person": ["sub-1"], "age": [1]}), "person", "rename"),
        (pd.DataFrame({"person": ["sub-1"], "my dose": [1]}), "person", "rename"),
    ],
)
def test_a_table_that_cannot_be_joined_is_refused(
    opened: CohortAccessor, table: pd.DataFrame, on: str, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        opened.join(table, on=on)


def test_pairs_are_visits_of_one_person(opened: CohortAccessor) -> None:
    (pair,) = opened.pairs().to_dict("records")
    assert (pair["first"], pair["second"], pair["days"], pair["same_group"]) == ("ses-1", "ses-2", 365.0, False)


def test_a_volume_as_nifti_lies_where_the_scanner_had_it(opened: CohortAccessor, tmp_path: Path) -> None:
    path = opened.to_nifti("ses-1", "T1map", tmp_path / "t1.nii.gz")
    image = nibabel.load(path)
    np.testing.assert_allclose(np.asarray(image.dataobj).T, maps("ses-1")["T1map"], rtol=2e-4)  # packed to 12 bits
    np.testing.assert_array_equal(image.affine, np.diag([2.0, 2.0, 3.0, 1.0]))
    assert opened.to_nifti("ses-1", "tissue", tmp_path / "tissue.nii.gz").is_file()
    for session, name, message in (("ses-1", "age", "no volume"), ("ses-5", "T1map", "not computed")):
        with pytest.raises(StoreError, match=message):
            opened.to_nifti(session, name, tmp_path / "no.nii.gz")


def test_a_picture_shows_the_right_of_the_person_on_the_left(opened: CohortAccessor) -> None:
    figure = opened.plot("ses-1", ["T1map", "tissue"])
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["R", "L"]
    assert axes.texts[0].get_position()[0] < axes.texts[1].get_position()[0]
    left, right = axes.get_xlim()
    assert left > right  # x grows to the person's right
    session = opened.session("ses-1")
    (image,) = axes.images
    drawn = np.asarray(image.get_array())
    place = int(np.median(np.nonzero((session["brain_mask"] == 1).to_numpy())[0]))
    np.testing.assert_allclose(drawn[:, 0], 1000 * session["T1map"].to_numpy()[place, :, -1])
    with pytest.raises(StoreError, match="no volume"):
        opened.plot("ses-1", ["affine"])


def test_sessions_that_people_have_rejected_have_no_values(tmp_path: Path) -> None:
    location = make_store(tmp_path / "store")
    (rows,) = [Cohort.open(location).rows_of(["ses-3"])["ses-3"]]
    made_on = {name: rows[name] for name in ("input_digest", "preprocessing_version", "checkpoint_digest")}
    decision = Decision(
        kind=Subject.SESSION, subject="ses-3", scope=Scope.MAPS, verdict=Verdict.REJECT, rater="r1", **made_on
    )
    with writing(location) as repository:
        append_decisions(repository, [decision])
    opened = open_cohort(location).qmri
    assert "ses-3" not in set(opened.long("mode")["session"])
    assert "ses-3" in opened.table().index


def test_a_part_of_the_tree_says_that_it_is_none(tree: xr.DataTree) -> None:
    with pytest.raises(StoreError, match="open_cohort returned"):
        tree[GROUP].qmri.long()
