"""From DICOM to maps and tables on real worker processes: nothing is lost, nothing is done twice, nobody is named."""

from __future__ import annotations

import base64
import csv
import datetime
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
import xarray as xr
from distributed import Client, KilledWorker
from numpy.testing import assert_allclose
from numpy.typing import NDArray

import storage
from flows.browser.libraries import plotly
from flows.browser.offline import packed, write_pages
from flows.calibration.calibrate import (
    _stored_calibration,
    acquisitions_of_maps,
    calibrate,
    current_calibrations,
    read_calibrations,
)
from flows.calibration.tables import hidden_table
from flows.evaluation.with_truth import evaluate
from flows.ingest.run import ingest
from flows.maps.infer import infer
from flows.maps.session import InferTask
from flows.night import Reprocessed
from flows.operations.difference import difference_lines
from flows.operations.figures import figures_of
from flows.operations.night_summary import night_text
from flows.operations.session import session_lines
from flows.pool.export import export_levels
from flows.pool.solve import solve_pool
from flows.report.build import write_report
from flows.statistics.aggregate import aggregate, read_statistics
from flows.tables.summary import RunSummary
from flows.tables.text import records
from qmri_core.calibration.hidden_parameters import Hidden, hidden_spreads, moved
from qmri_core.mapping.checkpoint import save_checkpoint
from qmri_core.mapping.network import MapNetwork, NetworkSettings
from qmri_core.series.acquisition import Contrast
from qmri_core.statistics import densest
from storage.pseudonyms import make_study_key
from storage.store.acquisitions import acquisitions_of
from storage.store.cohort import Cohort
from storage.store.lifecycle.verify import verify
from storage.store.repository import iterate_history, writing
from storage.store.tables import write_table
from tests.flows.browser.client import Visitor, all_answers
from tests.flows.end_to_end import Processed, arrays, assert_same_arrays, finite, last_snapshot, names_below, values
from tests.storage.residues import texts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MAPS = ("T1map", "T2map", "PDmap", "T1map_sd", "T2map_sd", "PDmap_sd", "residual")
IMAGES = ("T1w", "T2w", "FLAIR")


def groups_of(tree: xr.DataTree) -> list[str]:
    """Paths of the groups, as an analyst sees them."""
    return [path.strip("/") for path in tree.groups if "T1map" in tree[path].data_vars]


def test_every_session_is_accounted_for(processed: Processed) -> None:
    for summary in (processed.ingested, processed.inferred):
        assert (summary.found, summary.complete, summary.unchanged, summary.exit_status) == (3, 3, 0, 0)
    table = Cohort.open(processed.store).catalogue
    truth = pd.read_csv(processed.truth / "sessions.csv", dtype=str)
    links = pd.read_csv(processed.linkage, dtype=str)
    assert set(links["study_instance_uid"]) == set(truth["study_instance_uid"])
    assert set(table["session"]) == set(links["session"]) == set(Cohort.open(processed.store).slots)
    assert set(table["status"]) == {"complete"}
    assert set(table["contrasts"]) == {"T1w,T2w,FLAIR"}
    merged = table.merge(links, on="session").merge(truth, on="study_instance_uid", suffixes=("", "_true"))
    pairs = {(row["group"], row["group_true"]) for _, row in merged.iterrows()}
    assert len(pairs) == merged["group"].nunique() == merged["group_true"].nunique() == 2


def test_small_groups_are_named_by_their_label_and_key(processed: Processed) -> None:
    labels = Cohort.open(processed.store).labels
    assert processed.ingested.small_groups == {f"{labels[group]} = {group}": size for group, size in _sizes(processed)}


def _sizes(processed: Processed) -> list[tuple[str, int]]:
    return sorted(Counter(Cohort.open(processed.store).sessions["group"]).items())


def test_maps_are_finite_exactly_in_the_brain_mask(processed: Processed) -> None:
    for name, stored in arrays(processed.store).items():
        inside = stored["brain_mask"] == 1
        assert 0.9 < values(processed.store).loc[name, "brain_volume"] < 2.0
        for variable in MAPS:
            np.testing.assert_array_equal(finite(stored[variable]), inside, variable)
        assert (stored["tissue"][~inside] == 0).all()
        for variable in IMAGES:
            assert finite(stored[variable])[inside].all()
            assert not finite(stored[variable]).all()  # no face
        assert (stored["T1map"][inside] > 0).all()


