"""A session whose images are exchanged behind the checks of ingest: its maps are made, stay, and count for nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from distributed import Client

from flows.maps.infer import infer
from flows.statistics.aggregate import aggregate
from flows.tables.summary import SESSIONS_FAILED
from storage.store.cohort import Cohort, begin_update, commit, write_arrays, writing
from storage.store.decisions.codes import Verdict
from storage.store.decisions.making import decide, decisions_on
from tests.flows.end_to_end import Processed


def test_exchanged_images_fail_and_count_when_they_are_accepted(
    processed: Processed, workers: Client, tmp_path: Path
) -> None:
    store = str(shutil.copytree(processed.store, tmp_path / "store"))
    cohort = Cohort.open(store)
    name = min(cohort.slots)
    stored = cohort.read(cohort.slots[name], ["T1w", "T2w"])
    with writing(store) as repository:
        wave = begin_update(repository, [name])
        fork = write_arrays(wave.fork, wave.slots[name], {"T1w": stored["T2w"], "T2w": stored["T1w"]})
        rows = [{"session": name, "checkpoint_digest": "", "calibration_version": ""}]
        commit(repository, wave, [fork], values={}, rows=rows, message="exchanged")
    ran = infer(store, checkpoint=processed.checkpoint, client=workers)
    after = Cohort.open(store)
    row = after.catalogue.set_index("session").loc[name]
    assert (row["status"], row["reason"], row["stage"], row["error"]) == (
        "failed",
        "closure",
        "closure",
        "ClosureError",
    )
    assert "grey over white matter" in row["explanation"]
    assert (ran.failed, ran.exit_status) == (1, SESSIONS_FAILED)
    assert np.isfinite(after.read(after.slots[name], ["T1map"])["T1map"]).any()  # to be looked at
    result = aggregate(store, client=workers)
    assert name not in set(result.sessions["session"])
    assert result.left_out == {"closure": 1}
    assert infer(store, checkpoint=processed.checkpoint, client=workers).snapshot is None  # not tried again
    decide(Cohort.open(store), decisions_on(Cohort.open(store), [name], Verdict.ACCEPT, rater="r1"))
    assert infer(store, checkpoint=processed.checkpoint, client=workers).exit_status == 0
    assert name in set(aggregate(store, client=workers).sessions["session"])