def test_an_analyst_needs_three_lines(processed: Processed) -> None:
    cohort = storage.open_cohort(processed.store)
    group = cohort[groups_of(cohort)[0]]
    white_matter_t1 = group["T1map"].where(group["tissue"] == 3).mean(["z", "y", "x"])

    assert white_matter_t1.dims == ("session",)
    assert group["T1map"].attrs["units"] == "s"
    for name, value in zip(white_matter_t1["session"].values, white_matter_t1.values, strict=True):
        stored = Cohort.open(processed.store).read(Cohort.open(processed.store).slots[str(name)], ["T1map", "tissue"])
        assert_allclose(value, stored["T1map"][stored["tissue"] == 3].mean(dtype=np.float64), rtol=1e-5)
        assert 0.6 < value < 1.2


def test_statistics_are_those_of_the_stored_maps(processed: Processed) -> None:
    stored = arrays(processed.store)
    table = processed.aggregated.sessions
    assert len(table) == 3 * 3 * 3
    for _, row in table.iterrows():
        label = {"CSF": 1, "GM": 2, "WM": 3}[row["tissue"]]
        inside = stored[row["session"]][row["map"]][stored[row["session"]]["tissue"] == label]
        assert row["n"] == inside.size > 0
        assert_allclose(row["median"], np.median(inside), rtol=1e-6)
        assert_allclose(row["mode"], densest(inside), rtol=1e-6)
    medians = table[(table["tissue"] == "WM") & (table["map"] == "T1map")].groupby("group")["median"].mean()
    variation = processed.aggregated.variation.set_index(["tissue", "map"]).loc[("WM", "T1map")]
    assert variation["n_groups"] == 2
    assert_allclose(variation["cov"], medians.std(ddof=1) / medians.mean())
    modes = table[(table["tissue"] == "WM") & (table["map"] == "T1map")].groupby("group")["mode"].mean()
    assert_allclose(variation["cov_of_modes"], modes.std(ddof=1) / modes.mean())


def test_statistics_of_a_version_without_modes_are_taken_again(
    processed: Processed, workers: Client, tmp_path: Path
) -> None:
    store = str(shutil.copytree(processed.store, tmp_path / "store"))
    table = read_statistics(Cohort.open(store)).drop(columns="mode")
    with writing(store) as repository:
        older = xr.Dataset({name: ("row", table[name].to_numpy()) for name in table.columns})
        write_table(repository, "statistics", older, message="As of an older version", metadata={})
    assert read_statistics(Cohort.open(store))["mode"].isna().all()
    again = aggregate(store, client=workers).sessions
    pd.testing.assert_frame_equal(again, processed.aggregated.sessions, check_dtype=False)


def test_the_linkage_table_is_complete_and_for_the_owner_alone(processed: Processed) -> None:
    assert processed.linkage.stat().st_mode & 0o777 == 0o600
    table = pd.read_csv(processed.linkage, dtype=str)
    assert list(table.columns[:4]) == ["session", "patient_id", "study_instance_uid", "path"]
    assert len(table) == 3
    for _, row in table.iterrows():
        header = pydicom.dcmread(next((processed.source / row["path"]).iterdir()), stop_before_pixels=True)
        assert (header.PatientID, header.StudyInstanceUID) == (row["patient_id"], row["study_instance_uid"])


def test_an_old_linkage_table_loses_the_eyes_of_others(processed: Processed, tmp_path: Path) -> None:
    from flows.ingest.run import write_linkage
    from storage.source.discovery import discover

    (tmp_path / "linkage.csv").touch(mode=0o644)
    write_linkage(discover(processed.source, key=processed.key).linkage, tmp_path / "linkage.csv")
    assert (tmp_path / "linkage.csv").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "linkage.csv").read_bytes() == processed.linkage.read_bytes()


def test_maps_are_near_the_truth_and_the_null_model_does_not_vary(processed: Processed, tmp_path: Path) -> None:
    result = evaluate(processed.store, processed.truth, processed.linkage, out=tmp_path)
    table = result.table.set_index(["tissue", "map", "model"])
    assert len(table) == 3 * 3 * 3  # by the network's medians, its modes, and the null model
    assert set(table["n_sessions"]) == {3}
    for tissue in ("WM", "GM"):
        assert abs(table.loc[(tissue, "T1map", "network"), "bias"]) < 0.2  # untrained: the voxelwise estimate
        assert abs(table.loc[(tissue, "PDmap", "network"), "bias"]) < 0.1
        assert table.loc[(tissue, "T1map", "null model"), "cov"] == pytest.approx(0)
        assert np.isnan(table.loc[(tissue, "T1map", "network"), "slope"])  # two sessions in one group are no slope
    assert (tmp_path / "evaluation.csv").is_file()
    levels = result.levels.set_index(["tissue", "map", "model"])
    assert set(levels.loc["WM"].loc["T1map"].index) == {"levels", "network", "network, modes", "null model"}
    assert (levels["n_groups"] == 2).all()
    assert np.isfinite(levels["error"]).all()
    assert (tmp_path / "levels.csv").is_file()


def test_voxels_and_regions_are_compared_in_the_place_where_they_are(
    processed: Processed, workers: Client, tmp_path: Path
) -> None:
    result = evaluate(processed.store, processed.truth, processed.linkage, client=workers, out=tmp_path)
    voxels = result.voxels.set_index(["model", "tissue", "map"])
    assert set(voxels["n_sessions"]) == {3}
    # were the frames of map and truth not the same, grey and white matter would be mixed up: r would be near 0
    assert voxels.loc[("network", "parenchyma", "T1map"), "ccc"] > 0.5
    assert voxels.loc[("null model", "WM", "T1map"), "n"] == voxels.loc[("network", "WM", "T1map"), "n"]
    assert np.isnan(voxels.loc[("null model", "WM", "T1map"), "within_r"])
    assert np.isnan(voxels.loc[("null model", "WM", "T1map"), "within_one"])
    assert set(result.regions["region"]) >= {"wm", "gm", "thalamus"}
    assert result.pairs.empty  # nobody was scanned twice
    assert {"evaluation.csv", "voxels.csv", "regions.csv", "evaluation.json"} <= set(names_below(tmp_path))


def test_the_residual_of_a_session_is_the_median_of_its_volume(processed: Processed) -> None:
    cohort = Cohort.open(processed.store)
    stated = cohort.values_of(["synthesis_residual"]).set_index("session")["synthesis_residual"]
    for name, slot in cohort.slots.items():
        volume = cohort.read(slot, ["residual"])["residual"]
        assert stated[name] == pytest.approx(float(np.nanmedian(volume)), rel=2**-12)  # the store rounds volumes


def test_days_of_scanners_are_those_of_the_headers(processed: Processed, workers: Client, tmp_path: Path) -> None:
    assert Cohort.open(processed.store).sessions["scanner_day"].isna().all()
    store = str(shutil.copytree(processed.store, tmp_path / "store"))
    ingest(processed.source, store, key=processed.key, client=workers, scanner_days=True)
    found = Cohort.open(store).sessions.set_index("session")["scanner_day"]
    dates = {}
    with processed.linkage.open() as file:
        for row in csv.DictReader(file):
            header = pydicom.dcmread(min((processed.source / row["path"]).rglob("IM*")), stop_before_pixels=True)
            dates[row["session"]] = datetime.date.fromisoformat(header.StudyDate)
    scanner = {name: slot.group.partition("/")[0] for name, slot in Cohort.open(store).slots.items()}
    for name, day in found.items():
        first = min(dates[other] for other in scanner if scanner[other] == scanner[str(name)])
        assert day == (dates[str(name)] - first).days
    again = ingest(processed.source, store, key=processed.key, client=workers, scanner_days=True)
    assert (again.unchanged, again.snapshot) == (3, None)


def test_doing_it_again_writes_nothing(processed: Processed, workers: Client) -> None:
    before = last_snapshot(processed.store)
    again = ingest(processed.source, processed.store, key=processed.key, client=workers)
    assert (again.complete, again.unchanged, again.snapshot) == (3, 3, None)
    maps = infer(processed.store, checkpoint=processed.checkpoint, client=workers)
    assert (maps.complete, maps.unchanged, maps.snapshot) == (3, 3, None)
    tables = aggregate(processed.store, client=workers)
    pd.testing.assert_frame_equal(tables.groups, processed.aggregated.groups)
    assert last_snapshot(processed.store) == before


def test_the_store_is_as_it_was_written(processed: Processed) -> None:
    assert verify(Cohort.open(processed.store)) == []


TECHNICAL = {
    "ImageType", "Manufacturer", "ManufacturerModelName", "Modality", "SOPClassUID", "SpecificCharacterSet",
    "SequenceName", "BodyPartExamined", "PatientPosition", "InPlanePhaseEncodingDirection", "ScanOptions",
    "ScanningSequence", "SequenceVariant", "MRAcquisitionType", "PhotometricInterpretation", "RescaleType",
    "ReceiveCoilName", "TransmitCoilName", "PatientSex", "ImagedNucleus",
    "LossyImageCompression",
}  # fmt: skip
"""Elements whose words are no identity."""


def identities(source: Path) -> set[str]:
    """Texts of headers, folders and dates that say who, where or when; long enough not to occur by chance."""
    found = {name for name in names_below(source) if not name.startswith(("IM", "S0"))}
    for path in source.rglob("IM00001"):
        for element in pydicom.dcmread(path, stop_before_pixels=True):
            is_text = element.VR in {"PN", "LO", "SH", "ST", "LT", "UI", "DA", "TM"}
            if is_text and not element.tag.is_private and element.keyword not in TECHNICAL:
                text = str(element.value)
                found |= {text, *text.replace("^", " ").replace(",", " ").split()}
    return {text for text in found if len(text) >= 6}


def forms(secret: str) -> set[bytes]:
    """A text as it may leak: as it is, in UTF-16, in base64 at each of three places, all in lower case."""
    result = set()
    for plain in {
        secret.encode(),
        secret.lower().encode(),
        secret.encode("utf-16-le"),
        secret.encode("latin-1", "replace"),
    }:
        result |= {plain.lower()}
        for before in range(3):
            coded = base64.b64encode(bytes(before) + plain)
            # without the characters that depend on what stands before and behind
            result |= {coded[(0, 2, 3)[before] : len(coded) - 4].lower()}
    return {form for form in result if len(form) >= 6}


def parts_of(secrets: set[str]) -> set[str]:
    """Words of six characters and more, and what they begin and end with."""
    words = {word for secret in secrets for word in re.split(r"[^\w.]+", secret) if len(word) >= 6}
    ends = {word[:7] for word in words if len(word) > 7 and not word.isascii()}
    return secrets | words | ends


def test_no_identity_is_in_the_store(processed: Processed, tmp_path: Path) -> None:
    """In no object of the store and its history, in no table, report, export, file name or answer of the browser."""
    secrets = parts_of(identities(processed.source))
    assert len(secrets) > 30
    folder = Path(processed.store)
    report = write_report(processed.store, tmp_path / "report", aggregate=processed.aggregated)
    parts = ["\n".join(path.relative_to(folder).as_posix() for path in folder.rglob("*")).encode()]
    parts += list(texts(folder))
    cohort = Cohort.open(processed.store)
    frames = [cohort.catalogue, values(processed.store), read_statistics(cohort), read_calibrations(cohort)]
    tables = [frame.to_csv() for frame in frames]
    tables += [path.read_text() for path in (processed.linkage.parent / "tables").rglob("*") if path.is_file()]
    parts += [without_decimals(table).encode() for table in tables]
    parts += [path.read_bytes() for path in report.parent.rglob("*") if path.is_file()]
    parts += [path.read_bytes() for path in pool_files(processed, tmp_path)]
    parts += [path.encode() + answer.content for path, answer in all_answers(Visitor(processed.store, can_decide=True))]
    parts.append(write_pages(processed.store, tmp_path / "pages").read_bytes().replace(packed(plotly()).encode(), b""))
    parts.append(repr((processed.ingested, processed.inferred)).encode() + processed.ingested.text().encode())
    parts += [line.encode() for line in told_of(cohort)]
    night = Reprocessed(ingested=processed.ingested, summary=processed.inferred, snapshot="S", tag="nightly-2026-11-30")
    parts.append(night_text(processed.store, night).encode())
    everything = b"\n".join(parts).lower()
    known = triples_of(everything)
    leaked = {secret for secret in secrets if any(is_in(form, everything, known) for form in forms(secret))}
    assert not leaked


def told_of(cohort: Cohort) -> Iterator[str]:
    """What commands tell of a running cohort: every session, what differs between first and last state, figures."""
    for session in cohort.catalogue["session"]:
        yield from session_lines(cohort, session)
    first = list(iterate_history(cohort.repository))[-1]
    yield from difference_lines(Cohort.open(cohort.location, at=first.id), cohort)
    yield figures_of(cohort, size=0).as_prometheus()


def pool_files(processed: Processed, folder: Path) -> list[Path]:
    """Exports for other hospitals, without and with codes of a study, and the answer to the second."""
    key, files = folder / "study.key", [folder / name for name in ("alone.json", "export.json", "levels.json")]
    make_study_key(key)
    export_levels(processed.store, files[0], fewest_people=1)
    done = export_levels(processed.store, files[1], study_key=key, linkage=processed.linkage, fewest_people=1)
    assert done.n_shared == done.n_people
    solve_pool(files[1:2], files[2])
    return files


def without_decimals(table: str) -> str:
    """CSV whose decimal numbers end after three decimals: in thousands of digits a time of six stands by chance."""
    return re.sub(r"(?m)(?<=,)(-?\d+\.\d{3})\d+(?:e-?\d+)?(?=,|$)", r"\1", table)


def triples_of(content: bytes) -> NDArray[np.bool_]:
    """Which triples of bytes occur anywhere; most secrets need no search through all of it then."""
    found = np.zeros(1 << 24, dtype=bool)
    code = np.frombuffer(content, dtype=np.uint8).astype(np.uint32)
    found[(code[:-2] << 16) | (code[1:-1] << 8) | code[2:]] = True
    return found


def is_in(form: bytes, content: bytes, known: NDArray[np.bool_]) -> bool:
    return all(known[int.from_bytes(form[k : k + 3], "big")] for k in range(len(form) - 2)) and form in content


def test_calibrations_have_one_version_per_group(processed: Processed) -> None:
    table = read_calibrations(Cohort.open(processed.store))
    assert set(table["version"]) == {1}
    assert sorted(table["contrast"]) == sorted(2 * IMAGES)
    assert set(table["group"]) == {slot.group for slot in Cohort.open(processed.store).slots.values()}
    assert all("white matter of people of 45 years" in text for text in table["reference"])


def test_versions_of_before_people_were_counted_count_sessions(processed: Processed) -> None:
    row = records(read_calibrations(Cohort.open(processed.store)))[0]
    assert _stored_calibration(row).n_people == row["n_people"]
    assert _stored_calibration({**row, "n_people": math.nan}).n_people == row["n_sessions"]
    del row["n_people"]
    assert _stored_calibration(row).n_people == row["n_sessions"]


def test_what_headers_hide_is_kept_with_the_calibration(processed: Processed) -> None:
    calibrations = current_calibrations(Cohort.open(processed.store))
    table = hidden_table(Cohort.open(processed.store)).set_index(["group", "contrast", "name"])
    for row in records(Cohort.open(processed.store).sessions):
        group = str(row["group"])
        for contrast, acquisition in acquisitions_of(row).items():
            hidden = calibrations[group][1][contrast].hidden
            assert {one.name: one.prior_sd for one in hidden} == hidden_spreads(acquisition)
            assert all(0 < one.sd <= one.prior_sd * (1 + 1e-9) for one in hidden)
            for one in hidden:
                shown = table.loc[group, str(contrast), one.name]
                assert shown["header"] == getattr(acquisition, one.name)
                assert shown["value"] == getattr(moved(acquisition, {h.name: h.shift for h in hidden}), one.name)
    assert (table["value"] != table["header"]).any()


def test_maps_are_read_with_the_calibration_that_made_them(processed: Processed) -> None:
    row = records(Cohort.open(processed.store).sessions)[0]
    group, stated = str(row["group"]), acquisitions_of(row)
    known = current_calibrations(Cohort.open(processed.store))[group][1]
    shift = Hidden(name="inversion_efficiency", shift=-0.03, sd=0.01, prior_sd=0.02, effect=0.0)
    versions = {
        (group, "1"): {contrast: replace(one, hidden=()) for contrast, one in known.items()},
        (group, "2"): {contrast: replace(one, hidden=(shift,)) for contrast, one in known.items()},
    }
    assert acquisitions_of_maps({**row, "calibration_version": "1/8"}, versions) == stated
    later = acquisitions_of_maps({**row, "calibration_version": "2/8"}, versions)
    for contrast, one in stated.items():
        assert later[contrast] == replace(one, inversion_efficiency=one.inversion_efficiency - 0.03)
    assert acquisitions_of_maps({**row, "calibration_version": "3/8"}, versions) == stated


def test_versions_of_before_hidden_parameters_take_headers_for_complete(processed: Processed) -> None:
    row = records(read_calibrations(Cohort.open(processed.store)))[0]
    assert _stored_calibration(row).hidden
    for before in ("", math.nan):
        assert _stored_calibration({**row, "hidden": before}).hidden == ()
    del row["hidden"]
    assert _stored_calibration(row).hidden == ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A copy of the cohort in which one file of a session has another pixel, and another session lost its FLAIR."""

    cohort: Processed
    edited: str
    shortened: str
    untouched: str
    ingested: RunSummary
    inferred: RunSummary


@pytest.fixture(scope="module")
def changed(processed: Processed, workers: Client, tmp_path_factory: pytest.TempPathFactory) -> Changed:
    folder = tmp_path_factory.mktemp("changed")
    cohort = replace(processed, source=folder / "in", store=str(folder / "store"), linkage=folder / "linkage.csv")
    shutil.copytree(processed.source, cohort.source)
    shutil.copytree(processed.store, cohort.store)
    groups: dict[str, list[str]] = {}
    for slot in Cohort.open(processed.store).slots.values():
        groups.setdefault(slot.group, []).append(slot.session)
    (shortened,), (edited, untouched) = sorted(groups.values(), key=len)
    for plan in cohort.plans():
        if plan.session == shortened:
            for path in plan.chosen[Contrast.FLAIR].paths:
                Path(path).unlink()
        if plan.session == edited:
            path = plan.chosen[Contrast.T1W].paths[10]
            dataset = pydicom.dcmread(path)
            pixels = dataset.pixel_array.copy()
            pixels[5, 5] += 1
            dataset.PixelData = pixels.tobytes()
            dataset.save_as(path)
    ingested = ingest(cohort.source, cohort.store, key=cohort.key, linkage=cohort.linkage, client=workers)
    inferred = infer(cohort.store, checkpoint=cohort.checkpoint, client=workers)
    return Changed(
        cohort=cohort,
        edited=edited,
        shortened=shortened,
        untouched=untouched,
        ingested=ingested,
        inferred=inferred,
    )


@pytest.mark.walk
def test_only_what_changed_is_done_again(processed: Processed, changed: Changed) -> None:
    for summary in (changed.ingested, changed.inferred):
        assert (summary.complete, summary.partial, summary.unchanged, summary.exit_status) == (2, 1, 1, 0)
        assert summary.reasons == {"missing_contrast": 1}
    before = Cohort.open(processed.store).catalogue.set_index("session")
    after = Cohort.open(changed.cohort.store).catalogue.set_index("session")
    pd.testing.assert_series_equal(before.loc[changed.untouched], after.loc[changed.untouched])
    assert before.loc[changed.edited, "input_digest"] != after.loc[changed.edited, "input_digest"]
    assert before.loc[changed.edited, "group"] == after.loc[changed.edited, "group"]
    stored = arrays(changed.cohort.store)
    assert_same_arrays(stored[changed.untouched], arrays(processed.store)[changed.untouched])
    np.testing.assert_array_equal(finite(stored[changed.edited]["T1map"]), stored[changed.edited]["brain_mask"] == 1)
    assert verify(Cohort.open(changed.cohort.store)) == []


@pytest.mark.walk
def test_a_session_that_lost_a_contrast_moves_to_another_group(processed: Processed, changed: Changed) -> None:
    before, after = (
        Cohort.open(processed.store).slots[changed.shortened],
        Cohort.open(changed.cohort.store).slots[changed.shortened],
    )
    assert after.group != before.group
    assert before.group not in {slot.group for slot in Cohort.open(changed.cohort.store).slots.values()}
    row = Cohort.open(changed.cohort.store).catalogue.set_index("session").loc[changed.shortened]
    assert (row["status"], row["reason"], row["contrasts"]) == ("partial", "missing_contrast", "T1w,T2w")
    stored = Cohort.open(changed.cohort.store).read(after, ["FLAIR", "T1map", "T2map", "PDmap", "brain_mask"])
    assert not finite(stored["FLAIR"]).any()
    for name in ("T1map", "T2map", "PDmap"):
        np.testing.assert_array_equal(finite(stored[name]), stored["brain_mask"] == 1)
    cohort = storage.open_cohort(changed.cohort.store)
    assert sorted(groups_of(cohort)) == sorted(
        {slot.group for slot in Cohort.open(changed.cohort.store).slots.values()}
    )


@pytest.mark.walk
def test_a_new_calibration_makes_all_maps_anew(changed: Changed, workers: Client) -> None:
    cohort = changed.cohort
    maps = arrays(cohort.store)
    tables = aggregate(cohort.store, client=workers)
    assert calibrate(cohort.store, again=True) is not None
    table = read_calibrations(Cohort.open(cohort.store))
    current = {slot.group for slot in Cohort.open(cohort.store).slots.values()}
    for group, members in table[table["group"].isin(current)].groupby("group"):
        assert sorted(members["version"].unique()) == [1, 2], group
    summary = infer(cohort.store, checkpoint=cohort.checkpoint, client=workers)
    assert (summary.found, summary.unchanged) == (3, 0)
    assert all(str(version).startswith("2/") for version in values(cohort.store)["calibration_version"])
    again = arrays(cohort.store)
    # of the group whose sessions are as they were when its first version was made, the scales are the same
    assert_same_arrays(again[changed.shortened], maps[changed.shortened])
    statistics = read_statistics(Cohort.open(cohort.store))
    assert set(statistics["session"]) == set(maps)
    renewed = aggregate(cohort.store, client=workers)
    assert len(renewed.sessions) == len(tables.sessions) == 27
    assert all(",2/" in made for made in read_statistics(Cohort.open(cohort.store))["made_with"])


def test_maps_of_older_weights_do_not_pass_for_those_of_weights_that_failed(
    processed: Processed, workers: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    shutil.copytree(processed.store, store)
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, MapNetwork(NetworkSettings(widths=(4, 4, 4), embedding=4)), {})
    lost = min(Cohort.open(store).slots)

    def fails_once(client: Client, function: Any, batches: list[list[InferTask]], **options: Any) -> Iterator[Any]:
        del client, options
        for batch in batches:
            is_lost = lost in {task.slot.session for task in batch}
            yield batch, KilledWorker("infer", None, 3) if is_lost else function(batch)

    with monkeypatch.context() as patch:
        patch.setattr("flows.cluster.driver.run_bounded", fails_once)
        summary = infer(str(store), client=workers, checkpoint=other)
    assert (summary.complete, summary.failed, summary.exit_status) == (2, 1, 3)
    assert summary.failures[0][:2] == (lost, "worker_lost")
    stored = Cohort.open(store).read(Cohort.open(store).slots[lost], MAPS)
    assert not any(np.isfinite(stored[name]).any() for name in MAPS)
    assert lost not in set(aggregate(str(store), client=workers).sessions["session"])
    assert verify(Cohort.open(store)) == []
